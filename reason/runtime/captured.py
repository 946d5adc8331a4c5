"""Forwards recorded once and replayed: a decode iteration as one CUDA graph instead of a thousand launches.

A recording has the sizes of everything it reads baked in. So batches go into *buckets*: a bucket has room for so many
rows, work items, partial results and keys, its inputs lie in one static buffer, and a batch that is smaller is padded
with rows that write to the scratch slot and items that do nothing (``gpu.work.pack``). What was not met before runs
eagerly; a bucket is recorded when it has been asked for a few times. The buckets used longest ago are dropped.

What recording means is somebody else's: ``CudaCapture`` here, a function that is remembered in the tests.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch

from reason.runtime.gpu.work import Capacity, DeviceWork, Work, power_of_two, upload, upload_into

if TYPE_CHECKING:
    from reason.runtime.attention.plan import RowBatch
    from reason.runtime.gpu.kernels import GpuKernels

__all__ = ["Capture", "CapturedForwards", "CudaCapture", "bucket_for"]

_MIN_ITEMS, _MIN_KEYS = 16, 4096


class Capture(Protocol):
    """Records what a function does to the device."""

    def __call__(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Returns what does it again, on the same memory, and gives the same tensor each time.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...


class CudaCapture:
    """CUDA graphs that share one memory pool: they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        with torch.cuda.device(self._device):
            make_stream: Any = torch.cuda.Stream
            current, aside = torch.cuda.current_stream(), make_stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                compute()  # whatever is made at a first call is made before the recording
            current.wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):  # other engines go on
                out = compute()

        def replay() -> torch.Tensor:
            graph.replay()
            return out

        return replay


class _Bucket(NamedTuple):
    capacity: Capacity
    buffer: torch.Tensor  # [sum of the capacity's sections] int32, on the device
    replay: Callable[[], torch.Tensor]  # [capacity.rows, hidden_size]


class CapturedForwards:
    """See the module's docstring.

    Args:
        compute: the forward of a batch that is on the device: its hidden states, [rows, hidden_size].
        kernels: whose work the batches carry.
        capture: see ``Capture``.
        max_rows: batches of more rows run eagerly: their launches are hidden behind their arithmetic.
        max_buckets: recordings kept.
        after: how often a bucket runs eagerly before it is recorded.
    """

    def __init__(
        self,
        compute: Callable[[RowBatch], torch.Tensor],
        kernels: GpuKernels,
        capture: Capture,
        *,
        max_rows: int = 512,
        max_buckets: int = 32,
        after: int = 2,
    ) -> None:
        self.replays = 0
        self._compute = compute
        self._kernels = kernels
        self._capture: Capture | None = capture
        self._max_rows = max_rows
        self._max_buckets = max_buckets
        self._after = after
        self._buckets: OrderedDict[Capacity, _Bucket] = OrderedDict()  # least recently used first
        self._met: OrderedDict[Capacity, int] = OrderedDict()

    @property
    def settling(self) -> int:
        """How often a batch is to be run before its time is that of a replay."""
        return self._after + 2

    @property
    def capacities(self) -> list[Capacity]:
        """Of the buckets that are recorded, least recently used first."""
        return list(self._buckets)

    def hidden(self, batch: RowBatch) -> torch.Tensor:
        """Hidden states of a batch that is not on the device yet, [rows, hidden_size]."""
        return self.prepare(batch)()

    def prepare(self, batch: RowBatch) -> Callable[[], torch.Tensor]:
        """Uploads a batch; returns what launches its forward, see ``hidden``."""
        work = self._kernels.work(batch.plan)
        bucket = self._find(batch, work)
        if bucket is None:
            on_device = upload(batch, work, self._kernels.device)
            return partial(self._compute, self._kernels.with_work(batch, on_device))
        upload_into(bucket.buffer, batch, work, bucket.capacity)
        self.replays += 1
        replay = bucket.replay
        return lambda: replay()[: len(batch.rows)].clone()  # the next replay writes to the same memory

    def _find(self, batch: RowBatch, work: Work) -> _Bucket | None:
        size = work.size
        if size.rows > self._max_rows:
            return None
        wanted = bucket_for(size)
        for capacity in reversed(self._buckets):
            if capacity.rows == wanted.rows and capacity.holds(size) and _near(capacity, wanted):
                self._buckets.move_to_end(capacity)
                return self._buckets[capacity]
        if self._capture is None:
            return None
        met = self._met[wanted] = self._met.pop(wanted, 0) + 1
        if met <= self._after:
            while len(self._met) > 4 * self._max_buckets:
                self._met.popitem(last=False)
            return None
        return self._record(batch, work, wanted)

    def _record(self, batch: RowBatch, work: Work, capacity: Capacity) -> _Bucket | None:
        assert self._capture is not None
        while len(self._buckets) >= self._max_buckets:
            self._buckets.popitem(last=False)
        buffer = torch.empty(sum(capacity.sections), dtype=torch.int32, device=self._kernels.device)
        upload_into(buffer, batch, work, capacity)
        static = self._kernels.with_work(batch, DeviceWork.of(buffer, capacity))
        try:
            replay = self._capture(lambda: self._compute(static))
        except torch.OutOfMemoryError:  # there may be room for it later, and for smaller ones
            del self._met[capacity]
            return None
        except RuntimeError as error:
            warnings.warn(f"forwards cannot be recorded here: {error}; going on without", stacklevel=2)
            self._capture = None
            return None
        del self._met[capacity]
        bucket = self._buckets[capacity] = _Bucket(capacity, buffer, replay)
        return bucket


def bucket_for(size: Capacity) -> Capacity:
    """The room that a batch's bucket has: rows in steps of an eighth or less, the rest in powers of two, which cost
    little where they are empty: a program that ends at once, or a few bytes of a copy."""
    rows = size.rows
    step = max(1, power_of_two(rows) // 8) if rows > 4 else 1
    return Capacity(
        rows=-(-rows // step) * step,
        narrow=max(_MIN_ITEMS, power_of_two(size.narrow)),
        wide=max(_MIN_ITEMS, power_of_two(size.wide)),
        parts=max(_MIN_ITEMS, power_of_two(size.parts)),
        keys=max(_MIN_KEYS, power_of_two(size.keys)),
    )


def _near(capacity: Capacity, wanted: Capacity) -> bool:
    """Whether a bucket that is too large is worth taking for what it saves: a recording of its own."""
    return (
        capacity.narrow <= 4 * wanted.narrow and capacity.wide <= 4 * wanted.wide and capacity.keys <= 8 * wanted.keys
    )

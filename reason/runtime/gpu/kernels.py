"""The Triton kernels behind torch tensors: what shapes they take, how they are launched, whether they are trusted."""

from __future__ import annotations

import functools
import importlib.util
import math
import os
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from reason.runtime.gpu.work import DeviceWork, Tiling, make_work, make_work_ahead, power_of_two, upload

if TYPE_CHECKING:
    from reason.runtime.attention.plan import AttentionPlan, RowBatch
    from reason.runtime.gpu.work import Work, WorkAhead

__all__ = ["AttentionShape", "GpuKernels", "Tile", "can_launch", "gpu_kernels_for", "interpreting", "launch"]

_DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_MIN_M = 16  # rows of the smallest matrix product
_WIDE_M = 64
_MAX_GROUPS = 64
_HEADS_AT_ONCE = 8
_GATED_AT_ONCE = 1024


class AttentionShape(NamedTuple):
    """The shape of a model's attention."""

    heads: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @property
    def groups(self) -> int:
        """Query heads to a key head."""
        return self.heads // self.kv_heads


class Tile(NamedTuple):
    """How one kind of item runs: lanes (query heads of rows), keys of a block, warps, pipeline stages."""

    lanes: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class GpuKernels:
    """The kernels for one shape of attention on one device. Tensors are contiguous and on that device."""

    shape: AttentionShape
    device: torch.device
    narrow: Tile
    wide: Tile
    programs: int  # per key head, about what fills the device
    split_keys: int | None = None  # see ``Tiling``

    @classmethod
    def choose(cls, shape: AttentionShape, device: torch.device) -> GpuKernels:
        """Tiles that fit the shared memory of a Hopper multiprocessor (227 KiB), and of an Ampere one (163 KiB)."""
        narrow_lanes = max(_MIN_M, power_of_two(shape.groups))
        width = power_of_two(shape.head_dim) * shape.dtype.itemsize  # bytes of a padded head
        keys, stages = (64, 3) if width <= 256 else (32, 3) if width <= 512 else (16, 2)
        narrow = Tile(narrow_lanes, keys, warps=4 if narrow_lanes > _MIN_M else 2, stages=stages)
        wide = Tile(max(_WIDE_M, narrow_lanes), keys, warps=4, stages=stages)
        processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
        return cls(shape, device, narrow, wide, programs=max(1, 4 * processors // shape.kv_heads))

    @property
    def tiling(self) -> Tiling:
        groups = self.shape.groups
        return Tiling(self.narrow.lanes // groups, self.wide.lanes // groups, self.programs, self.split_keys)

    # -- work ------------------------------------------------------------------------------------------------------

    def work(self, plan: AttentionPlan) -> Work:
        """The flat form of a plan, for these kernels' tiles."""
        return plan.work or make_work(plan, self.tiling)

    def work_ahead(self, plan: AttentionPlan) -> WorkAhead:
        """The flat form of a plan whose rows' tokens are to come."""
        return make_work_ahead(plan, self.tiling)

    def upload(self, batch: RowBatch) -> RowBatch:
        """The batch with its rows and its plan on the device, in one copy. Row tensors become int32."""
        return self.with_work(batch, upload(batch, self.work(batch.plan), self.device))

    def with_work(self, batch: RowBatch, work: DeviceWork) -> RowBatch:
        """The batch with its tensors replaced by those on the device."""
        plan = replace(batch.plan, kernels=self, on_device=work)
        return replace(
            batch, token_ids=work.token_ids, positions=work.positions, write_slots=work.write_slots, plan=plan
        )

    # -- launches --------------------------------------------------------------------------------------------------

    def attend(
        self,
        query: torch.Tensor,  # [rows, heads, head_dim]
        keys: torch.Tensor,  # [slots, kv_heads, head_dim]
        values: torch.Tensor,  # [slots, kv_heads, head_dim]
        plan: AttentionPlan,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        """[rows, heads, head_dim]. A plan that was not uploaded with its rows is uploaded now, once for all layers."""
        if plan.on_device is None:
            plan.on_device = upload(None, self.work(plan), self.device)
            plan.on_device.positions.copy_(torch.from_numpy(plan.positions))
            plan.kernels = self
        return self.attend_work(query, keys, values, plan.on_device, scale, window)

    def attend_work(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        work: DeviceWork,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        """``attend`` with what is on the device already. Padded rows of ``query`` come out as zeros."""
        from reason.runtime.gpu.attention_kernels import attend_items, merge_parts

        heads, kv_heads, head_dim, dtype = self.shape
        rows, capacity, device = query.shape[0], work.capacity, query.device
        assert rows == capacity.rows and keys.dtype == values.dtype == query.dtype == dtype
        query = query.contiguous()
        part_out = torch.empty((capacity.parts, heads, head_dim), dtype=torch.float32, device=device)
        part_lse = torch.empty((capacity.parts, heads), dtype=torch.float32, device=device)
        sizes = {
            "GROUPS": self.shape.groups,
            "DIM": head_dim,
            "BLOCK_D": max(16, power_of_two(head_dim)),
        }
        inputs = (query, keys, values, work.items, work.slots, work.key_positions, work.positions, part_out, part_lse)
        first = 0
        for tile, count in ((self.narrow, capacity.narrow), (self.wide, capacity.wide)):
            if count:
                options = {
                    "BLOCK_M": tile.lanes,
                    "BLOCK_N": tile.keys,
                    "WINDOWED": window is not None,
                    "PRECISION": "ieee",
                    "WIDEN": interpreting() and dtype == torch.bfloat16,
                    "num_warps": tile.warps,
                    "num_stages": tile.stages,
                }
                numbers = (first, scale * math.log2(math.e), window or 0, kv_heads)
                launch(attend_items, (count, kv_heads), inputs, numbers, sizes | options)
            first += count
        out = torch.empty_like(query)
        sizes |= {"BLOCK_G": power_of_two(self.shape.groups), "num_warps": 2}
        results = (part_out, part_lse, work.part_begins, work.parts, out)
        launch(merge_parts, (rows, kv_heads), results, (kv_heads,), sizes)
        return out

    def rotate_and_write(
        self,
        qkv: torch.Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim]
        cos: torch.Tensor,  # [positions, 1, head_dim]
        sin: torch.Tensor,  # [positions, 1, head_dim], negated in its first half
        positions: torch.Tensor,  # [rows] int32 or int64
        slots: torch.Tensor,  # [rows] int32 or int64
        keys: torch.Tensor,  # [slots, kv_heads, head_dim], written
        values: torch.Tensor,  # [slots, kv_heads, head_dim], written
        norms: tuple[torch.Tensor, torch.Tensor] | None = None,  # of q and k, [head_dim] each
        eps: float = 0.0,
    ) -> torch.Tensor:
        """Norms and rotates q and k, writes k and v to their slots; returns q [rows, heads, head_dim]."""
        from reason.runtime.gpu.rotate_kernels import rotate_and_write

        heads, kv_heads, head_dim, dtype = self.shape
        rows, all_heads = qkv.shape[0], heads + 2 * kv_heads
        assert qkv.is_contiguous() and qkv.shape[1] == all_heads * head_dim
        query = torch.empty((rows, heads, head_dim), dtype=dtype, device=qkv.device)
        q_norm, k_norm = norms or (cos, cos)  # never read without norms
        launch(
            rotate_and_write,
            (rows, -(-all_heads // _HEADS_AT_ONCE)),
            (qkv, cos, sin, positions, slots, q_norm, k_norm, query, keys, values),
            (eps, heads, kv_heads),
            {
                "DIM": head_dim,
                "BLOCK_HALF": power_of_two(head_dim // 2),
                "BLOCK_H": _HEADS_AT_ONCE,
                "NORMED": norms is not None,
                "num_warps": 4,
            },
        )
        return query

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x [rows, size] over its root mean square, times ``weight`` [size]."""
        from reason.runtime.gpu.row_kernels import rms_norm

        rows, size = x.shape
        assert x.is_contiguous()
        out, block = torch.empty_like(x), power_of_two(size)
        options = {"SIZE": size, "BLOCK": block, "num_warps": min(16, max(1, block // 256))}
        launch(rms_norm, (rows,), (x, weight, out), (eps,), options)
        return out

    def silu_mul(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, [rows, size], of ``x`` [rows, 2 * size], which has gate and up side by side."""
        from reason.runtime.gpu.row_kernels import silu_mul

        rows, size = x.shape[0], x.shape[1] // 2
        assert x.is_contiguous()
        out = x.new_empty((rows, size))
        options = {"SIZE": size, "BLOCK": _GATED_AT_ONCE, "num_warps": 4}
        launch(silu_mul, (rows, -(-size // _GATED_AT_ONCE)), (x, out), (), options)
        return out


def launch(
    kernel: Any,
    grid: tuple[int, ...],
    tensors: tuple[torch.Tensor, ...],
    numbers: tuple[Any, ...],
    options: dict[str, Any],
) -> None:
    """Runs a kernel on the device of its tensors."""
    device = tensors[0].device
    if device.type != "cuda":
        kernel[grid](*tensors, *numbers, **options)
        return
    with torch.cuda.device(device):  # Triton launches on the current one
        kernel[grid](*tensors, *numbers, **options)


def interpreting() -> bool:
    """Whether Triton runs kernels in its interpreter, on CPU tensors too."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def can_launch(device: torch.device) -> bool:
    """Whether there is Triton for a device, and nobody has switched it off."""
    if device.type != "cuda" and not (device.type == "cpu" and interpreting()):
        return False
    return os.environ.get("REASON_TRITON", "1") != "0" and importlib.util.find_spec("triton") is not None


def gpu_kernels_for(
    device: torch.device, dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int
) -> GpuKernels | None:
    """The kernels for this attention, or None where torch has to do it: another device, no Triton, a shape that they
    do not take, or kernels that disagree with torch here."""
    shape = AttentionShape(heads, kv_heads, head_dim, dtype)
    return _kernels(device, shape) if can_launch(device) and takes(shape) else None


def takes(shape: AttentionShape) -> bool:
    """Whether the kernels are written for the shape. Whether they compile for it is another question."""
    return (
        shape.dtype in _DTYPES
        and shape.head_dim % 2 == 0
        and shape.head_dim <= 256
        and shape.heads % shape.kv_heads == 0
        and shape.groups <= _MAX_GROUPS
    )


@functools.cache
def _kernels(device: torch.device, shape: AttentionShape) -> GpuKernels | None:
    kernels = GpuKernels.choose(shape, device)
    from reason.runtime.gpu.checking import agrees

    if interpreting():
        from reason.runtime.gpu.interpreter import repair_interpreter

        repair_interpreter()
    try:
        trusted = agrees(kernels)
    except Exception as error:  # a compiler's errors are of many types, and none of them is worth a process
        warnings.warn(f"the Triton kernels do not compile for {shape}: {error}; going on with torch", stacklevel=2)
        return None
    if not trusted:
        warnings.warn(f"the Triton kernels disagree with torch for {shape}; going on with torch", stacklevel=2)
        return None
    return kernels

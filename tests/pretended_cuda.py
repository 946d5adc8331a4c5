"""A CUDA device that is not there: tensors that say they are on it, lie on the host, and keep to its rules.

    TRITON_INTERPRET=1 pytest -p tests.pretended_cuda -m gpu      # what is to run on a GPU, without one; slow
    REASON_TRITON=0 REASON_TEST_DEVICE=cuda pytest -p tests.pretended_cuda tests/engine
    TRITON_INTERPRET=1 python -m tests.pretended_cuda benchmarks/gpu.py --quick

These are errors: operations on tensors of two devices, kernels given host memory, writing to what a copy still reads,
waits and copies while a graph is recorded, and waits where ``set_sync_debug_mode("error")`` forbids them. What a copy
has not brought yet is garbage until an event recorded behind it, or the device, was waited for. Fresh memory holds NaN
or numbers that are no index, bools excepted. Recording a graph changes nothing; a replay repeats its operations on the
same tensors and spoils the results of others that share its pool.

It is stricter than CUDA where that costs nothing here: indices on the host, ``to("cpu", non_blocking=True)`` and copies
while recording are refused. It does not notice: a graph's input that was freed, what would happen on several streams,
memory that runs out. ``Module.to`` parts weights that were tied. Nothing is said of speed, or of how a GPU rounds.

Only for a CPU build of torch, and for processes of their own: nothing is undone. Needs a C++ compiler, because torch
asks whether a device is linked in before it asks anything else.
"""

from __future__ import annotations

import ctypes
import runpy
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_leaves, tree_map

__all__ = ["PretendedTensor", "install", "installed"]

_CUDA = torch.device("cuda", 0)
_MEMORY, _FREE = 8 << 30, 128 << 20  # bytes; small, because pools are sized by what is free
_GARBAGE = 0x5A
_COPY: Any = torch.ops.aten.copy_.default
_DATA: Any = torch.Tensor.data.__get__  # type: ignore[attr-defined]

_GUARD = """
#include <c10/core/impl/FakeGuardImpl.h>
namespace c10 { namespace impl { C10_REGISTER_GUARD_IMPL(CUDA, FakeGuardImpl<DeviceType::CUDA>); } }
"""

_WAITING = {
    "_local_scalar_dense",
    "_unique2",
    "bincount",
    "equal",
    "masked_select",
    "nonzero",
    "unique_consecutive",
    "unique_dim",
}
"""Operations after which the host has to know something of the device."""

_WITH_NUMBERS = {"fill_", "masked_fill", "masked_fill_", "index_put", "index_put_"}
"""Operations that take a number in a tensor on the host, beside those on elements."""

_MAKING = ("arange", "arange.start", "arange.start_step", "eye", "eye.m", "linspace")
"""What torch makes by an operation that gives an empty tensor its shape, which a wrapper cannot follow."""

_MASKED = (torch.bool, torch.uint8)
"""Indices of these types are a mask: how large the result is only the device knows."""


class _Begun(NamedTuple):
    """A copy between the device and pinned memory that nobody has waited for."""

    number: int
    host: torch.Tensor
    values: torch.Tensor  # what it will hold, or was read from it
    arrives: bool


class _Device:
    """The state of the one device."""

    def __init__(self) -> None:
        self.strict = False  # set_sync_debug_mode("error")
        self.capturing: _Graph | None = None
        self._pinned: dict[int, torch.Tensor] = {}  # by address, all that was handed out: so no address comes twice
        self._copies: list[_Begun] = []
        self._begun = 0

    @property
    def now(self) -> int:
        """How many copies have begun."""
        return self._begun

    @torch.inference_mode()
    def wait(self, what: str, *, asked: bool = False, upto: int | None = None) -> None:
        """The host waits for the first ``upto`` copies, by default for all; ``asked``: by a call that is there to
        wait."""
        if self.capturing is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {what}")
        if self.strict and not asked:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        done = [copy for copy in self._copies if upto is None or copy.number <= upto]
        self._copies = self._copies[len(done) :]
        for copy in done:
            if copy.arrives:
                copy.host.copy_(copy.values)
        if not all(copy.arrives or torch.equal(_bytes(copy.host), _bytes(copy.values)) for copy in done):
            raise RuntimeError("pinned memory was written to while a copy to the device read it")

    def pin(self, host: torch.Tensor) -> torch.Tensor:
        self._pinned[host.untyped_storage().data_ptr()] = host
        return host

    def is_pinned(self, host: torch.Tensor) -> bool:
        return host.untyped_storage().data_ptr() in self._pinned

    def bring(self, host: torch.Tensor, values: torch.Tensor) -> None:
        """Begins a copy from the device to pinned memory."""
        self._begin(host, values.to(host.dtype, copy=True), arrives=True)
        host.reshape(-1).view(torch.uint8).fill_(_GARBAGE)

    def take(self, host: torch.Tensor) -> None:
        """Begins a copy from pinned memory to the device."""
        self._begin(host, host.clone(), arrives=False)

    def _begin(self, host: torch.Tensor, values: torch.Tensor, *, arrives: bool) -> None:
        self._begun += 1
        self._copies.append(_Begun(self._begun, host, values, arrives))

    def run(self, call: Callable[[], Any], inputs: Sequence[Any], *, fresh: bool = False) -> Any:
        """Makes a call, which a graph that is being recorded will repeat; ``fresh``: its result is memory as it
        comes."""
        if self.capturing is not None:
            self.capturing.keep(inputs)
        result = call()
        if fresh:
            _spoil(result)
        if self.capturing is not None:
            self.capturing.add(call, result, inputs, fresh=fresh)
        return result


_device = _Device()


class PretendedTensor(torch.Tensor):
    """On the device; its elements are those of ``host``."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> Any:
        assert not isinstance(host, PretendedTensor)
        make: Any = torch.Tensor._make_wrapper_subclass
        shape: dict[str, Any] = {"strides": host.stride(), "storage_offset": host.storage_offset()}
        with torch.inference_mode(False):  # views of inference tensors are refused below autograd
            tensor = make(cls, host.shape, **shape, dtype=host.dtype, device=_CUDA)
        tensor.host = host
        return tensor

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            if func is _DATA:  # which would lose ``host``
                return args[0].detach()
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PretendedTensor({self.host!r})"

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = PretendedTensor(self.host.clone())
        return torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied


# -- operations ------------------------------------------------------------------------------------------------------


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """One operation with at least one tensor of the device, or one that makes a tensor there."""
    if (result := func.decompose(*args, **kwargs)) is not NotImplemented:
        return result
    name = func._schema.name.removeprefix("aten::")
    if name in ("copy_", "_to_copy"):
        return _copy(func, args, kwargs)
    leaves = [leaf for leaf in tree_leaves((args, kwargs)) if _is(leaf)]
    ours = [leaf for leaf in leaves if isinstance(leaf, PretendedTensor)]
    others = [leaf for leaf in leaves if not isinstance(leaf, PretendedTensor)]
    numbers = torch.Tag.pointwise in func.tags or name in _WITH_NUMBERS
    if ours and any(leaf.dim() > 0 or not numbers for leaf in others):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got one on cpu")
    masked = name.startswith("index") and any(leaf.dtype in _MASKED for leaf in tree_leaves(args[1]) if _is(leaf))
    unknown = name == "repeat_interleave" and kwargs.get("output_size") is None
    if (masked and not others) or unknown or name in _WAITING:
        _device.wait(str(func))
    where = kwargs.get("device")
    call = _on_host(func, args, kwargs)
    if where is not None and torch.device(where).type == "cpu":
        return call()
    return _wrapped(_device.run(call, ours, fresh="empty" in name), ours)


def _copy(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """``copy_`` and ``_to_copy``: what may have tensors of both sides."""
    if func is _COPY:
        target, source = args[0], args[1]
        waits = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        here = isinstance(target, PretendedTensor)
    else:
        target, source = None, args[0]
        waits = not kwargs.get("non_blocking", False)
        here = kwargs.get("device") is None or torch.device(kwargs["device"]).type == "cuda"
    there = isinstance(source, PretendedTensor)
    if there and here:
        ours = [tensor for tensor in (target, source) if tensor is not None]
        return _wrapped(_device.run(_on_host(func, args, kwargs), ours), ours)
    if _device.capturing is not None:
        raise RuntimeError("operation not permitted when stream is capturing: a copy between host and device")
    if target is None:
        if not waits:
            raise RuntimeError("nobody can await what a copy brings to fresh host memory")
        _device.wait("a copy")
        return _on_host(func, args, kwargs)()
    if waits or not _device.is_pinned(target if there else source):
        _device.wait("a copy")
        (target if there else target.host).copy_(source.host if there else source)
    elif there:
        _device.bring(target, source.host)
    else:
        _device.take(source)
        target.host.copy_(source)
    return target


def _on_host(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Callable[[], Any]:
    """The operation on the host's tensors. What are the host's own are numbers, of which it keeps the values."""
    where = {} if kwargs.get("device") is None else {"device": "cpu"}
    if _device.capturing is not None:
        args, kwargs = tree_map(_kept, (args, kwargs))
    hosts, options = _hosts(args), _hosts(kwargs | where)
    return lambda: func(*hosts, **options)


def _hosts(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.host if isinstance(leaf, PretendedTensor) else leaf, tree)


def _kept(leaf: Any) -> Any:
    return leaf.clone() if _is(leaf) and not isinstance(leaf, PretendedTensor) else leaf


def _is(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)


def _wrapped(result: Any, ours: Sequence[Any]) -> Any:
    """The result as tensors of the device; those that came in are themselves again."""
    known = {id(tensor.host): tensor for tensor in ours}

    def wrap(leaf: Any) -> Any:
        if not _is(leaf):
            return leaf
        tensor = known[id(leaf)] if id(leaf) in known else PretendedTensor(leaf)
        if tensor.shape != leaf.shape or tensor.stride() != leaf.stride():
            raise NotImplementedError("an operation that gives a tensor another shape in place is not pretended")
        return tensor

    return tree_map(wrap, result)


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(torch.uint8)


def _spoil(tensor: torch.Tensor) -> None:
    """Memory as an allocator may hand it out."""
    if tensor.dtype.is_floating_point:
        tensor.fill_(torch.nan)
    elif tensor.dtype != torch.bool:
        tensor.fill_(torch.iinfo(tensor.dtype).max - 3)


def _make(func: Any, *args: Any, **kwargs: Any) -> Any:
    """What makes a tensor on the device out of nothing."""
    return _run(func, args, kwargs | {"pin_memory": None})


def _copy_into(target: Any, source: torch.Tensor, non_blocking: bool = False) -> Any:
    """``torch.tensor`` copies with subclasses switched off."""
    return _run(_COPY, (target, source, non_blocking), {})


# -- torch.cuda ------------------------------------------------------------------------------------------------------


class _Graph:
    """``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []
        self._own: dict[int, torch.Tensor] = {}  # by address: its memory
        self._before: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by address: others' memory, and what it held
        self._company: list[_Graph] = [self]

    def keep(self, inputs: Sequence[Any]) -> None:
        """What is about to be read or written."""
        for tensor in inputs:
            address = tensor.host.untyped_storage().data_ptr()
            if address not in self._own and address not in self._before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.host.untyped_storage())
                self._before[address] = whole, whole.clone()

    def add(self, call: Callable[[], Any], result: Any, inputs: Sequence[Any], *, fresh: bool) -> None:
        """One operation, and where its result lies: in an input's memory, or in some of its own."""
        given = {tensor.host.untyped_storage().data_ptr() for tensor in inputs}
        outs = [leaf for leaf in tree_leaves(result) if _is(leaf)]
        own = [out.untyped_storage().data_ptr() not in given for out in outs]
        self._own |= {out.untyped_storage().data_ptr(): out for out, is_own in zip(outs, own, strict=True) if is_own}

        def step() -> None:
            again = [leaf for leaf in tree_leaves(call()) if _is(leaf)]
            for out, new, is_own in zip(outs, again, own, strict=True):
                if fresh:
                    _spoil(out)
                elif is_own:
                    out.copy_(new)

        self._steps.append(step)

    def end(self, pool: Any) -> None:
        """Nothing of what was recorded has happened."""
        for memory, before in self._before.values():
            memory.copy_(before)
        self._before.clear()
        if pool is not None:
            self._company = _pools.setdefault(pool, [])
            self._company.append(self)
        self.spoil()

    def spoil(self) -> None:
        for out in self._own.values():
            _spoil(out)

    @torch.inference_mode()
    def replay(self) -> None:
        if _device.capturing is not None:
            raise RuntimeError("a replay while another graph is recorded")
        for graph in self._company:
            graph.spoil()
        for step in self._steps:
            step()


_pools: dict[Any, list[_Graph]] = {}


@contextmanager
def _graph(graph: _Graph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global") -> Iterator[None]:
    """``torch.cuda.graph``."""
    _device.wait("the beginning of a capture", asked=True)
    _device.capturing = graph
    try:
        yield
    finally:
        _device.capturing = None
        with torch.inference_mode():
            graph.end(pool)


class _Event:
    """``torch.cuda.Event``."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._timed = enable_timing
        self._at = 0.0
        self._behind = 0  # so many copies

    def record(self, stream: Any = None) -> None:
        self._at, self._behind = time.perf_counter(), _device.now

    def synchronize(self) -> None:
        _device.wait("an event", asked=True, upto=self._behind)

    def query(self) -> bool:
        self.synchronize()
        return True

    def elapsed_time(self, end: _Event) -> float:
        if not (self._timed and end._timed and self._at and end._at):
            raise RuntimeError("both events must be made with enable_timing, and recorded")
        return 1e3 * (end._at - self._at)


class _Stream:
    """``torch.cuda.Stream``: all are one."""

    def wait_stream(self, stream: _Stream) -> None:
        pass

    def synchronize(self) -> None:
        _device.wait("a stream", asked=True)


class _Current(nullcontext[None]):
    """``torch.cuda.device``."""

    def __init__(self, device: Any) -> None:
        super().__init__()


def _set_sync_debug_mode(mode: str | int) -> None:
    _device.strict = mode in ("error", 2)


# -- pretending ------------------------------------------------------------------------------------------------------

_libraries: list[Any] = []


def installed() -> bool:
    return bool(_libraries)


def install() -> None:
    """From now on this process has a CUDA device.

    Raises:
        RuntimeError: torch knows CUDA itself.
    """
    if installed():
        return
    if torch.version.cuda is not None:
        raise RuntimeError("this torch knows CUDA itself; a device can only be pretended to a CPU build")
    _link_guard()
    make_library: Any = torch.library.Library
    everything, aten = make_library("_", "IMPL"), make_library("aten", "IMPL")
    everything.fallback(_make, dispatch_key="CUDA")
    aten.impl("copy_", _copy_into, "CUDA")
    for name in _MAKING:
        operation, _, overload = name.partition(".")
        aten.impl(name, partial(_make, getattr(getattr(torch.ops.aten, operation), overload or "default")), "CUDA")
    _libraries.extend((everything, aten))
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    _replace_cuda()
    _replace_pinning()
    _guard_triton()


def _link_guard() -> None:
    """Compiles and loads what tells torch that CUDA is linked in."""
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder) / "guard.cpp", Path(folder) / "guard.so"
        source.write_text(_GUARD, encoding="ascii")
        places = [f"-I{root / 'include'}", f"-L{root / 'lib'}", "-lc10"]
        subprocess.run(["g++", "-shared", "-fPIC", "-std=c++20", source, *places, "-o", library], check=True)
        ctypes.CDLL(str(library))


def _replace_cuda() -> None:
    cuda: Any = torch.cuda
    stream = _Stream()
    answers: dict[str, Any] = {
        "is_available": True,
        "is_bf16_supported": True,
        "device_count": 1,
        "current_device": 0,
        "current_stream": stream,
        "default_stream": stream,
        "get_device_name": "pretended",
        "get_device_capability": (9, 0),
        "get_device_properties": SimpleNamespace(multi_processor_count=132, total_memory=_MEMORY),
        "mem_get_info": (_FREE, _MEMORY),
        "memory_reserved": 0,
        "memory_allocated": 0,
        "_lazy_init": None,
        "empty_cache": None,
        "manual_seed_all": None,
        "set_device": None,
    }
    for name, answer in answers.items():
        setattr(cuda, name, lambda *_, answer=answer, **__: answer)
    cuda.graph_pool_handle = object
    cuda.synchronize = lambda *_: _device.wait("synchronize", asked=True)
    cuda.set_sync_debug_mode = _set_sync_debug_mode
    cuda.stream = lambda _: nullcontext()
    cuda.Stream, cuda.Event, cuda.CUDAGraph = _Stream, _Event, _Graph
    cuda.device, cuda.graph = _Current, _graph


def _replace_pinning() -> None:
    _device_constructors()  # under ``with torch.device(...)`` torch knows functions by identity: as they were
    make_empty = torch.empty
    torch_module: Any = torch
    tensor: Any = torch.Tensor

    def empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:
        made = make_empty(*args, **kwargs)
        return _device.pin(made) if pin_memory else made

    def pin(self: torch.Tensor) -> torch.Tensor:
        if isinstance(self, PretendedTensor):
            raise RuntimeError("cannot pin 'torch.cuda' tensors: only dense CPU tensors can be pinned")
        return _device.pin(self.clone())

    torch_module.empty, tensor.pin_memory, tensor.is_pinned = empty, pin, lambda self: _device.is_pinned(self)


def _guard_triton() -> None:
    """Interpreted kernels take the device's memory and no other."""
    try:
        from triton.runtime import interpreter
    except ImportError:
        return
    executor: Any = interpreter.GridExecutor
    launch = executor.__call__

    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        if any(_is(leaf) and not isinstance(leaf, PretendedTensor) for leaf in tree_leaves((args, kwargs))):
            raise ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)")
        ours = [leaf for leaf in tree_leaves((args, kwargs)) if _is(leaf)]
        _device.run(partial(launch, self, *_hosts(args), **_hosts(kwargs)), ours)

    executor.__call__ = checked


def pytest_configure() -> None:
    install()


if __name__ == "__main__":
    from tests import pretended_cuda  # not as __main__, whose tensors would be of another class

    pretended_cuda.install()
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")

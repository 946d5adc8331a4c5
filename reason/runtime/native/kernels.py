"""The compiled kernels behind torch tensors. Shapes are checked here; the C++ side trusts them."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import warnings
from typing import NamedTuple

import torch

from reason.runtime.native.build import BuildFailed, CompileFailed, load_library

__all__ = [
    "ADD",
    "GATE",
    "INT8_GROUPS",
    "NONE",
    "Int8Weight",
    "Kernels",
    "kernels_for",
    "make_kernels",
    "native_kernels",
]

NONE, ADD, GATE = 0, 1, 2

_POINTER, _INT, _LONG, _FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float


INT8_GROUPS = (64, 32)
"""How many inputs may share a scale; the first that divides a layer's inputs is taken."""


class Int8Weight(NamedTuple):
    """w = (code - 128) * scale."""

    codes: torch.Tensor
    """[out / 32, in / 4, 2, 16, 4] uint8, see products_int8.h."""
    scales: torch.Tensor
    """[out / 32, in / group, 32] float32."""
    group: int
    """Inputs that share a scale."""


class Kernels:
    """All tensors are contiguous bf16 on the CPU unless said otherwise."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._linear = library.reason_linear
        self._linear.argtypes = [_POINTER] * 5 + [_LONG] * 3 + [_INT]
        self._linear_int8 = library.reason_linear_int8
        self._linear_int8.argtypes = [_POINTER] * 6 + [_LONG] * 4 + [_INT]
        self._rms_norm = library.reason_rms_norm
        self._rms_norm.argtypes = [_POINTER] * 3 + [_LONG] * 2 + [_FLOAT]
        self._rotate = library.reason_rotate_and_write
        self._rotate.argtypes = [_POINTER] * 8 + [_LONG] * 4
        self._attend_run = library.reason_attend_run
        self._attend_run.argtypes = [_POINTER] * 7 + [_LONG] * 6 + [_FLOAT]
        self._attend_run.restype = None
        self._attend = library.reason_attend
        self._attend.argtypes = [_POINTER] * 9 + [_LONG] * 5 + [_FLOAT]
        self._statistics = library.reason_row_statistics
        self._statistics.argtypes = [_POINTER] * 2 + [_LONG] * 2 + [_INT]
        self._heads = library.reason_row_heads
        self._heads.argtypes = [_POINTER] * 4 + [_LONG] * 3 + [_FLOAT, _INT]
        self._threads = library.reason_native_threads
        self._threads.argtypes = [_INT]
        functions = (self._threads, self._attend, self._linear, self._linear_int8, self._rms_norm, self._rotate)
        for function in (*functions, self._statistics, self._heads):
            function.restype = None

    def set_threads(self, count: int) -> None:
        """How many threads every kernel uses from now on."""
        self._threads(count)

    @staticmethod
    def fits(out_features: int, in_features: int) -> bool:
        """Whether weights of this shape can be packed."""
        return out_features % 32 == 0 and in_features % 32 == 0

    @staticmethod
    def pack(weight: torch.Tensor) -> torch.Tensor:
        """[out, in] -> [out / 32, in / 32, 2, 16, 16, 2], see kernels.cpp."""
        out, inner = weight.shape
        tiles = weight.view(out // 32, 2, 16, inner // 32, 16, 2)  # strip, tile, column, step, pair, element
        return tiles.permute(0, 3, 1, 4, 2, 5).contiguous()

    @staticmethod
    def pack_gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        """Two [out, in] weights with the gate's 16 rows before the up's 16 rows in each strip."""
        return Kernels.pack(_interleaved(gate, up))

    @staticmethod
    def pack_int8(weight: torch.Tensor) -> Int8Weight:
        """[out, in] to the codes and scales of ``Int8Weight``."""
        out, inner = weight.shape
        group = next(size for size in INT8_GROUPS if inner % size == 0)
        groups = weight.float().view(out, inner // group, group)
        tops = groups.abs().amax(dim=-1)  # [out, groups]
        scales = tops / 127.0
        codes = torch.round(groups * torch.where(tops > 0, torch.tensor(127.0) / tops, 0.0)[..., None]) + 128.0
        packed = codes.to(torch.uint8).view(out // 32, 2, 16, inner // 4, 4).permute(0, 3, 1, 2, 4)
        return Int8Weight(packed.contiguous(), scales.view(out // 32, 32, -1).transpose(1, 2).contiguous(), group)

    @staticmethod
    def pack_gated_int8(gate: torch.Tensor, up: torch.Tensor) -> Int8Weight:
        """As ``pack_gated``."""
        return Kernels.pack_int8(_interleaved(gate, up))

    def linear(
        self,
        x: torch.Tensor,  # [rows, in]
        packed: torch.Tensor,
        bias: torch.Tensor | None = None,  # [out]
        other: torch.Tensor | None = None,  # [rows, out], for ADD
        epilogue: int = NONE,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """[rows, out]; with GATE, silu(gate) * up, [rows, out / 2]. Written to ``out`` if given."""
        rows, inner = x.shape
        outputs = packed.shape[0] * 32
        assert packed.shape[1] * 32 == inner, "x does not fit the weights"
        x = x.contiguous()
        out = _space(x, outputs, epilogue, out)
        self._linear(
            x.data_ptr(),
            packed.data_ptr(),
            None if bias is None else bias.data_ptr(),
            None if other is None else other.data_ptr(),
            out.data_ptr(),
            rows,
            outputs,
            inner,
            epilogue,
        )
        return out

    def linear_int8(
        self,
        x: torch.Tensor,  # [rows, in]
        weight: Int8Weight,
        bias: torch.Tensor | None = None,  # [out]
        other: torch.Tensor | None = None,  # [rows, out], for ADD
        epilogue: int = NONE,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As ``linear``, of x rounded to 8 bits too: each row's groups by their own largest magnitude."""
        rows, inner = x.shape
        outputs = weight.codes.shape[0] * 32
        assert weight.codes.shape[1] * 4 == inner, "x does not fit the weights"
        x = x.contiguous()
        out = _space(x, outputs, epilogue, out)
        self._linear_int8(
            x.data_ptr(),
            weight.codes.data_ptr(),
            weight.scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            None if other is None else other.data_ptr(),
            out.data_ptr(),
            rows,
            outputs,
            inner,
            weight.group,
            epilogue,
        )
        return out

    def rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x [rows, width], width a multiple of 16."""
        out = torch.empty_like(x)
        self._rms_norm(x.data_ptr(), weight.data_ptr(), out.data_ptr(), x.shape[0], x.shape[1], eps)
        return out

    def rotate_and_write(
        self,
        qkv: torch.Tensor,  # [rows, (heads + 2 * kv_heads) * head_dim]
        cos: torch.Tensor,  # [positions, 1, head_dim]
        sin: torch.Tensor,  # [positions, 1, head_dim], negated in its first half
        positions: torch.Tensor,  # [rows] int64
        slots: torch.Tensor,  # [rows] int64
        keys: torch.Tensor,  # [slots, kv_heads, head_dim], written
        values: torch.Tensor,  # [slots, kv_heads, head_dim], written
        heads: int,
    ) -> torch.Tensor:
        """Rotates q and k, writes k and v to their slots; returns q [rows, heads, head_dim]. head_dim % 32 == 0."""
        _, kv_heads, dim = keys.shape
        rows = qkv.shape[0]
        query = qkv.new_empty((rows, heads, dim))
        self._rotate(
            qkv.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            positions.data_ptr(),
            slots.data_ptr(),
            query.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            rows,
            heads,
            kv_heads,
            dim,
        )
        return query

    @staticmethod
    def can_attend(groups: int, head_dim: int) -> bool:
        """Whether ``attend`` takes this many query heads to a key head, and heads of this size."""
        return groups <= 16 and head_dim % 64 == 0 and head_dim <= 256

    def attend(
        self,
        query: torch.Tensor,  # [rows, heads, head_dim]
        keys: torch.Tensor,  # [slots, kv_heads, head_dim]
        values: torch.Tensor,  # [slots, kv_heads, head_dim]
        slots: torch.Tensor,  # [batch, keys] int64
        lengths: torch.Tensor,  # [batch] int64: how many of each row of ``slots`` count
        scale: float,
        rows: torch.Tensor | None,  # [batch] int64: which queries, each once; None is all in order
        into: tuple[torch.Tensor, torch.Tensor] | None = None,  # [rows, heads, head_dim], [rows, heads], float32
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Each query over keys of its own: (out [batch, heads, head_dim], lse [batch, heads] float32), or merged into
        what all rows have, which is then returned."""
        batch, width = slots.shape
        _, heads, dim = query.shape
        query = query.contiguous()
        if into is None:
            out = query.new_empty((batch, heads, dim))
            lse = torch.empty((batch, heads), dtype=torch.float32)
        else:
            out, lse = into
            assert out.is_contiguous() and lse.is_contiguous() and out.dtype == lse.dtype == torch.float32
        self._attend(
            query.data_ptr(),
            None if rows is None else rows.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            slots.data_ptr(),
            lengths.data_ptr(),
            out.data_ptr() if into is None else None,
            None if into is None else out.data_ptr(),
            lse.data_ptr(),
            batch,
            width,
            heads,
            keys.shape[1],
            dim,
            scale,
        )
        return out, lse

    def attend_run(
        self,
        query: torch.Tensor,  # [rows, heads, head_dim]
        keys: torch.Tensor,  # [slots, kv_heads, head_dim]
        values: torch.Tensor,  # [slots, kv_heads, head_dim]
        slots: torch.Tensor,  # [keys] int64
        visible: torch.Tensor | None,  # [end - begin] int64: how many of the keys each row sees; None is all
        scale: float,
        begin: int,
        end: int,
        out: torch.Tensor,  # [rows, heads, head_dim] float32, merged into
        lse: torch.Tensor,  # [rows, heads] float32, merged into
    ) -> None:
        """Queries ``begin .. end - 1`` over one run of keys, merged into what these rows have."""
        _, heads, dim = query.shape
        assert all(each.is_contiguous() for each in (query, keys, values, slots, out, lse)), "a tensor has gaps"
        assert out.dtype == lse.dtype == torch.float32 and dim % 32 == 0 and dim <= 256
        assert visible is None or (visible.is_contiguous() and visible.shape == (end - begin,))
        self._attend_run(
            query.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            slots.data_ptr(),
            None if visible is None else visible.data_ptr(),
            out.data_ptr(),
            lse.data_ptr(),
            begin,
            end - begin,
            slots.shape[0],
            heads,
            keys.shape[1],
            dim,
            scale,
        )

    def row_statistics(self, logits: torch.Tensor) -> torch.Tensor:
        """[rows, 3] float32: of each row of ``logits`` [rows, vocab], bf16 or float32, the log-sum-exp, the entropy of
        its softmax in nats, and KL(uniform || softmax) over the columns that are not -inf. A row with NaN or +inf, or
        of nothing but -inf, gives NaN."""
        assert logits.dtype in (torch.bfloat16, torch.float32), "the kernel takes bf16 and float32"
        logits = logits.contiguous()
        rows, vocab = logits.shape
        out = torch.empty((rows, 3), dtype=torch.float32)
        self._statistics(logits.data_ptr(), out.data_ptr(), rows, vocab, logits.dtype == torch.float32)
        return out

    def row_heads(
        self, logits: torch.Tensor, size: int, scale: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each row of ``logits`` [rows, vocab], bf16 or float32: its ``size`` largest values in order, [rows, size]
        float32, their columns, equal ones in order of column, [rows, size] int64, and the log-sum-exp of ``scale``
        times the row, [rows] float64. A row with NaN has columns of its own, and no order."""
        assert logits.dtype in (torch.bfloat16, torch.float32), "the kernel takes bf16 and float32"
        logits = logits.contiguous()
        rows, vocab = logits.shape
        assert 0 < size <= vocab, "a row has no such top"
        values = torch.empty((rows, size), dtype=torch.float32)
        columns = torch.empty((rows, size), dtype=torch.int64)
        masses = torch.empty(rows, dtype=torch.float64)
        self._heads(
            logits.data_ptr(),
            values.data_ptr(),
            columns.data_ptr(),
            masses.data_ptr(),
            rows,
            vocab,
            size,
            scale,
            logits.dtype == torch.float32,
        )
        return values, columns, masses


@functools.cache
def native_kernels() -> Kernels | None:
    """The kernels of this machine, or None where there are none or ``REASON_NATIVE`` is 0."""
    wanted = os.environ.get("REASON_NATIVE", "1")
    return None if wanted == "0" else make_kernels(amx=wanted != "avx512")


def make_kernels(*, amx: bool) -> Kernels | None:
    """The kernels, with AMX if there is any and it may be used; None without AVX-512 for bf16, or a compiler."""
    try:
        library = load_library(amx=amx)
    except CompileFailed as error:
        warnings.warn(f"no compiled kernels, so that it is slower: {error}", stacklevel=2)
        return None
    except BuildFailed:
        return None
    if not library.reason_native_init():
        return None
    kernels = Kernels(library)
    if not _agrees(kernels):
        warnings.warn("the compiled kernels disagree with torch on this machine; going on without", stacklevel=2)
        return None
    return kernels


def kernels_for(dtype: torch.dtype, device: torch.device) -> Kernels | None:
    """The kernels, where they exist for this dtype and device."""
    return native_kernels() if device.type == "cpu" and dtype == torch.bfloat16 else None


def _space(x: torch.Tensor, outputs: int, epilogue: int, out: torch.Tensor | None) -> torch.Tensor:
    """Where a product of x goes: ``out``, or a new tensor."""
    shape = (x.shape[0], outputs // 2 if epilogue == GATE else outputs)
    out = x.new_empty(shape) if out is None else out
    assert out.shape == shape and out.is_contiguous()
    return out


def _interleaved(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """[2 * out, in]: 16 rows of the gate, 16 of the up, and so on."""
    out, inner = gate.shape
    both = torch.stack([gate.view(out // 16, 16, inner), up.view(out // 16, 16, inner)], dim=1)
    return both.view(2 * out, inner)


def _agrees(kernels: Kernels) -> bool:
    """Small inputs, checked against torch before anything relies on the compiler."""
    return _linear_agrees(kernels) and _statistics_agree(kernels) and _attention_agrees(kernels)


def _linear_agrees(kernels: Kernels) -> bool:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 96, generator=generator).to(torch.bfloat16)
    x = torch.randn(37, 96, generator=generator).to(torch.bfloat16)
    expected = x.float() @ weight.float().T
    exact = kernels.linear(x, Kernels.pack(weight)).float()
    coded = kernels.linear_int8(x, Kernels.pack_int8(weight)).float()
    near = ((exact - expected).abs() <= 0.02 + 0.01 * expected.abs()).all()
    return bool(near and ((coded - expected).norm() <= 0.02 * expected.norm()))


def _attention_agrees(kernels: Kernels) -> bool:
    """Three queries of two heads over 40 keys, of which they see some."""
    generator = torch.Generator().manual_seed(0)
    query, keys, values = (
        torch.randn(n, h, 64, generator=generator).to(torch.bfloat16) for n, h in ((3, 2), (50, 1), (50, 1))
    )
    slots = torch.randperm(50, generator=generator)[:40]
    visible = torch.tensor([40, 7, 33])
    out, lse = torch.zeros(3, 2, 64), torch.full((3, 2), -torch.inf)
    kernels.attend_run(query, keys, values, slots, visible, 0.125, 0, 3, out, lse)
    for row, seen in enumerate(visible.tolist()):
        key, value = keys[slots[:seen], 0].float(), values[slots[:seen], 0].float()
        scores = 0.125 * query[row].float() @ key.T
        if not torch.allclose(out[row], scores.softmax(dim=-1) @ value, atol=0.03, rtol=0.03):
            return False
        if not torch.allclose(lse[row], scores.logsumexp(dim=-1), atol=1e-2):
            return False
        alone, mass = kernels.attend(
            query, keys, values, slots[None, :seen].contiguous(), torch.tensor([seen]), 0.125, torch.tensor([row])
        )
        if not torch.allclose(alone[0].float(), out[row], atol=0.03, rtol=0.03) or not torch.allclose(
            mass[0], lse[row], atol=1e-2
        ):
            return False
    return True


def _statistics_agree(kernels: Kernels) -> bool:
    logits = torch.randn(3, 4999, generator=torch.Generator().manual_seed(0)) * 4
    for given in (logits, logits.to(torch.bfloat16)):
        scores = given.double().log_softmax(dim=-1)
        entropy = -(scores.exp() * scores).sum(dim=-1)
        certainty = -scores.mean(dim=-1) - math.log(scores.shape[1])
        expected = torch.stack([given.double().logsumexp(dim=-1), entropy, certainty], dim=1)
        if not torch.allclose(kernels.row_statistics(given).double(), expected, rtol=1e-4, atol=1e-6):
            return False
        values, columns, masses = kernels.row_heads(given, 9, 0.7)
        if not torch.equal(values, given.float().topk(9, dim=-1).values):
            return False
        if not torch.equal(given.float().gather(1, columns), values):
            return False
        if not torch.allclose(masses, (given.double() * 0.7).logsumexp(dim=-1), rtol=1e-5):
            return False
    return True

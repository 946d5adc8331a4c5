"""Device code of what is done to rows between products, in Triton's language: RMSNorm (arXiv 1910.07467) and SwiGLU's
gate (arXiv 2002.05202), each one launch, in float32 until the result is rounded."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["rms_norm", "silu_mul"]


@triton.jit
def rms_norm(
    x,  # [rows, SIZE]
    weight,  # [SIZE]
    out,  # [rows, SIZE], written
    eps,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= SIZE
):
    at = tl.arange(0, BLOCK)
    there = at < SIZE
    row = tl.program_id(0).to(tl.int64) * SIZE
    values = tl.load(x + row + at, mask=there, other=0.0).to(tl.float32)
    factor = 1.0 / tl.sqrt(tl.sum(values * values, 0) / SIZE + eps)
    weights = tl.load(weight + at, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row + at, (values * factor * weights).to(out.dtype.element_ty), mask=there)


@triton.jit
def silu_mul(
    x,  # [rows, 2 * SIZE]: gate, then up
    out,  # [rows, SIZE], written
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = at < SIZE
    row = tl.program_id(0).to(tl.int64) * SIZE
    gate = tl.load(x + 2 * row + at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + 2 * row + SIZE + at, mask=there, other=0.0).to(tl.float32)
    small = tl.exp(-tl.abs(gate))  # never infinite
    share = tl.where(gate >= 0.0, 1.0, small) / (1.0 + small)
    tl.store(out + row + at, (gate * share * up).to(out.dtype.element_ty), mask=there)

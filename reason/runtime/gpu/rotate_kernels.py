"""Device code of what stands between the QKV product and attention, in Triton's language: per-head norms where a model
has them, the rotary embedding of q and k (RoFormer, arXiv 2104.09864), and k and v put in their KV slots."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["rotate_and_write"]


@triton.jit
def rotate_and_write(
    qkv,  # [rows, heads + 2 * kv_heads, DIM]
    cos,  # [positions, DIM]
    sin,  # [positions, DIM], negated in its first half
    positions,  # [rows] int32 or int64
    write_slots,  # [rows] int32 or int64
    q_norm,  # [DIM], read only if NORMED
    k_norm,  # [DIM], read only if NORMED
    query,  # [rows, heads, DIM], written
    keys,  # [slots, kv_heads, DIM], written
    values,  # [slots, kv_heads, DIM], written
    eps,
    heads,
    kv_heads,
    DIM: tl.constexpr,
    BLOCK_HALF: tl.constexpr,  # power of two >= DIM / 2
    BLOCK_H: tl.constexpr,
    NORMED: tl.constexpr,
):
    HALF: tl.constexpr = DIM // 2
    row = tl.program_id(0)
    head = tl.program_id(1) * BLOCK_H + tl.arange(0, BLOCK_H)
    dim = tl.arange(0, BLOCK_HALF)
    in_half = dim < HALF
    wanted = (head < heads + 2 * kv_heads)[:, None] & in_half[None, :]
    at = ((row * (heads + 2 * kv_heads) + head).to(tl.int64) * DIM)[:, None] + dim[None, :]
    low = tl.load(qkv + at, mask=wanted, other=0.0).to(tl.float32)
    high = tl.load(qkv + at + HALF, mask=wanted, other=0.0).to(tl.float32)

    position = tl.load(positions + row).to(tl.int64) * DIM
    cos_low = tl.load(cos + position + dim, mask=in_half, other=0.0).to(tl.float32)
    cos_high = tl.load(cos + position + HALF + dim, mask=in_half, other=0.0).to(tl.float32)
    sin_low = tl.load(sin + position + dim, mask=in_half, other=0.0).to(tl.float32)
    sin_high = tl.load(sin + position + HALF + dim, mask=in_half, other=0.0).to(tl.float32)

    is_query = head < heads
    is_key = (head >= heads) & (head < heads + kv_heads)
    normed_low, normed_high = low, high
    if NORMED:
        square = tl.sum(low * low + high * high, 1) / DIM
        factor = 1.0 / tl.sqrt(square + eps)
        q_low = tl.load(q_norm + dim, mask=in_half, other=0.0).to(tl.float32)
        q_high = tl.load(q_norm + HALF + dim, mask=in_half, other=0.0).to(tl.float32)
        k_low = tl.load(k_norm + dim, mask=in_half, other=0.0).to(tl.float32)
        k_high = tl.load(k_norm + HALF + dim, mask=in_half, other=0.0).to(tl.float32)
        normed_low = low * factor[:, None] * tl.where(is_query[:, None], q_low[None, :], k_low[None, :])
        normed_high = high * factor[:, None] * tl.where(is_query[:, None], q_high[None, :], k_high[None, :])
    turned_low = normed_low * cos_low[None, :] + normed_high * sin_low[None, :]
    turned_high = normed_high * cos_high[None, :] + normed_low * sin_high[None, :]

    to_query = ((row * heads + head).to(tl.int64) * DIM)[:, None] + dim[None, :]
    ours = wanted & is_query[:, None]
    tl.store(query + to_query, turned_low.to(query.dtype.element_ty), mask=ours)
    tl.store(query + to_query + HALF, turned_high.to(query.dtype.element_ty), mask=ours)
    slot = tl.load(write_slots + row).to(tl.int64)
    to_key = ((slot * kv_heads + head - heads) * DIM)[:, None] + dim[None, :]
    ours = wanted & is_key[:, None]
    tl.store(keys + to_key, turned_low.to(keys.dtype.element_ty), mask=ours)
    tl.store(keys + to_key + HALF, turned_high.to(keys.dtype.element_ty), mask=ours)
    to_value = ((slot * kv_heads + head - heads - kv_heads) * DIM)[:, None] + dim[None, :]
    ours = wanted & (head >= heads + kv_heads)[:, None]
    tl.store(values + to_value, low.to(values.dtype.element_ty), mask=ours)
    tl.store(values + to_value + HALF, high.to(values.dtype.element_ty), mask=ours)

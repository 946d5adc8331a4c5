"""Device code of the tree attention, in Triton's language. See ``work`` for what an item is.

``attend_items`` computes one item for one key head: softmax over its keys with the running maximum of flash attention
(arXiv 2205.14135), for all query heads of all its rows at once, and leaves (out, log2-sum-exp2) per row and head.
``merge_parts`` puts a row's partial results together: out = sum_i w_i out_i, w = softmax_i(lse_i) (arXiv 2402.05099).
Everything between the loads and the final rounding is float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["attend_items", "merge_parts"]


@triton.jit(do_not_specialize=["first_item"])
def attend_items(
    query,  # [rows, kv_heads * GROUPS, DIM]
    keys,  # [slots, kv_heads, DIM]
    values,  # [slots, kv_heads, DIM]
    items,  # [items, 6] int32
    slots,  # [keys] int32
    key_positions,  # [keys] int32, read only if WINDOWED
    row_positions,  # [rows] int32
    out,  # [parts, kv_heads * GROUPS, DIM] float32, written
    lse,  # [parts, kv_heads * GROUPS] float32, written
    first_item,
    scale,  # of the scores, times log2(e)
    window,
    kv_heads,
    GROUPS: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,  # power of two >= DIM
    BLOCK_M: tl.constexpr,  # >= rows of the item * GROUPS
    BLOCK_N: tl.constexpr,
    WINDOWED: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,  # multiply in float32: the interpreter has no bf16 products
):
    item = items + (first_item + tl.program_id(0)) * 6
    head = tl.program_id(1)
    first_key = tl.load(item)
    num_keys = tl.load(item + 1)
    first_row = tl.load(item + 2)
    num_rows = tl.load(item + 3)
    first_part = tl.load(item + 4)
    first_position = tl.load(item + 5)

    lane = tl.arange(0, BLOCK_M)
    row = lane // GROUPS
    used = row < num_rows
    dim = tl.arange(0, BLOCK_D)
    in_head = dim < DIM
    heads = kv_heads * GROUPS
    query_head = head * GROUPS + lane % GROUPS
    at = ((first_row + row) * heads + query_head).to(tl.int64) * DIM
    q = tl.load(query + at[:, None] + dim[None, :], mask=used[:, None] & in_head[None, :], other=0.0)
    if WIDEN:
        q = q.to(tl.float32)
    position = tl.load(row_positions + first_row + row, mask=used, other=0)
    seen = tl.minimum(position - first_position + 1, num_keys)  # keys of this item that each lane sees

    best = tl.full([BLOCK_M], float("-inf"), tl.float32)
    mass = tl.full([BLOCK_M], 0.0, tl.float32)
    sums = tl.full([BLOCK_M, BLOCK_D], 0.0, tl.float32)
    stride = kv_heads * DIM
    for start in range(0, num_keys, BLOCK_N):
        number = start + tl.arange(0, BLOCK_N)
        inside = number < num_keys
        slot = tl.load(slots + first_key + number, mask=inside, other=0).to(tl.int64)
        place = (slot * stride + head * DIM)[:, None] + dim[None, :]
        wanted = inside[:, None] & in_head[None, :]
        k = tl.load(keys + place, mask=wanted, other=0.0)
        v = tl.load(values + place, mask=wanted, other=0.0)
        if WIDEN:
            k = k.to(tl.float32)
        scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * scale
        visible = number[None, :] < seen[:, None]
        if WINDOWED:
            key_position = tl.load(key_positions + first_key + number, mask=inside, other=0)
            visible = visible & (key_position[None, :] > position[:, None] - window)
        scores = tl.where(visible, scores, float("-inf"))
        new_best = tl.maximum(best, tl.max(scores, 1))
        anchor = tl.where(new_best == float("-inf"), 0.0, new_best)  # nothing seen yet: exp2(-inf - 0) is 0, not NaN
        weights = tl.exp2(scores - anchor[:, None])
        fading = tl.exp2(best - anchor)
        mass = mass * fading + tl.sum(weights, 1)
        weights = weights.to(v.dtype)
        if WIDEN:
            weights = weights.to(tl.float32)
            v = v.to(tl.float32)
        sums = sums * fading[:, None] + tl.dot(weights, v, input_precision=PRECISION)
        best = new_best

    some = mass > 0.0
    sums = sums / tl.where(some, mass, 1.0)[:, None]
    part = (first_part + row).to(tl.int64) * heads + query_head
    tl.store(out + part[:, None] * DIM + dim[None, :], sums, mask=used[:, None] & in_head[None, :])
    total = tl.where(some, best + tl.log2(tl.where(some, mass, 1.0)), float("-inf"))
    tl.store(lse + part, total, mask=used)


@triton.jit
def merge_parts(
    part_out,  # [parts, kv_heads * GROUPS, DIM] float32
    part_lse,  # [parts, kv_heads * GROUPS] float32
    part_begins,  # [rows + 1] int32
    parts,  # [parts] int32
    out,  # [rows, kv_heads * GROUPS, DIM], written
    kv_heads,
    GROUPS: tl.constexpr,
    BLOCK_G: tl.constexpr,  # power of two >= GROUPS
    DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    row = tl.program_id(0)
    group = tl.arange(0, BLOCK_G)
    dim = tl.arange(0, BLOCK_D)
    used = group < GROUPS
    wanted = used[:, None] & (dim < DIM)[None, :]
    heads = kv_heads * GROUPS
    head = tl.program_id(1) * GROUPS + group
    best = tl.full([BLOCK_G], float("-inf"), tl.float32)
    mass = tl.full([BLOCK_G], 0.0, tl.float32)
    sums = tl.full([BLOCK_G, BLOCK_D], 0.0, tl.float32)
    begin = tl.load(part_begins + row)
    end = tl.load(part_begins + row + 1)
    for i in range(begin, end):
        place = tl.load(parts + i).to(tl.int64) * heads + head
        lse = tl.load(part_lse + place, mask=used, other=float("-inf"))
        values = tl.load(part_out + place[:, None] * DIM + dim[None, :], mask=wanted, other=0.0)
        new_best = tl.maximum(best, lse)
        anchor = tl.where(new_best == float("-inf"), 0.0, new_best)
        fading = tl.exp2(best - anchor)
        weight = tl.exp2(lse - anchor)
        mass = mass * fading + weight
        sums = sums * fading[:, None] + values * weight[:, None]
        best = new_best
    sums = sums / tl.where(mass > 0.0, mass, 1.0)[:, None]  # a padded row has no parts and gets zeros
    at = (row * heads + head).to(tl.int64)
    tl.store(out + at[:, None] * DIM + dim[None, :], sums.to(out.dtype.element_ty), mask=wanted)

"""Device code that reads draft tables beyond the ends of a forward's rows (``speculate.tables``), in Triton's language:
one program a row, level by level, in place of some fifty launches a level."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["look_ahead"]


@triton.jit
def look_ahead(
    contexts,  # [rows, CONTEXT] int64, -1 before a path's start
    factors,  # [ORDERS, CONTEXT] int64, of the keys' hashes; read only if HASHED
    keys,  # [buckets + 1, WAYS] int64, read only if HASHED
    tokens,  # [places, TOP] int32, -1: none
    probabilities,  # [places, TOP] float32 if HASHED, else [TOP], of ranks
    said,  # [rows, 1 + (LEVELS - 1) * WIDTH, TOP] int32, written
    likely,  # the same shape, float32, written
    chosen,  # [rows, (LEVELS - 1) * WIDTH] int32, written
    buckets,
    HASHED: tl.constexpr,  # whether places are found by keys; else a place is the last token
    CONTEXT: tl.constexpr,
    LONGEST: tl.constexpr,  # order
    ORDERS: tl.constexpr,
    WAYS: tl.constexpr,
    TOP: tl.constexpr,
    BLOCK: tl.constexpr,  # power of two >= TOP
    LEVELS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    PLACES: tl.constexpr = 1 + (LEVELS - 1) * WIDTH
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, CONTEXT)
    number = tl.arange(0, WIDTH)
    rank = tl.arange(0, BLOCK)
    way = tl.arange(0, WAYS)
    flat = tl.arange(0, WIDTH * BLOCK)
    end = tl.load(contexts + row * CONTEXT + column)
    context = tl.zeros([WIDTH, CONTEXT], tl.int64) + end[None, :]
    value = tl.where(number == 0, 1.0, 0.0)  # how likely the path to each place is; 0: there is no such place
    for level in tl.static_range(LEVELS):
        place = tl.zeros([WIDTH], tl.int64) - 1
        if HASHED:
            for order in tl.static_range(ORDERS):
                factor = tl.load(factors + order * CONTEXT + column)
                mixed = tl.sum((context + 1) * factor[None, :], 1)
                key = (mixed ^ (mixed >> 32)) | 1
                first = tl.sum(tl.where((column == CONTEXT - LONGEST + order)[None, :], context, 0), 1)
                bucket = tl.where(first >= 0, ((key >> 1) & 0x3FFFFFFFFFFFFFFF) % buckets, buckets)
                held = tl.load(keys + bucket[:, None] * WAYS + way[None, :])
                which = tl.max(tl.where(held == key[:, None], way[None, :], -1), 1)
                place = tl.where((place < 0) & (first >= 0) & (which >= 0), bucket * WAYS + which, place)
        else:
            place = tl.sum(tl.where((column == CONTEXT - 1)[None, :], context, 0), 1)
        known = ((place >= 0) & (value > 0.0))[:, None] & (rank < TOP)[None, :]
        at = tl.where(place >= 0, place, 0)[:, None] * TOP + rank[None, :]
        token = tl.load(tokens + at, mask=known, other=-1)
        if HASHED:
            p = tl.load(probabilities + at, mask=known, other=0.0)
        else:
            p = tl.load(probabilities + rank[None, :] + tl.zeros([WIDTH, BLOCK], tl.int32), mask=known, other=0.0)
            p = tl.where(token >= 0, p, 0.0)
        begin = 0 if level == 0 else 1 + (level - 1) * WIDTH
        to = (row * PLACES + begin + number)[:, None] * TOP + rank[None, :]
        written = ((number == 0) | (level > 0))[:, None] & (rank < TOP)[None, :]
        tl.store(said + to, token, mask=written)
        tl.store(likely + to, p, mask=written)
        if level < LEVELS - 1:
            left = tl.reshape(tl.where(token >= 0, value[:, None] * p, 0.0), [WIDTH * BLOCK])
            drafted = tl.reshape(token, [WIDTH * BLOCK])
            parent = tl.zeros([WIDTH], tl.int32)
            index = tl.zeros([WIDTH], tl.int32) - 1
            next_token = tl.zeros([WIDTH], tl.int64)
            for turn in tl.static_range(WIDTH):
                best = tl.max(left, 0)
                likeliest = tl.argmax(left, 0).to(tl.int32)
                here = number == turn
                value = tl.where(here, best, value)
                parent = tl.where(here, likeliest // BLOCK, parent)
                number_there = likeliest // BLOCK * TOP + likeliest % BLOCK
                index = tl.where(here, tl.where(best > 0.0, number_there, -1), index)
                next_token = tl.where(here, tl.sum(tl.where(flat == likeliest, drafted, 0), 0).to(tl.int64), next_token)
                left = tl.where(flat == likeliest, -1.0, left)
            value = tl.where(value > 0.0, value, 0.0)
            tl.store(chosen + row * (PLACES - 1) + level * WIDTH + number, index)
            above = parent[:, None, None] == number[None, :, None]  # [new, old, 1]
            context = tl.sum(tl.where(above, context[None, :, :], 0), 1)
            source = (column + 1)[None, None, :] == column[None, :, None]  # [1, old column, new column]
            moved = tl.sum(tl.where(source, context[:, :, None], 0), 1)
            context = tl.where((column == CONTEXT - 1)[None, :], next_token[:, None], moved)

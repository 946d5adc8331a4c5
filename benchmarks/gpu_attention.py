"""Attention of one layer over three forests: error, time, and others at the same work. A part of ``gpu.py``."""

from __future__ import annotations

import itertools
import math
import time
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from gpu_bench import FULL, Bench, Table

from reason.runtime.attention.forest import forest_attention
from reason.runtime.attention.plan import GPU_MIN_SAVED_TOKENS, Row, RowBatch, plan_rows
from reason.runtime.attention.reference import dense_attention
from reason.runtime.forest import Branch, KVForest
from reason.runtime.gpu import gpu_kernels_for

Pools: TypeAlias = list[tuple[torch.Tensor, torch.Tensor]]
"""Keys and values [slots, kv_heads, head_dim] that calls read in turn, so that none lie in the device's cache still."""

_CACHE = 256 << 20  # bytes; an H200's is 50 MiB


def prompt_and_branches(bench: Bench, drafts: int = 0) -> tuple[KVForest, list[Row]]:
    """A prompt of 1,024 tokens above 64 branches of 256, each with a draft tree of four chains if asked."""
    prompt, own, branches = bench.sized(1024), bench.sized(256), bench.sized(64)
    forest = KVForest(prompt + branches * (own + drafts) + 64)
    cursors: list[Branch] = []
    for i in range(branches):
        branch = forest.open([*range(prompt), *(1_000_000 * (i + 1) + k for k in range(own))])
        cursors.append(branch)
        for chain in range(min(4, drafts)):
            cursor = branch
            for depth in range(max(1, drafts // 4)):
                cursor = forest.claim(cursor, 10 * chain + depth)
                cursors.append(cursor)
    return forest, [Row(cursor.node, cursor.offset - 1) for cursor in cursors]


def deep_tree(bench: Bench) -> tuple[KVForest, list[Row]]:
    """Four levels, 8,192 tokens, a quarter of them on each level, 256 leaves."""
    forest = KVForest(8192 + 64)
    paths: list[list[int]] = [[]]
    for level, (fan, length) in enumerate(((1, 2048), (4, 512), (4, 128), (16, 8))):
        fan, length = (fan, length) if bench.scale is FULL else (min(fan, 2), max(1, length // 128))
        tokens = [[1_000_000 * (level + 1) + 10_000 * i + k for k in range(length)] for i in range(fan)]
        paths = [path + more for path in paths for more in tokens]
    branches = [forest.open(path) for path in paths]
    return forest, [Row(branch.node, branch.offset - 1) for branch in branches]


def seen_slots(row: Row) -> torch.Tensor:
    """The slots that a row attends to, in order."""
    runs = [row.node.slots[: row.offset + 1]]
    node = row.node.parent
    while node is not None and node.parent is not None:
        runs.append(node.slots[: len(node)])
        node = node.parent
    return torch.from_numpy(np.concatenate(runs[::-1]).astype(np.int64))


def kernels(bench: Bench) -> Table:
    table: Table = []
    cases = {
        "1k prompt, 64 branches of 256": lambda: prompt_and_branches(bench),
        "4 levels, 8k tokens, 256 leaves": lambda: deep_tree(bench),
        "1k prompt, 64 branches of 256, 16 draft nodes each": lambda: prompt_and_branches(bench, drafts=16),
    }
    for name, make in cases.items():
        forest, rows = make()
        for node in forest.nodes():
            if node.committed:
                forest.mark_computed(node, len(node))
        table.append({"case": name, **one_kernel(bench, forest, rows)})
    return table


def one_kernel(bench: Bench, forest: KVForest, rows: list[Row]) -> dict[str, Any]:
    heads, kv_heads, dim = bench.scale.attention
    scale = dim**-0.5
    shape = forest.pool.num_slots, kv_heads, dim
    size = 2 * math.prod(shape) * bench.scale.dtype.itemsize
    pools = [(bench.random(*shape), bench.random(*shape)) for _ in range(-(-_CACHE // bench.scale.shrink**2 // size))]
    keys, values = pools[0]
    ours = gpu_kernels_for(bench.device, bench.scale.dtype, heads, kv_heads, dim)
    batch = plan_rows(rows, "cpu" if ours is not None else bench.device, GPU_MIN_SAVED_TOKENS)
    query = bench.random(len(batch.rows), heads, dim)
    result: dict[str, Any] = {"rows": len(batch.rows), "kernels": ours is not None}
    began = time.perf_counter()
    if ours is not None:
        batch = ours.upload(batch)
        bench.synchronize()
        result["plan ms"] = 1e3 * (time.perf_counter() - began)
    got = forest_attention(query, keys, values, batch.plan, scale)
    some = list(range(0, len(batch.rows), max(1, len(batch.rows) // 32)))
    exact = dense_attention(query[some], keys, values, [batch.rows[i] for i in some], scale)
    result["error"] = float((got[some].float() - exact.float()).abs().max())
    in_turn = itertools.cycle(pools)
    seconds = bench.device_seconds(lambda: forest_attention(query, *next(in_turn), batch.plan, scale))
    read = 2 * batch.plan.unique_keys * kv_heads * dim * keys.element_size()
    result |= {"us": 1e6 * seconds, "of copy bandwidth": read / seconds / bench.bandwidth}
    for name, other in (("flex us", flex), ("sdpa unshared us", unshared)):
        try:
            result[name] = 1e6 * other(bench, batch, query, pools, scale, got)
        except Exception as error:  # one that cannot do this case is a result
            result[name] = f"{type(error).__name__}: {error}"[:200]
    return result


def flex(bench: Bench, batch: RowBatch, query: torch.Tensor, pools: Pools, scale: float, ours: torch.Tensor) -> float:
    """FlexAttention over the whole pool, its blocks chosen by the visibility of slots."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    visible = torch.zeros(len(batch.rows), pools[0][0].shape[0], dtype=torch.bool)
    for i, row in enumerate(batch.rows):
        visible[i, seen_slots(row)] = True
    visible = visible.to(bench.device)

    def sees(_b: Any, _h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return visible[q, k]

    mask = create_block_mask(sees, None, None, *visible.shape, device=bench.device)
    run: Any = torch.compile(flex_attention, dynamic=False) if bench.device.type == "cuda" else flex_attention
    q = query.transpose(0, 1)[None].contiguous()
    in_turn = itertools.cycle([[t.transpose(0, 1)[None].contiguous() for t in pool] for pool in pools])

    def call() -> torch.Tensor:
        out: torch.Tensor = run(q, *next(in_turn), block_mask=mask, scale=scale, enable_gqa=True)
        return out

    difference = (call()[0].transpose(0, 1).float() - ours.float()).abs().max()  # of the first pool
    assert float(difference) < 0.1, f"it computes something else, by {float(difference):.3f}"
    return bench.device_seconds(call)


def unshared(
    bench: Bench, batch: RowBatch, query: torch.Tensor, pools: Pools, scale: float, ours: torch.Tensor
) -> float:
    """SDPA with each row's keys laid out for it beforehand, as without sharing: the layout is not timed."""
    slots = [seen_slots(row).to(bench.device) for row in batch.rows]
    longest = max(len(each) for each in slots)
    padded = torch.stack([F.pad(each, (0, longest - len(each))) for each in slots])
    lengths = torch.tensor([len(each) for each in slots], device=bench.device)
    even = bool((lengths == longest).all())
    mask = None if even else (torch.arange(longest, device=bench.device) < lengths[:, None])[:, None, None]
    key, value = (t[padded].transpose(1, 2).contiguous() for t in pools[0])  # [rows, kv_heads, longest, dim]

    def call() -> torch.Tensor:
        return F.scaled_dot_product_attention(query[:, :, None], key, value, mask, scale=scale, enable_gqa=True)

    difference = (call()[:, :, 0].float() - ours.float()).abs().max()
    assert float(difference) < 0.1, f"it computes something else, by {float(difference):.3f}"
    return bench.device_seconds(call)

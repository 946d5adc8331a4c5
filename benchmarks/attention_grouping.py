"""From which size on a shared run is worth a group of its own: the measurement behind ``MIN_SAVED_TOKENS``.

    python benchmarks/attention_grouping.py

For R rows that share a run of S tokens and have 32 tokens of their own, times one layer's attention with the run as a
group (read once, one more partial to merge) and with the run copied into every row's private KV.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from reason.runtime.attention.forest import forest_attention
from reason.runtime.attention.plan import AttentionPlan, Row, plan_rows
from reason.runtime.forest import KVForest
from reason.runtime.native import native_kernels

KV_HEADS, GROUPS, HEAD_DIM, OWN = 2, 7, 64, 32  # the 0.5B's attention


def plans(num_rows: int, shared: int) -> tuple[AttentionPlan, AttentionPlan, int]:
    """(grouped, copied, slots)"""
    forest = KVForest(shared + num_rows * (OWN + 1) + 16)
    prompt = list(range(shared))
    branches = [forest.open([*prompt, *[100_000 + 1000 * r + i for i in range(OWN)]]) for r in range(num_rows)]
    rows = [Row(branch.node, branch.offset - 1) for branch in branches]
    grouped = plan_rows(rows, min_saved_tokens=0).plan
    copied = plan_rows(rows, min_saved_tokens=1 << 60).plan
    return grouped, copied, forest.pool.num_slots


def microseconds(call: Callable[[], object]) -> float:
    for _ in range(5):
        call()
    times = []
    for _ in range(40):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1e6 * statistics.median(times)


def main() -> None:
    print("| rows | shared tokens | (rows - 1) * shared | group, us | copied, us |\n|---|---|---|---|---|")
    cores = len(os.sched_getaffinity(0))
    if (kernels := native_kernels()) is not None:
        kernels.set_threads(cores)
        torch.set_num_threads(1)  # as in the engine: torch's own threads would wait on the cores that the kernels need
    else:
        torch.set_num_threads(cores)
    for num_rows in (2, 4, 8, 16, 32):
        for shared in (16, 32, 64, 128, 256, 512):
            grouped, copied, slots = plans(num_rows, shared)
            keys = torch.randn(slots, KV_HEADS, HEAD_DIM).to(torch.bfloat16)
            query = torch.randn(num_rows, KV_HEADS * GROUPS, HEAD_DIM).to(torch.bfloat16)
            times = [
                microseconds(partial(forest_attention, query, keys, keys, plan, 0.125)) for plan in (grouped, copied)
            ]
            print(
                f"| {num_rows} | {shared} | {(num_rows - 1) * shared} | {times[0]:.0f} | {times[1]:.0f} |", flush=True
            )


if __name__ == "__main__":
    main()

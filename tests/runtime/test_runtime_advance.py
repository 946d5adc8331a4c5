"""A plan that follows from the last one is the plan that would be made anew."""

from __future__ import annotations

import random

import numpy as np

from reason.runtime.attention.plan import Row, RowBatch, advance_rows, plan_rows
from reason.runtime.forest import Branch, KVForest
from reason.runtime.gpu.work import Tiling, WorkAhead, make_work, make_work_ahead

TILING = Tiling(narrow_rows=2, wide_rows=4, split_keys=7)


def rows_of(branches: list[Branch]) -> list[Row]:
    return list(dict.fromkeys(Row(branch.node, branch.offset - 1) for branch in branches))


def planned(forest: KVForest, branches: list[Branch]) -> RowBatch:
    batch = plan_rows(rows_of(branches), min_saved_tokens=20)
    for node, index in batch.rows:
        forest.mark_computed(node, index + 1)
    return batch


def assert_same(one: RowBatch, other: RowBatch) -> None:
    assert one.number == other.number
    assert one.rows == other.rows
    for name in ("token_ids", "positions", "write_slots"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert one.plan.positions.tolist() == other.plan.positions.tolist()
    assert one.plan.shared == other.plan.shared
    assert one.plan.own == other.plan.own
    assert one.plan.unique_keys == other.plan.unique_keys


def ahead_of(batch: RowBatch) -> WorkAhead | None:
    plan = batch.grown()
    return None if plan is None else make_work_ahead(plan, TILING)


def decode(seed: int, steps: int = 40) -> tuple[int, int, int]:
    """Branches that grow, meet, part, end and begin; how many plans followed from the last, of how many the flat form
    had been made before their tokens came, and how many plans were wanted to follow but did not."""
    rng = random.Random(seed)
    forest = KVForest(4000)
    prompts = [[7, *range(100, 130)], [7, *range(100, 115), 3, 4]]
    branches = [forest.open([*rng.choice(prompts), rng.randrange(5)]) for _ in range(8)]
    for branch in branches:
        for node, length in branch.runs():
            forest.mark_computed(node, length if node is not branch.node else length - 1)
    followed = foreseen = anew = 0
    last, structure = planned(forest, branches), forest.structure
    for step in range(steps):
        ahead = ahead_of(last)
        for branch in branches:
            forest.append(branch, rng.randrange(3) if step < 8 else rng.randrange(10_000))
        if step % 10 == 9:
            forest.close(branches.pop(rng.randrange(len(branches))))
        if step == 25:
            branches.append(forest.open([*prompts[0], 77]))
        rows = rows_of(branches)
        advanced = advance_rows(last, rows) if forest.structure == structure else None
        structure = forest.structure
        fresh = plan_rows(rows, min_saved_tokens=20)
        if advanced is not None:
            assert_same(advanced, fresh)
            followed += 1
            if ahead is not None:
                work, wanted = ahead.filled(advanced.write_slots.numpy()), make_work(fresh.plan, TILING)
                assert all(np.array_equal(getattr(work, part), getattr(wanted, part)) for part in wanted._fields)
                foreseen += 1
        else:
            anew += 1
        last = fresh if advanced is None else advanced
        for node, index in last.rows:
            forest.mark_computed(node, index + 1)
    forest.check_integrity()
    return followed, foreseen, anew


def test_it_is_the_plan_made_anew() -> None:
    counts = [decode(seed) for seed in range(12)]
    assert all(followed > 10 and foreseen > 10 and anew > 5 for followed, foreseen, anew in counts), counts

"""Attention over the trie against one dense mask, on random forests."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from reason.runtime.attention.partial import Merger, partial_attention
from reason.runtime.attention.plan import Row, plan_rows
from reason.runtime.attention.reference import dense_attention
from reason.runtime.forest import KVForest
from reason.runtime.slots import SCRATCH_SLOT
from tests.runtime.forests import HEAD_DIM, SLOTS, Pool, compute, random_rows


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("min_saved_tokens", [0, 5, 40, 1000])
@pytest.mark.parametrize("window", [None, 3, 17])
def test_forest_attention_is_dense_attention(
    window: int | None, min_saved_tokens: int, groups: int, device: torch.device
) -> None:
    for seed in range(25):
        pool = Pool.random(seed, groups=groups, device=device)
        batch = plan_rows(random_rows(seed), device, min_saved_tokens)
        assert pool.error(batch, window) < 1e-5, f"seed {seed}"


@pytest.mark.parametrize("head_dim", [16, 64])  # 64: the compiled kernels, where there are any
@pytest.mark.parametrize("min_saved_tokens", [0, 40, 1000])
@pytest.mark.parametrize("window", [None, 17])
def test_bf16_stays_near(window: int | None, min_saved_tokens: int, head_dim: int) -> None:
    for seed in range(10):
        pool = Pool.random(seed, dtype=torch.bfloat16, head_dim=head_dim)
        batch = plan_rows(random_rows(seed), min_saved_tokens=min_saved_tokens)
        assert pool.error(batch, window) < 0.05, f"seed {seed}"


def test_the_dense_reference_is_a_softmax_over_the_path() -> None:
    """The reference itself, against the slots that a branch spells."""
    forest = KVForest(64)
    branches = [forest.open([1, 2, 3, 4, 5]), forest.open([1, 2, 3, 7]), forest.open([9])]
    pool = Pool.random(0, groups=2)
    rows = [Row(branch.node, branch.offset - 1) for branch in branches]
    query = pool.query(3)
    for window in (None, 2):
        got = dense_attention(query, pool.keys, pool.values, rows, 0.5, window)
        for r, branch in enumerate(branches):
            slots = torch.from_numpy(forest.slot_runs(branch).astype(np.int64))[-(window or 99) :]
            for head in range(4):
                key, value = pool.keys[slots, head // 2], pool.values[slots, head // 2]
                expected = torch.softmax(key @ query[r, head] * 0.5, dim=0) @ value
                torch.testing.assert_close(got[r, head], expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("min_saved_tokens", [0, 1000])
def test_a_group_that_the_window_hides_counts_for_nothing(min_saved_tokens: int, dtype: torch.dtype) -> None:
    """The shared run ends before the window of every row begins."""
    forest = KVForest(SLOTS)
    shared = forest.open(list(range(100)))
    compute(forest)
    branches = [forest.fork(shared) for _ in range(3)]
    for i, branch in enumerate(branches):
        for _ in range(20):
            forest.append(branch, 200 + i)
    compute(forest)
    rows = [Row(branch.node, branch.offset - 1) for branch in branches]
    batch = plan_rows(rows, min_saved_tokens=min_saved_tokens)
    assert len(batch.plan.groups) == (1 if min_saved_tokens == 0 else 0)
    error = Pool.random(0, dtype=dtype).error(batch, window=5)
    assert error < {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 0.05}[dtype]


def test_rows_at_one_place_are_one_row() -> None:
    forest = KVForest(64)
    branches = [forest.open([1, 2, 3]) for _ in range(3)]
    other = forest.open([1, 2, 4])
    compute(forest)
    rows = [Row(b.node, b.offset - 1) for b in (*branches, other, other)]
    batch = plan_rows(rows)
    assert len(batch.rows) == 2
    assert len({batch.row_number(branch) for branch in branches}) == 1
    assert batch.row_number(other) != batch.row_number(branches[0])
    assert batch.token_ids[batch.row_number(other)] == 4


@pytest.mark.parametrize("seed", range(8))
def test_rows_are_packed_depth_first(seed: int) -> None:
    """So that the rows beneath any node are one range; and each row knows its token, position and slot."""
    rows = random_rows(seed)
    batch = plan_rows(rows)
    assert set(batch.rows) == set(rows)
    assert len(set(batch.rows)) == len(batch.rows)
    beneath: dict[int, list[int]] = {}
    for number, (node, index) in enumerate(batch.rows):
        assert int(batch.token_ids[number]) == node.tokens[index]
        assert int(batch.positions[number]) == node.start + index
        pending = index >= node.computed
        assert int(batch.write_slots[number]) == (int(node.slots[index]) if pending else SCRATCH_SLOT)
        above = node
        while above.parent is not None:
            beneath.setdefault(id(above), []).append(number)
            above = above.parent
    for numbers in beneath.values():
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for earlier, later in itertools.pairwise(batch.rows):
        assert earlier[0] is not later[0] or earlier[1] < later[1]


@pytest.mark.parametrize(("saved", "grouped"), [(59, True), (60, True), (61, False)])
def test_a_run_is_grouped_when_it_saves_enough(saved: int, grouped: bool) -> None:
    """Four rows beneath a run of 20: reading it once saves three reads of 20."""
    forest = KVForest(64)
    branches = [forest.open([*range(20), 30 + i]) for i in range(4)]
    compute(forest)
    batch = plan_rows([Row(b.node, b.offset - 1) for b in branches], min_saved_tokens=saved)
    plan = batch.plan
    assert [(group.num_keys, group.begin, group.end) for group in plan.groups] == ([(20, 0, 4)] if grouped else [])
    assert plan.unique_keys == 24
    assert max(private.slots.shape[1] for private in plan.private) == (1 if grouped else 21)


def test_a_single_row_is_never_a_group() -> None:
    forest = KVForest(64)
    branch = forest.open([1, 2, 3])
    compute(forest)
    batch = plan_rows([Row(branch.node, 2)], min_saved_tokens=0)
    assert not batch.plan.groups


def test_a_prefill_is_one_causal_group() -> None:
    forest = KVForest(64)
    branch = forest.open(range(40))
    batch = plan_rows([Row(branch.node, i) for i in range(40)], min_saved_tokens=100)
    assert len(batch.plan.groups) == 1
    assert not batch.plan.private
    assert Pool.random(0).error(batch) < 1e-5
    assert Pool.random(0).error(batch, window=7) < 1e-5


def test_runs_whose_slots_are_scattered() -> None:
    forest = KVForest(SLOTS)
    a, b = forest.open([1]), forest.open([2])
    for i in range(30):  # turn by turn: neither run is a slice of the pool
        forest.append(a, i)
        forest.append(b, i)
    compute(forest)
    rows = []
    for branch in (a, b):
        rows += [Row(branch.node, i) for i in (5, 20, 30)]
    batch = plan_rows(rows, min_saved_tokens=0)
    assert [group.first_slot for group in batch.plan.groups] == [None, None]
    assert Pool.random(0).error(batch) < 1e-5
    assert Pool.random(0).error(batch, window=9) < 1e-5


def test_slots_that_only_look_consecutive() -> None:
    """First and last are as far apart as in a slice, but the middle is elsewhere."""
    forest = KVForest(64)
    branch = forest.open([1, 2, 3, 4])
    compute(forest)
    node = branch.node
    node.slots[:4] = [10, 12, 11, 13]
    batch = plan_rows([Row(node, 2), Row(node, 3)], min_saved_tokens=0)
    assert batch.plan.groups[0].first_slot is None
    assert Pool.random(0).error(batch) < 1e-5


def test_private_rows_of_very_different_lengths_are_not_padded_to_the_longest() -> None:
    forest = KVForest(SLOTS)
    long, short = forest.open(range(400)), forest.open([7, 7])
    compute(forest)
    batch = plan_rows([Row(long.node, 399), Row(short.node, 1)])
    assert sorted(private.slots.shape[1] for private in batch.plan.private) == [2, 400]
    assert Pool.random(0).error(batch) < 1e-5


@pytest.mark.parametrize("cuts", [(5,), (1, 2, 3), (8, 15, 16)])
def test_merged_parts_are_the_unsplit_softmax(cuts: tuple[int, ...]) -> None:
    """Parts in any order, the first for all rows, the others for a range or a list of rows."""
    pool = Pool.random(0)
    keys, values = pool.keys[:20].transpose(0, 1)[None], pool.values[:20].transpose(0, 1)[None]  # [1, 2, 20, dim]
    query = pool.query(6).view(6, 2, 3, HEAD_DIM)
    many = [kv.expand(6, -1, -1, -1) for kv in (keys, values)]

    def part(begin: int, end: int, rows: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        key, value = (kv[rows, :, begin:end] for kv in many)
        return partial_attention(query[rows], key, value, None, 0.3)

    rows = list(range(6))
    edges = [0, *cuts, 20]
    merger = Merger.empty(query)
    for begin, end in reversed(list(itertools.pairwise(edges))):
        out, lse = part(begin, end, rows[:4])
        merger.add(out, lse, 0, 4)
        out, lse = part(begin, end, [5, 4])
        merger.add_rows(out, lse, torch.tensor([5, 4]))
    whole, _ = part(0, 20, rows)
    torch.testing.assert_close(merger.result(), whole, atol=1e-6, rtol=1e-5)
    assert merger.result().dtype == query.dtype


def test_masks_are_made_once_per_window() -> None:
    forest = KVForest(64)
    branch = forest.open(range(20))
    batch = plan_rows([Row(branch.node, i) for i in range(20)], min_saved_tokens=0)
    cpu = torch.device("cpu")
    (part,) = batch.plan.groups
    mask = part.mask.additive(4, torch.float32, cpu)
    assert part.mask.additive(4, torch.float32, cpu) is mask
    assert part.mask.additive(None, torch.float32, cpu) is not mask
    assert mask is not None
    visible = mask == 0
    position = torch.arange(20)
    distance = position[:, None] - position[None, :]
    assert bool((visible == ((distance >= 0) & (distance < 4))).all())

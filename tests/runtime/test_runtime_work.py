"""The flat form of attention plans: carried out item by item it is dense attention, padded or not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reason.runtime.attention.plan import Row, plan_rows
from reason.runtime.attention.reference import dense_attention
from reason.runtime.captured import bucket_for
from reason.runtime.forest import KVForest
from reason.runtime.gpu import gpu_kernels_for
from reason.runtime.gpu.kernels import AttentionShape, takes
from reason.runtime.gpu.work import Capacity, DeviceWork, Tiling, make_work, upload
from reason.runtime.slots import SCRATCH_SLOT
from tests.runtime.flat import flat_kernels
from tests.runtime.forests import Pool, compute, random_rows

SHAPE = AttentionShape(heads=6, kv_heads=2, head_dim=16, dtype=torch.float32)
CPU = torch.device("cpu")


@pytest.mark.parametrize("window", [None, 3, 17])
@pytest.mark.parametrize(("min_saved_tokens", "split_keys"), [(0, 1), (5, 4), (40, 7), (1000, None)])
def test_the_flat_form_is_dense_attention(min_saved_tokens: int, split_keys: int | None, window: int | None) -> None:
    kernels = flat_kernels(SHAPE, split_keys=split_keys)
    for seed in range(6):
        batch = plan_rows(random_rows(seed), min_saved_tokens=min_saved_tokens)
        assert Pool.random(seed).error(batch, window, attend=kernels.attend) < 1e-5, f"seed {seed}"


def test_a_padded_plan_gives_the_same_and_zeros() -> None:
    kernels = flat_kernels(SHAPE)
    for seed in range(4):
        batch = plan_rows(random_rows(seed), min_saved_tokens=20)
        pool, work = Pool.random(seed), kernels.work(batch.plan)
        capacity = bucket_for(work.size)
        on_device = upload(batch, work, CPU, Capacity(*(n + 3 for n in capacity)))
        rows, more = len(batch.rows), on_device.capacity.rows
        query = pool.query(more)
        got = kernels.attend_work(query, pool.keys, pool.values, on_device, 0.3)
        exact = dense_attention(query[:rows], pool.keys, pool.values, batch.rows, 0.3)
        torch.testing.assert_close(got[:rows], exact, atol=1e-5, rtol=0)
        assert not got[rows:].any()
        assert on_device.token_ids[:rows].tolist() == batch.token_ids.tolist()
        assert on_device.positions[:rows].tolist() == batch.positions.tolist()
        assert on_device.write_slots[:rows].tolist() == batch.write_slots.tolist()
        assert set(on_device.write_slots[rows:].tolist()) == {SCRATCH_SLOT}
        assert not on_device.token_ids[rows:].any()
        assert not on_device.positions[rows:].any()


@pytest.mark.parametrize("split_keys", [None, 64, 1000])
def test_a_shared_run_is_read_once_for_all_its_rows(split_keys: int | None) -> None:
    """300 keys above 40 rows of 4 lanes fit 3 tiles of 64 lanes; each row's own token is an item of the narrow kind."""
    forest = KVForest(512)
    branches = [forest.open([*range(300), 1000 + i]) for i in range(40)]
    compute(forest)
    batch = plan_rows([Row(branch.node, branch.offset - 1) for branch in branches], min_saved_tokens=128)
    work = make_work(batch.plan, Tiling(narrow_rows=4, wide_rows=16, split_keys=split_keys))
    splits = -(-300 // (split_keys or 128))
    assert work.size == Capacity(rows=40, narrow=40, wide=3 * splits, parts=40 * (splits + 1), keys=340)
    wide = work.items[40:]
    assert sorted({tuple(item[2:4]) for item in wide.tolist()}) == [(0, 16), (16, 16), (32, 8)]
    assert [int(item[0]) for item in wide[:3]] == [0, 0, 0], "the tiles of a split are neighbours"
    assert int(wide[::3, 1].sum()) == 300
    assert np.array_equal(np.diff(work.part_begins), np.full(40, splits + 1))
    assert sorted(work.parts.tolist()) == list(range(work.size.parts))


def test_a_prefill_does_not_read_what_its_rows_cannot_see() -> None:
    forest = KVForest(128)
    branch = forest.open(range(64))
    batch = plan_rows([Row(branch.node, i) for i in range(64)], min_saved_tokens=0)
    work = make_work(batch.plan, Tiling(narrow_rows=1, wide_rows=16, split_keys=16))
    read = {(int(item[0]), int(item[2])): int(item[1]) for item in work.items}
    assert read == {(16 * s, 16 * t): 16 if s <= t else 0 for s in range(4) for t in range(4)}


def test_splits_grow_with_the_work_and_stay_powers_of_two() -> None:
    forest = KVForest(6000)
    branch = forest.open(range(5000))
    compute(forest)
    plan = plan_rows([Row(branch.node, 4999)]).plan
    longest = {
        programs: int(make_work(plan, Tiling(4, 16, programs=programs)).items[:, 1].max()) for programs in (1, 8, 64)
    }
    assert longest == {1: 2048, 8: 1024, 64: 128}


def test_sections_are_aligned_and_views_have_their_lengths() -> None:
    capacity = Capacity(rows=3, narrow=1, wide=2, parts=5, keys=7)
    buffer = torch.arange(sum(capacity.sections), dtype=torch.int32)
    work = DeviceWork.of(buffer, capacity)
    views = work[1:]
    assert [len(view) for view in views] == [3, 3, 3, 18, 4, 5, 7, 7]
    assert [view.storage_offset() % 4 for view in views] == [0] * 8
    assert len({int(n) for view in views for n in view}) == sum(map(len, views)), "sections overlap"


def test_what_does_not_fit_a_buffer_is_refused() -> None:
    batch = plan_rows(random_rows(0))
    work = make_work(batch.plan, Tiling(4, 16))
    with pytest.raises(AssertionError, match="does not fit"):
        upload(batch, work, CPU, work.size._replace(keys=work.size.keys - 1))


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        (AttentionShape(32, 8, 128, torch.bfloat16), True),
        (AttentionShape(7, 1, 80, torch.float32), True),
        (AttentionShape(4, 4, 256, torch.float16), True),
        (AttentionShape(4, 4, 512, torch.float16), False),
        (AttentionShape(4, 4, 65, torch.float16), False),
        (AttentionShape(128, 1, 64, torch.float16), False),
        (AttentionShape(4, 4, 64, torch.float64), False),
    ],
)
def test_the_shapes_that_the_kernels_take(shape: AttentionShape, taken: bool) -> None:
    assert takes(shape) is taken


def test_cpu_tensors_have_kernels_only_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert gpu_kernels_for(CPU, torch.float32, 4, 2, 64) is None

"""Captured forwards with a stand-in for the recording: buckets, padding, when to record and what to drop."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reason.runtime.attention.plan import Row
from reason.runtime.captured import CapturedForwards, bucket_for
from reason.runtime.gpu.kernels import AttentionShape
from reason.runtime.gpu.work import Capacity, make_work
from reason.runtime.runner import ModelRunner
from reason.runtime.slots import SCRATCH_SLOT
from tests.runtime.flat import flat_kernels

MakeModel = Callable[..., Any]


class Remember:
    """Records a function by remembering it; counts."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.recorded += 1
        return compute


def capturing(model: Any, capture: Any, **options: Any) -> ModelRunner:
    runner = ModelRunner(model, num_slots=256)
    runner.gpu = flat_kernels(AttentionShape(heads=4, kv_heads=2, head_dim=8, dtype=torch.float32), split_keys=8)
    runner._min_saved_tokens = 16
    runner.captured = CapturedForwards(runner._eager, runner.gpu, capture, **options)
    return runner


def grow(runner: ModelRunner, steps: int, branches: int = 5, *, ahead: bool = False) -> list[torch.Tensor]:
    """Logits of a prefill and of so many steps of branches that part after a common prompt."""
    open_branches = [runner.forest.open([*range(3, 23), 30 + i]) for i in range(branches)]
    logits = [runner.forward(open_branches).logits(open_branches)]
    for step in range(steps):
        for i, branch in enumerate(open_branches):
            runner.forest.append(branch, (40 + 7 * step + i) % 96)
        logits.append(runner.forward(open_branches).logits(open_branches))
        if ahead:
            runner.plan_ahead()
    for branch in open_branches:
        runner.forest.close(branch)
    return logits


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
def test_replayed_forwards_are_the_eager_ones(model_type: str, make_model: MakeModel) -> None:
    model = make_model(model_type)
    expected = grow(ModelRunner(copy.deepcopy(model), num_slots=256), steps=8)
    remember = Remember()
    runner = capturing(model, remember, after=1)
    for got, wanted in zip(grow(runner, steps=8), expected, strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=0)
    assert remember.recorded == 1
    assert runner.captured is not None
    assert runner.captured.replays == 7, "the first step of the bucket ran eagerly"
    runner.forest.check_integrity()


def test_a_plan_made_ahead_is_taken(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second step on: the first follows a prefill."""
    model, made = make_model("llama"), []

    def counted(*args: Any) -> Any:
        made.append(args)
        return make_work(*args)

    expected = grow(capturing(copy.deepcopy(model), Remember()), steps=6)
    monkeypatch.setattr("reason.runtime.gpu.kernels.make_work", counted)
    for got, wanted in zip(grow(capturing(model, Remember()), steps=6, ahead=True), expected, strict=True):
        assert torch.equal(got, wanted)
    assert len(made) == 2


def test_padded_rows_write_to_the_scratch_slot_alone(make_model: MakeModel) -> None:
    """Nine rows in a bucket of ten: each layer's pool changes at the rows' own slots, and where nobody reads."""
    runner = capturing(make_model("llama"), Remember(), after=0)
    branches = [runner.forest.open([5, 6, 7, 30 + i]) for i in range(9)]
    runner.forward(branches)
    for i, branch in enumerate(branches):
        runner.forest.append(branch, 50 + i)
    for pool in (*runner.kv.keys, *runner.kv.values):
        pool.nan_to_num_()
    before = [pool.clone() for pool in (*runner.kv.keys, *runner.kv.values)]
    runner.forward(branches)
    assert runner.captured is not None
    assert {capacity.rows for capacity in runner.captured.capacities} >= {10}
    own = {int(branch.node.slots[branch.offset - 1]) for branch in branches}
    for pool, earlier in zip((*runner.kv.keys, *runner.kv.values), before, strict=True):
        changed = {int(slot) for slot in (pool != earlier).flatten(1).any(dim=1).nonzero()}
        assert own <= changed <= own | {SCRATCH_SLOT}


def test_a_result_outlives_the_next_replay(make_model: MakeModel) -> None:
    out = torch.zeros(16, 32)

    def into_one_tensor(compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        def replay() -> torch.Tensor:
            result = compute()
            out[: len(result)] = result
            return out[: len(result)]

        return replay

    runner = capturing(make_model("llama"), into_one_tensor, after=0)
    branch = runner.forest.open([3, 4, 5])
    runner.forward([branch])
    runner.forest.append(branch, 6)
    first = runner.forward([branch]).hidden
    kept = first.clone()
    runner.forest.append(branch, 7)
    second = runner.forward([branch]).hidden
    assert torch.equal(first, kept)
    assert not torch.equal(first, second)


def test_the_buckets_used_longest_ago_are_dropped(make_model: MakeModel) -> None:
    remember = Remember()
    runner = capturing(make_model("llama"), remember, after=0, max_buckets=2)
    branches = [runner.forest.open([3, 30 + i]) for i in range(3)]
    runner.forward(branches)
    assert runner.captured is not None
    for count in (1, 2, 1, 3, 1):
        runner.forward(branches[:count])
    assert [capacity.rows for capacity in runner.captured.capacities] == [3, 1]


def test_wide_batches_and_kept_states_are_not_replayed(make_model: MakeModel) -> None:
    runner = capturing(make_model("llama"), Remember(), after=0, max_rows=2)
    branches = [runner.forest.open([3, 30 + i]) for i in range(3)]
    runner.forward(branches)
    assert runner.captured is not None
    assert runner.captured.replays == 0
    node, offset = branches[0].node, branches[0].offset
    forward = runner.forward_rows([Row(node, offset - 1)], layers=[0])
    assert runner.captured.replays == 0
    assert forward.kept[0].shape == (1, 32)


def test_what_cannot_be_recorded_runs_eagerly_from_then_on(make_model: MakeModel) -> None:
    asked = 0

    def refuse(_: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        nonlocal asked
        asked += 1
        raise RuntimeError("this operation is not permitted")

    model = make_model("llama")
    expected = grow(ModelRunner(copy.deepcopy(model), num_slots=256), steps=2)
    runner = capturing(model, refuse, after=0)
    with pytest.warns(UserWarning, match="cannot be recorded here: this operation is not permitted"):
        got = grow(runner, steps=2)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert asked == 1


def test_a_forward_that_finds_no_memory_is_recorded_later(make_model: MakeModel) -> None:
    asked = 0

    def full(compute: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise torch.OutOfMemoryError("no room")
        return compute

    runner = capturing(make_model("llama"), full, after=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grow(runner, steps=3)
    assert asked > 1


def test_buckets_hold_what_they_are_for_and_pad_rows_by_an_eighth() -> None:
    for rows in range(1, 600):
        size = Capacity(rows, narrow=rows, wide=rows // 3, parts=5 * rows, keys=200 * rows)
        bucket = bucket_for(size)
        assert bucket.holds(size)
        assert bucket_for(bucket) == bucket
        assert bucket.rows <= rows * 1.25
    assert len({bucket_for(Capacity(rows, 1, 1, 1, 1)).rows for rows in range(1, 513)}) < 50


# -- too little memory ---------------------------------------------------------------------------------------------


class Cramped:
    """A backbone that has memory for so many rows."""

    def __init__(self, inner: Any, most: int) -> None:
        self._inner, self._most = inner, most
        self.refused = 0

    def hidden(self, batch: Any, kv: Any, kept: Any = None) -> torch.Tensor:
        if len(batch.rows) > self._most:
            self.refused += 1
            raise torch.OutOfMemoryError("no memory")
        out: torch.Tensor = self._inner.hidden(batch, kv, kept)
        return out

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        logits: torch.Tensor = self._inner.logits(hidden, out)
        return logits


def test_a_forward_that_does_not_fit_is_computed_in_halves(make_model: MakeModel) -> None:
    model = make_model("llama")
    expected = grow(ModelRunner(copy.deepcopy(model), num_slots=256), steps=3)
    runner = ModelRunner(model, num_slots=256)
    cramped = Cramped(runner.backbone, most=4)
    runner.backbone = cramped
    got = grow(runner, steps=3)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)
    assert cramped.refused == 3, "25 rows, 12, 6: then it is known"
    runner.forest.check_integrity()


def test_kept_states_come_together_from_halves(make_model: MakeModel) -> None:
    runners = [ModelRunner(make_model("llama"), num_slots=64) for _ in range(2)]
    runners[1].backbone = Cramped(runners[1].backbone, most=3)
    states = []
    for runner in runners:
        branch = runner.forest.open(range(3, 13))
        rows = [Row(branch.node, index) for index in range(10)]
        states.append(runner.forward_rows(rows, layers=[0]).kept)
    for layer in (0, -1):
        torch.testing.assert_close(states[1][layer], states[0][layer], atol=1e-4, rtol=0)


def test_one_row_that_does_not_fit_is_an_error(make_model: MakeModel) -> None:
    runner = ModelRunner(make_model("llama"), num_slots=64)
    runner.backbone = Cramped(runner.backbone, most=0)
    branch = runner.forest.open([3, 4])
    with pytest.raises(torch.OutOfMemoryError):
        runner.forward([branch])

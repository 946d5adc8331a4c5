"""A head finds what is there to be found, stops in time, and comes back from its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reason.errors import ModelError, UsageError
from reason.training.value.card import write_card
from reason.training.value.fit import FitOptions, fit
from reason.training.value.metrics import auc
from reason.training.value.recipe import Parts, _try, default_layers, part
from reason.training.value.rollouts import FINAL, INNER, STEP
from reason.training.value.states import States
from reason.verifiers.value_head import ValueHead

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 12
QUICK = FitOptions(units=16, members=2, epochs=12, learning_rate=5e-3, weight_decay=0.01, dropout=0.0, ramp=20)


def planted(problems: int, *, seed: int, rollouts: int = 4, steps: int = 4) -> States:
    """Whether a solution is right shows in two of its states' numbers, the more the later the step; it takes both."""
    generator = torch.Generator().manual_seed(seed)
    count = problems * rollouts
    correct = (torch.rand(count, generator=generator) < 0.5).float()
    sign = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, -1.0)
    states = torch.randn(count, steps, SIZE, generator=generator)
    strength = torch.linspace(0.5, 3.0, steps)
    states[:, :, 3] = 2 * sign[:, None] + 0.3 * states[:, :, 3]
    states[:, :, 5] += strength * (2 * correct - 1)[:, None] * sign[:, None]
    kind = torch.full((count, steps), STEP)
    kind[:, 1], kind[:, -1] = INNER, FINAL
    means = states.cumsum(dim=1) / torch.arange(1, steps + 1)[:, None]
    return States(
        states=(states * 7 + 3).reshape(-1, SIZE),
        means=(means * 7 + 3).reshape(-1, SIZE),
        rollout=torch.arange(count).repeat_interleave(steps),
        kind=kind.reshape(-1),
        token=torch.arange(steps).repeat(count),
        correct=correct,
        problem=torch.arange(problems).repeat_interleave(rollouts),
        answer_class=(1 - correct).long(),
    )


def final_auc(head: ValueHead, given: States) -> float:
    finals = given.kind == FINAL
    return auc(
        head.values(given.states[finals], given.means[finals]).double().numpy(),
        given.correct[given.rollout[finals]].double().numpy(),
    )


@pytest.mark.parametrize("targets", ["mc", "td"])
def test_it_finds_what_a_linear_head_cannot(targets: str) -> None:
    training, held_out, test = planted(150, seed=1), planted(30, seed=2), planted(60, seed=3)
    options = replace(QUICK, targets=targets)  # type: ignore[arg-type]
    head = fit(training, held_out, options, model="m", layer=-1).head
    assert final_auc(head, test) > 0.95
    linear = fit(training, held_out, replace(options, units=0), model="m", layer=-1).head
    assert final_auc(linear, test) < 0.7
    values = head.values(test.states, test.means).double().numpy()
    label = test.correct[test.rollout].double().numpy()
    ends = (test.kind != INNER).numpy()
    assert abs(float(values[ends].mean() - label[ends].mean())) < 0.05, "calibrated on the whole"
    assert np.corrcoef(values[ends], label[ends])[0, 1] > 0.7


def test_equal_seeds_give_equal_heads_and_others_do_not() -> None:
    training, held_out = planted(20, seed=1), planted(10, seed=2)
    options = replace(QUICK, epochs=2, dropout=0.2)
    one, same, other = (
        fit(training, held_out, replace(options, seed=seed), model="m", layer=0).head for seed in (0, 0, 1)
    )
    assert torch.equal(one(training.states), same(training.states))
    assert not torch.equal(one(training.states), other(training.states))


def test_it_stops_when_it_gets_no_better() -> None:
    """Labels that are noise: more epochs only learn them by heart."""
    training, held_out = planted(20, seed=1), planted(20, seed=2)
    noise = replace(training, correct=training.correct[torch.randperm(80, generator=torch.Generator().manual_seed(0))])
    fitted = fit(noise, held_out, replace(QUICK, epochs=100, patience=3, members=1), model="m", layer=0)
    losses = [epoch.held_out for epoch in fitted.epochs]
    assert len(losses) < 100
    assert len(losses) - 1 - losses.index(min(losses)) == 3


def test_outcomes_that_are_all_alike() -> None:
    training, held_out = planted(10, seed=1), planted(10, seed=2)
    with pytest.raises(UsageError, match="the held-out part has 40 rollouts, 40 of them right"):
        fit(training, replace(held_out, correct=torch.ones(40)), QUICK, model="m", layer=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets": "sarsa"}, "targets"),
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"lambda_": 1.5}, r"lambda must be in \[0, 1\], got 1.5"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
    ],
)
def test_options(fields: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FitOptions(**fields)  # type: ignore[arg-type]


def test_it_finds_what_shows_in_the_mean_alone() -> None:
    def faint(problems: int, seed: int) -> States:
        """Each state says a little: the mean of 40 a lot."""
        generator = torch.Generator().manual_seed(seed)
        count, length = problems * 4, 40
        correct = (torch.rand(count, generator=generator) < 0.5).float()
        states = torch.randn(count, length, SIZE, generator=generator)
        states[:, :, 2] += 0.5 * (2 * correct - 1)[:, None]
        return States(
            states=states[:, -1],
            means=states.mean(dim=1),
            rollout=torch.arange(count),
            kind=torch.full((count,), FINAL),
            token=torch.full((count,), length - 1),
            correct=correct,
            problem=torch.arange(problems).repeat_interleave(4),
            answer_class=(1 - correct).long(),
        )

    training, held_out, test = faint(100, 1), faint(30, 2), faint(60, 3)
    options = replace(QUICK, units=0, epochs=40)
    pooled = fit(training, held_out, options, model="m", layer=0).head
    alone = fit(training, held_out, replace(options, pool=False), model="m", layer=0).head
    assert pooled.pooled
    assert not alone.pooled
    assert final_auc(pooled, test) > 0.95
    assert final_auc(alone, test) < 0.8
    assert torch.equal(alone(test.states), alone.values(test.states, test.means))


def test_the_pooled_part_is_a_number_for_each_token() -> None:
    training, held_out = planted(20, seed=1), planted(10, seed=2)
    head = fit(training, held_out, replace(QUICK, epochs=2), model="m", layer=0).head
    states = training.states[:9]
    (whole,) = head.values(states[-1:], states.mean(dim=0, keepdim=True)).tolist()
    assert head.value(float(head(states)[-1]), float(head.pool(states).mean())) == pytest.approx(whole, abs=1e-5)


@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("units", [0, 16])
def test_a_file_and_back(tmp_path: Path, units: int, pool: bool) -> None:
    training, held_out = planted(20, seed=1), planted(10, seed=2)
    options = replace(QUICK, units=units, pool=pool, epochs=2)
    head = fit(training, held_out, options, model="some/model", layer=7).head
    replace(head, about={"data": "é"}).save(tmp_path / "a" / "head.safetensors")
    back = ValueHead.load(tmp_path / "a" / "head.safetensors")
    assert (back.model, back.layer, back.size, back.about) == ("some/model", 7, SIZE, {"data": "é"})
    assert back.name.startswith("head:some/model:")
    both = [each.values(training.states, training.means) for each in (back, head)]
    torch.testing.assert_close(*both, atol=2e-3, rtol=0)
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["head.safetensors"]
    with pytest.raises(ModelError, match="reads states of 12 numbers, not 5"):
        back(torch.zeros(3, 5))


def test_files_that_are_no_heads(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file = tmp_path / "x"
    with pytest.raises(ModelError, match="cannot read the value head"):
        ValueHead.load(file)
    file.write_bytes(b"hello, this is text")
    with pytest.raises(ModelError, match="is no value head"):
        ValueHead.load(file)
    save_file({"mean": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="its format is None"):
        ValueHead.load(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out.bias": torch.tensor([float("nan")] * 2)}, "not finite"),
        ({"in.weight": torch.zeros(2, 16, SIZE - 1)}, "do not go together"),
        ({"calibration": torch.zeros(3)}, "do not go together"),
    ],
)
def test_files_of_broken_heads(tmp_path: Path, changes: dict[str, torch.Tensor], message: str) -> None:
    head = fit(planted(20, seed=1), planted(10, seed=2), replace(QUICK, epochs=1), model="m", layer=0).head
    replace(head, weights={**head.weights, **changes}).save(tmp_path / "head.safetensors")
    with pytest.raises(ModelError, match=message):
        ValueHead.load(tmp_path / "head.safetensors")


def test_a_head_that_learnt_nothing_is_not_turned_around() -> None:
    for seed in range(6):
        training, held_out = planted(20, seed=seed), planted(10, seed=seed + 50)
        order = torch.randperm(80, generator=torch.Generator().manual_seed(seed))
        noise = replace(training, correct=training.correct[order])
        head = fit(noise, held_out, replace(QUICK, epochs=2), model="m", layer=0).head
        scale, shift = head.weights["calibration"].tolist()
        assert scale > 0
        assert abs(shift) < 100


def test_problems_keep_their_part_when_others_come() -> None:
    names = [f"p{i}" for i in range(1000)]
    whole = part(names)
    assert part(names[::7]) == whole[::7]
    assert 100 < whole.count(1) < 200
    assert 100 < whole.count(2) < 200


def test_default_layers() -> None:
    assert default_layers(24) == (12, 14, 16, 18)
    assert default_layers(28) == (14, 16, 18, 21)
    assert default_layers(4) == (2,)
    assert default_layers(2) == (-1,)


def test_the_card_says_what_was_chosen_and_tried(tmp_path: Path) -> None:
    parts = Parts(planted(20, seed=1), planted(10, seed=2), planted(10, seed=3))
    tried = [_try(parts, 0, replace(QUICK, epochs=2, targets=targets), "m") for targets in ("mc", "td")]
    about = {
        "data": "toys",
        "options": {"members": 2, "units": 16},
        "problems": {"training": 20, "held out": 10, "test": 10},
        "rollouts": 160,
        "right": 0.5,
        "figures": {name: list(figure) for name, figure in tried[1].figures.items()},
    }
    write_card(tmp_path, replace(tried[1].head, about=about), tried, command="reason train value toys")
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "| 0 | TD(0.8) (chosen) |" in card
    assert "| 0 | Monte Carlo |" in card
    assert "`reason train value toys`" in card
    assert (tmp_path / "metrics.json").exists()

"""Routers are fitted to what is there to be found, chosen by Spearman, and calibrated to shares of steps."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from reason.engine.scripted import ScriptedEngine
from reason.errors import ReasonError, UsageError
from reason.route import make_router
from reason.training.router.card import router_card
from reason.training.router.explore import Examples, load
from reason.training.router.recipe import PENALTIES, cross_validated, gain, kept_for_figures, train_router
from reason.training.router.ridge import calibrated, fit_ridge
from reason.training.value.fit import calibration
from reason.verifiers.value_head import ValueHead

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 10
PAIR = {"draft": "small", "target": "large"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Steps of 60 problems. Layer 3 says whose is better, layer 5 says nothing."""
    generator = torch.Generator().manual_seed(0)
    for problem in range(60):
        for step in range(8):
            states = torch.randn(4, SIZE, generator=generator)
            advantage = float(0.2 * states[0, 1] + 0.1 * torch.randn((), generator=generator))
            drafted = float(torch.rand((), generator=generator))
            names = ("layer.3", "mean.3", "layer.5", "mean.5")
            tensors = {name: state.bfloat16() for name, state in zip(names, states, strict=True)}
            tensors["scores"] = torch.tensor([drafted, drafted + advantage])
            save_file(tensors, metadata=PAIR, filename=tmp_path / f"task-{problem}.{10 * step}.{step:012x}.safetensors")
    return tmp_path


def test_it_finds_who_is_better(folder: Path) -> None:
    head, tried = train_router(folder, (5, 3), model="small", target="large")
    assert head.layer == 3
    assert [(one.layer, one.penalty) for one in tried] == [(layer, each) for layer in (5, 3) for each in PENALTIES]
    by_layer = {one.layer: one for one in tried}
    assert by_layer[3].chosen_by > 0.7
    assert abs(by_layer[5].chosen_by) < 0.3
    figures = by_layer[3].figures
    assert figures.spearman > 0.7
    assert figures.auc > 0.8
    for own, best, low in figures.gains.values():
        assert best >= own > low
    assert (head.model, head.about["target"]) == ("small", "large")
    assert sum(head.about["problems"].values()) == 60
    card = router_card(head, tried, command="reason train router x")
    assert "# Router for small and large" in card
    assert "| 3 (chosen) |" in card


def test_the_head_is_the_regression(folder: Path, tmp_path: Path) -> None:
    """Its logits are those of the normal equations, up to scale; its value is P(Δ > 0), also when read from a file."""
    examples = load(folder, 3, **PAIR)
    head = fit_ridge(examples, 5.0 / len(examples.drafted), model="small", layer=3)
    inputs = torch.cat([examples.states, examples.means], dim=1).double()
    inputs = (inputs - inputs.mean(dim=0)) / inputs.std(dim=0)
    delta = examples.advantage.double()
    weights = torch.linalg.lstsq(
        torch.cat([inputs, 5.0**0.5 * torch.eye(2 * SIZE).double()]),
        torch.cat([delta - delta.mean(), torch.zeros(2 * SIZE).double()]),
    ).solution
    expected = inputs @ weights + delta.mean()
    logits = head.logits(examples.states, examples.means)[0].double()
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    logits = head.logits(examples.states, examples.means)[0]
    head = calibrated(head, calibration(logits, (delta > 0).float()))
    values = head.values(examples.states, examples.means)
    assert float(values.mean()) == pytest.approx(float((delta > 0).float().mean()), abs=0.01)
    head.save(tmp_path / "head.safetensors")
    read = ValueHead.load(tmp_path / "head.safetensors").values(examples.states, examples.means)
    torch.testing.assert_close(read, values, atol=2e-3, rtol=0)


def test_a_share_of_the_steps_is_escalated(folder: Path, tmp_path: Path) -> None:
    head, _ = train_router(folder, (3,), model="small", target="large")
    head = replace(head, model="scripted")
    thresholds = head.about["thresholds"]
    assert len(thresholds) == 101
    assert all(a >= b for a, b in itertools.pairwise(thresholds))
    examples = load(folder, 3, **PAIR)
    with torch.no_grad():
        predicted = head.values(examples.states, examples.means).numpy()
    for share in (10, 30, 50, 90):
        assert float((predicted >= thresholds[share]).mean()) == pytest.approx(share / 100, abs=0.07)
    file = tmp_path / "router.safetensors"
    head.save(file)
    engine: Any = ScriptedEngine([])
    router: Any = make_router(f"arbitrage:{file},escalate=0.305")
    assert thresholds[31] <= router._limit(engine) <= thresholds[30]
    limits = [make_router(f"arbitrage:{file},escalate={share}")._limit(engine) for share in (0, 1)]  # type: ignore[attr-defined]
    assert limits == [math.inf, -math.inf], "none and all, whatever comes"
    assert make_router(f"arbitrage:{file},threshold=0.7")._limit(engine) == 0.7  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="not both"):
        make_router(f"arbitrage:{file},threshold=0.7,escalate=0.2")
    with pytest.raises(UsageError, match=r"escalate must be in \[0, 1\]"):
        make_router(f"arbitrage:{file},escalate=30")


def test_a_routers_file_is_of_one_pair(folder: Path, tmp_path: Path) -> None:
    head, _ = train_router(folder, (3,), model="small", target="large")
    file, value = tmp_path / "router.safetensors", tmp_path / "value.safetensors"
    head.save(file)
    replace(head, about={}).save(value)
    engines = [SimpleNamespace(name=name) for name in ("small", "large", "huge")]
    check = make_router(f"arbitrage:{file}").check  # type: ignore[attr-defined]
    check(engines[0], engines[1])
    with pytest.raises(UsageError, match="was trained for small and large, not for huge"):
        check(engines[0], engines[2])
    with pytest.raises(UsageError, match="reads states of small, and the model is large"):
        check(engines[1], engines[2])
    with pytest.raises(UsageError, match="is no router"):
        make_router(f"arbitrage:{value}").check(engines[0], engines[1])  # type: ignore[attr-defined]


def test_predictions_are_of_fits_that_did_not_see_the_problem() -> None:
    """Each problem has a difference of its own, and states that say which problem it is: all that could be known of it
    is in its own steps."""
    generator = torch.Generator().manual_seed(1)
    problem = torch.arange(40).repeat_interleave(8)
    states = torch.randn(40, 48, generator=generator)[problem] + 0.01 * torch.randn(320, 48, generator=generator)
    delta = torch.randn(40, generator=generator)[problem]
    names = tuple(f"p{i}" for i in range(40))
    examples = Examples(states, states, torch.zeros(320), delta, problem, names)
    fits = partial(fit_ridge, penalty=1e-3, model="small", layer=3)
    seen = fits(examples).logits(states, states)[0]
    unseen = cross_validated(examples, fits)
    assert float(torch.corrcoef(torch.stack([seen, delta]))[0, 1]) > 0.95
    assert abs(float(torch.corrcoef(torch.stack([unseen, delta]))[0, 1])) < 0.4


def test_too_few_problems_to_keep_some_back_are_refused() -> None:
    names = [f"p{i}" for i in range(200)]
    tests = kept_for_figures(names)
    kept, learning = names[tests.index(True)], names[tests.index(False)]
    with pytest.raises(UsageError, match="1 problems to train with are too few"):
        kept_for_figures([kept, learning])


def test_gain() -> None:
    advantage = np.array([0.5, -0.5, 0.1, 0.0])
    assert gain(advantage, advantage, 0.5) == pytest.approx(0.6 / 4)
    assert gain(-advantage, advantage, 0.25) == pytest.approx(-0.5 / 4)
    assert gain(advantage, advantage, 0.0) == 0.0


def test_steps_of_another_pair_are_refused(folder: Path) -> None:
    with pytest.raises(ReasonError, match=r"small and large wrote .*, not tiny and large: remove the steps"):
        train_router(folder, (3,), model="tiny", target="large")
    (first, *_) = sorted(folder.glob("*.safetensors"))
    save_file({"scores": torch.zeros(2)}, first)
    with pytest.raises(ReasonError, match="nobody knows which models wrote"):
        load(folder, 3, **PAIR)


def test_too_little(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReasonError, match="has no steps to learn from"):
        load(tmp_path / "none", 3, **PAIR)
    for file in folder.glob("*.safetensors"):
        if not file.name.startswith("task-7."):
            file.unlink()
    with pytest.raises(UsageError, match="1 problems leave none"):
        train_router(folder, (3,), model="small", target="large")

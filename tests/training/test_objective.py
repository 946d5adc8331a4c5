"""The losses, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from reason.training.value.objective import place_loss, rank_loss
from reason.training.value.rollouts import FINAL, INNER, STEP


def test_places_within_steps_weigh_less() -> None:
    logits, target = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([1.0, 0.25, 0.0])
    each = [math.log(2), math.log1p(math.exp(2)) - 0.25 * 2, math.log1p(math.exp(-1))]
    kind = torch.tensor([STEP, INNER, FINAL])
    for inner in (0.0, 0.5, 1.0):
        expected = (each[0] + inner * each[1] + each[2]) / (2 + inner)
        assert float(place_loss(logits, target, kind, inner)) == pytest.approx(expected)


def test_pairs_are_of_one_problem_and_at_ends() -> None:
    logits = torch.tensor([9.0, 1.0, 3.0, 2.0, -4.0])
    outcome, problem = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0]), torch.tensor([0, 0, 0, 0, 1])
    kind = torch.tensor([STEP, FINAL, FINAL, FINAL, FINAL])
    expected = (math.log1p(math.exp(3 - 1)) + math.log1p(math.exp(3 - 2))) / 2
    assert float(rank_loss(logits, outcome, problem, kind)) == pytest.approx(expected)


def test_pairs_of_many_problems_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(60, generator=generator)
    outcome = torch.randint(2, (60,), generator=generator).float()
    problem = torch.randint(3, 12, (60,), generator=generator)
    kind = torch.randint(1, 3, (60,), generator=generator)
    each = [
        math.log1p(math.exp(float(logits[b] - logits[a])))
        for a in range(60)
        for b in range(60)
        if kind[a] == kind[b] == FINAL and problem[a] == problem[b] and outcome[a] == 1 and outcome[b] == 0
    ]
    assert float(rank_loss(logits, outcome, problem, kind)) == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_no_pairs_is_no_loss() -> None:
    logits = torch.tensor([1.0, 2.0], requires_grad=True)
    loss = rank_loss(logits, torch.tensor([1.0, 1.0]), torch.tensor([0, 0]), torch.tensor([FINAL, FINAL]))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.tolist() == [0.0, 0.0]

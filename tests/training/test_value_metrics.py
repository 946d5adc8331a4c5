"""The figures, against brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reason.training.value.metrics import auc, brier, calibration_error, figures, log_loss, within_auc
from reason.training.value.rollouts import FINAL, INNER, STEP
from reason.training.value.states import States

pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=1, max_size=12)


def brute(values: list[float], labels: list[bool]) -> float:
    rights = [value for value, label in zip(values, labels, strict=True) if label]
    wrongs = [value for value, label in zip(values, labels, strict=True) if not label]
    won = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(rights, wrongs)]
    return sum(won) / len(won) if won else math.nan


@given(pairs)
def test_auc_counts_pairs(drawn: list[tuple[float, bool]]) -> None:
    values, labels = [value for value, _ in drawn], [label for _, label in drawn]
    found = auc(np.array(values), np.array(labels, dtype=float))
    assert found == pytest.approx(brute(values, labels), nan_ok=True)
    groups = np.zeros(len(values), dtype=np.int64)
    assert within_auc(np.array(values), np.array(labels, dtype=float), groups) == pytest.approx(found, nan_ok=True)


def test_pairs_of_different_groups_do_not_count() -> None:
    values, labels, groups = np.array([0.9, 0.1, 0.2, 0.8]), np.array([1.0, 0, 1, 0]), np.array([0, 0, 1, 1])
    assert within_auc(values, labels, groups) == 0.5  # the first in order, the second not
    assert auc(values, labels) == 0.75


def test_losses() -> None:
    values, labels = np.array([0.5, 0.9]), np.array([1.0, 0.0])
    assert log_loss(values, labels) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)
    assert brier(values, labels) == pytest.approx((0.25 + 0.81) / 2)
    assert calibration_error(values, labels) == pytest.approx((0.5 + 0.9) / 2)
    assert calibration_error(np.array([1.0, 1.0]), np.array([1.0, 1.0])) == 0.0


def test_votes_and_intervals() -> None:
    """Two problems: in the first a minority of high value is right, in the second the majority is."""
    final = [0.9, 0.2, 0.3, 0.6, 0.7, 0.1]
    classes, correct = [1, 0, 0, 0, 0, 1], [1.0, 0, 0, 1, 1, 0]
    rows = [value for each in final for value in (0.0, 0.5, each)]
    states = States(
        states=torch.zeros(18, 1),
        means=torch.zeros(18, 1),
        rollout=torch.arange(6).repeat_interleave(3),
        kind=torch.tensor([INNER, STEP, FINAL] * 6),
        token=torch.arange(18),
        correct=torch.tensor(correct),
        problem=torch.tensor([0, 0, 0, 1, 1, 1]),
        answer_class=torch.tensor(classes),
    )
    found = figures(torch.tensor(rows), states)
    assert found["majority"].value == 0.5
    assert found["weighted vote"].value == 1.0
    assert found["best by value"].value == 1.0
    assert found["final AUC"].value == 1.0
    assert found["final AUC within problems"] == (1.0, 1.0, 1.0)
    assert found["step AUC"].value == pytest.approx(brute([0.5] * 6 + final, [bool(each) for each in correct] * 2))
    for name in found:
        value, low, high = found[name]
        assert low <= value <= high, name
    assert found["majority"].low == 0.0
    assert found["majority"].high == 1.0
    assert figures(torch.tensor(rows), states) == found

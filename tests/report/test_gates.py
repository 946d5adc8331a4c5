"""Thresholds of gates: the largest coverage at the wanted precision, and figures of other problems."""

from __future__ import annotations

import random

import pytest

from reason.report.gates import Answered, calibrate, threshold_for


def test_the_largest_coverage_at_the_precision() -> None:
    scores = [0.9, 0.8, 0.7, 0.6, 0.5]
    correct = [True, True, False, True, False]
    assert threshold_for(scores, correct, 1.0) == 0.8
    assert threshold_for(scores, correct, 0.75) == 0.6
    assert threshold_for(scores, correct, 0.6) == 0.5
    assert threshold_for(scores, [False] * 5, 0.1) is None
    assert threshold_for([], [], 0.5) is None
    assert threshold_for([1.0] * 20, [True] * 11 + [False] * 9, 0.55) == 1.0  # 0.55 * 20 is a little over 11


def test_equal_scores_pass_together() -> None:
    assert threshold_for([0.9, 0.9, 0.9], [True, True, False], 0.9) is None
    assert threshold_for([0.9, 0.5, 0.5], [True, True, False], 0.9) == 0.9


def test_figures_are_of_problems_that_decided_nothing() -> None:
    generator = random.Random(0)
    answers = []
    for i in range(400):
        sure = generator.random()
        answers.append(
            Answered(
                problem=f"p{i}",
                correct=generator.random() < sure,
                scores={"good": sure, "noise": generator.random(), **({} if i % 2 else {"half": sure})},
            )
        )
    found = {one.gate: one for one in calibrate(answers, 0.85)}
    good = found["good"]
    assert good.threshold is not None
    assert good.precision is not None
    assert good.coverage is not None
    assert good.precision.mean == pytest.approx(0.85, abs=0.12)
    assert good.precision.n < 250
    assert 0.1 < good.coverage.mean < 0.6
    assert good.auc > 0.75
    assert abs(found["noise"].auc - 0.5) < 0.1
    half = found["half"]
    assert half.coverage is not None
    assert half.coverage.mean < good.coverage.mean, "what has no score does not pass"
    assert next(one.gate for one in calibrate(answers, 0.85)) == "good"
    assert good.as_dict()["precision"] == [good.precision.mean, *good.precision.interval]

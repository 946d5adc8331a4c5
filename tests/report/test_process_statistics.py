"""The figures of verifiers on given solutions, against values worked out by hand or by other means."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from reason.errors import UsageError
from reason.report.process_samples import ScoredSamples, sample_curves, sample_differences
from reason.report.process_statistics import area_under_curve, best_at_k, harmonic_mean, logistic
from reason.report.process_steps import LabelledScores, Threshold, best_threshold, first_below


def test_harmonic_mean() -> None:
    found = harmonic_mean([True, False], [True, True, False])
    assert found.mean == pytest.approx(4 / 7)
    assert found.n == 5
    assert 0 < found.interval.low < 4 / 7 < found.interval.high < 1
    wide, narrow = (harmonic_mean([True] * n + [False] * n, [True] * n + [False] * n).interval for n in (5, 500))
    assert narrow.high - narrow.low < (wide.high - wide.low) / 5
    assert found == harmonic_mean([True, False], [True, True, False])


def test_harmonic_mean_where_a_share_is_0_or_1() -> None:
    nothing = harmonic_mean([False] * 4, [True] * 4)
    assert (nothing.mean, nothing.interval.low) == (0.0, 0.0)
    assert 0.1 < nothing.interval.high < 0.9  # four rows prove little
    everything = harmonic_mean([True] * 4, [True] * 4)
    assert (everything.mean, everything.interval.high) == (1.0, 1.0)
    assert everything.interval.low < 0.9
    with pytest.raises(UsageError, match="got 0 and 1 rows"):
        harmonic_mean([], [True])


def test_area_under_curve_counts_pairs() -> None:
    right = [(0.9, 0.8), (0.9, 0.4), (0.9,), (), (0.9, 0.9)]
    wrong = [(), (), (0.2,), (0.6,), (0.1,)]
    found = area_under_curve(right, wrong)
    assert found is not None
    assert found.mean == pytest.approx(20 / 21)
    assert found.interval.low < 20 / 21 <= found.interval.high
    ties = area_under_curve([(0.5,), (0.2,)], [(0.5,), (0.5,)])
    assert ties is not None
    assert ties.mean == pytest.approx(0.25)
    assert area_under_curve([(0.5,)], [()]) is None
    assert area_under_curve([], []) is None


def test_best_at_k() -> None:
    scores, correct = (0.5, 0.9, 0.9), (True, False, True)
    assert [best_at_k(scores, correct, k) for k in (1, 2, 3)] == pytest.approx([2 / 3, 1 / 3, 0.0])
    with pytest.raises(UsageError, match="between 1 and the number of samples 3"):
        best_at_k(scores, correct, 4)


def test_best_at_k_is_the_mean_over_subsets() -> None:
    coins = random.Random(1)
    for _ in range(20):
        n = coins.randint(1, 7)
        scores = [coins.choice([0.1, 0.5, 0.9]) for _ in range(n)]
        correct = [coins.random() < 0.5 for _ in range(n)]
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(range(n), k))
            right = sum(correct[max(subset, key=lambda i: scores[i])] for subset in subsets)
            assert best_at_k(scores, correct, k) == pytest.approx(right / len(subsets))


def test_logistic() -> None:
    assert [logistic(value) for value in (0.0, math.log(3), -math.log(3))] == pytest.approx([0.5, 0.75, 0.25])
    assert (logistic(-1e4), logistic(1e4)) == (0.0, 1.0)


ROWS = [
    LabelledScores((0.9, 0.8), -1),
    LabelledScores((0.9, 0.4), -1),
    LabelledScores((0.9, 0.2, 0.1), 1),
    LabelledScores((0.6, 0.3), 0),
    LabelledScores((0.9, 0.9, 0.1), 2),
]


def test_the_first_wrong_step() -> None:
    assert [first_below(row.scores or (), 0.5) for row in ROWS] == [-1, 1, 1, 1, 2]
    assert first_below((0.5, 0.4), 0.4) == -1  # the threshold itself is right


def test_the_best_threshold() -> None:
    # F1 between neighbouring scores: 0.15: 1/2, 0.25 and 0.35: 4/5, 0.5: 4/7, 0.7: 2/3, 0.85: 0
    assert best_threshold([*ROWS, LabelledScores(None, 1)]) == pytest.approx(0.35)
    assert best_threshold(ROWS[:2]) is None
    assert best_threshold([LabelledScores((3.0,), 0), LabelledScores((5.0,), -1)]) == 4.0


def test_rows_to_choose_a_threshold_on() -> None:
    flawed = [False, True] * 5
    Threshold(tune=6).check(flawed, seed=0)
    assert (
        Threshold(tune=4).rows(10, seed=0) == Threshold(tune=4).rows(10, seed=0) != Threshold(tune=4).rows(10, seed=1)
    )
    with pytest.raises(UsageError, match="2 to 9 of 10 rows, not 10"):
        Threshold(tune=10).check(flawed, seed=0)
    with pytest.raises(UsageError, match="of one kind"):
        Threshold(tune=4).check([True] * 10, seed=0)
    with pytest.raises(UsageError, match="given or chosen, not both"):
        Threshold(value=0.5, tune=4).check(flawed, seed=0)


SAMPLES = [
    ScoredSamples(
        correct=(False, True, False, True),
        classes=(0, 1, 0, 1),
        scores=(0.1, 0.9, 0.2, 0.3),
        rewards=(3.0, -1.0, 0.0, 0.0),
    ),
    ScoredSamples(correct=(True, True), classes=(0, 0), scores=(0.5, 0.5), rewards=(0.0, 0.0)),
]


def test_sample_curves() -> None:
    curves = sample_curves(SAMPLES)
    names = ["mean", "majority", "best", "weighted", "recorded best", "recorded weighted", "oracle"]
    assert list(curves) == names
    assert [point.k for point in curves["best"]] == [1, 2, 4]
    means = {name: [point.mean for point in points] for name, points in curves.items()}
    assert means["mean"] == [0.75, 0.75, 0.75]
    # of the first problem's six pairs one agrees on the right answer; of the four ties one has it first
    assert means["majority"] == pytest.approx([0.75, (2 / 6 + 1) / 2, 0.5])
    assert means["best"] == pytest.approx([0.75, (5 / 6 + 1) / 2, 1.0])  # only 0 and 2 together are wrong
    assert means["weighted"] == pytest.approx([0.75, (5 / 6 + 1) / 2, 1.0])
    # only 1 and 3 together are right: 0 has the highest reward, and of 2 and 3, equal, 2 comes first
    assert means["recorded best"] == pytest.approx([0.75, (1 / 6 + 1) / 2, 0.5])
    assert means["oracle"] == pytest.approx([0.75, (5 / 6 + 1) / 2, 1.0])
    assert [point.fewer for point in curves["oracle"]] == [0, 0, 1]


def test_negative_rewards_weigh_by_their_logistic() -> None:
    problem = ScoredSamples(
        correct=(True, False, False), classes=(0, 1, 1), scores=(1.0, 0.6, 0.6), rewards=(4.0, -0.1, -0.1)
    )
    curves = sample_curves([problem])
    assert curves["weighted"][-1].mean == 0.0  # 1.0 against 1.2
    assert curves["recorded weighted"][-1].mean == 1.0  # 0.98 against 0.95


def test_sample_differences() -> None:
    differences = sample_differences(SAMPLES)
    assert list(differences) == ["best - majority", "weighted - majority", "best - recorded best"]
    assert list(differences["best - majority"]) == [2, 4]
    assert differences["best - majority"][4].difference == 0.5
    assert differences["best - recorded best"][2].difference == pytest.approx((5 / 6 - 1 / 6) / 2)
    assert sample_differences([]) == {}
    assert sample_curves([]) == {}


def test_without_recorded_rewards() -> None:
    bare = [ScoredSamples(correct=(True,), classes=(None,), scores=(0.5,))]
    assert list(sample_curves(bare)) == ["mean", "majority", "best", "weighted", "oracle"]

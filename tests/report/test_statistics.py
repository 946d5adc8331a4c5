"""Intervals and curves against brute force and published values."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.errors import UsageError
from reason.report.statistics import (
    curve,
    curve_sizes,
    maj_at_k,
    mean_with_interval,
    paired_bootstrap,
    pass_at_k,
    ratio_interval,
    standard_error,
    wilson_interval,
)
from reason.search.tree import Node, Tree
from reason.search.voting import vote as vote_of
from reason.tasks.vote import majority
from reason.types import Problem

Classes = list[int | None]


def vote_by_brute_force(
    classes: Classes, correct: dict[int, bool], k: int, weights: list[float] | None = None
) -> float:
    """Over every subset, with the vote that solvers use."""
    right = subsets = 0
    for chosen in itertools.combinations(range(len(classes)), k):
        answers = [None if classes[i] is None else str(classes[i]) for i in chosen]
        drawn = None if weights is None else [weights[i] for i in chosen]
        answer = majority(answers, drawn, same=lambda a, b: a == b).answer
        right += answer is not None and correct[int(answer)]
        subsets += 1
    return right / subsets


@st.composite
def votes(draw: st.DrawFn) -> tuple[Classes, dict[int, bool], int]:
    classes = draw(st.lists(st.one_of(st.none(), st.integers(0, 3)), min_size=1, max_size=8))
    correct = {number: draw(st.booleans()) for number in range(4)}
    return classes, correct, draw(st.integers(1, len(classes)))


@given(votes())
def test_maj_at_k_is_the_mean_over_all_subsets(vote: tuple[Classes, dict[int, bool], int]) -> None:
    classes, correct, k = vote
    assert maj_at_k(classes, correct, k) == pytest.approx(vote_by_brute_force(classes, correct, k))


@given(votes(), st.data())
def test_weighted_votes(vote: tuple[Classes, dict[int, bool], int], data: st.DataObject) -> None:
    classes, correct, k = vote
    quarter = st.integers(0, 8).map(lambda n: n / 4)  # sums are exact, so ties are ties
    weights = data.draw(st.lists(quarter, min_size=len(classes), max_size=len(classes)))
    expected = vote_by_brute_force(classes, correct, k, weights)
    assert maj_at_k(classes, correct, k, weights=weights) == pytest.approx(expected)


def test_ties_survive_rounding() -> None:
    classes: Classes = [0, 1, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    weights = [0.4, 0.7, 0.2, 0.1, *[0.0] * 10]  # 0.4 + 0.2 + 0.1 is not 0.7, but the larger class should win
    assert 0.4 + 0.2 + 0.1 != 0.7
    assert maj_at_k(classes, {0: True, 1: False}, 14, weights=weights) == 1.0


def test_small_weights_are_told_apart() -> None:
    """Products of probabilities, as ``aggregation=prod`` has them."""
    assert maj_at_k([0, 1], {0: False, 1: True}, 2, weights=[9.77e-14, 1.95e-13]) == 1.0


def test_of_equal_weights_the_larger_class_wins_as_in_the_vote() -> None:
    classes, weights, correct = [1, 0, 0], [1.0, 0.0, 1.0], {0: True, 1: False}
    assert maj_at_k(classes, correct, 3, weights=weights) == 1.0
    leaves = [Node(id=i + 1, parent=0, finish_reason="eos", answer_class=c) for i, c in enumerate(classes)]
    tree = Tree(Problem(content="?"), [Node(id=0, parent=None), *leaves])
    for leaf, weight in zip(leaves, weights, strict=True):
        leaf.answer = str(leaf.answer_class)
        tree.note(leaf.id, score=weight)
    assert vote_of(tree, "weighted").answer == "0"


def test_maj_at_k_where_there_are_too_many_subsets() -> None:
    generator = random.Random(1)
    classes: Classes = [generator.choice([0, 0, 0, 1, 1, 2, None]) for _ in range(40)]
    correct = {0: True, 1: False, 2: False}
    value = maj_at_k(classes, correct, 8)
    draws = [sorted(generator.sample(range(40), 8)) for _ in range(4_000)]
    drawn = [vote_by_brute_force([classes[i] for i in chosen], correct, 8) for chosen in draws]
    assert value == pytest.approx(float(np.mean(drawn)), abs=0.04)
    assert maj_at_k(classes, correct, 8) == value  # the draws are fixed
    assert maj_at_k(classes, correct, 40) == vote_by_brute_force(classes, correct, 40)


def test_nobody_answers() -> None:
    assert maj_at_k([None, None], {}, 2) == 0.0


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_one(sizes: tuple[int, int, int]) -> None:
    n, c, k = sizes
    subsets = list(itertools.combinations([True] * c + [False] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(float(Fraction(sum(map(any, subsets)), len(subsets))))


def test_pass_at_k_of_many() -> None:
    assert pass_at_k(200, 3, 100) == pytest.approx(1 - math.prod(1 - 100 / i for i in (198, 199, 200)))
    assert pass_at_k(5000, 1, 1) == pytest.approx(1 / 5000)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_what_pass_at_k_refuses(n: int, c: int, k: int) -> None:
    with pytest.raises(UsageError):
        pass_at_k(n, c, k)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 0.0]])
def test_weights_that_are_none(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="finite weight"):
        maj_at_k([0, 1], {0: True, 1: False}, 1, weights=weights)
    with pytest.raises(UsageError, match="between 1 and"):
        maj_at_k([0, 1], {0: True, 1: False}, 3)


def test_curve_sizes() -> None:
    assert [curve_sizes(n) for n in (0, 1, 2, 3, 4, 6, 8)] == [
        *([], [1], [1, 2], [1, 2, 3], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8])
    ]


def test_curves_use_what_problems_have() -> None:
    points = curve([4, 1, 0], lambda i, k: k / 4)
    assert [point.k for point in points] == [1, 2, 4]
    assert [point.mean for point in points] == pytest.approx([(0.25 + 0.25) / 3, (0.5 + 0.25) / 3, (1 + 0.25) / 3])
    assert [point.fewer for point in points] == [1, 2, 2]
    assert points[0].standard_error == pytest.approx(standard_error([0.25, 0.25, 0.0]))
    assert curve([], lambda i, k: 1.0) == curve([0, 0], lambda i, k: 1.0) == []


# -- intervals -----------------------------------------------------------------------------------------------------


def test_standard_error() -> None:
    assert standard_error([0, 1, 1, 0]) == pytest.approx(math.sqrt(1 / 3) / 2)
    assert standard_error([1.0]) is None
    assert standard_error([]) is None


def test_wilson_interval() -> None:
    """Newcombe's examples (1998, Statistics in Medicine 17, table I)."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_intervals_hold_the_share(share: tuple[int, int]) -> None:
    low, high = wilson_interval(*share)
    assert 0 <= low <= share[0] / share[1] <= high <= 1
    mirrored = wilson_interval(share[1] - share[0], share[1])
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high))


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (2, 1), (-1, 4)])
def test_what_is_no_share(correct: int, total: int) -> None:
    with pytest.raises(UsageError):
        wilson_interval(correct, total)


def test_means() -> None:
    share = mean_with_interval([1, 0, 1, 1])
    assert (share.mean, share.interval, share.n) == (0.75, wilson_interval(3, 4), 4)
    values = list(np.random.default_rng(0).normal(5.0, 2.0, 400))
    mean = mean_with_interval(values, resamples=4_000)
    error = standard_error(values)
    assert error is not None
    assert mean.interval == pytest.approx((mean.mean - 1.96 * error, mean.mean + 1.96 * error), abs=0.02)
    assert mean_with_interval(values, resamples=4_000) == mean
    with pytest.raises(UsageError):
        mean_with_interval([])


def test_paired_bootstrap() -> None:
    generator = np.random.default_rng(0)
    a = list((generator.random(300) < 0.6).astype(float))
    b = [x if generator.random() < 0.9 else 0.0 for x in a]  # never better than a
    difference = paired_bootstrap(a, b)
    assert difference.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert 0 < difference.interval.low < difference.difference < difference.interval.high
    assert difference.p < 0.01
    other_way = paired_bootstrap(b, a)
    assert other_way.interval == pytest.approx((-difference.interval.high, -difference.interval.low))
    assert other_way.p == difference.p


@pytest.mark.parametrize(
    ("a_only", "b_only", "both", "p"), [(1, 0, 0, 1.0), (4, 0, 0, 0.125), (6, 0, 194, 2 / 2**6), (7, 2, 50, 92 / 2**9)]
)
def test_few_pairs_that_differ_say_little(a_only: int, b_only: int, both: int, p: float) -> None:
    """McNemar's exact test: 92 = 2 (1 + 9 + 36)."""
    a, b = [1] * a_only + [0] * b_only + [1] * both, [0] * a_only + [1] * b_only + [1] * both
    difference = paired_bootstrap(a, b)
    assert difference.p == pytest.approx(p)
    assert difference.interval.low < difference.difference


def test_the_interval_of_agresti_and_min() -> None:
    """By hand, with half a problem more in each of the four cells: (b - c ± 1.96 √(b + c - (b - c)²/n)) / n."""
    b, c, n = 7.5, 2.5, 61
    half = 1.959964 * math.sqrt(b + c - (b - c) ** 2 / n)
    difference = paired_bootstrap([1] * 7 + [0] * 52, [0] * 7 + [1] * 2 + [0] * 50)
    assert difference.interval == pytest.approx(((5 - half) / n, (5 + half) / n))


def test_fractions_are_bootstrapped() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.random(200), generator.random(200) - 0.2
    difference = paired_bootstrap(list(a), list(b))
    spread = standard_error(list(a - b))
    assert spread is not None
    wanted = (difference.difference - 1.96 * spread, difference.difference + 1.96 * spread)
    assert difference.interval == pytest.approx(wanted, abs=0.01)
    assert difference.p < 0.001


def test_no_difference() -> None:
    difference = paired_bootstrap([1, 0, 1], [1, 0, 1])
    assert (difference.difference, difference.p) == (0.0, 1.0)
    assert -difference.interval.low == difference.interval.high < 0.5
    with pytest.raises(UsageError, match="as many values"):
        paired_bootstrap([1], [1, 2])
    with pytest.raises(UsageError, match="as many values"):
        paired_bootstrap([], [])


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30))
def test_bootstrapped_intervals_hold_the_difference(pairs: list[tuple[bool, bool]]) -> None:
    difference = paired_bootstrap([float(a) for a, _ in pairs], [float(b) for _, b in pairs], resamples=500)
    low, high = difference.interval
    assert -1 <= low <= difference.difference + 1e-9
    assert difference.difference - 1e-9 <= high <= 1
    assert 0 < difference.p <= 1


def test_ratios() -> None:
    interval = ratio_interval([2, 4, 6], [1, 2, 3])
    assert interval == pytest.approx((2.0, 2.0))
    assert ratio_interval([1, 2], [0, 1]) is None  # some resamples would divide by nothing


def test_a_class_that_is_right_in_part() -> None:
    """Programs may behave alike on what was tried, and one of them be wrong: a vote of one is then the mean sample."""
    assert maj_at_k([0, 0, 0, 1], {0: 2 / 3, 1: 0.0}, 1) == pytest.approx(2 / 4)
    assert maj_at_k([0, 0, 0, 1], {0: 2 / 3, 1: 0.0}, 4) == pytest.approx(2 / 3)

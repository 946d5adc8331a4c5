"""REBASE's allocation, by hand and by its properties."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from statistics import NormalDist

import pytest

from reason.search.allocation import Rounding, allocate, evened, rounded, standardised

BOTH: tuple[Rounding, ...] = ("ceil", "round")


@pytest.mark.parametrize(
    ("weights", "total", "ceil", "nearest"),
    [
        ([0.5, 0.3, 0.2], 10, [5, 3, 2], [5, 3, 2]),
        ([0.5, 0.3, 0.2], 4, [2, 2, 0], [2, 1, 1]),  # 2; ceil(2 * 3/5) = 2; nothing is left
        ([0.2, 0.3, 0.5], 4, [0, 2, 2], [1, 1, 2]),
        ([1, 1, 1], 4, [2, 1, 1], [2, 1, 1]),
        ([0.25] * 4, 2, [1, 1, 0, 0], [1, 1, 0, 0]),  # Round gives none to all
        ([0.375, 0.375, 0.25], 4, [2, 2, 0], [2, 1, 1]),  # 1.5, 1.5, 1: Round gives 5
        ([0.35, 0.35, 0.3], 4, [2, 2, 0], [2, 1, 1]),  # 1.4, 1.4, 1.2: Round gives 3; ceil(2 * .35/.65) = 2
        ([0.9, 0.1], 1, [1, 0], [1, 0]),
        ([0.1] * 10, 10, [1] * 10, [1] * 10),  # the floats' sum is not 1
        ([3], 7, [7], [7]),
        ([1, 0], 3, [3, 0], [3, 0]),
        ([1, 2], 0, [0, 0], [0, 0]),
    ],
)
def test_shares_by_hand(weights: list[float], total: int, ceil: list[int], nearest: list[int]) -> None:
    assert rounded(weights, total, "ceil") == ceil
    assert rounded(weights, total, "round") == nearest


def test_the_softmax_is_of_rewards_over_the_temperature() -> None:
    """Weights 1, e^-1, e^-2 of 1.503: of eight 5.32, 1.96 and 0.72."""
    rewards = [0.5, 0.9, 0.7]
    assert allocate(rewards, 8, temperature=0.2, rounding="ceil") == [0, 6, 2]
    assert allocate(rewards, 8, temperature=0.2, rounding="round") == [1, 5, 2]
    assert allocate(rewards, 9, temperature=1e6, rounding="round") == [3, 3, 3]
    assert allocate(rewards, 9, temperature=1e-6, rounding="round") == [0, 9, 0]


@pytest.mark.parametrize("rounding", BOTH)
def test_far_apart_and_none_at_all(rounding: Rounding) -> None:
    assert allocate([1000.0, -1000.0, 1000.0], 4, temperature=0.2, rounding=rounding) == [2, 0, 2]
    assert allocate([], 4, temperature=0.2, rounding=rounding) == []


@pytest.mark.parametrize("rounding", BOTH)
def test_all_is_given_and_the_better_never_gets_less(rounding: Rounding) -> None:
    coins = random.Random(1)
    for _ in range(300):
        weights = [coins.random() ** 3 for _ in range(coins.randint(1, 20))]
        total = coins.randint(0, 64)
        shares = rounded(weights, total, rounding)
        assert sum(shares) == total
        assert min(shares) >= 0
        by_weight = [share for _, share in sorted(zip(weights, shares, strict=True))]
        assert by_weight == sorted(by_weight)


def test_where_rounding_sums_to_the_total_it_is_the_papers() -> None:
    coins, equal = random.Random(2), 0
    for _ in range(300):
        weights = [coins.random() for _ in range(coins.randint(1, 6))]
        total = coins.randint(1, 32)
        exact = [total * weight / sum(weights) for weight in weights]
        nearest = [round(share) for share in exact]
        shares = rounded(weights, total, "round")
        assert all(abs(share - each) < 1 for share, each in zip(shares, exact, strict=True))
        if sum(nearest) == total:
            equal += 1
            assert shares == nearest
    assert equal > 100


def test_ceilings_favour_the_best() -> None:
    coins, survivors = random.Random(3), [0, 0]
    for _ in range(100):
        rewards = [coins.random() for _ in range(16)]
        ceil, nearest = (allocate(rewards, 16, temperature=0.2, rounding=rounding) for rounding in BOTH)
        assert max(ceil) == ceil[rewards.index(max(rewards))] >= max(nearest)
        survivors = [survivors[0] + sum(map(bool, ceil)), survivors[1] + sum(map(bool, nearest))]
    assert survivors[0] < survivors[1]


def test_evened_scores() -> None:
    assert evened([1.0, 3.0]) == pytest.approx([NormalDist().cdf(-1), NormalDist().cdf(1)])
    assert evened([17.25] * 5) == [0.5] * 5
    assert evened([17.1]) == [0.5]
    scores = [12.0, 19.5, 14.25, 14.5]
    assert order(evened(scores)) == order(scores)
    assert evened([-3 * score + 100 for score in scores]) == pytest.approx([1 - each for each in evened(scores)])
    assert all(0 < each < 1 for each in evened(scores))


def test_standardised_scores() -> None:
    assert standardised([1.0, 3.0]) == [-1.0, 1.0]
    assert standardised([10.0, 12.0, 14.0]) == pytest.approx([-math.sqrt(1.5), 0.0, math.sqrt(1.5)])
    assert standardised([3.0, 3.0]) == [0.0, 0.0]
    assert standardised([1e6, 1e6 + 1e-7]) == [0.0, 0.0]  # that is rounding


def order(values: Sequence[float]) -> list[int]:
    return sorted(range(len(values)), key=values.__getitem__)

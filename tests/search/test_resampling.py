"""Resampling: exact expectations by enumeration, and what each scheme promises."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.search.resampling import Scheme, effective_sample_size, logit, resample, softmax

SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


class Given(random.Random):
    """Coins that fall as they are told to."""

    def __init__(self, values: Sequence[float]) -> None:
        super().__init__()
        self._values: Iterator[float] = iter(values)

    def random(self) -> float:
        return next(self._values)


@pytest.mark.parametrize(
    ("scheme", "coins", "copies"),
    # shares .1 .2 .3 .4 end at .1 .3 .6 1; five draws
    [
        ("multinomial", [0.05, 0.95, 0.11, 0.59, 0.61], [1, 1, 1, 2]),
        ("stratified", [0.9, 0.0, 0.99, 0.05, 0.5], [0, 2, 1, 2]),  # .18 .2 .598 .61 .9
        ("systematic", [0.4], [1, 1, 1, 2]),  # .08 .28 .48 .68 .88
        ("systematic", [0.6], [0, 1, 2, 2]),  # .12 .32 .52 .72 .92
        ("residual", [0.2, 0.9], [1, 1, 1, 2]),  # .5 1 1.5 2: one for the first or third, on even terms; none is left
    ],
)
def test_by_hand(scheme: Scheme, coins: list[float], copies: list[int]) -> None:
    assert resample([0.1, 0.2, 0.3, 0.4], 5, scheme, Given(coins)) == copies


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("parts", [(1, 1, 2), (3, 0, 1), (1, 2, 3, 2), (0, 4), (5,)])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_is_unbiased(scheme: Scheme, parts: tuple[int, ...], count: int) -> None:
    """The mean over all coins, exactly: copies only change where a coin passes a multiple of 1 / (sum x draws)."""
    draws = count - sum(count * part // sum(parts) for part in parts) if scheme == "residual" else count
    tosses = 1 if scheme == "systematic" else draws
    cells = sum(parts) * max(1, draws)
    places = [(cell + 0.5) / cells for cell in range(cells)]
    totals = [0] * len(parts)
    outcomes = 0
    for coins in itertools.product(places, repeat=tosses):
        copies = resample([float(part) for part in parts], count, scheme, Given(coins))
        assert sum(copies) == count
        totals = [total + copied for total, copied in zip(totals, copies, strict=True)]
        outcomes += 1
    wanted = [Fraction(count * part, sum(parts)) for part in parts]
    found = [Fraction(total, outcomes) for total in totals]
    assert all(abs(a - b) < Fraction(1, 10**9) for a, b in zip(found, wanted, strict=True))


@given(
    st.lists(st.floats(0.0, 5.0), min_size=1, max_size=12).filter(lambda weights: sum(weights) > 1e-3),
    st.integers(0, 20),
    st.integers(0, 2**32),
)
def test_how_far_copies_are_from_their_expectation(weights: list[float], count: int, seed: int) -> None:
    shares = [count * weight / sum(weights) for weight in weights]
    for scheme in SCHEMES:
        copies = resample(weights, count, scheme, random.Random(seed))
        assert sum(copies) == count
        assert all(copied == 0 for copied, weight in zip(copies, weights, strict=True) if weight == 0)
        for copied, share in zip(copies, shares, strict=True):
            if scheme == "systematic":
                assert abs(copied - share) < 1 + 1e-9
            elif scheme == "stratified":
                assert abs(copied - share) < 2 + 1e-9
            elif scheme == "residual":
                assert copied >= math.floor(share - 1e-9)
        assert copies == resample(weights, count, scheme, random.Random(seed))


def test_systematic_and_stratified_vary_less_than_multinomial() -> None:
    weights = softmax([0.3, -0.5, 1.2, 0.0, 0.7])

    def variance(scheme: Scheme) -> float:
        coins = random.Random(1)
        draws = [resample(weights, 10, scheme, coins)[2] for _ in range(2000)]
        mean = sum(draws) / len(draws)
        return sum((draw - mean) ** 2 for draw in draws) / len(draws)

    multinomial = variance("multinomial")
    assert multinomial == pytest.approx(10 * weights[2] * (1 - weights[2]), rel=0.1)
    assert all(variance(scheme) < 0.6 * multinomial for scheme in SCHEMES if scheme != "multinomial")


def test_a_point_at_the_very_end_belongs_to_somebody() -> None:
    almost = math.nextafter(1.0, 0.0)
    assert resample([0.1] * 3 + [0.0], 2, "systematic", Given([almost])) == [0, 1, 1, 0]


def test_softmax_and_effective_sample_size() -> None:
    assert softmax([0.0, math.log(3)]) == pytest.approx([0.25, 0.75])
    assert softmax([-2000.0, -2000.0]) == [0.5, 0.5]
    assert softmax([900.0, 0.0]) == [1.0, 0.0]
    assert effective_sample_size([0.25] * 4) == pytest.approx(4)
    assert effective_sample_size([1.0, 0.0]) == 1
    assert effective_sample_size([2.0, 1.0, 1.0]) == pytest.approx(16 / 6)


def test_logits_are_finite() -> None:
    assert logit(0.5) == 0
    assert logit(0.75) == pytest.approx(math.log(3))
    assert logit(1.0) == pytest.approx(-logit(0.0)) == pytest.approx(math.log(1e7), rel=1e-6)

"""What tree searches choose by: bounds, scales, and posteriors against closed forms."""

from __future__ import annotations

import math
import random
from functools import reduce

import pytest

from reason.search.bandits import Beta, Gaussian, Moments, Scale, p_ucb, puct, scale_of, uct, widened


def moments(*values: float) -> Moments:
    return reduce(Moments.plus, values, Moments())


def test_bounds() -> None:
    assert uct(0.5, 4, 16, 1.4) == pytest.approx(0.5 + 1.4 * math.sqrt(2.772589 / 4))
    assert uct(0.5, 1, 0, 9.0) == 0.5  # nothing known above: no exploration
    assert puct(0.5, 3, 16, 0.25, 2.0) == pytest.approx(0.5 + 2 * 0.25 * 4 / 4)
    assert puct(0.5, 0, 9, 0.5, 1.0) == pytest.approx(0.5 + 0.5 * 3)
    assert p_ucb(0.5, 3, 16, 0.25, 2.0) == pytest.approx(0.5 + 2 * 0.25 * math.sqrt(2.772589) / 4)
    assert p_ucb(0.5, 0, 1, 0.9, 2.0) == p_ucb(0.5, 0, 0, 0.9, 2.0) == 0.5


def test_how_far_visits_widen() -> None:
    assert [widened(1, 0.5, visits) for visits in (0, 1, 2, 4, 5, 9, 10)] == [1, 1, 2, 2, 3, 3, 4]
    assert [widened(2, 0.5, visits) for visits in (1, 2, 4, 9)] == [2, 3, 4, 6]
    assert [widened(3, 0.0, visits) for visits in (1, 100)] == [3, 3]
    assert widened(1, 1.0, 7) == 7
    assert widened(1, 0.2, 3**5) == 3  # a fifth root that rounds up


def test_scales() -> None:
    assert scale_of([0.2, 0.9]) == scale_of([]) == Scale(0.0, 1.0)
    spread = scale_of([12.0, 20.0, 14.0])
    assert spread.relative
    assert [spread(value) for value in (12.0, 14.0, 20.0)] == [0.0, 0.25, 1.0]
    assert scale_of([-3.0, -1.0])(-2.0) == 0.5
    assert scale_of([17.0])(17.0) == 0.5
    assert scale_of([0.2, 0.4], "min-max")(0.4) == 1.0
    assert scale_of([12.0, 20.0], "none")(14.0) == 14.0


def test_the_least_of_a_scale() -> None:
    assert [scale_of(values).least for values in ([], [0.2, 0.9], [12.0, 20.0], [-3.0, 0.5])] == [0.0, 0.0, 12.0, -3.0]
    assert [scale_of(values, "none").least for values in ([], [12.0, 20.0], [-3.0, -1.0])] == [0.0, 0.0, -3.0]


def test_moments() -> None:
    found = moments(0.2, 0.6, 0.7)
    assert found == pytest.approx((3, 0.5, 0.09 + 0.01 + 0.04))
    nats = moments(*(12 + 5 * value for value in (0.2, 0.6, 0.7)))
    assert nats.on(scale_of([12.0, 17.0])) == pytest.approx(found)
    assert moments(14.0, 14.0).on(scale_of([14.0])) == (2, 0.5, 0.0)


def test_posteriors_are_the_closed_forms() -> None:
    seen = moments(0.2, 0.6, 0.7)
    # kappa, nu: 1 + 3; m: (0 + 3 * .5) / 4; tau^2: (1 * .1 + .14 + 3 * 1 / 4 * .5^2) / 4
    assert Gaussian().after(seen) == pytest.approx((0.375, 4.0, 4.0, (0.1 + 0.14 + 0.1875) / 4))
    assert Beta().after(seen) == pytest.approx((0.5 + 1.5, 0.5 + 1.5))
    assert Beta().after(moments(1.0, 1.0, 0.25)) == pytest.approx((0.5 + 2.25, 0.5 + 0.75))
    assert Gaussian().after(Moments()) == Gaussian() == (0.0, 1.0, 1.0, 0.1)
    assert Beta().after(Moments()) == Beta() == (0.5, 0.5)


def test_draws_are_distributed_as_they_should_be() -> None:
    """The mean of a Gaussian of unknown variance is Student's t around m, scaled by sqrt(tau^2 / kappa)."""
    from scipy import stats

    coins = random.Random(1)
    posterior = Gaussian().after(moments(0.2, 0.6, 0.7))
    drawn = [posterior.draw(coins) for _ in range(3000)]
    student = stats.t(posterior.nu, posterior.m, (posterior.tau_squared / posterior.kappa) ** 0.5)
    assert stats.kstest(drawn, student.cdf).pvalue > 0.01
    shares = [Beta(2.0, 1.5).draw(coins) for _ in range(3000)]
    assert stats.kstest(shares, stats.beta(2.0, 1.5).cdf).pvalue > 0.01


@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_a_drawer_draws_the_same_numbers(count: int) -> None:
    posterior = Gaussian().after(moments(*(value / 4 for value in range(count))))
    ours, theirs = random.Random(7), random.Random(7)
    draw = posterior.drawer()
    for _ in range(200):
        scale = posterior.nu * posterior.tau_squared / 2 / theirs.gammavariate(posterior.nu / 2, 1.0)
        assert draw(ours) == theirs.normalvariate(posterior.m, math.sqrt(scale / posterior.kappa))

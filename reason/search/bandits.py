"""What tree searches choose by, as pure functions of a node's statistics: upper confidence bounds and posteriors.

    uct    Q + c sqrt(ln N_parent / N)          (Kocsis and Szepesvári, https://doi.org/10.1007/11871842_29)
    puct   Q + c P sqrt(N_parent) / (1 + N)     (Silver et al., https://doi.org/10.1038/nature24270)
    p_ucb  Q + c P sqrt(ln N_parent) / (1 + N)  (Zhang et al., https://arxiv.org/abs/2303.05510)

    Gaussian   mu | s^2 ~ N(m, s^2 / kappa),  s^2 ~ scaled inverse chi^2(nu, tau^2)
    Beta       mu ~ Beta(a, b)

The bounds suppose values in [0, 1]. The posteriors are those of AB-MCTS (Inoue et al.,
https://arxiv.org/abs/2503.04412), with its priors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["Beta", "Drawer", "Gaussian", "How", "Moments", "Scale", "p_ucb", "puct", "scale_of", "uct", "widened"]

How: TypeAlias = Literal["auto", "none", "min-max"]
Drawer: TypeAlias = Callable[[random.Random], float]

_RATIO = 4 * math.exp(-0.5) / math.sqrt(2.0)
"""Of Kinderman and Monahan's normal variates (https://doi.org/10.1145/355744.355750), the standard library's."""


class Scale(NamedTuple):
    """Maps values into [0, 1]. ``relative``: by what the values are so far, so that 1 is the best of them. ``least``:
    what is as good as nothing; ``low``, or the lowest so far where values below it are taken as they are."""

    low: float = 0.0
    high: float = 1.0
    relative: bool = False
    least: float = 0.0

    def __call__(self, value: float) -> float:
        """Where ``value`` lies between ``low`` and ``high``; in the middle if they are equal."""
        span = self.high - self.low
        return (value - self.low) / span if span > 0 else 0.5


def scale_of(values: Iterable[float], how: How = "auto") -> Scale:
    """The scale of a tree's values: "none" takes them as they are, "min-max" spreads them over [0, 1] as MuZero does
    (https://arxiv.org/abs/1911.08265), "auto" does so unless all of them lie there already."""
    found = list(values)
    low, high = min(found, default=0.0), max(found, default=1.0)
    if how == "none":
        return Scale(least=min(0.0, low))
    if not found or (how == "auto" and low >= 0 and high <= 1):
        return Scale()
    return Scale(low, high, relative=True, least=low)


def uct(value: float, visits: float, parent_visits: float, exploration: float) -> float:
    """The bound of a node that was visited."""
    return value + exploration * math.sqrt(math.log(max(1.0, parent_visits)) / visits)


def puct(value: float, visits: float, parent_visits: float, prior: float, exploration: float) -> float:
    """The bound of a node, visited or not."""
    return value + exploration * prior * math.sqrt(parent_visits) / (1 + visits)


def p_ucb(value: float, visits: float, parent_visits: float, prior: float, exploration: float) -> float:
    """The bound of a node, visited or not; a parent that was visited once explores nothing."""
    return value + exploration * prior * math.sqrt(math.log(max(1.0, parent_visits))) / (1 + visits)


def widened(factor: float, exponent: float, visits: float) -> int:
    """Progressive widening: how many children a node may have after so many visits, ceil(factor visits^exponent)
    (Couëtoux et al., https://doi.org/10.1007/978-3-642-25566-3_33)."""
    return math.ceil(factor * math.pow(max(1.0, visits), exponent) - 1e-9)


class Moments(NamedTuple):
    """Of some observations: how many, their mean, and the sum of squared distances from it."""

    number: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def plus(self, value: float) -> Moments:
        """With one observation more."""
        number = self.number + 1
        mean = self.mean + (value - self.mean) / number
        return Moments(number, mean, self.squares + (value - self.mean) * (value - mean))

    def on(self, scale: Scale) -> Moments:
        """Of the same observations on a scale."""
        span = scale.high - scale.low
        return Moments(self.number, scale(self.mean), self.squares / span**2 if span > 0 else 0.0)


class Gaussian(NamedTuple):
    """Over the mean of normal observations of unknown variance; by default AB-MCTS's prior."""

    m: float = 0.0
    kappa: float = 1.0
    nu: float = 1.0
    tau_squared: float = 0.1

    def after(self, seen: Moments) -> Gaussian:
        """The posterior."""
        kappa, nu = self.kappa + seen.number, self.nu + seen.number
        away = seen.number * self.kappa / kappa * (seen.mean - self.m) ** 2
        return Gaussian(
            m=(self.kappa * self.m + seen.number * seen.mean) / kappa,
            kappa=kappa,
            nu=nu,
            tau_squared=(self.nu * self.tau_squared + seen.squares + away) / nu,
        )

    def draw(self, coins: random.Random) -> float:
        """A mean."""
        return self.drawer()(coins)

    def drawer(self) -> Drawer:
        """``draw``, for a posterior that is drawn from often."""
        m, kappa, shape, scale = self.m, self.kappa, self.nu / 2, self.nu * self.tau_squared / 2
        log, sqrt = math.log, math.sqrt

        def draw(coins: random.Random) -> float:
            gamma = coins.gammavariate(shape, 1.0)
            return coins.normalvariate(m, sqrt(scale / (gamma if gamma > 1e-300 else 1e-300) / kappa))

        def draw_of_one(coins: random.Random) -> float:
            uniform = coins.random
            gamma = -log(1.0 - uniform())
            while True:
                first, second = uniform(), 1.0 - uniform()
                z = _RATIO * (first - 0.5) / second
                if z * z / 4.0 <= -log(second):
                    return m + z * sqrt(scale / (gamma if gamma > 1e-300 else 1e-300) / kappa)

        return draw_of_one if shape == 1.0 else draw  # the same numbers without calls: most have one observation


class Beta(NamedTuple):
    """Over the mean of observations in [0, 1], each counted as so much of a success; by default Jeffreys' prior."""

    a: float = 0.5
    b: float = 0.5

    def after(self, seen: Moments) -> Beta:
        """The posterior."""
        successes = min(max(seen.mean, 0.0), 1.0) * seen.number
        return Beta(self.a + successes, self.b + seen.number - successes)

    def draw(self, coins: random.Random) -> float:
        """A mean."""
        return coins.betavariate(self.a, self.b)

    def drawer(self) -> Drawer:
        """``draw``, for a posterior that is drawn from often."""
        return self.draw

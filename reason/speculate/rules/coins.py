"""The randomness of rules and draws, as an argument: with coins that try every outcome a rule is proved by enumeration.

Seeded coins are the position's hash (``reason.runtime.noise``) at negative counters, where no token has its noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from reason.runtime.noise import position_state, uniform

__all__ = ["Coins", "SeededCoins", "uniforms_ahead"]

_FIRST = -16  # counters go down from here, below the "tokens" that the sampler's tail uses


class Coins(Protocol):
    """Independent random outcomes, one after the other."""

    def flip(self, probability: float) -> bool:
        """True with that probability; never at 0, always at 1."""
        ...

    def choose(self, weights: npt.NDArray[np.float64]) -> int:
        """An index of ``weights`` [n] (not negative, sum positive), in proportion to them; never one of weight 0."""
        ...


class SeededCoins:
    """The coins of one step of one request: a function of (seed, key, position) and of how many were used before.

    Draws of the draft and its verification must use one object: two of the same arguments give the same numbers.
    """

    def __init__(self, seed: int, key: int, position: int) -> None:
        self._state = position_state([seed], [key], [position])
        self._counter = _FIRST

    def flip(self, probability: float) -> bool:
        return self._uniform() < probability

    def choose(self, weights: npt.NDArray[np.float64]) -> int:
        cumulative = np.cumsum(weights)
        assert cumulative[-1] > 0.0, "nothing to choose from"
        index = int(np.searchsorted(cumulative, self._uniform() * cumulative[-1], side="right"))
        return index if index < len(weights) else int(np.flatnonzero(weights)[-1])  # rounding at the far end

    def _uniform(self) -> float:
        """The next number, strictly inside (0, 1)."""
        value = float(uniform(self._state, [self._counter])[0])
        self._counter -= 1
        return value


def uniforms_ahead(coins: Sequence[SeededCoins], count: int) -> npt.NDArray[np.float64]:
    """The next ``count`` numbers of each, [coins, count]; none is used up."""
    states = np.concatenate([each._state for each in coins])
    first = np.array([each._counter for each in coins])
    return uniform(states[:, None], first[:, None] - np.arange(count))

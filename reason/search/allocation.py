"""REBASE's balanced allocation (Wu et al., https://arxiv.org/abs/2408.00724): how many next steps each candidate gets.

w_i = softmax_i(R_i / T_b)
round   the integers next to B w_i that sum to B, by largest remainders: those of the paper, Round(B w_i), where
        these sum to B, and nearest to them elsewhere
ceil    best first, n_i = ceil(B_left w_i / w_left), as in the authors' code: never less for the better, and
        nothing for the last
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from statistics import NormalDist
from typing import Literal, TypeAlias

from reason.search.resampling import softmax

__all__ = ["Rounding", "allocate", "evened", "rounded", "standardised"]

Rounding: TypeAlias = Literal["ceil", "round"]

_TOLERANCE = 1e-9  # what floats may add to a whole number, and to the spread of equal ones


def allocate(rewards: Sequence[float], total: int, *, temperature: float, rounding: Rounding) -> list[int]:
    """How many of ``total`` next steps each candidate gets, by its reward; nothing at all without candidates.

    Args:
        temperature: T_b, in the rewards' unit.
    """
    assert total >= 0 and temperature > 0
    if not rewards:
        return []
    return rounded(softmax([reward / temperature for reward in rewards]), total, rounding)


def rounded(weights: Sequence[float], total: int, rounding: Rounding) -> list[int]:
    """Integers in proportion to ``weights`` that sum to ``total``. Ties go to the first.

    Args:
        weights: at least 0, not all 0.
    """
    best_first = sorted(range(len(weights)), key=lambda i: -weights[i])
    return (_ceil if rounding == "ceil" else _largest_remainders)(weights, total, best_first)


def _ceil(weights: Sequence[float], total: int, best_first: Sequence[int]) -> list[int]:
    shares, left = [0] * len(weights), total
    unserved = list(accumulate(weights[i] for i in reversed(best_first)))[::-1]
    for i, weight in zip(best_first, unserved, strict=True):
        if not left:
            break
        shares[i] = min(left, math.ceil(left * weights[i] / weight - _TOLERANCE))
        left -= shares[i]
    return shares


def _largest_remainders(weights: Sequence[float], total: int, best_first: Sequence[int]) -> list[int]:
    sum_of_weights = math.fsum(weights)
    exact = [total * weight / sum_of_weights for weight in weights]
    shares = [math.floor(share + _TOLERANCE) for share in exact]
    remainders = sorted(best_first, key=lambda i: round(shares[i] - exact[i], 9))
    for i in remainders[: total - sum(shares)]:
        shares[i] += 1
    return shares


def evened(scores: Sequence[float]) -> list[float]:
    """Scores of any unit as rewards in [0, 1] with about the spread of an even distribution: Phi of how many standard
    deviations each is above their mean; 0.5 where all are equal."""
    return list(map(NormalDist().cdf, standardised(scores)))


def standardised(scores: Sequence[float]) -> list[float]:
    """How many standard deviations each is above their mean; 0 where all are equal."""
    mean = math.fsum(scores) / len(scores)
    spread = math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores))
    if spread <= _TOLERANCE * max(1.0, abs(mean)):
        return [0.0] * len(scores)
    return [(score - mean) / spread for score in scores]

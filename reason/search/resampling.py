"""Resampling: weighted particles become equally weighted ones.

    multinomial   n independent draws from the weights
    stratified    one draw in each of the n equal parts of [0, 1)
    systematic    the same place in each part, from a single draw
    residual      floor(n w_i) copies of each, the others multinomial from what that leaves of the weights

All are unbiased: a particle of weight w gets n w copies on average. The last three vary less (Douc, Cappé and Moulines,
https://arxiv.org/abs/cs/0507025).
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal, TypeAlias

__all__ = ["Scheme", "effective_sample_size", "logit", "resample", "softmax"]

Scheme: TypeAlias = Literal["multinomial", "stratified", "systematic", "residual"]

_CLIP = 1e-7  # of a probability, so that its logit is finite


def resample(weights: Sequence[float], count: int, scheme: Scheme, coins: random.Random) -> list[int]:
    """How many copies each particle gets, ``count`` in all.

    Args:
        weights: at least 0, not all 0; they need not sum to 1.
    """
    total = math.fsum(weights)
    assert count >= 0 and total > 0 and min(weights) >= 0, "weights are at least 0, and not all 0"
    if scheme == "residual":
        shares = [count * weight / total for weight in weights]
        copies = [math.floor(share) for share in shares]
        left = count - sum(copies)
        if not left:
            return copies
        rest = resample(
            [share - whole for share, whole in zip(shares, copies, strict=True)], left, "multinomial", coins
        )
        return [whole + more for whole, more in zip(copies, rest, strict=True)]
    if scheme == "multinomial":
        points = [coins.random() for _ in range(count)]
    elif scheme == "stratified":
        points = [(part + coins.random()) / count for part in range(count)]
    else:
        place = coins.random()
        points = [(part + place) / count for part in range(count)]
    return _hits(weights, points)


def softmax(log_weights: Sequence[float]) -> list[float]:
    """Weights that sum to 1, in proportion to exp(log_weights); at least one."""
    highest = max(log_weights)
    weights = [math.exp(value - highest) for value in log_weights]
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def effective_sample_size(weights: Sequence[float]) -> float:
    """1 / sum w^2 of the weights' shares: their number where all are equal, 1 where one has all."""
    total = math.fsum(weights)
    return total**2 / math.fsum(weight**2 for weight in weights)


def logit(probability: float) -> float:
    """log(p / (1 - p)); those nearer than 1e-7 to 0 or 1 count as that."""
    clipped = min(max(probability, _CLIP), 1 - _CLIP)
    return math.log(clipped) - math.log1p(-clipped)


def _hits(weights: Sequence[float], points: Sequence[float]) -> list[int]:
    """How many points of [0, 1) fall into each particle's share of it."""
    ends = list(accumulate(weights))
    last = max(place for place, weight in enumerate(weights) if weight > 0)
    hits = [0] * len(weights)
    for point in points:
        hits[min(bisect_right(ends, point * ends[-1]), last)] += 1  # rounding may put a point at the very end
    return hits

"""Figures of verifiers on solutions that are there already.

    F1     = 2 a b / (a + b)                                       (Zheng et al., https://arxiv.org/abs/2412.06559)
    AUC    = P(score of a right step > score of a first wrong one), ties count half
    best@k = sum over ranks r of right_r C(n - 1 - r, k - 1) / C(n, k)     (k of the n samples, without replacement)

a and b are shares of separate rows, right and wrong; samples are ranked by score, the earlier first where they tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from reason.errors import UsageError
from reason.report.statistics import Estimate, Interval

__all__ = ["area_under_curve", "best_at_k", "harmonic_mean", "logistic"]

_DRAWS = 10_000
_RESAMPLES = 2_000


def harmonic_mean(a: Sequence[bool], b: Sequence[bool], *, seed: int = 0) -> Estimate:
    """Of two shares, with a 95% interval. The bootstrap would draw each from the binomial distribution of what was
    seen, and take a share of 0 for certain; it is drawn from Jeffreys' posterior, Beta(x + 1/2, n - x + 1/2).

    Raises:
        UsageError: one of them is of nothing.
    """
    if not a or not b:
        raise UsageError(f"the harmonic mean is of two shares, got {len(a)} and {len(b)} rows")
    generator = np.random.default_rng(seed)
    means, draws = [], []
    for part in (a, b):
        right, n = sum(part), len(part)
        means.append(right / n)
        draws.append(generator.beta(right + 0.5, n - right + 0.5, size=_DRAWS))
    drawn = 2 * draws[0] * draws[1] / (draws[0] + draws[1])
    value = 2 * means[0] * means[1] / (means[0] + means[1]) if all(means) else 0.0
    low, high = (float(end) for end in np.percentile(drawn, (2.5, 97.5)))
    return Estimate(
        mean=value,
        standard_error=float(drawn.std()),
        interval=Interval(min(low, value), max(high, value)),
        n=len(a) + len(b),
    )


def area_under_curve(right: Sequence[Sequence[float]], wrong: Sequence[Sequence[float]]) -> Estimate | None:
    """How well scores tell right from wrong, with the bootstrap's 95% interval over rows.

    Args:
        right, wrong: the scores of both kinds that each row has.

    Returns:
        None where there are none of a kind.
    """
    assert len(right) == len(wrong)
    counts = np.array([[len(row) for row in kind] for kind in (right, wrong)], dtype=np.float64)  # [2, rows]
    if not counts.sum(axis=1).all():
        return None
    low = np.array([score for row in wrong for score in row])
    owner = np.repeat(np.arange(len(wrong)), [len(row) for row in wrong])
    wins = np.zeros((len(right), len(wrong)))  # of each row's right scores over each row's wrong ones
    for i, row in enumerate(right):
        for score in row:
            np.add.at(wins[i], owner, (score > low) + 0.5 * (score == low))

    def area(weights: np.ndarray) -> np.ndarray:  # [resamples, rows] to [resamples]
        pairs = (weights @ counts[0]) * (weights @ counts[1])
        won = ((weights @ wins) * weights).sum(axis=1)
        return np.asarray(won[pairs > 0] / pairs[pairs > 0])

    n = len(right)
    drawn = area(np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=_RESAMPLES).astype(np.float64))
    return Estimate(
        mean=float(area(np.ones((1, n)))[0]),
        standard_error=float(drawn.std()),
        interval=Interval(*(float(end) for end in np.percentile(drawn, (2.5, 97.5)))),
        n=n,
    )


def best_at_k(scores: Sequence[float], correct: Sequence[bool], k: int) -> float:
    """The chance that the best-scored of k of the n samples is right.

    Raises:
        UsageError: not 1 <= k <= n.
    """
    n = len(scores)
    if not 1 <= k <= n:
        raise UsageError(f"k must be between 1 and the number of samples {n}, got {k}")
    order = sorted(range(n), key=lambda i: -scores[i])  # stable: the earlier first
    return sum(math.comb(n - 1 - rank, k - 1) for rank, i in enumerate(order) if correct[i]) / math.comb(n, k)


def logistic(score: float) -> float:
    """1 / (1 + exp(-score))."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))

"""How sure a figure is: intervals, paired comparisons, and curves over the number of samples.

    pass@k = 1 - C(n - c, k) / C(n, k)                          (Chen et al., https://arxiv.org/abs/2107.03374)
    maj@k  = E[the vote of k of the n samples is right]         (k without replacement, kept in sampled order)
    Wilson = (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n)  (https://doi.org/10.1080/01621459.1927.10502953)
    paired = (b - c ± z √(b + c + 1 - (b - c)²/(n + 2))) / (n + 2)
                                                    (Agresti and Min, https://doi.org/10.1002/sim.1781)

where of n problems b are right in the one run alone and c in the other alone. Their p is McNemar's, exact. What is no
share is bootstrapped over problems, paired: both runs see the same resampled problems.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from reason.errors import UsageError

__all__ = [
    "CurvePoint",
    "Difference",
    "Estimate",
    "Interval",
    "curve",
    "curve_sizes",
    "maj_at_k",
    "mean_with_interval",
    "paired_bootstrap",
    "pass_at_k",
    "ratio_interval",
    "share_right",
    "standard_error",
    "wilson_interval",
]

Array: TypeAlias = npt.NDArray[Any]

_Z = 1.959963984540054  # the normal distribution's 97.5% quantile
_EXACT_SUBSETS = 5_000
_DRAWN_SUBSETS = 2_000
_RESAMPLES_AT_ONCE = 1 << 22  # resampled values held at a time


class Interval(NamedTuple):
    """Both ends of a 95% interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A mean over problems. ``standard_error`` is None for a single value: it says nothing about its spread."""

    mean: float
    standard_error: float | None
    interval: Interval
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The mean of a - b over pairs with its 95% interval; ``p`` is the two-sided p-value of equality."""

    difference: float
    interval: Interval
    p: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A curve at ``k`` samples. ``fewer`` problems had less than ``k`` and count with all they had."""

    k: int
    mean: float
    standard_error: float | None
    fewer: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def standard_error(values: Sequence[float]) -> float | None:
    """Of the mean, from the sample's standard deviation; None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.std(np.asarray(values, dtype=np.float64), ddof=1) / math.sqrt(len(values)))


def wilson_interval(correct: int, total: int) -> Interval:
    """Wilson's 95% score interval of a share: sensible at 0 and 1 and for few problems.

    Raises:
        UsageError: not 0 <= correct <= total, or total is 0.
    """
    if not 0 <= correct <= total or total == 0:
        raise UsageError(f"a share is of at least one, got {correct} of {total}")
    p, spread = correct / total, _Z**2 / total
    centre = p + spread / 2
    half = _Z * math.sqrt(p * (1 - p) / total + spread / (4 * total))
    # at 0 and at 1 one end is the share itself, which rounding would miss
    low = 0.0 if correct == 0 else (centre - half) / (1 + spread)
    high = 1.0 if correct == total else (centre + half) / (1 + spread)
    return Interval(low, high)


def mean_with_interval(values: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Estimate:
    """The mean with a 95% interval: Wilson's where all values are 0 or 1, else the bootstrap's percentiles.

    Raises:
        UsageError: there are no values.
    """
    if not len(values):
        raise UsageError("there is no mean of no values")
    sample = np.asarray(values, dtype=np.float64)
    if np.isin(sample, (0.0, 1.0)).all():
        interval = wilson_interval(int(sample.sum()), len(sample))
    else:
        interval = _percentiles(_resampled_means(sample[None], resamples, seed)[0])
    return Estimate(mean=float(sample.mean()), standard_error=standard_error(values), interval=interval, n=len(sample))


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, resamples: int = 10_000, seed: int = 0) -> Difference:
    """Mean of ``a`` minus mean of ``b``, where the i-th values of both are of one problem. Where all values are 0 or 1
    nothing is resampled: a bootstrap takes the few problems on which the runs differ for all there could be.

    Raises:
        UsageError: they have different lengths, or no values.
    """
    _check_pairs(a, b)
    pair = np.asarray([a, b], dtype=np.float64)
    differences = pair[0] - pair[1]
    if np.isin(pair, (0.0, 1.0)).all():
        return _paired_shares(int((differences > 0).sum()), int((differences < 0).sum()), len(differences))
    means = _resampled_means(differences[None], resamples, seed)[0]
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(
        difference=float(differences.mean()),
        interval=_percentiles(means),
        p=min(1.0, 2 * (tail + 1) / (resamples + 1)),
        n=len(differences),
    )


def _paired_shares(a_only: int, b_only: int, n: int) -> Difference:
    """The difference of two shares of the same n; ``a_only`` counts what only the one has, ``b_only`` the other."""
    apart = a_only + b_only
    half = _Z * math.sqrt(apart + 1 - (a_only - b_only) ** 2 / (n + 2))
    middle = a_only - b_only
    tail = sum(math.comb(apart, i) for i in range(min(a_only, b_only) + 1)) / 2**apart
    return Difference(
        difference=middle / n,
        interval=Interval(max(-1.0, (middle - half) / (n + 2)), min(1.0, (middle + half) / (n + 2))),
        p=min(1.0, 2 * tail),
        n=n,
    )


def ratio_interval(
    a: Sequence[float], b: Sequence[float], *, resamples: int = 10_000, seed: int = 0
) -> Interval | None:
    """The paired bootstrap's 95% interval of sum(a) / sum(b); None where the denominator may be 0.

    Raises:
        UsageError: as ``paired_bootstrap``.
    """
    _check_pairs(a, b)
    means = _resampled_means(np.asarray([a, b], dtype=np.float64), resamples, seed)
    return None if (means[1] <= 0).any() else _percentiles(means[0] / means[1])


def pass_at_k(n: int, c: int, k: int) -> float:
    """The chance that at least one of k of n samples is right, if c of the n are: unbiased.

    Raises:
        UsageError: not 0 <= c <= n or not 1 <= k <= n.
    """
    _check_size(n, k)
    if not 0 <= c <= n:
        raise UsageError(f"of {n} samples {c} cannot be right")
    return 1.0 - math.comb(n - c, k) / math.comb(n, k)


def maj_at_k(
    answers_by_class: Sequence[int | None],
    correct_by_class: Mapping[int, float],
    k: int,
    *,
    weights: Sequence[float] | None = None,
    seed: int = 0,
) -> float:
    """The chance that the vote of k of the n samples is right. Exact where there are few subsets, else over a fixed
    number of drawn ones.

    Args:
        answers_by_class: each sample's class of equivalent answers, in sampled order; None abstains.
        correct_by_class: whether each class is right; a share, where only some of its members are.
        k: how many vote. Ties go to the class with more members among them, then to the one that appears first.
        weights: one for each sample, finite and at least 0: then the vote is weighted.
        seed: of the drawn subsets.

    Raises:
        UsageError: not 1 <= k <= n, or weights that do not fit.
    """
    n = len(answers_by_class)
    _check_size(n, k)
    if weights is not None and (len(weights) != n or not all(math.isfinite(w) and w >= 0 for w in weights)):
        raise UsageError(f"give a finite weight of at least 0 for each of the {n} samples")
    classes = list(dict.fromkeys(c for c in answers_by_class if c is not None))
    if not classes:
        return 0.0
    member = np.array([[c == answer for c in classes] for answer in answers_by_class])  # [n, classes]
    weight = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    subsets = _subsets(n, k, seed)  # [subsets, n], 0 or 1
    totals = subsets @ (member * weight[:, None])  # [subsets, classes]
    voices = subsets @ member.astype(np.float64)
    present = voices > 0
    totals[~present] = -1.0
    best = totals.max(axis=1, keepdims=True)
    tied = present & (totals >= best * (1 - 1e-9))  # sums of weights in another order round differently
    voices[~tied] = 0.0
    tied &= voices == voices.max(axis=1, keepdims=True)
    winners = tied.argmax(axis=1)  # only where nobody else is as good
    several = tied.sum(axis=1) > 1
    if several.any():  # [subsets with a tie, n, classes] would be large: look at each class's first member
        drawn = subsets[several] > 0
        first = np.stack([_first(drawn & member[:, i]) for i in range(len(classes))], axis=1)
        winners[several] = np.where(tied[several], first, n + 1).argmin(axis=1)
    right = np.array([correct_by_class[c] for c in classes], dtype=np.float64)
    return float((right[winners] * present.any(axis=1)).mean())


def share_right(classes: Sequence[int | None], correct: Sequence[bool]) -> dict[int, float]:
    """How many of each class's members are right: programs that behave alike on what was tried need not all be."""
    members: dict[int, list[bool]] = {}
    for answer_class, right in zip(classes, correct, strict=True):
        if answer_class is not None:
            members.setdefault(answer_class, []).append(right)
    return {answer_class: sum(right) / len(right) for answer_class, right in members.items()}


def curve_sizes(n: int) -> list[int]:
    """1, 2, 4, … and ``n`` itself; nothing for 0."""
    return [*itertools.takewhile(lambda k: k < n, (1 << i for i in range(64))), n] if n else []


def curve(sizes: Sequence[int], value: Callable[[int, int], float]) -> list[CurvePoint]:
    """A curve over k, averaged over problems.

    Args:
        sizes: how many samples each problem has. One without any counts as 0 everywhere.
        value: of problem i at k samples, k at most ``sizes[i]``.
    """
    points: list[CurvePoint] = []
    for k in curve_sizes(max(sizes, default=0)):
        values = [value(i, min(k, size)) if size else 0.0 for i, size in enumerate(sizes)]
        points.append(
            CurvePoint(
                k=k,
                mean=float(np.mean(values)),
                standard_error=standard_error(values),
                fewer=sum(size < k for size in sizes),
            )
        )
    return points


def _check_pairs(a: Sequence[float], b: Sequence[float]) -> None:
    if len(a) != len(b) or not len(a):
        raise UsageError(f"a paired comparison needs as many values on both sides, got {len(a)} and {len(b)}")


def _check_size(n: int, k: int) -> None:
    if not 1 <= k <= n:
        raise UsageError(f"k must be between 1 and the number of samples {n}, got {k}")


def _percentiles(values: Array) -> Interval:
    low, high = np.percentile(values, (2.5, 97.5))
    return Interval(float(low), float(high))


def _resampled_means(samples: Array, resamples: int, seed: int) -> Array:
    """Means over resampled columns; the rows of ``samples`` [rows, n] share them. [rows, resamples]"""
    generator = np.random.default_rng(seed)
    n = samples.shape[1]
    step = max(1, _RESAMPLES_AT_ONCE // n)
    parts = [
        samples[:, generator.integers(n, size=(min(step, resamples - start), n))].mean(axis=2)
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts, axis=1)


@functools.lru_cache(maxsize=64)
def _subsets(n: int, k: int, seed: int) -> Array:
    """Subsets of size k as rows of zeros and ones: all of them, or a fixed number of draws. [subsets, n]"""
    if math.comb(n, k) <= _EXACT_SUBSETS:
        chosen = np.array(list(itertools.combinations(range(n), k)))
    else:
        generator = np.random.default_rng((seed, n, k))
        chosen = generator.random((_DRAWN_SUBSETS, n)).argsort(axis=1)[:, :k]
    rows = np.zeros((len(chosen), n))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    rows.setflags(write=False)
    return rows


def _first(drawn: Array) -> Array:
    """The first column that is True in each row; the number of columns where none is."""
    first: Array = np.where(drawn.any(axis=1), drawn.argmax(axis=1), drawn.shape[1])
    return first

"""From a small model's scored answers to thresholds that hold a precision.

    precision(c) = P(right | score >= c)        coverage(c) = P(score >= c)

On the problems to calibrate on, the threshold is the one of the largest coverage whose precision is at least the wanted
one; those that decided nothing say what came of it. Problems are parted by a hash of their ids.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reason.report.statistics import Estimate, mean_with_interval

__all__ = ["Answered", "GateFigures", "calibrate", "threshold_for"]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One answer of the small model.

    Args:
        problem: its id.
        correct: whether it is right.
        scores: by gate; a gate that has none for it would not let it pass.
    """

    problem: str
    correct: bool
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class GateFigures:
    """What a gate is worth.

    Args:
        gate: its name.
        auc: of telling right from wrong, on all problems.
        threshold: chosen; None where no threshold has the precision.
        chosen_coverage: on the problems that it was chosen on; what gates are ordered by.
        precision, coverage: on the problems that decided nothing; None without a threshold, precision also where
            nothing passed.
    """

    gate: str
    auc: float
    threshold: float | None
    chosen_coverage: float
    precision: Estimate | None
    coverage: Estimate | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""

        def shown(estimate: Estimate | None) -> Any:
            return None if estimate is None else [estimate.mean, *estimate.interval]

        return {
            "gate": self.gate,
            "auc": self.auc if self.auc == self.auc else None,
            "threshold": self.threshold,
            "precision": shown(self.precision),
            "coverage": shown(self.coverage),
        }


def calibrate(answers: Sequence[Answered], precision: float) -> list[GateFigures]:
    """Every gate's threshold and figures, the largest coverage first, on the problems that decide thresholds."""
    gates = list(dict.fromkeys(gate for answer in answers for gate in answer.scores))
    found = [_figures(gate, answers, precision) for gate in gates]
    return sorted(found, key=lambda one: -one.chosen_coverage)


def threshold_for(scores: Sequence[float], correct: Sequence[bool], precision: float) -> float | None:
    """The lowest score from which on the share of right ones is at least ``precision``; None if there is none."""
    pairs = sorted(zip(scores, correct, strict=True), reverse=True)
    best: float | None = None
    right = 0
    for count, (score, good) in enumerate(pairs, start=1):
        right += good
        last_of_equals = count == len(pairs) or pairs[count][0] < score
        if last_of_equals and right >= precision * count - 1e-9:
            best = score
    return best


def _figures(gate: str, answers: Sequence[Answered], precision: float) -> GateFigures:
    import numpy as np

    from reason.training.value.metrics import auc

    scored = [answer for answer in answers if gate in answer.scores]
    parts: tuple[list[Answered], list[Answered]] = ([], [])
    for answer in answers:
        parts[_half(answer.problem)].append(answer)
    chosen_on = [answer for answer in parts[0] if gate in answer.scores]
    limit = threshold_for([a.scores[gate] for a in chosen_on], [a.correct for a in chosen_on], precision)
    passed = [answer for answer in parts[1] if limit is not None and answer.scores.get(gate, float("-inf")) >= limit]
    return GateFigures(
        gate=gate,
        auc=auc(np.array([a.scores[gate] for a in scored]), np.array([float(a.correct) for a in scored])),
        threshold=limit,
        chosen_coverage=sum(limit is not None and a.scores[gate] >= limit for a in chosen_on) / max(1, len(parts[0])),
        precision=mean_with_interval([float(a.correct) for a in passed]) if passed else None,
        coverage=mean_with_interval([float(a in passed) for a in parts[1]]) if limit is not None and parts[1] else None,
    )


def _half(problem: str) -> int:
    """0: its answer may decide a threshold; 1: it gives the figures."""
    return hashlib.blake2b(problem.encode(), digest_size=1).digest()[0] % 2

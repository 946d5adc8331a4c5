"""Majority vote over answers: self-consistency (Wang et al., https://arxiv.org/abs/2203.11171).

answer = the class of equivalent answers with the largest sum of weights. We depart from the paper in grouping answers
by mathematical equivalence, not by text, and in counting samples without an answer in the share's denominator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reason.errors import UsageError
from reason.tasks.equivalence import group

__all__ = ["Vote", "majority"]


@dataclass(frozen=True, slots=True)
class Vote:
    """The outcome of a vote."""

    answer: str | None  # as the winning class's first member wrote it; None when nobody answered
    share: float  # the winning class's part of all weight, abstentions included
    members: tuple[int, ...]  # indices of the winning class


def majority(
    answers: Sequence[str | None],
    weights: Sequence[float] | None = None,
    *,
    same: Callable[[str, str], bool] | None = None,
) -> Vote:
    """The answer that most weight stands behind. Ties go to the class with more members, then to the one that appeared
    first.

    Args:
        answers: one for each sample; None abstains.
        weights: one for each sample, finite and at least 0; None weighs all alike.
        same: the comparison to use instead of ``reason.tasks.equivalence.equivalent``.

    Raises:
        UsageError: the weights do not fit the answers.
    """
    if weights is None:
        weights = [1.0] * len(answers)
    if len(weights) != len(answers):
        raise UsageError(f"{len(weights)} weights for {len(answers)} answers: give one weight for each answer.")
    if bad := [weight for weight in weights if not (math.isfinite(weight) and weight >= 0)]:
        raise UsageError(f"weight {bad[0]!r}: weights must be finite and at least 0.")
    cast = [index for index, answer in enumerate(answers) if answer is not None]
    classes = [[cast[i] for i in members] for members in group([answers[i] or "" for i in cast], same)]
    if not classes:
        return Vote(None, 0.0, ())
    sums = [math.fsum(weights[i] for i in members) for members in classes]
    best = max(range(len(classes)), key=lambda i: (sums[i], len(classes[i])))
    total = math.fsum(weights)
    return Vote(answers[classes[best][0]], sums[best] / total if total else 0.0, tuple(classes[best]))

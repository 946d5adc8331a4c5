"""Several verifiers as one (Coste et al., https://arxiv.org/abs/2310.02743).

    mean: sum_i s_i / k      min: min_i s_i      disagreement: mean - weight * sum_i (s_i - mean)^2 / k

``min`` is their worst-case, ``disagreement`` their uncertainty-weighted objective: what the members do not agree on
counts less. We depart from them in that members may be any verifiers whose scores are probabilities, for others cannot
be compared; with a weight of at most 1 the result is one, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import UsageError
from reason.fields import check_choices
from reason.types import Engine, Trajectory, Verifier
from reason.verifiers.probes import fingerprint
from reason.verifiers.several import Several

__all__ = ["Ensemble"]


@dataclass(frozen=True, kw_only=True)
class Ensemble(Several):
    """Args:
    members: the verifiers; one by one, each scores everything.
    how: what is made of their scores.
    weight: of the members' variance in ``disagreement``.
    """

    name: ClassVar[str] = "ensemble"
    argument: ClassVar[str] = "members"
    probability: ClassVar[bool] = True

    members: tuple[Verifier, ...]
    how: Literal["mean", "min", "disagreement"] = "mean"
    weight: float = 0.5

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.members or not all(isinstance(member, Verifier) for member in self.members):
            raise UsageError(f"members must be at least one verifier, got {self.members!r}")
        if others := [member.name for member in self.members if not member.probability]:
            raise UsageError(f"an ensemble's members must give probabilities, and {', '.join(others)} does not")
        if not 0 <= self.weight <= 1:
            raise UsageError(f"weight must be in [0, 1], got {self.weight}")

    def fingerprint(self, model: str | None) -> str:
        """Of the members that have one."""
        return "+".join(filter(None, (fingerprint(member, model) for member in self.members)))

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        by_member = [await member.score(trajectories, engine, owner) for member in self.members]
        return [self._score(scores) for scores in zip(*by_member, strict=True)]

    def _score(self, scores: Sequence[float]) -> float:
        if self.how == "min":
            return min(scores)
        mean = math.fsum(scores) / len(scores)
        if self.how == "mean":
            return mean
        return mean - self.weight * math.fsum((score - mean) ** 2 for score in scores) / len(scores)

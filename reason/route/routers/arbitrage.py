"""Arbitrage (Maheswaran et al., https://arxiv.org/abs/2512.05033): a drafted step is written again where the target is
likely to do better, not where the step is bad: on a step that both get wrong, the target's tokens are wasted.

    rewrite if P(s_target > s_draft | step) >= threshold

The target never runs to compare. The paper's predictor is a reward model of 1.5B parameters, trained anew; ours is a
head on the draft model's own hidden states (``reason train router``), so that predicting costs no forward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from reason.errors import UsageError
from reason.route.router import Author, Drafted, Rewrite
from reason.route.shipped import shipped_router
from reason.types import Completion, Engine
from reason.verifiers.recording import Recording, recording_for
from reason.verifiers.value_head import HeadVerifier, short_name

__all__ = ["Arbitrage"]


@dataclass(frozen=True, kw_only=True)
class Arbitrage:
    """Args:
    head: the file of a trained predictor; "" is the one that comes with the package for the pair of models.
    threshold: of its probability, from which on a step is written again; by default that of even odds.
    escalate: instead, at most about this share of the steps is written again: the threshold that did so on the problems
        that the predictor was calibrated on.
    """

    author: ClassVar[Author | None] = None
    argument: ClassVar[str] = "head"

    head: str = ""
    threshold: float | None = None
    escalate: float | None = None
    _made: dict[str, HeadVerifier] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("threshold", "escalate"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} must be in [0, 1], got {value}")
        if self.threshold is not None and self.escalate is not None:
            raise UsageError("give a threshold or a share to escalate, not both")

    def check(self, draft: Engine, target: Engine) -> None:
        """Raises UsageError where the file is of another pair, or none comes with the package for this one."""
        if not self.head:
            self._made[draft.name] = HeadVerifier(head=str(shipped_router(draft.name, target.name)))
            return
        head = self._verifier(draft).find(draft)
        trained_for = head.about.get("target")
        if not isinstance(trained_for, str):
            raise UsageError(f"{self.head} is no router: `reason train router` makes one")
        if short_name(trained_for) != short_name(target.name):
            raise UsageError(
                f"the router {self.head} was trained for {head.model} and {trained_for}, not for {target.name}: train "
                "one for this pair with `reason train router`"
            )

    def recording(self, draft: Engine) -> Recording:
        """Raises UsageError where the head is another model's, or is not calibrated to shares."""
        self._limit(draft)
        return recording_for([self._verifier(draft)], draft)

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        verifier = self._verifier(drafted.draft)
        (advantage,) = await verifier.score([drafted.trajectory], drafted.draft, drafted.owner)
        return await rewrite() if advantage >= self._limit(drafted.draft) else None

    def _verifier(self, draft: Engine) -> HeadVerifier:
        """``check`` comes first where no file is named."""
        if self.head:
            return self._made.setdefault(draft.name, HeadVerifier(head=self.head))
        return self._made[draft.name]

    def _limit(self, draft: Engine) -> float:
        if self.escalate is None:
            return 0.5 if self.threshold is None else self.threshold
        if self.escalate in (0, 1):  # whatever was seen when the thresholds were taken
            return -math.inf if self.escalate else math.inf
        thresholds = self._verifier(draft).find(draft).about.get("thresholds")
        if not isinstance(thresholds, list) or len(thresholds) < 2:
            raise UsageError(f"{self.head} was not calibrated to shares of steps: give a threshold instead of escalate")
        place = self.escalate * (len(thresholds) - 1)
        below = min(int(place), len(thresholds) - 2)
        low, high = float(thresholds[below]), float(thresholds[below + 1])
        return low + (place - below) * (high - low)

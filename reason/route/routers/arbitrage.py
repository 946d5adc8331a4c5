"""Arbitrage (Maheswaran et al., https://arxiv.org/abs/2512.05033): a drafted step is written again where the target is
likely to do better, not where the step is bad: on a step that both get wrong, the target's tokens are wasted.

    rewrite if P(s_target > s_draft | step) >= threshold

The target never runs to compare. The paper's predictor is a reward model of 1.5B parameters, trained anew; ours is a
head on the draft model's own hidden states (``reason train router``), so that predicting costs no forward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from reason.errors import UsageError
from reason.route.router import Author, Drafted, Rewrite
from reason.types import Completion, Engine, Probe
from reason.verifiers.value_head import HeadVerifier

__all__ = ["Arbitrage"]


@dataclass(frozen=True, kw_only=True)
class Arbitrage:
    """Args:
    head: the file of a trained predictor.
    threshold: of its probability, from which on a step is written again.
    """

    author: ClassVar[Author | None] = None
    argument: ClassVar[str] = "head"

    head: str
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"threshold must be in [0, 1], got {self.threshold}")

    def probes(self, draft: Engine) -> tuple[Probe, ...]:
        return HeadVerifier(head=self.head).probes(draft)

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        verifier = HeadVerifier(head=self.head)
        (advantage,) = await verifier.score([drafted.trajectory], drafted.draft, drafted.owner)
        return await rewrite() if advantage >= self.threshold else None

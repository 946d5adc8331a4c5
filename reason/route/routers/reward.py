"""Reward-guided speculation (RSD; Liao et al., https://arxiv.org/abs/2501.19324): a drafted step is kept if its reward
is high enough.

    keep the draft if r(step) >= threshold

The reward is any verifier's score. Theirs is a process reward model of its own; ours is by default the value head on
the draft model's states, which costs no forward (see ``reason.verifiers.value_head``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from reason.fields import check_choices
from reason.route.router import Author, Drafted, Rewrite
from reason.types import Completion, Engine, Verifier, capabilities_of
from reason.verifiers import make_verifier
from reason.verifiers.needs import check_needs, check_unrecorded
from reason.verifiers.probes import probes_of
from reason.verifiers.recording import Recording, recording_for

__all__ = ["RewardRouter"]


@dataclass(frozen=True, kw_only=True)
class RewardRouter:
    """Args:
    verifier: scores the drafted step.
    threshold: of the score, from which on a step is kept.
    reader: whose engine the verifier works on.
    """

    author: ClassVar[Author | None] = None

    verifier: str = "head"
    threshold: float = 0.7
    reader: Literal["draft", "target"] = "draft"
    _made: Verifier = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_choices(self)
        object.__setattr__(self, "_made", make_verifier(self.verifier.replace(";", ",")))

    def recording(self, draft: Engine) -> Recording:
        return recording_for([self._made], draft) if self.reader == "draft" else Recording()

    def check(self, draft: Engine, target: Engine) -> None:
        """Raises UsageError where the verifier has no head for the model that it reads, or its engine lacks what it
        needs, or does not write what the verifier reads."""
        engine = draft if self.reader == "draft" else target
        check_needs(self._made, capabilities_of(engine), engine.name)
        if self.reader == "target":
            check_unrecorded(self._made, draft.name)
        probes_of([self._made], engine)

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        engine = drafted.draft if self.reader == "draft" else drafted.target
        (score,) = await self._made.score([drafted.trajectory], engine, drafted.owner)
        return None if score >= self.threshold else await rewrite()

"""The oracle of Arbitrage (https://arxiv.org/abs/2512.05033): both models write every step and the better one stays. It
is slower than the target alone: what it tells is how good routing could be.

    keep the draft if s_target - s_draft <= threshold
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from reason.route.router import Author, Drafted, Rewrite
from reason.types import Completion, Engine, Verifier, capabilities_of
from reason.verifiers import make_verifier
from reason.verifiers.needs import check_needs, check_unrecorded
from reason.verifiers.probes import probes_of
from reason.verifiers.recording import Recording

__all__ = ["Oracle"]


@dataclass(frozen=True, kw_only=True)
class Oracle:
    """Args:
    verifier: scores both steps, on the target's engine.
    threshold: of the target's advantage, above which its step is taken.
    """

    author: ClassVar[Author | None] = None

    verifier: str = "head"
    threshold: float = 0.0
    _made: Verifier = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_made", make_verifier(self.verifier.replace(";", ",")))

    def recording(self, draft: Engine) -> Recording:
        return Recording()

    def check(self, draft: Engine, target: Engine) -> None:
        """Raises UsageError where the verifier has no head for the target, its engine lacks what it needs, or the draft
        model's would have to record it."""
        check_needs(self._made, capabilities_of(target), target.name)
        check_unrecorded(self._made, draft.name)
        probes_of([self._made], target)

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        written = await rewrite()
        if written.finish_reason in ("error", "cancelled"):
            return written
        both = [drafted.trajectory, drafted.rewritten(written)]
        ours, theirs = await self._made.score(both, drafted.target, drafted.owner)
        return written if theirs - ours > self.threshold else None

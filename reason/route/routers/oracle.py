"""The oracle of Arbitrage (https://arxiv.org/abs/2512.05033): both models write every step and the better one stays. It
is slower than the target alone: what it tells is how good routing could be.

    keep the draft if s_target - s_draft <= threshold
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from reason.route.router import Author, Drafted, Rewrite
from reason.types import Completion, Engine, Probe, Step, Verifier
from reason.verifiers import make_verifier

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

    def probes(self, draft: Engine) -> tuple[Probe, ...]:
        return ()

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        written = await rewrite()
        if written.finish_reason in ("error", "cancelled"):
            return written
        one = drafted.trajectory
        other = replace(one, steps=(*one.steps[:-1], Step(text=written.text, tokens=written.token_ids)))
        ours, theirs = await self._made.score([one, other], drafted.target, drafted.owner)
        return written if theirs - ours > self.threshold else None

"""SpecReason (Pan et al., https://arxiv.org/abs/2504.07891): the target model rates the drafted step from 0 to 9 with
one token, which costs it a prefill of the step and of the question.

    keep the draft if argmax_d P(d | path, question) >= threshold        (mean: if sum_d d P(d) / sum_d P(d) is)

As in its repository the rating follows a fixed question; we ask it in the same conversation, so that the path's KV is
used as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import OutOfKV, UsageError
from reason.fields import check_choices
from reason.route.router import Author, Drafted, Rewrite
from reason.types import Completion, Engine, Message, Path, capabilities_of
from reason.verifiers.recording import Recording

__all__ = ["JudgeRouter"]


@dataclass(frozen=True, kw_only=True)
class JudgeRouter:
    """Args:
    threshold: of the rating, from which on a step is kept.
    rating: the likeliest digit, or the mean over the digits by their probability.
    question: what the user asks after the step.
    """

    author: ClassVar[Author | None] = None

    threshold: float = 7.0
    rating: Literal["likeliest", "mean"] = "likeliest"
    question: str = (
        "Rate the last step of the solution so far from 0 to 9: 9 if it is right and brings the solution on, 0 if it "
        "is wrong. Answer with one digit only."
    )

    def __post_init__(self) -> None:
        check_choices(self)
        if not 0 <= self.threshold <= 9:
            raise UsageError(f"threshold must be in [0, 9], got {self.threshold}")

    def recording(self, draft: Engine) -> Recording:
        return Recording()

    def check(self, draft: Engine, target: Engine) -> None:
        """Raises UsageError where the target's engine does not tell how likely a rating is."""
        if not capabilities_of(target).score:
            raise UsageError(
                f"the judge router reads log-probabilities of given text, which the engine of {target.name} does not "
                "tell; use reward:verifier=…, or an engine that does (docs/remote.md)"
            )

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        """A step after which the question does not fit is kept."""
        try:
            rating = await self._rate(drafted.trajectory.path, drafted.target, drafted.owner)
        except OutOfKV:
            return None
        return None if rating >= self.threshold else await rewrite()

    async def _rate(self, path: Path, engine: Engine, owner: str) -> float:
        codec = engine.codec
        turn = codec.encode_turn([Message(role="user", content=self.question)])
        begun = path + (turn[1:] if path[-1:] == turn[:1] else turn)  # one that ended by itself shows its turn's end
        digits = [codec.encode(str(digit)) for digit in range(10)]
        scored = await engine.score([begun + digit for digit in digits], len(begun), owner=owner)
        logprobs = [float(one.logprobs.sum()) for one in scored]
        if self.rating == "likeliest":
            return float(max(range(10), key=logprobs.__getitem__))
        top = max(logprobs)
        weights = [math.exp(value - top) for value in logprobs]
        return sum(digit * weight for digit, weight in enumerate(weights)) / sum(weights)

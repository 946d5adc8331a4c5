"""The tools as a verifier: it answers the call that a step ends with, as feedback on the step.

So a tool's answer is journaled as a measurement is, and a resumed run makes no call again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from reason.errors import UsageError
from reason.types import Engine, Review, Trajectory
from reason.verifiers.tools.calls import find_call
from reason.verifiers.tools.toolbox import Toolbox

__all__ = ["Tools"]


@dataclass(frozen=True, kw_only=True)
class Tools:
    """Its score is 1 for a call that was made and 0 for a step without one.

    Args:
        seconds: of computing that a program may take.
        num_passages: that a search finds.
        max_characters: of an answer.
    """

    name: ClassVar[str] = "tools"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = True

    seconds: int = 5
    num_passages: int = 3
    max_characters: int = 1200

    def __post_init__(self) -> None:
        for name in ("seconds", "num_passages", "max_characters"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")

    @cached_property
    def toolbox(self) -> Toolbox:
        """What makes the calls."""
        return Toolbox(seconds=self.seconds, num_passages=self.num_passages, max_characters=self.max_characters)

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [review.score for review in await self.review(trajectories, engine, owner)]

    async def review(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[Review]:
        """Raises SandboxUnavailable where programs cannot be isolated."""
        return list(await asyncio.gather(*map(self._review, trajectories)))

    async def _review(self, trajectory: Trajectory) -> Review:
        call = find_call(trajectory.text)
        if call is None:
            return Review(0.0)
        return Review(1.0, await self.toolbox.answer(call, trajectory.problem))

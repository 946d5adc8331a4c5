"""The model's own last hidden states as embeddings of its steps: no other model is needed.

embedding = mean over the last step's tokens of the states after the final norm
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.types import Engine, Trajectory

__all__ = ["HiddenStates"]


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """No fields."""

    name: ClassVar[str] = "hidden"

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        return list(await asyncio.gather(*(self._embed(each, engine, owner) for each in trajectories)))

    async def _embed(self, trajectory: Trajectory, engine: Engine, owner: str) -> Sequence[float]:
        path = trajectory.path
        own = len(trajectory.steps[-1].tokens)
        (scored,) = await engine.score([path], len(path) - max(1, own), hidden=True, owner=owner)
        assert scored.hidden is not None
        vector: list[float] = scored.hidden.float().mean(dim=0).tolist()
        return vector

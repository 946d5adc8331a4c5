"""The model's own last hidden states as embeddings of its steps: no other model is needed.

embedding = mean, over the last step's tokens, of the states after the final norm that they were drawn from

The engine keeps the sum while it generates, so it costs nothing; steps that it did not write cost a forward over their
tokens. Of one step's states the mean tells siblings apart better than the last one (AUC .88 against .86, and of the
pairs it joins .87 mention the same numbers against .82); the states *at* its tokens do as well. All states
point much the same way, so distances are small; taking a constant mean away spreads them and tells nothing more (AUC
.87). Vectors depend on nothing that is asked at the same time, bfloat16's rounding aside. ``same_distance`` is that of
Qwen2.5-Coder-0.5B; with SmolLM2-135M .74 of the pairs that it joins mention the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.types import Engine, Trajectory

__all__ = ["HiddenStates"]


@dataclass(frozen=True, kw_only=True)
class HiddenStates:
    """No fields."""

    name: ClassVar[str] = "hidden"
    hidden: ClassVar[bool] = True
    same_distance: ClassVar[float] = 0.01

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        # One after another: all at once they would hold more KV than their samples did, unknown to a budget.
        return [await self._embed(each, engine, owner) for each in trajectories]

    async def _embed(self, trajectory: Trajectory, engine: Engine, owner: str) -> Sequence[float]:
        last = trajectory.steps[-1]
        state = last.hidden
        if state is None:
            path = trajectory.path[:-1] if last.tokens else trajectory.path
            start = max(0, len(path) - max(1, len(last.tokens)))
            (scored,) = await engine.score([path], start, logprobs=False, layers=(-1,), owner=owner)
            state = scored.hidden[-1].mean(dim=0)
        vector: list[float] = state.tolist()
        return vector

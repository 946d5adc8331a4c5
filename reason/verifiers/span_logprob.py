"""How likely the model finds one part of a step: the explanation before its answer, or one list of several.

    score = exp( 1/n sum_i log p(t_i | t_<i) ),   t_1 .. t_n the tokens that lie wholly in the part

By default the part is the whole step, as of ``logprob``. Where there is no such part, or no token lies in it, the
score is 0.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.errors import UsageError
from reason.types import Engine, Path, TextCodec, Trajectory
from reason.verifiers.recorded import last_values

__all__ = ["SpanLogProb"]


@dataclass(frozen=True, kw_only=True)
class SpanLogProb:
    """Args:
    after: text that the part follows; empty is the step's beginning.
    before: text that ends the part at its next occurrence; empty, or nowhere to be found, is the step's end.
    index: which occurrence of ``after``, from 0 on.
    """

    name: ClassVar[str] = "span-logprob"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = 0
    probability: ClassVar[bool] = True

    after: str = ""
    before: str = ""
    index: int = 0

    def __post_init__(self) -> None:
        if self.index < 0:
            raise UsageError(f"index must be at least 0, got {self.index}")
        if self.index and not self.after:
            raise UsageError(f"index counts occurrences of after, which is empty; got {self.index}")

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [self._score(trajectory, engine.codec) for trajectory in trajectories]

    def _score(self, trajectory: Trajectory, codec: TextCodec) -> float:
        values = last_values(trajectory, lambda row: row.token, self)
        if not values:
            return 0.0
        tokens = next(step.tokens for step in reversed(trajectory.steps) if step.logprobs)[-len(values) :]
        inside = values[self._span(tokens, codec)]
        return min(1.0, math.exp(sum(inside) / len(inside))) if inside else 0.0

    def _span(self, tokens: Path, codec: TextCodec) -> slice:
        """The tokens of the part."""
        text = codec.decode(tokens)
        start = 0
        for _ in range(self.index + 1 if self.after else 0):
            place = text.find(self.after, start)
            if place < 0:
                return slice(0)
            start = place + len(self.after)
        end = text.find(self.before, start) if self.before else -1
        # Tokens are found by how far the text goes that they and those before them make, for a token's own text is not
        # always what it adds.
        counts = range(len(tokens) + 1)
        first = bisect_left(counts, start, key=lambda count: len(codec.decode(tokens[:count])))
        if end < 0:
            return slice(first, None)
        return slice(first, bisect_right(counts, end, key=lambda count: len(codec.decode(tokens[:count]))) - 1)

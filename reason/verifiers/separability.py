"""SpecEyes' answer separability (https://arxiv.org/abs/2603.23483): how far the likeliest token stands out of the rest.

    s_t = (l_1 - mean(l_2 … l_K)) / (std(l_2 … l_K) + 1e-6)        l_i the i-th highest log-probability of the row
    score = sigmoid(slope * min_t s_t)                               or of the mean, or of the mean of the lowest fifth

The paper's text leaves open whether the likeliest token is among those that it is compared with; in its code, as here,
it is not, and std is the population's. The whole path counts. Without tokens the score is 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import UsageError
from reason.fields import check_choices
from reason.types import Engine, TokenLogprobs, Trajectory
from reason.verifiers.recorded import path_values

__all__ = ["Separability"]

_LEAST = -100.0  # of a log-probability


@dataclass(frozen=True, kw_only=True)
class Separability:
    """Args:
    variant: what of the tokens' figures counts: the worst, their mean, or the mean of the lowest fifth.
    top_k: K, as far as the engine can record so many.
    slope: of the sigmoid.
    """

    name: ClassVar[str] = "separability"
    statistics: ClassVar[bool] = False
    probability: ClassVar[bool] = True

    variant: Literal["worst", "mean", "bottom-20%"] = "worst"
    top_k: int = 64
    slope: float = 0.6

    def __post_init__(self) -> None:
        check_choices(self)
        if self.top_k < 3:
            raise UsageError(f"top_k must be at least 3, got {self.top_k}")
        if not self.slope > 0:
            raise UsageError(f"slope must be more than 0, got {self.slope}")

    @property
    def top_logprobs(self) -> int | None:
        return self.top_k

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [self._score(trajectory) for trajectory in trajectories]

    def _score(self, trajectory: Trajectory) -> float:
        tokens = sorted(path_values(trajectory, self._of_token, self))
        if not tokens:
            return 0.5
        count = {"worst": 1, "mean": len(tokens), "bottom-20%": max(1, len(tokens) // 5)}[self.variant]
        figure = math.fsum(tokens[:count]) / count
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, self.slope * figure))))

    def _of_token(self, row: TokenLogprobs) -> float | None:
        values = [max(value, _LEAST) for _, value in row.top[: self.top_k]]
        if len(values) < 3:
            return None
        first, rest = values[0], values[1:]
        mean = math.fsum(rest) / len(rest)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in rest) / len(rest))
        return (first - mean) / (deviation + 1e-6)

"""The fields that every sampling strategy has, and those that all have that write step by step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reason.errors import UsageError
from reason.fields import check_choices
from reason.search.tree import Expand, Tree
from reason.types import Sampling

__all__ = ["Decoding", "Stepwise", "check_at_least", "layers"]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Args:
    max_tokens: limit of each solution.
    temperature: the softmax's; 0 takes the likeliest token.
    top_k: draws from that many of the likeliest tokens; 0 from all.
    top_p: draws from the likeliest tokens that together have this probability.
    min_p: draws from tokens at least this share as probable as the likeliest.
    """

    max_tokens: int = 1024
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        check_choices(self)
        check_at_least(self, 1, "max_tokens")
        check_at_least(self, 0, "temperature", "top_k")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p must be in (0, 1], got {self.top_p}")
        if not 0 <= self.min_p < 1:
            raise UsageError(f"min_p must be in [0, 1), got {self.min_p}")

    @property
    def sampling(self) -> Sampling:
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p)


@dataclass(frozen=True, kw_only=True)
class Stepwise(Decoding):
    """Fields and moves of strategies that write solutions step by step.

    Args:
        verifier: who scores steps.
        max_step_tokens: limit of one step.
        max_steps: after so many a solution is written to its end in one go.
    """

    verifier: str = "auto"
    max_step_tokens: int = 256
    max_steps: int = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "max_step_tokens", "max_steps")
        if self.verifier.partition(":")[0] == "agreement":
            raise UsageError("agreement compares finished solutions, not steps; use another verifier")

    @property
    def measures(self) -> tuple[str, ...]:
        return (self.verifier,)

    def step(self, tree: Tree, node: int, num_samples: int, *, last: bool = False) -> Expand:
        """The next step below a node, or all the rest where limits are near or it is to be the ``last``."""
        left = self.left(tree, node)
        last = last or left <= self.max_step_tokens or tree[node].depth + 1 >= self.max_steps
        return Expand(
            node=node,
            num_samples=num_samples,
            until="end" if last else "step",
            max_tokens=left if last else self.max_step_tokens,
            sampling=self.sampling,
        )

    def left(self, tree: Tree, node: int) -> int:
        """How many tokens of a solution may come after a node; at least 1."""
        return max(1, self.max_tokens - tree[node].path_tokens)


def check_at_least(strategy: Any, least: int, *names: str) -> None:
    """Raises UsageError if a field is smaller than it may be."""
    for name in names:
        if not getattr(strategy, name) >= least:
            raise UsageError(f"{name} must be at least {least}, got {getattr(strategy, name)}")


def layers(strategy: Any) -> Iterator[Any]:
    """A strategy, and, where it is a wrapper, what is in it, down to one that is none."""
    while strategy is not None:
        yield strategy
        strategy = getattr(strategy, "inner", None)

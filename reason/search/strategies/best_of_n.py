"""Best-of-N: independent solutions, and a rule that picks the answer.

    majority   self-consistency (Wang et al., https://arxiv.org/abs/2203.11171): the answer most samples give
    weighted   the answer with the largest sum of scores (Li et al., https://arxiv.org/abs/2206.02336)
    best       the answer of the best-scored sample (Cobbe et al., https://arxiv.org/abs/2110.14168)

The verifier scores each step of a solution, or, without an ``aggregation``, the solution as a whole. Answers are
grouped by mathematical equivalence; samples without an answer abstain; ties go to the answer that was asked for
first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.strategies.scoring import missing_scores, note_scores
from reason.search.tree import ROOT, Action, Expand, Room, Tree
from reason.search.voting import Selection, vote
from reason.types import Answer

__all__ = ["BestOfN"]


@dataclass(frozen=True, kw_only=True)
class BestOfN(Decoding):
    """Args:
    num_samples: solutions to draw, and to choose from.
    select: how the answer is chosen.
    verifier: who scores, for "weighted" and "best".
    aggregation: how step scores make a solution's; "none" scores the solution as one step.
    """

    breadth: ClassVar[str] = "num_samples"

    num_samples: int = 8
    select: Selection = "majority"
    verifier: str = "auto"
    aggregation: Literal["none", "last", "min", "mean", "prod"] = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_samples")

    @property
    def measures(self) -> tuple[str, ...]:
        return () if self.select == "majority" else (self.verifier,)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        samples = tree.children(ROOT)
        missing = self.num_samples - len(samples)
        pending = any(node.pending for node in samples)
        if missing > 0 and (room.expansions > 0 or pending):
            return [Expand(node=ROOT, num_samples=missing, max_tokens=self.max_tokens, sampling=self.sampling)]
        if self.select == "majority" or pending:
            return []
        return missing_scores(tree, tree.finished(), self.verifier, by_step=self.aggregation != "none")

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        note_scores(tree, done, self.verifier, self.aggregation)

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, self.select)

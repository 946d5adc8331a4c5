"""Beam search over steps with a process verifier, as in search-and-learn
(https://github.com/huggingface/search-and-learn; Snell et al., https://arxiv.org/abs/2408.03314).

    width hypotheses, each extended by one step; the best width / beam_width of those unfinished are kept, each
    beam_width times

Finished solutions leave the beam for a pool, and those kept are copied until the beam is full again. We depart from the
original in stopping when the pool holds ``width`` solutions, and in writing the last allowed step to the solution's
end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import UsageError
from reason.search.strategies.decoding import Stepwise, check_at_least
from reason.search.strategies.scoring import missing_scores, note_scores
from reason.search.tree import ROOT, Action, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.types import Answer

__all__ = ["Beam", "StepSearch"]


@dataclass(frozen=True, kw_only=True)
class StepSearch(Stepwise):
    """Fields and moves of searches that are so many solutions wide.

    Args:
        width: solutions under way at once, and wanted.
        beam_width: samples of each next step.
        aggregation: how step scores make a path's.
        select: how the answer is chosen among finished solutions.
    """

    breadth: ClassVar[str] = "width"

    width: int = 16
    beam_width: int = 4
    aggregation: Literal["last", "min", "mean", "prod"] = "last"
    select: Selection = "weighted"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "width", "beam_width")
        if self.width % self.beam_width:
            raise UsageError(f"width must be a multiple of beam_width, got {self.width} and {self.beam_width}")

    def last_scores(self, tree: Tree, room: Room) -> list[Action] | None:
        """What is left to do when nothing more may be started; None while something may."""
        if room.expansions > 0 or any(node.pending for node in tree.nodes):
            return None
        return missing_scores(tree, tree.finished(), self.verifier)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        note_scores(tree, done, self.verifier, self.aggregation)

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, self.select)


@dataclass(frozen=True, kw_only=True)
class Beam(StepSearch):
    """See the module's docstring.

    Args:
        drop_duplicates: of unfinished hypotheses with the same text keep one.
    """

    drop_duplicates: bool = True

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if (last := self.last_scores(tree, room)) is not None:
            return last
        parents = _extended(tree)
        level = [child for parent in parents for child in tree.children(parent.id)]
        if not level and len(tree.finished()) >= self.width:
            return []
        missing = {parent.id: _copies(parent, self.width) - len(tree.children(parent.id)) for parent in parents}
        if any(missing.values()):
            return [self.step(tree, node, count) for node, count in missing.items() if count]
        if any(node.pending for node in level):
            return []
        return missing_scores(tree, level, self.verifier)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        super().tell(tree, done)
        level = [child for parent in _extended(tree) for child in tree.children(parent.id)]
        if len(level) == self.width and all(node.failed or "score" in node.notes for node in level):
            self._prune(tree, level)

    def _prune(self, tree: Tree, level: Sequence[Node]) -> None:
        """Keeps the best, which share the beam's width among them."""
        ranked = sorted((node for node in level if node.open), key=lambda node: (-node.notes["score"], node.id))
        if self.drop_duplicates:
            first = {tree.text(node.id): node for node in reversed(ranked)}
            ranked = [node for node in ranked if first[tree.text(node.id)] is node]
        kept = ranked[: self.width // self.beam_width]
        for place, node in enumerate(kept):
            tree.note(node.id, kept=len(range(place, self.width, len(kept))))
        for node in level:
            if node.open and not node.notes.get("kept"):
                tree.note(node.id, pruned=True)


def _extended(tree: Tree) -> list[Node]:
    """The hypotheses that are being extended: the deepest kept ones, or the root."""
    kept: list[Node] = []
    for node in reversed(tree.nodes):
        if kept and node.depth < kept[-1].depth:
            break
        if "kept" in node.notes:
            kept.append(node)
    return kept[::-1] or [tree[ROOT]]


def _copies(node: Node, width: int) -> int:
    """How many next steps a hypothesis is to get."""
    return width if node.id == ROOT else int(node.notes["kept"])

"""Diverse verifier tree search (Beeching et al.,
https://huggingface.co/spaces/HuggingFaceH4/blogpost-scaling-test-time-compute).

    width / beam_width independent subtrees; in each, the best of beam_width sampled next steps is kept

Subtrees do not wait for each other. The answer is chosen among all finished solutions; the original also counts the
unfinished siblings of each subtree's last step (its issue 57), we do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reason.search.strategies.beam import StepSearch
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Node, Room, Tree

__all__ = ["DVTS"]


@dataclass(frozen=True, kw_only=True)
class DVTS(StepSearch):
    """See the module's docstring. The number of subtrees is width / beam_width."""

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if (last := self.last_scores(tree, room)) is not None:
            return last
        first = tree.children(ROOT)
        if len(first) < self.width:
            return [self.step(tree, ROOT, self.width - len(first))]
        actions: list[Action] = []
        for parent, siblings in self._frontier(tree):
            if len(siblings) < self.beam_width:
                actions.append(self.step(tree, parent, self.beam_width - len(siblings)))
            elif not any(node.pending for node in siblings):
                actions += missing_scores(tree, siblings, self.verifier)
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        super().tell(tree, done)
        for _, siblings in self._frontier(tree):
            if len(siblings) == self.beam_width and all(_settled(node) for node in siblings):
                self._choose(tree, siblings)

    def _choose(self, tree: Tree, siblings: Sequence[Node]) -> None:
        scored = [node for node in siblings if "score" in node.notes]
        best = max(scored, key=lambda node: (node.notes["score"], -node.id), default=None)
        for node in siblings:
            if node is best:
                tree.note(node.id, kept=True)
            else:
                tree.note(node.id, pruned=True)

    def _frontier(self, tree: Tree) -> Iterator[tuple[int, list[Node]]]:
        """Of each subtree that goes on: the node it goes on from, and that node's children so far."""
        first = tree.children(ROOT)
        for start in range(0, len(first), self.beam_width):
            parent, siblings = ROOT, first[start : start + self.beam_width]
            while (best := next((node for node in siblings if node.notes.get("kept")), None)) is not None:
                if not best.open:
                    break
                parent, siblings = best.id, tree.children(best.id)
            if (best is None and not all("pruned" in node.notes for node in siblings)) or not siblings:
                yield parent, siblings


def _settled(node: Node) -> bool:
    return node.failed or "score" in node.notes

"""Best-first search over steps with a process verifier, as in FETCH (Wang et al., https://arxiv.org/abs/2502.11183).

    n* = argmax over all nodes that were not expanded yet of score(n);  num_children next steps are sampled below it

It ends when the best is a finished solution; after ``iterations`` the best is written to its end without randomness.
The answer is that of the best-scored solution, without a vote. As in the original a solution that gives no answer is
out of the race; we depart from it in leaving out neither empty nor repeated steps, and in that several nodes may be
expanded at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, NamedTuple

from reason.search.strategies.decoding import Stepwise, check_at_least
from reason.search.strategies.scoring import missing_scores, note_scores
from reason.search.tree import ROOT, Action, Expand, Node, Room, Tree
from reason.search.voting import Selection, vote
from reason.types import Answer

__all__ = ["BestFirst"]


class _Frontier(NamedTuple):
    """How far the search is."""

    expanded: list[int]  # nodes, in the order in which that began
    under_way: list[int]  # those of them whose children are not all there and judged
    open: list[Node]  # judged and not expanded, best first, finished solutions with an answer among them


@dataclass(frozen=True, kw_only=True)
class BestFirst(Stepwise):
    """Args:
    num_children: next steps sampled when a node is expanded.
    iterations: nodes that are expanded, the root among them.
    parallel: nodes under expansion at once. More than one, and nodes are chosen before all scores are known.
    aggregation: how step scores make a path's.
    select: how the answer is chosen among finished solutions.
    """

    breadth: ClassVar[str] = "iterations"

    num_children: int = 10
    iterations: int = 50
    parallel: int = 1
    aggregation: Literal["last", "min", "mean", "prod"] = "last"
    select: Selection = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_children", "iterations", "parallel")

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if room.expansions <= 0 and not any(node.pending for node in tree.nodes):
            return missing_scores(tree, tree.finished(), self.verifier)
        frontier = self._frontier(tree)
        actions: list[Action] = []
        for node in frontier.under_way:
            children = tree.children(node)
            lacking = self._wanted(frontier.expanded.index(node)) - len(children)
            if lacking > 0:
                actions.append(self.step(tree, node, lacking))
            elif not any(child.pending for child in children):
                actions += missing_scores(tree, children, self.verifier)
        return [*actions, *self._next(tree, frontier)]

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        note_scores(tree, done, self.verifier, self.aggregation)

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, self.select)

    def _next(self, tree: Tree, frontier: _Frontier) -> Iterator[Expand]:
        """What to expand now, best first, as long as no solution is better."""
        begun, free = len(frontier.expanded), self.parallel - len(frontier.under_way)
        if begun >= self.iterations:
            yield from self._completion(tree, frontier)
            return
        for node in frontier.open[: min(free, self.iterations - begun)]:
            if node.finished:
                return
            yield self.step(tree, node.id, self.num_children)

    def _completion(self, tree: Tree, frontier: _Frontier) -> Iterator[Expand]:
        """After the last iteration: the best written to its end; another one if that failed."""
        closing = [child for node in frontier.expanded[self.iterations :] for child in tree.children(node)]
        over = any(not child.failed for child in closing)
        if not over and not frontier.under_way and frontier.open and frontier.open[0].open:
            rest = self.step(tree, frontier.open[0].id, 1, last=True)
            yield replace(rest, sampling=replace(self.sampling, temperature=0.0))

    def _frontier(self, tree: Tree) -> _Frontier:
        expanded: dict[int, bool] = {}  # whether its children are all there and judged
        for node in tree.nodes[1:]:
            assert node.parent is not None
            judged = "score" in node.notes or node.failed
            expanded[node.parent] = expanded.get(node.parent, True) and judged
        under_way = [
            node
            for place, (node, judged) in enumerate(expanded.items())
            if not judged or len(tree.children(node)) < self._wanted(place)
        ]
        waiting = [
            node
            for node in tree.nodes[1:]
            if node.id not in expanded and "score" in node.notes and (node.open or node.answer is not None)
        ]
        waiting.sort(key=lambda node: (-node.notes["score"], node.id))
        return _Frontier(list(expanded), under_way, waiting if expanded else [tree[ROOT]])

    def _wanted(self, place: int) -> int:
        """How many children the node has that was expanded as the ``place``-th."""
        return self.num_children if place < self.iterations else 1

"""A* over the steps of a solution (Hart, Nilsson and Raphael, https://doi.org/10.1109/TSSC.1968.300136), with Pohl's
weight (https://doi.org/10.1016/0004-3702(70)90007-X): of the states on the open list those of least f are expanded.

    f = g + weight * h
    g = sum over the steps of their cost       h = (1 - score) * number of steps that remain * cost of a step

A step costs the mean of -log p over its tokens (``cost`` = "mean"), or the sum. Both add up along a path, so A*'s
theory holds. With the sum g is the solution's own -log p, which favours short solutions; the mean does not see how long
a step is, and favours few steps. (A*-Thought's g, https://github.com/AI9Stars/AStar-Thought, is the mean over the path,
which a step may lower; and its h needs the solution.) Our h is learnt from the solutions found so far.

The search ends when a solution is the best entry of the open list. If h never exceeds the cost that remains, and
``weight`` is at most 1, no solution of less g could have been found from the sampled steps; with ``weight`` 0
(uniform-cost search) there is no h that could, with one above 1 it costs at most ``weight`` times the least, and is
found sooner. That holds where the search ends so: ``num_solutions`` and ``max_expansions`` may end it before, with what
was found by then.

A state is a text, case and white space aside. Where paths meet in one its first node stands for it, and g is the
cheapest path's. A tree has one path to each node, so only where paths meet, and h is inconsistent, can a closed state
turn out to be cheaper. Textbooks re-open it then; we have drawn its successors already, and pass on to all below it
what was saved.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from reason.search.allocation import standardised
from reason.search.strategies.decoding import Stepwise, check_at_least
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Cancel, Expand, Node, Room, Tree
from reason.search.voting import vote
from reason.types import Answer, Sampling

__all__ = ["AStar"]


@dataclass(frozen=True, kw_only=True)
class AStar(Stepwise):
    """See the module's docstring. Notes: ``g``, ``h`` and ``f`` of a state; ``closed``, as which it was expanded;
    ``pruned`` and ``duplicate``, which node stands for it; ``reopened``, how often it became cheaper after that.

    Args:
        num_children: samples of a state's next step.
        parallel: entries of the open list that are expanded at once (K-best-first search). 2 is ours: twice the batch,
            and at most one entry that A* itself might have left.
        weight: of h; 0 asks no verifier.
        cost: what a step costs, from its tokens' log-probabilities.
        expected_steps: of a solution; counts like one solution when h is learnt. 6 is ours, a guess that the first few
            solutions correct.
        num_solutions: the search ends at the latest when so many are found. 4 is ours: something for ``select`` to
            choose from, where proof that one is the cheapest would take many more expansions.
        max_expansions: after so many, and without a solution, the best entry is written to its end; the next one if all
            samples of that failed.
        drop_duplicates: whether equal texts are one state.
        select: the cheapest solution, or a vote among those found.
    """

    breadth: ClassVar[str] = "num_solutions"

    num_children: int = 4
    parallel: int = 2
    weight: float = 1.0
    cost: Literal["mean", "sum"] = "mean"
    expected_steps: int = 6
    num_solutions: int = 4
    max_expansions: int = 50
    drop_duplicates: bool = True
    select: Literal["best", "majority"] = "best"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_children", "parallel", "expected_steps", "num_solutions", "max_expansions")
        check_at_least(self, 0, "weight")

    @property
    def measures(self) -> tuple[str, ...]:
        return super().measures if self.weight else ()

    @property
    def sampling(self) -> Sampling:
        return replace(super().sampling, logprobs=0)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        pending = tuple(node.id for node in tree.nodes if node.pending)
        if self._decided(tree):
            return [Cancel(nodes=pending)] if pending else []
        if room.expansions <= 0 and not pending:
            return []
        actions: list[Action] = []
        expanded = _expanded(tree)
        expanding = [node for node in expanded if not self._closed(tree, node)]
        for node in expanding:
            children = tree.children(node.id)
            if len(children) < self.num_children:
                actions.append(self._expand(tree, node, expanded.index(node)))
            elif not any(child.pending for child in children):
                judged = [child for child in children if child.open] if self.weight else []
                actions += missing_scores(tree, judged, self.verifier)
        free = min(self.parallel - len(expanding), self.max_expansions - len(expanded))
        if len(expanded) >= self.max_expansions and not expanding:  # and without a solution, else it were decided
            completions = [child for node in expanded[self.max_expansions :] for child in tree.children(node.id)]
            free = int(all(child.failed for child in completions))
        best = self._open_list(tree)[: max(0, free)]
        first_solution = next((place for place, node in enumerate(best) if node.finished), len(best))
        actions += [self._expand(tree, node, len(expanded) + i) for i, node in enumerate(best[:first_solution])]
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        new = [tree[node] for node in done if "g" not in tree[node].notes and self._ready(tree[node])]
        for place, node in enumerate(_expanded(tree), start=1):
            if "closed" not in node.notes:
                tree.note(node.id, closed=place)
        for node in new:
            assert node.parent is not None
            tree.note(node.id, g=_g(tree[node.parent]) + self._cost(node), value=self._value(tree, node))
            self._meet(tree, node)
            if node.finished:
                self._rank(tree, node)
        if new:
            self._learn(tree)
        for node in new:
            self._rank(tree, node)

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, self.select, _solutions(tree) or None)

    def heuristic(self, tree: Tree, node: Node) -> float:
        """The cost that is expected from an unfinished node to the end of its solution, at least 0."""
        learnt = tree[ROOT].notes
        remaining = max(1.0, learnt["num_steps"] - node.depth) * learnt["step_cost"]
        return float((1.0 - node.notes["value"]) * remaining)

    # -- the lists ---------------------------------------------------------------------------------------------------

    def _open_list(self, tree: Tree) -> list[Node]:
        """The states that may be expanded and the solutions, the best first; of equals a solution, then the deepest."""
        if len(tree) == 1:
            return [tree[ROOT]]
        entries = [leaf for leaf in tree.leaves() if "f" in leaf.notes and "pruned" not in leaf.notes]
        return sorted(entries, key=lambda node: (node.notes["f"], node.open, -node.depth, node.id))

    def _closed(self, tree: Tree, node: Node) -> bool:
        """Whether a node's expansion is over: all its children are in the lists, or failed."""
        children = tree.children(node.id)
        return len(children) == self.num_children and all("g" in child.notes or child.failed for child in children)

    def _decided(self, tree: Tree) -> bool:
        """Whether the search is over: enough solutions; or one is the best entry of the open list, its siblings are in,
        and nothing else that is being expanded was better."""
        solutions = _solutions(tree)
        if not solutions:
            return False
        expanded = _expanded(tree)
        expanding = [node for node in expanded if not self._closed(tree, node)]
        best = self._open_list(tree)[0]
        return (
            len(solutions) >= self.num_solutions
            or (len(expanded) >= self.max_expansions and not expanding)
            or (best.finished and all(_f(node) >= _f(best) and node.id != best.parent for node in expanding))
        )

    def _expand(self, tree: Tree, node: Node, place: int) -> Expand:
        count = self.num_children - len(tree.children(node.id))
        return self.step(tree, node.id, count, last=place >= self.max_expansions)

    # -- f, g and h --------------------------------------------------------------------------------------------------

    def _ready(self, node: Node) -> bool:
        """Whether a told node can enter the open list: nobody needs to judge what is finished."""
        if node.pending or node.failed or node.parent is None:
            return False
        return node.finished or not self.weight or self.verifier in node.scores

    def _cost(self, node: Node) -> float:
        """A token whose log-probability was not recorded costs 1."""
        costs = [max(0.0, -row.token) for row in node.logprobs] or [1.0] * node.num_tokens
        return math.fsum(costs) / (len(costs) if costs and self.cost == "mean" else 1)

    def _value(self, tree: Tree, node: Node) -> float:
        """A node's score in [0, 1]: as it is if all so far are, else its place among them on a logistic curve."""
        if node.finished or not self.weight:
            return 1.0
        scores = [each.scores[self.verifier][-1] for each in tree.nodes if self.verifier in each.scores]
        own = node.scores[self.verifier][-1]
        if all(0 <= score <= 1 for score in scores):
            return own
        return 1.0 / (1.0 + math.exp(-standardised(scores)[scores.index(own)]))

    def _learn(self, tree: Tree) -> None:
        """What a step costs and how many there are, from the solutions; before there is one, from the first steps."""
        learnt, solutions = tree[ROOT].notes, _solutions(tree)
        if "step_cost" in learnt and learnt["solutions"] == len(solutions):
            return
        seen = solutions or [node for node in tree.nodes[1:] if "g" in node.notes]
        tree.note(
            ROOT,
            step_cost=math.fsum(_g(node) for node in seen) / sum(node.depth for node in seen),
            num_steps=(self.expected_steps + sum(node.depth for node in solutions)) / (1 + len(solutions)),
            solutions=len(solutions),
        )
        for node in tree.nodes[1:]:
            if "f" in node.notes:
                self._rank(tree, node)

    def _rank(self, tree: Tree, node: Node) -> None:
        """Notes h and f."""
        h = self.heuristic(tree, node) if self.weight and node.open else 0.0
        f = _g(node) + self.weight * h
        if node.notes.get("f") != f or node.notes.get("h") != h:
            tree.note(node.id, h=h, f=f, score=-f)

    # -- where paths meet --------------------------------------------------------------------------------------------

    def _meet(self, tree: Tree, node: Node) -> None:
        """Finds the node that stands for a new node's state, and gives it the cheaper path's g."""
        if node.finished and node.answer is None:
            tree.note(node.id, pruned=True)
            return
        if not self.drop_duplicates:
            return
        text = " ".join(tree.text(node.id).split()).casefold()
        state = hashlib.blake2b(f"{node.finished}:{text}".encode(), digest_size=8).hexdigest()
        known = next((other for other in tree.nodes if other.notes.get("state") == state), None)
        if known is None:
            tree.note(node.id, state=state)
        else:
            tree.note(node.id, pruned=True, duplicate=known.id)
            self._lower(tree, known, _g(node))

    def _lower(self, tree: Tree, node: Node, g: float) -> None:
        """A path of cost ``g`` leads to a node's state: if that is less than it was, so it is for all below it."""
        if g >= _g(node):
            return
        tree.note(node.id, g=g)
        if tree.children(node.id):
            tree.note(node.id, reopened=node.notes.get("reopened", 0) + 1)
        if "f" in node.notes:
            self._rank(tree, node)
        for child in tree.children(node.id):
            if "g" in child.notes:
                duplicate = child.notes.get("duplicate")
                state = child if duplicate is None else tree[duplicate]
                self._lower(tree, state, g + self._cost(child))


def _expanded(tree: Tree) -> list[Node]:
    """The nodes that were expanded or are being, in that order."""
    seen: dict[int, Node] = {}
    for node in tree.nodes[1:]:
        assert node.parent is not None
        seen.setdefault(node.parent, tree[node.parent])
    return list(seen.values())


def _solutions(tree: Tree) -> list[Node]:
    return [node for node in tree.finished() if node.answer is not None and "f" in node.notes and _stands(node)]


def _stands(node: Node) -> bool:
    """Whether it is no duplicate of another."""
    return "pruned" not in node.notes


def _g(node: Node) -> float:
    return float(node.notes.get("g", 0.0))


def _f(node: Node) -> float:
    return float(node.notes.get("f", -math.inf))

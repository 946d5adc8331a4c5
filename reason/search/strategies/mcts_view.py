"""A tree as Monte Carlo tree search sees it while it selects: statistics on one scale, what is under way, and where
there is something left to expand (UCT: https://doi.org/10.1007/11871842_29). It is made anew for each ask, so that it
is a function of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from reason.search.bandits import Scale, puct, uct, widened
from reason.search.resampling import softmax
from reason.search.tree import ROOT, Node, Tree

__all__ = ["UNVISITED", "Rule", "View"]

Rule: TypeAlias = Literal["uct", "puct"]

UNVISITED = 1.0
"""The bound of a node that was never visited, beyond its own value (ReST-MCTS*, https://arxiv.org/abs/2406.03816)."""


class View:
    """Lists are by node id. A node's children are those that expansions gave it: rollouts are none.

    Args:
        finished: finished solutions may be selected.
        family: read only this node and its children, below which nothing is expanded yet: enough for ``best`` of them.
        others: see ``MCTS``.
    """

    def __init__(
        self,
        tree: Tree,
        *,
        scale: Scale,
        rule: Rule,
        exploration: float,
        virtual_loss: float,
        num_children: int,
        widening: float,
        finished: bool = False,
        family: int | None = None,
    ) -> None:
        self._tree = tree
        self._rule = rule
        self._exploration = exploration
        self._loss = virtual_loss
        self._least = 0.0 if scale.relative else scale.least  # what lost visits are worth
        self._num_children = num_children
        self._widening = widening
        self._finished = finished
        count = len(tree)
        self.visits = [0] * count
        self.own = [0.0] * count  # a node's own value, in [0, 1]
        self.q = [0.0] * count  # what is thought of it, in [0, 1]; before its first visit its own value
        self.virtual = [0] * count  # selections under way at a node or below
        self.rolling: list[int] = []  # nodes whose rollouts are not over
        self.unfilled: list[tuple[int, int]] = []  # nodes whose expansion is not whole, and how much it lacks
        self.completing: list[int] = []  # leaves that are to be written to their ends
        self.started = tree[ROOT].notes.get("revisits", 0)  # iterations
        self._children: list[list[int]] = [[] for _ in range(count)]  # evaluated ones
        self._asked = [0] * count
        self._waiting = [0] * count  # children that are not evaluated yet
        self._open = [False] * count  # evaluated, and may be selected for itself
        self._available = [False] * count  # selection may come here
        self._priors: dict[int, dict[int, float]] = {}  # parent -> child -> prior
        nodes = tree.nodes if family is None else [tree[family], *tree.children(family)]
        self._read(nodes, scale)
        self._sum_up(nodes)

    @property
    def under_way(self) -> int:
        """Selections."""
        return self.virtual[ROOT]

    def select(self) -> int | None:
        """The node that is to be expanded next, or, where they may be selected, a finished solution."""
        at = ROOT
        if not self._available[at]:
            return None
        while not self._expandable(at):
            at = self.best([child for child in self._children[at] if self._available[child]])
        return at

    def best(self, siblings: Sequence[int]) -> int:
        """The sibling of the highest bound; of equals the first."""
        if len(siblings) == 1:
            return siblings[0]
        parent = self._tree[siblings[0]].parent or ROOT
        bounds = self._bounds(parent, siblings)
        return siblings[bounds.index(max(bounds))]

    def take(self, node: int) -> None:
        """A selected node's expansion is under way."""
        self.started += 1
        self._asked[node] += 1
        self._waiting[node] += 1
        at: int | None = node
        while at is not None:
            self.virtual[at] += 1
            self._available[at] = self._can_be_reached(at)
            at = self._tree[at].parent

    # -- making it ---------------------------------------------------------------------------------------------------

    def _read(self, nodes: Sequence[Node], scale: Scale) -> None:
        """Each node for itself; parents come before their children."""
        low, span = scale.low, scale.high - scale.low
        asked, waiting, children, own, q = self._asked, self._waiting, self._children, self.own, self.q
        aside: set[int] = set()  # rollouts, and what completes a leaf
        rollouts: dict[int, int] = {}  # by node, how many of its next children are rollouts
        for node in nodes:
            at, above, notes = node.id, node.parent, node.notes
            if above in aside:
                aside.add(at)
                continue
            if above is not None and rollouts.get(above):
                rollouts[above] -= 1
                aside.add(at)
                continue
            evaluated = "value" in notes
            if above is not None:
                asked[above] += 1
                if node.failed:
                    waiting[above] -= 1
                elif evaluated:
                    waiting[above] -= 1
                    children[above].append(at)
            if "completing" in notes:
                rollouts[at] = len(self._tree)
                if not self._tree.children(at):
                    self.completing.append(at)
                continue
            if "rollouts" in notes:
                rollouts[at] = notes["rollouts"]
                if not evaluated and rollouts[at]:
                    self.rolling.append(at)
            if "visits" in notes:
                self.visits[at] = notes["visits"]
            if evaluated:
                value = notes["value"]
                own[at] = (value - low) / span if span > 0 else 0.5
                q[at] = (notes.get("q", value) - low) / span if span > 0 else 0.5
            if evaluated or at == ROOT:
                self._open[at] = node.finish_reason == "step" or (self._finished and node.finished)
        for node in nodes:
            if asked[node.id] or "descend" in node.notes:
                self._read_expansion(node.id, descends="descend" in node.notes)

    def _read_expansion(self, node: int, *, descends: bool) -> None:
        asked = self._asked[node]
        self._waiting[node] += asked
        if self._widening:
            self.started += asked
            self.virtual[node] = self._waiting[node]
        else:
            expansions = max(1, -(-asked // self._num_children))  # of the root there may be several
            self.started += expansions - descends
            lacking = expansions * self._num_children - asked
            if lacking:
                self.unfilled.append((node, lacking))
            self._waiting[node] += lacking
            self.virtual[node] = int(self._waiting[node] > 0)
            self._asked[node] += lacking

    def _sum_up(self, nodes: Sequence[Node]) -> None:
        """From the leaves to the root."""
        for node in reversed(nodes):
            at, above = node.id, node.parent
            if self._asked[at] or self._children[at]:
                self._available[at] = self._can_be_reached(at)
            else:
                self._available[at] = self._open[at]
            if above is not None and self.virtual[at]:
                self.virtual[above] += self.virtual[at]

    # -- choosing ----------------------------------------------------------------------------------------------------

    def _can_be_reached(self, node: int) -> bool:
        if self._expandable(node):
            return True
        if self._waiting[node] and not self._widening:
            return False
        return any(self._available[child] for child in self._children[node])

    def _expandable(self, node: int) -> bool:
        """Whether a selection that comes to a node ends there."""
        if not self._open[node]:
            return False
        asked = self._asked[node]
        if not asked:
            return True
        if not self._widening:
            return node == ROOT and self._exhausted()
        if asked < widened(self._num_children, self._widening, self.visits[node] + self.virtual[node]):
            return True
        return not self._waiting[node] and not any(self._tree[child].open for child in self._children[node])

    def _exhausted(self) -> bool:
        """Whether all that the root's expansions led to is finished, and nothing is under way."""
        found = self._children[ROOT]
        return bool(found) and not self.virtual[ROOT] and not any(self._available[child] for child in found)

    def _bounds(self, parent: int, siblings: Sequence[int]) -> list[float]:
        above = self.visits[parent] + self._loss * self.virtual[parent]
        prior = self._prior(parent) if self._rule == "puct" else {}
        bounds: list[float] = []
        for child in siblings:
            visits, lost = self.visits[child], self._loss * self.virtual[child]
            known = max(1, visits)
            value = (self.q[child] * known + self._least * lost) / (known + lost)
            if prior:
                bounds.append(puct(value, visits + lost, above, prior[child], self._exploration))
            elif visits + lost:
                bounds.append(uct(value, visits + lost, above, self._exploration))
            else:
                bounds.append(value + UNVISITED)
        return bounds

    def _prior(self, parent: int) -> dict[int, float]:
        """The softmax of the children's own values."""
        if parent not in self._priors:
            children = self._children[parent]
            self._priors[parent] = dict(zip(children, softmax([self.own[child] for child in children]), strict=True))
        return self._priors[parent]

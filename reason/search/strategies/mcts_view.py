"""A tree as Monte Carlo tree search sees it while it selects: statistics on one scale, what is under way, and where
there is something left to expand (UCT: https://doi.org/10.1007/11871842_29). It is made anew for each ask, so that it
is a function of the tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from reason.search.bandits import Scale, priors, puct, uct, widened
from reason.search.tree import ROOT, Node, Tree

__all__ = ["UNVISITED", "Rule", "View"]

Rule: TypeAlias = Literal["uct", "puct"]

UNVISITED = 1.0
"""The bound of a node that was never visited, beyond its own value (ReST-MCTS*, https://arxiv.org/abs/2406.03816)."""


class View:
    """Lists are by node id. A node's children are those that expansions gave it: rollouts are none.

    Args:
        finished: finished solutions may be selected.
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
    ) -> None:
        self._tree = tree
        self._rule = rule
        self._exploration = exploration
        self._loss = virtual_loss
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
        self._read(scale)
        self._sum_up()

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

    def _read(self, scale: Scale) -> None:
        """Each node for itself."""
        aside = [False] * len(self._tree)  # rollouts, and what completes a leaf
        for node in self._tree.nodes:
            children = self._tree.children(node.id)
            if aside[node.id]:
                for child in children:
                    aside[child.id] = True
                continue
            notes = node.notes
            rollouts = len(children) if "completing" in notes else notes.get("rollouts", 0)
            for child in children[:rollouts]:
                aside[child.id] = True
            evaluated = node.id == ROOT or "value" in notes
            if not evaluated and rollouts:
                self.rolling.append(node.id)
            if "completing" in notes:
                if not children:
                    self.completing.append(node.id)
                continue
            self.visits[node.id] = notes.get("visits", 0)
            if evaluated and node.id != ROOT:
                self.own[node.id] = scale(notes["value"])
                self.q[node.id] = scale(notes.get("q", notes["value"]))
            self._open[node.id] = evaluated and (node.open or (self._finished and node.finished))
            self._read_expansion(node.id, children[rollouts:], descends="descend" in notes)

    def _read_expansion(self, node: int, children: Sequence[Node], *, descends: bool) -> None:
        asked = self._asked[node] = len(children)
        failed = 0
        for child in children:
            if child.finish_reason in ("error", "cancelled"):
                failed += 1
            elif "value" in child.notes:
                self._children[node].append(child.id)
        self._waiting[node] = asked - failed - len(self._children[node])
        if self._widening:
            self.started += asked
            self.virtual[node] = self._waiting[node]
        elif asked or descends:
            self.started += not descends
            lacking = self._num_children - asked
            if lacking:
                self.unfilled.append((node, lacking))
            self._waiting[node] += lacking
            self.virtual[node] = int(self._waiting[node] > 0)
            self._asked[node] = self._num_children

    def _sum_up(self) -> None:
        """From the leaves to the root."""
        for node in reversed(self._tree.nodes):
            self._available[node.id] = self._can_be_reached(node.id)
            if node.parent is not None:
                self.virtual[node.parent] += self.virtual[node.id]

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
            return False
        if asked < widened(self._num_children, self._widening, self.visits[node] + self.virtual[node]):
            return True
        return not self._waiting[node] and not any(self._tree[child].open for child in self._children[node])

    def _bounds(self, parent: int, siblings: Sequence[int]) -> list[float]:
        above = self.visits[parent] + self._loss * self.virtual[parent]
        prior = self._prior(parent) if self._rule == "puct" else {}
        bounds: list[float] = []
        for child in siblings:
            visits, lost = self.visits[child], self._loss * self.virtual[child]
            known = max(1, visits)
            value = self.q[child] * known / (known + lost)
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
            self._priors[parent] = dict(zip(children, priors([self.own[child] for child in children]), strict=True))
        return self._priors[parent]

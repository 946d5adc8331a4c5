"""The rejection rules for all trees of an iteration at once, where the logits are.

A rule's walk needs no host between two nodes, because what happens at a node hardly depends on how it was reached: its
elder siblings were all rejected, and so were its own children where the bonus is drawn. Which coins are tossed there
follows from the tree as well (under traversal: from which nodes weigh anything). So every node is decided, wanted or
not, and the walk is a matter of looking up: one copy to the host for all branches.

A residual norm((p - q)+) is kept as its values at the tokens that q has, and a factor of p everywhere else. The coins
are those of the rules themselves (``iid``, ``without_replacement``, ``mixed``, ``traversal``), so the verdicts are too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reason.runtime.device_laws import Laws
from reason.runtime.transfer import send
from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import SeededCoins, uniforms_ahead
from reason.speculate.rules.iid import RATIO_TOLERANCE
from reason.speculate.rules.verdict import Verdict

__all__ = ["BATCHED", "Decisions", "decide", "verdict_of"]

_ROUNDING = 1e-12  # mass outside of q's support that is less is none

I64 = npt.NDArray[np.int64]


class Decisions(NamedTuple):
    """What every node comes to, on the device; ``verdict_of`` reads it on the host."""

    outcomes: torch.Tensor  # [nodes] int64: the accepted child's rank or -1; under traversal 1 where the path stands
    tokens: torch.Tensor  # [nodes] int64: the bonus, if the walk ends there


def decide(name: str, laws: Laws, trees: Sequence[DraftTree], coins: Sequence[SeededCoins]) -> Decisions:
    """Every node's outcome under the rule ``name``.

    Args:
        laws: the target's p, one for each node, tree after tree.
        coins: of each tree, begun by its draws.
    """
    nodes = _Nodes.of(trees, coins, laws.possible.device)
    p = laws.probabilities(nodes.tokens)
    ends = BATCHED[name](nodes, p)
    return Decisions(ends.outcomes, laws.choose(nodes.tokens, ends.left, ends.outside, ends.uniforms))


def verdict_of(name: str, tree: DraftTree, outcomes: Sequence[int], tokens: Sequence[int]) -> Verdict:
    """A tree's verdict, from its nodes' outcomes and tokens."""
    if name.startswith("traversal"):
        node = next((node for node in _post_order(tree) if outcomes[node] > 0), 0)  # p is no law: the caller knows
        accepted = [node] if node else []
        while accepted and tree.parents[accepted[-1]]:
            accepted.append(tree.parents[accepted[-1]])
        return Verdict(tuple(reversed(accepted)), tokens[node])
    node, walked = 0, list[int]()
    while outcomes[node] >= 0:
        node = tree.children[node][outcomes[node]]
        walked.append(node)
    return Verdict(tuple(walked), tokens[node])


class _Ends(NamedTuple):
    """How each node ends: its outcome, and what its bonus is drawn from."""

    outcomes: torch.Tensor  # [nodes] int64
    left: torch.Tensor  # [nodes, support] float64: weights at the support's tokens
    outside: torch.Tensor  # [nodes] float64: a factor of p everywhere else
    uniforms: torch.Tensor  # [nodes] float64: the coin of the bonus


@dataclass(slots=True)
class _Nodes:
    """All nodes, tree after tree, padded to the widest."""

    tokens: torch.Tensor  # [nodes, support] int64: where q is known, children put there included; -1 is padding
    q: torch.Tensor  # [nodes, support] float64, of the first drawn child
    children: torch.Tensor  # [nodes, width] int64: the columns of the children's tokens; -1 is none
    below: torch.Tensor  # [nodes, width] int64: the children's numbers among all nodes
    fixed: torch.Tensor  # [nodes] int64: how many children were put there
    depths: torch.Tensor  # [nodes] int64
    post_order: torch.Tensor  # [nodes] int64: numbers of nodes, each after its children, tree after tree
    first: torch.Tensor  # [nodes] int64: the number of the tree's root
    start: torch.Tensor  # [nodes] int64: coins tossed before the node's own, on the way down
    tree: torch.Tensor  # [nodes] int64
    coins: torch.Tensor  # [trees, coins] float64
    levels: int

    @classmethod
    def of(cls, trees: Sequence[DraftTree], coins: Sequence[SeededCoins], device: torch.device) -> _Nodes:
        count = sum(len(tree.tokens) for tree in trees)
        width = max(1, max(len(children) for tree in trees for children in tree.children))
        supports = [[_support(tree, node) for node in range(len(tree.tokens))] for tree in trees]
        size = max(1, max(len(tokens) for own in supports for tokens, _ in own))
        most = max(len(tree.tokens) for tree in trees) + 2  # every node's coin, and the bonus
        tokens, q = np.full((count, size), -1, dtype=np.int64), np.zeros((count, size))
        children, below = (np.full((count, width), -1, dtype=np.int64) for _ in range(2))
        columns = np.zeros((6, count), dtype=np.int64)
        fixed, depths, post_order, first, start, of_tree = columns
        root = 0
        for number, (tree, own) in enumerate(zip(trees, supports, strict=True)):
            end = root + len(tree.tokens)
            depths[root:end], first[root:end], of_tree[root:end] = tree.depths, root, number
            post_order[root:end] = np.array(_post_order(tree)) + root
            for node, (known, probabilities) in enumerate(own):
                tokens[root + node, : len(known)], q[root + node, : len(known)] = known, probabilities
                fixed[root + node] = tree.fixed.get(node, 0)
                for rank, child in enumerate(tree.children[node]):
                    children[root + node, rank] = known.index(tree.tokens[child])
                    below[root + node, rank] = root + child
                    start[root + child] = start[root + node] + rank + 1
            root = end
        whole = [tokens, children, below, columns, q, uniforms_ahead(coins, most)]
        sent = send(np.concatenate([part.reshape(-1).view(np.int64) for part in whole]), device)
        sections = zip(torch.split(sent, [part.size for part in whole]), whole, strict=True)
        parts = [section.view(part.shape) for section, part in sections]
        numbers = parts[3]
        return cls(
            tokens=parts[0],
            q=parts[4].view(torch.float64),
            children=parts[1],
            below=parts[2],
            fixed=numbers[0],
            depths=numbers[1],
            post_order=numbers[2],
            first=numbers[3],
            start=numbers[4],
            tree=numbers[5],
            coins=parts[5].view(torch.float64),
            levels=1 + int(depths.max()),
        )

    @property
    def width(self) -> int:
        return self.children.shape[1]

    def coin(self, number: torch.Tensor) -> torch.Tensor:
        """The coins of the nodes' trees by number, [nodes] float64."""
        return self.coins[self.tree, number]


def _support(tree: DraftTree, node: int) -> tuple[list[int], list[float]]:
    """The tokens that a node's children may be, and the probabilities of the first draw; those put there have none."""
    known, probabilities = list[int](), list[float]()
    if (drawn_from := tree.drawn_from.get(node)) is not None:
        known += drawn_from.tokens
        total = sum(drawn_from.probabilities)
        probabilities += [p / total for p in drawn_from.probabilities]
    for child in tree.children[node][: tree.fixed.get(node, 0)]:
        if tree.tokens[child] not in known:
            known.append(tree.tokens[child])
            probabilities.append(0.0)
    return known, probabilities


def _post_order(tree: DraftTree) -> list[int]:
    """The nodes, each after its children, in the order of the draws."""
    order: list[int] = []
    stack = [0]
    while stack:  # a node before its children, the last drawn first: backwards it is the order wanted
        node = stack.pop()
        order.append(node)
        stack.extend(tree.children[node])
    return order[::-1]


class _Residual:
    """What is left of p at every node while children are rejected: ``left`` at the support's tokens, ``outside`` times
    p everywhere else; and q as it stands.
    """

    def __init__(self, nodes: _Nodes, p: torch.Tensor, replacement: bool) -> None:
        self.left, self.q = p, nodes.q
        self.outside = torch.ones_like(p[:, 0])
        rest = 1.0 - p.sum(dim=1)
        self._mass_outside = torch.where(rest > _ROUNDING, rest, 0.0)
        self._before = self.left, self.outside  # what a residual without mass falls back to
        self._columns = torch.arange(p.shape[1], device=p.device)
        self._replacement = replacement

    def reject(self, where: torch.Tensor, column: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """(weight p - q)+ instead of p, and q after its draw, at the nodes ``where`` [nodes]; returns the mass, which
        is then normalised away.

        Args:
            column: of the rejected token, [nodes].
            weight: of p, [nodes]; by default 1.
        """
        left, outside = self.left, self.outside
        if weight is not None:
            left, outside = left * weight[:, None], outside * weight
        mass = self._take(where, (left - self.q).clamp(min=0.0), outside)
        if not self._replacement:
            q = self.q.masked_fill(self._columns == column[:, None], 0.0)
            total = q.sum(dim=1, keepdim=True)
            q = torch.where(total > 0.0, q / total, q)
            self.q = torch.where(where[:, None], q, self.q)
        return mass

    def exclude(self, where: torch.Tensor, column: torch.Tensor) -> None:
        """p without a token that was put there."""
        self._take(where, self.left.masked_fill(self._columns == column[:, None], 0.0), self.outside)

    def settle(self, where: torch.Tensor) -> None:
        """What residuals without mass fall back to is, from now on, what is left now."""
        left, outside = self._before
        self._before = torch.where(where[:, None], self.left, left), torch.where(where, self.outside, outside)

    def _take(self, where: torch.Tensor, left: torch.Tensor, outside: torch.Tensor) -> torch.Tensor:
        mass = left.sum(dim=1) + outside * self._mass_outside
        some = mass > 0.0
        left = torch.where(some[:, None], left / mass[:, None], self._before[0])
        outside = torch.where(some, outside / mass, self._before[1])
        self.left = torch.where(where[:, None], left, self.left)
        self.outside = torch.where(where, outside, self.outside)
        return mass


def _in_turn(nodes: _Nodes, p: torch.Tensor, *, replacement: bool, mixed: bool = False) -> _Ends:
    """Recursive rejection; under ``mixed`` after what was put there."""
    residual = _Residual(nodes, p, replacement)
    outcomes = torch.full_like(nodes.fixed, -1)
    tossed = nodes.start
    for rank in range(nodes.width):
        column = nodes.children[:, rank]
        there = (column >= 0) & (outcomes < 0)
        column = column.clamp(min=0)
        p_token, q_token = _at(residual.left, column), _at(residual.q, column)
        drawn = nodes.fixed <= rank
        if mixed:
            residual.settle(nodes.fixed == rank)
        accepts = there & (nodes.coin(tossed) < torch.where(drawn, p_token / q_token, p_token))
        outcomes = torch.where(accepts, rank, outcomes)
        tossed = tossed + there.long()
        rejected = there & ~accepts
        if mixed:
            residual.exclude(rejected & ~drawn, column)
        residual.reject(rejected & drawn, column)
    return _Ends(outcomes, residual.left, residual.outside, nodes.coin(tossed))


def _k_seq(nodes: _Nodes, p: torch.Tensor) -> _Ends:
    """K-SEQ: each child has the same chance, so only the last rejection matters to what is left."""
    counts = (nodes.children >= 0).sum(dim=1)
    low, high = torch.ones_like(p[:, 0]), counts.clamp(min=1).double()
    for _ in range(int(np.ceil(np.log2(nodes.width / RATIO_TOLERANCE)))):
        middle = (low + high) / 2.0
        fits = _gain(torch.minimum(p / middle[:, None], nodes.q).sum(dim=1), counts, nodes.width) <= middle
        going = high - low > RATIO_TOLERANCE
        low, high = torch.where(going & ~fits, middle, low), torch.where(going & fits, middle, high)
    outcomes = torch.full_like(nodes.fixed, -1)
    tossed = nodes.start
    for rank in range(nodes.width):
        column = nodes.children[:, rank]
        there = (column >= 0) & (outcomes < 0)
        column = column.clamp(min=0)
        accepts = there & (nodes.coin(tossed) < _at(p, column) / (high * _at(nodes.q, column)))
        outcomes = torch.where(accepts, rank, outcomes)
        tossed = tossed + there.long()
    overlap = torch.minimum(p / high[:, None], nodes.q)
    gain = _gain(overlap.sum(dim=1), counts, nodes.width)
    left = (p - overlap * gain[:, None]).clamp(min=0.0)
    some = (counts > 0) & ((left.sum(dim=1) > 0.0) | (1.0 - p.sum(dim=1) > _ROUNDING))
    left = torch.where(some[:, None], left, p)
    return _Ends(outcomes, left, torch.ones_like(high), nodes.coin(tossed))


def _gain(beta: torch.Tensor, counts: torch.Tensor, most: int) -> torch.Tensor:
    """(1 - (1 - beta)^count) / beta as a sum, [nodes]."""
    total, term = torch.zeros_like(beta), torch.ones_like(beta)
    for i in range(most):
        total = total + torch.where(i < counts, term, 0.0)
        term = term * (1.0 - beta)
    return total


def _traversal(nodes: _Nodes, p: torch.Tensor, *, replacement: bool) -> _Ends:
    """From the leaves to the root. Weights go down level by level; then every node that weighs anything has one coin,
    in the order in which they are left."""
    residual = _Residual(nodes, p, replacement)
    count = len(p)
    entry = torch.zeros(count + 1, dtype=p.dtype, device=p.device)  # the last is for nobody
    entry[:count] = (nodes.depths == 0).double()
    weight = entry[:count].clone()
    for level in range(nodes.levels):
        weight = torch.where(nodes.depths == level, entry[:count], weight)
        for rank in range(nodes.width):
            column = nodes.children[:, rank]
            there = (column >= 0) & (nodes.depths == level) & (entry[:count] > 0.0)
            column = column.clamp(min=0)
            ratio = weight * _at(residual.left, column) / _at(residual.q, column)
            entry = entry.scatter(0, torch.where(there, nodes.below[:, rank], count), ratio.clamp(max=1.0))
            mass = residual.reject(there, column, weight)
            total = mass + (1.0 - weight)
            weight = torch.where(there, torch.where(total > 0.0, mass / total, 1.0), weight)
    visited = entry[:count] > 0.0
    in_order = visited[nodes.post_order].long()
    before = in_order.cumsum(dim=0) - in_order
    numbers = torch.empty_like(before).scatter(0, nodes.post_order, before - before[nodes.first])
    stands = visited & (nodes.coin(numbers) < weight)
    return _Ends(stands.long(), residual.left, residual.outside, nodes.coin(numbers + 1))


def _at(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """One value of each row, [nodes]."""
    return values.gather(1, columns[:, None])[:, 0]


BATCHED: dict[str, Callable[[_Nodes, torch.Tensor], _Ends]] = {
    "iid": partial(_in_turn, replacement=True),
    "k-seq": _k_seq,
    "without-replacement": partial(_in_turn, replacement=False),
    "traversal": partial(_traversal, replacement=False),
    "traversal-iid": partial(_traversal, replacement=True),
    "mixed": partial(_in_turn, replacement=False, mixed=True),
}
"""By the names of ``RULES``; those that follow the plain samples have nothing to decide."""

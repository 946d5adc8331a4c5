"""Drawing children for the rejection rules, and how q stands between two draws.

Without replacement the draws are sequential, q renormalised over what is left. The law, order included, is that of
Gumbel-top-k in descending order (https://arxiv.org/abs/1903.06059). Rules go through the same ``Proposal`` as the
draws, so they cannot disagree about q.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import Distribution, DraftTree, State, Template
from reason.speculate.rules.coins import Coins
from reason.speculate.rules.verdict import F64

__all__ = ["Proposal", "draw_children", "draw_tree", "grow"]


class Proposal(NamedTuple):
    """What a node's next child is drawn from."""

    tokens: npt.NDArray[np.int64]  # [support], distinct
    probabilities: F64  # [support], sum 1; all 0 when every token was drawn
    replacement: bool

    @classmethod
    def of(cls, q: Distribution, *, replacement: bool) -> Proposal:
        """Before the first draw; ``q`` is normalised."""
        return cls(np.asarray(q.tokens, np.int64), _normalised(np.asarray(q.probabilities, np.float64)), replacement)

    def probability(self, token: int) -> float:
        """Of ``token`` in the next draw."""
        return float(self.probabilities[self.tokens == token].sum())

    def after(self, token: int) -> Proposal:
        """For the draw after one that gave ``token``."""
        if self.replacement:
            return self
        return self._replace(probabilities=_normalised(np.where(self.tokens == token, 0.0, self.probabilities)))

    def without(self, tokens: Sequence[int]) -> Proposal:
        """Restricted to the other tokens."""
        return self._replace(probabilities=_normalised(np.where(np.isin(self.tokens, tokens), 0.0, self.probabilities)))

    def uncovered(self, p: F64, weight: float = 1.0) -> F64:
        """(weight p - q)+, a new array [vocab]."""
        rest = weight * p
        rest[self.tokens] -= self.probabilities
        return np.maximum(rest, 0.0, out=rest)


def draw_children(q: Distribution, count: int, coins: Coins, *, replacement: bool) -> list[int]:
    """Tokens in the order drawn: ``count`` of them, duplicates included, or without replacement at most all that have
    a probability."""
    return _draw(Proposal.of(q, replacement=replacement), count, coins)


def grow(
    tree: DraftTree, node: int, q: Distribution, count: int, coins: Coins, *, replacement: bool = False
) -> list[int]:
    """Draws ``count`` children of ``node`` from ``q`` and records what they were drawn from; returns the new nodes.

    Where the tree has fixed children at ``node`` (rule ``mixed``), the others are drawn. A node's children are drawn
    once; none if ``q`` has nothing. An estimate is the token's probability as ``q`` has it.
    """
    assert len(tree.children[node]) == tree.fixed.get(node, 0) and node not in tree.drawn_from
    proposal = Proposal.of(q, replacement=replacement)
    if tree.children[node]:
        proposal = proposal.without([tree.tokens[child] for child in tree.children[node]])
    tokens = _draw(proposal, count, coins)
    if tokens:
        tree.drawn_from[node] = Distribution(
            tuple(proposal.tokens.tolist()), tuple(proposal.probabilities.tolist()), q.proposers
        )
    place = {token: i for i, token in enumerate(q.tokens)}
    return [
        tree.add(node, token, float(q.probabilities[i]), q.proposers[i] if q.proposers else "")
        for token, i in ((token, place[token]) for token in tokens)
    ]


def draw_tree(
    root_token: int,
    root_state: State,
    step: Callable[[State, int], State],
    distribution: Callable[[State], Distribution],
    template: Template,
    coins: Coins,
    *,
    replacement: bool,
) -> DraftTree:
    """A tree with a draw in each of the template's slots, level by level; the number of draws at a node is settled
    before the first. Slots below a state of None, or beyond the support, stay empty.

    Args:
        root_state: a source's state at the root; ``step`` and ``distribution`` are that source's.
        template: ``((0,), (1,), (0, 0))`` is two children, of which the first has one; every slot's parent and elder
            siblings are slots too.
        replacement: duplicates are nodes of their own, each with what its slot has below.
    """
    widths = Counter(slot[:-1] for slot in template)
    assert all(slot[-1] < widths[slot[:-1]] and (slot[:-1] in template or len(slot) == 1) for slot in template)
    tree = DraftTree([root_token])
    places: list[tuple[tuple[int, ...], int, State]] = [((), 0, root_state)]
    for slot, node, state in places:  # grows as it is read
        if state is None or not widths[slot]:
            continue
        children = grow(tree, node, distribution(state), widths[slot], coins, replacement=replacement)
        for rank, child in enumerate(children):
            if widths[(*slot, rank)]:
                places.append(((*slot, rank), child, step(state, tree.tokens[child])))
    return tree


def _draw(proposal: Proposal, count: int, coins: Coins) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < count and proposal.probabilities.any():
        tokens.append(int(proposal.tokens[coins.choose(proposal.probabilities)]))
        proposal = proposal.after(tokens[-1])
    return tokens


def _normalised(weights: F64) -> F64:
    total = float(weights.sum())
    return weights / total if total > 0.0 else weights

"""Two rules for children drawn independently from one q, duplicates included.

"iid": recursive rejection (SpecInfer, https://arxiv.org/abs/2305.09781), for each child x in turn

    accept with min(1, p(x) / q(x)); if rejected, p <- norm((p - q)+)

"k-seq" (SpecTr, https://arxiv.org/abs/2310.15141), for k children

    beta(r) = sum min(p / r, q), gain(r) = (1 - (1 - beta)^k) / beta, r* in [1, k] with gain(r*) = r*
    accept each with min(1, p(x) / (r* q(x))); if all are rejected, draw from norm(p - gain min(p / r*, q))

"iid" allows a number of children that the draws themselves decide, one after the other; "k-seq" looks at k from the
first child on, so there it must be settled before the first draw.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import Coins
from reason.speculate.rules.drawing import Proposal
from reason.speculate.rules.verdict import F64, Attempt, Target, Verdict, descend

__all__ = ["RATIO_TOLERANCE", "try_in_turn", "verify", "verify_k_seq"]

RATIO_TOLERANCE = 1e-9  # any r with gain(r) <= r is exact; a coarse one only accepts less


def verify(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """Recursive rejection; see the module's docstring."""

    def attempt(node: int, p: F64) -> Attempt:
        return try_in_turn(tree, node, tree.children[node], p, coins, replacement=True)

    return descend(tree, target, coins, attempt)


def verify_k_seq(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """K-SEQ; see the module's docstring."""
    return descend(tree, target, coins, lambda node, p: _try_alike(tree, node, p, coins))


def try_in_turn(
    tree: DraftTree, node: int, children: Sequence[int], p: F64, coins: Coins, *, replacement: bool
) -> Attempt:
    """Recursive rejection over ``children`` of ``node``, in the order in which they were drawn.

    A residual without mass (p was q up to rounding) falls back to the ``p`` given.
    """
    if not children:
        return Attempt(None, p)
    proposal, left = Proposal.of(tree.drawn_from[node], replacement=replacement), p
    for child in children:
        token = tree.tokens[child]
        q = proposal.probability(token)
        assert q > 0.0, f"token {token} is not drawn from what node {node} draws from"
        if coins.flip(min(1.0, float(left[token]) / q)):
            return Attempt(child, left)
        rest = proposal.uncovered(left)
        mass = float(rest.sum())
        left = rest / mass if mass > 0.0 else p
        proposal = proposal.after(token)
    return Attempt(None, left)


def _try_alike(tree: DraftTree, node: int, p: F64, coins: Coins) -> Attempt:
    """K-SEQ at one node: each child has the same chance, so only the last rejection matters to what is left."""
    children = tree.children[node]
    if not children:
        return Attempt(None, p)
    proposal = Proposal.of(tree.drawn_from[node], replacement=True)
    covered = p[proposal.tokens]  # [support]
    ratio = _ratio(covered, proposal.probabilities, len(children))
    for child in children:
        token = tree.tokens[child]
        q = proposal.probability(token)
        assert q > 0.0, f"token {token} is not drawn from what node {node} draws from"
        if coins.flip(min(1.0, float(p[token]) / (ratio * q))):
            return Attempt(child, p)
    overlap = np.minimum(covered / ratio, proposal.probabilities)
    rest = p.copy()
    rest[proposal.tokens] = np.maximum(covered - overlap * _gain(float(overlap.sum()), len(children)), 0.0)
    return Attempt(None, rest if rest.any() else p)


def _ratio(p: F64, q: F64, count: int) -> float:
    """r* from above, by bisection; ``p`` and ``q`` [support]."""
    low, high = 1.0, float(count)
    while high - low > RATIO_TOLERANCE:
        middle = (low + high) / 2.0
        if _gain(float(np.minimum(p / middle, q).sum()), count) <= middle:
            high = middle
        else:
            low = middle
    return high


def _gain(beta: float, count: int) -> float:
    """(1 - (1 - beta)^count) / beta as a sum, which is good at beta = 0."""
    return sum((1.0 - beta) ** i for i in range(count))

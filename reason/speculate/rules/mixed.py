"""Children of both kinds at one node: first those put there (a copied spine), then those drawn without replacement.

    put there, d: accept with p(d); if rejected, p <- norm(p with d zeroed)
    then the drawn ones as in ``without_replacement``, from a q that is restricted to the other tokens

``DraftTree.fixed`` says how many are put there; what they are must not depend on the draws at that node.
"""

from __future__ import annotations

from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import Coins
from reason.speculate.rules.iid import try_in_turn
from reason.speculate.rules.verdict import F64, Attempt, Target, Verdict, descend

__all__ = ["verify"]


def verify(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """See the module's docstring."""
    return descend(tree, target, coins, lambda node, p: _try_children(tree, node, p, coins))


def _try_children(tree: DraftTree, node: int, p: F64, coins: Coins) -> Attempt:
    children, fixed = tree.children[node], tree.fixed.get(node, 0)
    left = p
    for child in children[:fixed]:
        token = tree.tokens[child]
        if coins.flip(min(1.0, float(left[token]))):
            return Attempt(child, left)
        rest = left.copy()
        rest[token] = 0.0
        mass = float(rest.sum())
        left = rest / mass if mass > 0.0 else p
    return try_in_turn(tree, node, children[fixed:], left, coins, replacement=False)

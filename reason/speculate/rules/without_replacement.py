"""Recursive rejection for children drawn without replacement (RSD, https://arxiv.org/abs/2402.14160; also Sequoia,
STAND, DySpec). For each child x in the order of the draws

    accept with min(1, p(x) / q(x)); if rejected, p <- norm((p - q)+) and q <- norm(q with x zeroed)

The order is part of the rule. A child may be left undrawn by what was drawn before it, never by its own probability:
dropping it then is biased, and so is a q that the children were not drawn from (top-k): use ``match`` there.
"""

from __future__ import annotations

from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import Coins
from reason.speculate.rules.iid import try_in_turn
from reason.speculate.rules.verdict import F64, Attempt, Target, Verdict, descend

__all__ = ["verify"]


def verify(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """See the module's docstring."""

    def attempt(node: int, p: F64) -> Attempt:
        return try_in_turn(tree, node, tree.children[node], p, coins, replacement=False)

    return descend(tree, target, coins, attempt)

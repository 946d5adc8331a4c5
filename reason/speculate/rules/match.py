"""Match: draw the target's token, and go on while it is drafted. SpecInfer's naive speculative sampling
(https://arxiv.org/abs/2305.09781), also the rule of EAGLE-2 and -3.

    y ~ p; move to the child that carries y, else y is the bonus; P(accept) = sum of p over the children

Exact for any set of children, in particular those put there without a draw (top-k, copies, merged sources), for which
the rejection rules are not. It needs no q. Greedy decoding is the case of a one-hot p.
"""

from __future__ import annotations

from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import Coins
from reason.speculate.rules.coupled import follow
from reason.speculate.rules.verdict import Target, Verdict

__all__ = ["verify"]


def verify(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """See the module's docstring. One coin per node walked."""
    return follow(tree, lambda node: coins.choose(target(node)))

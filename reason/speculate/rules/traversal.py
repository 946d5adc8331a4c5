"""Traversal verification (https://arxiv.org/abs/2505.12398): from the leaves to the root, by the weight of whole paths.
On a chain it is block verification (https://arxiv.org/abs/2403.10444), which no rule for chains beats.

    entering child x of v: P_x = min(1, P_v p(x) / q(x)), with P = 1 at the root
    x and all below rejected: r = (P_v p - q)+, S = sum r; p <- r / S, P_v <- S / (S + 1 - P_v), q as after a draw
    no child left: accept the path to v with P_v, the bonus drawn from p as it stands

For children drawn from ``drawn_from``, without replacement (``verify``) or with (``verify_iid``). What it gains over
the rules that go from the root down grows with depth; for children that were put there it could not beat ``match``.
"""

from __future__ import annotations

from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import Coins
from reason.speculate.rules.drawing import Proposal
from reason.speculate.rules.verdict import Target, Verdict

__all__ = ["verify", "verify_iid"]


def verify(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """See the module's docstring; children drawn without replacement."""
    return _accepted(tree, target, coins, replacement=False)


def verify_iid(tree: DraftTree, target: Target, coins: Coins) -> Verdict:
    """See the module's docstring; children drawn independently."""
    return _accepted(tree, target, coins, replacement=True)


def _accepted(tree: DraftTree, target: Target, coins: Coins, *, replacement: bool) -> Verdict:
    def visit(node: int, weight: float) -> Verdict | None:
        """The verdict, if the path to ``node`` or one through it is accepted."""
        if weight == 0.0:  # then nothing below has any either
            return None
        original = p = target(node)
        children = tree.children[node]
        proposal = Proposal.of(tree.drawn_from[node], replacement=replacement) if children else None
        for child in children:
            assert proposal is not None
            token = tree.tokens[child]
            q = proposal.probability(token)
            assert q > 0.0, f"token {token} is not drawn from what node {node} draws from"
            verdict = visit(child, min(1.0, weight * float(p[token]) / q))
            if verdict is not None:
                return Verdict((child, *verdict.accepted), verdict.token)
            rest = proposal.uncovered(p, weight)
            mass = float(rest.sum())
            p = rest / mass if mass > 0.0 else original
            outside = mass + (1.0 - weight)  # in this order: exact at the root, whose weight stays 1
            weight = mass / outside if outside > 0.0 else 1.0
            proposal = proposal.after(token)
        return Verdict((), coins.choose(p)) if coins.flip(weight) else None

    verdict = visit(0, 1.0)
    assert verdict is not None, "the root is always accepted"
    return verdict

"""Coupled verification: the plain sample decides, drafts only save forwards (the idea: arXiv 2408.07978).

    y = argmax(log p + G), G keyed by (seed, request, position); move to the child that carries y, else y is the bonus

What is emitted is a function of p and G alone, so it is token for token what plain sampling emits, whatever tree was
drafted: any children, in any order, pruned, merged or capped by whatever rule. Drafts gain from proposing the top of
log q + the same G.
"""

from __future__ import annotations

from collections.abc import Callable

from reason.speculate.draft import DraftTree
from reason.speculate.rules.verdict import Verdict

__all__ = ["follow"]


def follow(tree: DraftTree, drawn: Callable[[int], int]) -> Verdict:
    """Walks to the child that carries the node's sample as long as there is one.

    Args:
        drawn: by node: the token that plain sampling draws there; asked on the walked path only, each node once.
    """
    node, accepted = 0, list[int]()
    while True:
        token = drawn(node)
        child = tree.child(node, token)
        if child is None:
            return Verdict(tuple(accepted), token)
        accepted.append(child)
        node = child

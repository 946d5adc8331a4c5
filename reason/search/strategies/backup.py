"""How a value found at a node changes what is thought of those above it.

    mean       Q <- Q + (v - Q) / N                        (UCT, https://doi.org/10.1007/11871842_29)
    max        Q <- max(Q, v)
    children   Q <- sum_c N_c Q_c / sum_c N_c, at the node itself v     (ReST-MCTS*, https://arxiv.org/abs/2406.03816)

N counts the values that came by. They are discounted once for each level. Statistics are the notes ``visits`` (N) and
``q`` (Q), in the verifier's own units; ``value`` is a node's own evaluation.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from reason.search.bandits import Scale
from reason.search.tree import Node, Tree

__all__ = ["Backup", "back_up", "worth"]

Backup: TypeAlias = Literal["mean", "max", "children"]


def back_up(tree: Tree, node: int, value: float, rule: Backup, discount: float = 1.0, *, further: bool = True) -> None:
    """Counts a value found at ``node``, there and at the nodes above it.

    Args:
        further: otherwise it is counted at the node alone.
    """
    at: Node | None = tree[node]
    while at is not None:
        visits = at.notes.get("visits", 0) + 1
        before: float = at.notes.get("q", value)
        if rule == "max":
            q = max(before, value)
        elif rule == "mean":
            q = before + (value - before) / visits
        else:
            q = value if at.id == node else discount * _mean_of_children(tree, at.id)
        tree.note(at.id, visits=visits, q=q)
        if not further:
            return
        value *= discount
        at = None if at.parent is None else tree[at.parent]


def worth(node: Node, score: float, scale: Scale) -> float:
    """What a score says of a node. A finished solution without an answer is worth the least there is: verifiers that
    read certainty out of the model are certain of endless repetitions too."""
    return scale.least if node.finished and node.answer is None else score


def _mean_of_children(tree: Tree, node: int) -> float:
    notes = [child.notes for child in tree.children(node)]
    found = [(int(note["visits"]), float(note["q"])) for note in notes if note.get("visits")]
    return sum(visits * q for visits, q in found) / sum(visits for visits, _ in found)

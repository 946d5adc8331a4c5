"""How a value found at a node changes what is thought of those above it.

    mean       Q <- Q + (v - Q) / N                        (UCT, https://doi.org/10.1007/11871842_29)
    max        Q <- max(Q, v)
    children   Q <- sum_c N_c Q_c / sum_c N_c, at the node itself v     (ReST-MCTS*, https://arxiv.org/abs/2406.03816)

N counts the values that came by. They are discounted once for each level. Statistics are the notes ``visits`` (N) and
``q`` (Q), in the verifier's own units; ``value`` is a node's own evaluation.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

from reason.search.bandits import Scale
from reason.search.tree import ROOT, Node, Tree

__all__ = ["Backup", "back_up", "upwards", "worth"]

Backup: TypeAlias = Literal["mean", "max", "children"]


def back_up(tree: Tree, path: Iterable[int], value: float, rule: Backup, discount: float = 1.0) -> None:
    """Counts a value found at the first node of ``path``, there and at the others, each a level above the one before
    it."""
    first = True
    for at in path:
        notes = tree[at].notes
        visits = notes.get("visits", 0) + 1
        before: float = notes.get("q", value)
        if rule == "max":
            q = max(before, value)
        elif rule == "mean":
            q = before + (value - before) / visits
        else:
            q = value if first else discount * _mean_of_children(tree, at)
        tree.note(at, visits=visits, q=q)
        value *= discount
        first = False


def upwards(tree: Tree, node: int) -> list[int]:
    """A node and all those above it, as far as the root."""
    return [*(step.id for step in reversed(tree.path(node))), ROOT]


def worth(node: Node, score: float, scale: Scale) -> float:
    """What a score says of a node. A finished solution without an answer is worth the least there is: verifiers that
    read certainty out of the model are certain of endless repetitions too."""
    return scale.least if node.finished and node.answer is None else score


def _mean_of_children(tree: Tree, node: int) -> float:
    notes = [child.notes for child in tree.children(node)]
    found = [(int(note["visits"]), float(note["q"])) for note in notes if note.get("visits")]
    return sum(visits * q for visits, q in found) / sum(visits for visits, _ in found)

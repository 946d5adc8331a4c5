"""From finished leaves to one answer: the three usual rules over classes of equivalent answers.

    majority   argmax_a  #{i : answer_i = a}                     (https://arxiv.org/abs/2203.11171)
    weighted   argmax_a  sum of score_i over {i : answer_i = a}   (https://arxiv.org/abs/2206.02336)
    best       answer of argmax_i score_i

Leaves without an answer abstain. Ties go to the answer that was asked for first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from reason.errors import UsageError
from reason.search.tree import Node, Tree
from reason.types import Answer

__all__ = ["Selection", "best_unfinished", "vote"]

Selection: TypeAlias = Literal["majority", "weighted", "best"]


def vote(tree: Tree, select: Selection = "majority", leaves: Iterable[Node] | None = None) -> Answer:
    """The answer of the tree's finished leaves, or some of them; scores are the leaves' ``score`` notes.

    ``confidence`` is the winner's share of all weight, abstentions included; for "best" its share of the leaves. The
    text is the winner's best-scored solution or, without scores, its shortest that was not cut off.
    """
    leaves = tree.finished() if leaves is None else list(leaves)
    voters: dict[int, list[Node]] = {}
    for leaf in leaves:
        if leaf.answer_class is not None:
            voters.setdefault(leaf.answer_class, []).append(leaf)
    if not voters:
        own = (leaf for leaf in tree.leaves() if not leaf.aside)
        longest = max(own, key=lambda leaf: leaf.path_tokens, default=None)
        return Answer(answer=None, text=tree.text(longest.id) if longest else "")
    classes = list(voters.values())
    scored = select != "majority" and all("score" in leaf.notes for members in classes for leaf in members)
    if not scored:
        winners = max(classes, key=len)
        share = len(winners) / len(leaves)
    elif select == "weighted":
        if any(_score(leaf) < 0 for members in classes for leaf in members):
            raise UsageError("a weighted vote needs scores of at least 0; use select=best or another verifier")
        weights = [sum(_score(leaf) for leaf in members) for members in classes]
        winners = classes[max(range(len(classes)), key=weights.__getitem__)]
        total = sum(weights)
        answered = sum(len(members) for members in classes)
        share = max(weights) / total * answered / len(leaves) if total else 0.0
    else:
        winners = max(classes, key=lambda members: max(map(_score, members)))
        share = len(winners) / len(leaves)
    return Answer(answer=winners[0].answer, text=tree.text(_spokesman(winners, scored).id), confidence=share)


def best_unfinished(tree: Tree) -> Node | None:
    """The solution to go on with if only one may: unpruned before pruned, by the nearest score on its path, the longest
    among equals."""

    def score(node: Node) -> float:
        scores = [float(step.notes["score"]) for step in tree.path(node.id) if "score" in step.notes]
        return scores[-1] if scores else 0.0

    cut = [leaf for leaf in tree.leaves() if not leaf.aside and (leaf.open or leaf.finish_reason == "length")]
    return max(
        cut, key=lambda leaf: ("pruned" not in leaf.notes, score(leaf), leaf.path_tokens, -leaf.id), default=None
    )


def _score(leaf: Node) -> float:
    return float(leaf.notes["score"])


def _spokesman(winners: Sequence[Node], scored: bool) -> Node:
    """The solution that stands for the winning answer."""
    if scored:
        return max(winners, key=lambda leaf: (_score(leaf), -leaf.id))
    return min(winners, key=lambda leaf: (leaf.finish_reason == "length", leaf.path_tokens, leaf.id))

"""From finished leaves to one answer: the three usual rules over classes of equivalent answers.

    majority   argmax_a  #{i : answer_i = a}                     (https://arxiv.org/abs/2203.11171)
    weighted   argmax_a  sum of score_i over {i : answer_i = a}   (https://arxiv.org/abs/2206.02336)
    best       answer of argmax_i score_i

Leaves without an answer abstain; so do those without a score, as a run leaves them that a limit ended, unless nobody
has one: then it is a majority. Weights below 0 are all raised by the lowest. Equal weights go to the answer that more
leaves gave; what is equal after that, and equal best scores, to what was asked for first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from reason.search.tree import Node, Tree
from reason.types import Answer

__all__ = ["Selection", "best_unfinished", "vote"]

Selection: TypeAlias = Literal["majority", "weighted", "best"]


def vote(tree: Tree, select: Selection = "majority", leaves: Iterable[Node] | None = None) -> Answer:
    """The answer of the tree's finished leaves, or some of them; scores are the leaves' ``score`` notes.

    ``confidence`` is the winner's share of all weight, abstentions included; for "best" its share of the leaves. The
    text is the winner's best-scored solution or, without scores, its shortest that was not cut off. The answer is as
    the winner's first leaf wrote it; for "best" as its best leaf did, because programs that behave alike as far as was
    tried need not be the same.
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
    scored = {key: [leaf for leaf in members if "score" in leaf.notes] for key, members in voters.items()}
    winners: Sequence[Node]
    by_score = select != "majority" and any(scored.values())
    if not by_score:
        winners = max(voters.values(), key=len)
        share = len(winners) / len(leaves)
    else:
        voters = {key: members for key, members in scored.items() if members}
        if select == "best":
            winners = max(voters.values(), key=lambda members: max(map(_score, members)))
            share = len(winners) / len(leaves)
        else:
            winners, share = _weighted(list(voters.values()))
            share *= sum(map(len, voters.values())) / len(leaves)
    spokesman = _spokesman(winners, by_score)
    answer = spokesman.answer if by_score and select == "best" else winners[0].answer
    return Answer(answer=answer, text=tree.text(spokesman.id), confidence=share)


def _weighted(voters: Sequence[Sequence[Node]]) -> tuple[Sequence[Node], float]:
    """Whose scores weigh most together, and what share of all weight they have."""
    least = min(0.0, min(_score(leaf) for members in voters for leaf in members))
    weights = [math.fsum(_score(leaf) - least for leaf in members) for members in voters]
    best = max(range(len(voters)), key=lambda i: (weights[i], len(voters[i])))
    total = math.fsum(weights)
    return voters[best], weights[best] / total if total else 0.0


def best_unfinished(tree: Tree) -> Node | None:
    """The solution to go on with if only one may: unpruned before pruned, and what another says as well last; by the
    nearest score on its path, the longest among equals."""

    def score(node: Node) -> float:
        scores = [float(step.notes["score"]) for step in tree.path(node.id) if "score" in step.notes]
        return scores[-1] if scores else 0.0

    cut = [node for node in tree.ends() if node.open or node.finish_reason == "length"]
    return max(cut, key=lambda leaf: (_standing(leaf), score(leaf), leaf.path_tokens, -leaf.id), default=None)


def _standing(leaf: Node) -> int:
    return 0 if "merged_into" in leaf.notes else 1 if "pruned" in leaf.notes else 2


def _score(leaf: Node) -> float:
    return float(leaf.notes["score"])


def _spokesman(winners: Sequence[Node], scored: bool) -> Node:
    """The solution that stands for the winning answer."""
    if scored:
        return max(winners, key=lambda leaf: (_score(leaf), -leaf.id))
    return min(winners, key=lambda leaf: (leaf.finish_reason == "length", leaf.path_tokens, leaf.id))

"""What strategies that score their nodes share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reason.search.tree import Action, Measure, Node, Tree
from reason.verifiers.aggregate import aggregate

__all__ = ["missing_scores", "note_scores", "scores_due", "step_aggregate"]


def scores_due(tree: Tree, nodes: Iterable[Node], verifier: str) -> tuple[int, ...]:
    """Those of ``nodes`` that did not fail and that the verifier has not scored and is not scoring."""
    return tuple(
        node.id
        for node in nodes
        if verifier not in node.scores and (node.id, verifier) not in tree.measuring and not node.failed
    )


def missing_scores(tree: Tree, nodes: Iterable[Node], verifier: str, *, by_step: bool = False) -> list[Action]:
    """The measurement of what ``scores_due`` finds, if it finds anything."""
    due = scores_due(tree, nodes, verifier)
    return [Measure(nodes=due, name=verifier, by_step=by_step)] if due else []


def note_scores(tree: Tree, done: Sequence[int], verifier: str, aggregation: str) -> list[Node]:
    """Notes the ``score`` of those of ``done`` that were scored since they were last told of; returns them."""
    new = [tree[node] for node in done if verifier in tree[node].scores and "score" not in tree[node].notes]
    for node in new:
        tree.note(node.id, score=step_aggregate(tree, node.id, verifier, aggregation))
    return new


def step_aggregate(tree: Tree, node: int, verifier: str, aggregation: str) -> float:
    """One score for the path to ``node`` from the scores of its steps."""
    return aggregate(tree.step_scores(node, verifier), "last" if aggregation == "none" else aggregation)

"""What is to be scored, and the scores that are noted."""

from __future__ import annotations

from reason.search.strategies.scoring import missing_scores, note_scores, scores_due
from reason.search.tree import ROOT, Measure
from tests.search.planned import VERIFIER, grown


def test_what_failed_or_was_dropped_is_not_scored() -> None:
    tree = grown(*((ROOT, end, end) for end in ("eos", "step", "error", "cancelled")))
    assert scores_due(tree, tree.nodes[1:], VERIFIER) == (1, 2)
    assert missing_scores(tree, tree.nodes[1:], VERIFIER) == [Measure(nodes=(1, 2), name=VERIFIER)]
    tree.measuring.add((1, VERIFIER))
    tree[2].scores[VERIFIER] = (0.5,)
    assert missing_scores(tree, tree.nodes[1:], VERIFIER) == []


def test_scores_are_noted_once() -> None:
    tree = grown((ROOT, "a", "step"), (1, "b", "eos"), (ROOT, "c", "step"), scores=(0.5, 0.8, None))
    assert [node.id for node in note_scores(tree, [1, 2, 3], VERIFIER, "prod")] == [1, 2]
    assert [node.notes.get("score") for node in tree.nodes[1:]] == [0.5, 0.4, None]
    assert note_scores(tree, [1, 2, 3], VERIFIER, "prod") == []

"""The view of a tree in which siblings that say the same are one node."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from reason.search.measuring import packed
from reason.search.merging import MergedTree, clusters, merge, spread, undecided
from reason.search.tree import ROOT, Expand, Node, Tree
from reason.types import Message
from tests.search.planned import EMBEDDER, VERIFIER, FirstLetter, grown

OTHERS = {"num_tokens": 3, "prompt_tokens": 2, "context": (1, 2, 3), "depth": 1, "answer": "4", "path_tokens": 5}


def tree_of_states() -> Tree:
    """Below the root a, a', b and a solution; below a: c; below a': d, d' and one that is pending."""
    tree = grown(
        (ROOT, "a .2", "step"),
        (ROOT, "A .9", "step"),
        (ROOT, "b .5", "step"),
        (ROOT, "=1 .4", "eos"),
        (1, "c .1", "step"),
        (2, "d .3", "step"),
        (2, "D .6", "step"),
        (2, "", None),
        scores=[0.2, 0.9, 0.5, 0.4, 0.1, 0.3, 0.6, None],
    )
    tree.note(2, members=[2, 1])
    tree.note(1, merged_into=2)
    tree.note(3, members=[3])
    return tree


def test_a_merged_node_looks_like_a_failure_and_gives_its_children_away() -> None:
    tree = tree_of_states()
    view = MergedTree(tree)
    assert len(view) == len(tree)
    assert [node.id for node in view.nodes] == list(range(9))
    assert [node.parent for node in view.nodes] == [None, 0, 0, 0, 0, 2, 2, 2, 2]
    assert [node.finish_reason for node in view.nodes[:5]] == ["step", "error", "step", "step", "eos"]
    assert not view[1].scores
    assert not view[1].embeddings
    assert [child.id for child in view.children(2)] == [5, 6, 7, 8]
    assert view.children(1) == []
    assert [child.id for child in view.children(ROOT)] == [1, 2, 3, 4]
    assert [node.id for node in view.leaves()] == [1, 3, 4, 5, 6, 7, 8]
    assert [node.id for node in view.finished()] == [4]
    assert view[3] is tree[3]  # what is as it was is no copy
    assert view[0] is tree[0]


def test_what_is_not_decided_about_looks_pending_or_cancelled() -> None:
    tree = tree_of_states()
    view = MergedTree(tree)
    assert {parent: [node.id for node in nodes] for parent, nodes in view.hidden.items()} == {2: [5, 6, 7]}
    assert view.hidden_nodes() == {5, 6, 7}
    assert all(view[node].pending and not view[node].scores for node in (5, 6, 7, 8))
    assert tree[5].open
    over = MergedTree(tree, {5, 7})
    assert [over[node].finish_reason for node in (5, 6, 7, 8)] == ["cancelled", None, "cancelled", None]
    assert over.hidden_nodes() == {6}
    assert MergedTree(tree, range(len(tree))).hidden == {}


def test_moves_lead_over_hyper_nodes_and_texts_over_what_was_written() -> None:
    tree = tree_of_states()
    for node in (5, 6, 7):
        tree.note(node, members=[node])
    view = MergedTree(tree)
    assert [node.id for node in view.path(5)] == [2, 5]
    assert [node.id for node in view.steps(5)] == [1, 5]
    assert view.text(5) == tree.text(5) == "a .2c .1"
    assert view.step_scores(5, VERIFIER) == [0.2, 0.1]
    assert view.path(5)[1].depth == 2


def test_merged_nodes_may_have_merged_children() -> None:
    tree = tree_of_states()
    merged = grown(*((node.parent or 0, node.text, node.finish_reason) for node in tree.nodes[1:]), (5, "e", "step"))
    for node in tree.nodes:
        merged.note(node.id, **node.notes)
    merged.note(7, members=[7, 5, 6])
    merged.note(5, merged_into=7)
    merged.note(6, merged_into=7)
    view = MergedTree(merged)
    assert view[9].parent == 7
    assert [node.id for node in view.path(9)] == [2, 7, 9]
    assert view.text(9) == "a .2c .1e"
    assert [child.id for child in view.children(7)] == [9]
    assert view.hidden == {7: [merged[9]]}


def test_notes_go_to_the_tree_and_measurements_are_shared() -> None:
    tree = tree_of_states()
    tree.take_changes()
    view = MergedTree(tree)
    view.note(2, visits=3)
    view.note(5, seen=True)  # one that is shown as another object
    assert tree[2].notes["visits"] == 3
    assert tree[5].notes["seen"] is view[5].notes["seen"] is True
    assert tree.take_changes() == {2: {"visits": 3}, 5: {"seen": True}}
    tree.measuring.add((4, VERIFIER))
    assert view.measuring == {(4, VERIFIER)}
    assert view.coins("a", 1).random() == tree.coins("a", 1).random()


def test_a_shown_node_has_everything_a_node_has() -> None:
    tree = tree_of_states()
    tree[1].context = (7, 8, 9)
    shown = MergedTree(tree)[1]
    for name in Node.__slots__:
        if name not in ("finish_reason", "scores", "embeddings"):
            assert getattr(shown, name) == getattr(tree[1], name)
    assert not shown.pending
    assert not shown.open
    with pytest.raises(AttributeError, match="colour"):
        shown.colour  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, True),
        ({"finish_reason": "eos"}, False),
        ({"finish_reason": None}, False),
        ({"aside": True}, False),
        ({"begins": True}, False),
        ({"parent": None}, False),
        ({"notes": {"members": [3]}}, False),
        ({"notes": {"merged_into": 1}}, False),
    ],
)
def test_what_may_be_merged(changes: dict[str, Any], expected: bool) -> None:
    node = Node(**{"id": 3, "parent": 0, "finish_reason": "step", **changes})
    assert undecided(node) is expected


# -- clusters ------------------------------------------------------------------------------------------------------


def directions(*degrees: float) -> Any:
    return np.array([(math.cos(math.radians(d)), math.sin(math.radians(d))) for d in degrees], dtype=np.float32)


def test_clusters_by_average_linkage() -> None:
    """1 - cos: 10 degrees .0152, 20 .0603, 30 .1340, 40 .2340."""
    points = directions(0, 40, 10, 80, 30)
    assert clusters(points, 0.0) == [[0], [1], [2], [3], [4]]
    assert clusters(points, 0.02) == [[0, 2], [1, 4], [3]]
    # from {0, 10} to {30, 40} it is (.1340 + .2340 + .0603 + .1340) / 4 = .1406, to 80 (.3572 + .2340) / 2
    assert clusters(points, 0.14) == [[0, 2], [1, 4], [3]]
    assert clusters(points, 0.1407) == [[0, 1, 2, 4], [3]]
    assert clusters(points, 2.0) == [[0, 1, 2, 3, 4]]


def test_a_chain_is_not_one_state() -> None:
    """Single linkage would join neighbours 12 degrees apart to one: .0219 each."""
    chained = clusters(directions(*range(0, 96, 12)), 0.03)
    assert len(chained) > 2
    assert all(rows == sorted(rows) for rows in chained)


def test_one_alone_and_all_the_same() -> None:
    assert clusters(directions(5), 0.1) == [[0]]
    assert clusters(directions(5, 5, 5), 1e-6) == [[0, 1, 2]]


def embedded(*texts: str, scores: Any = ()) -> Tree:
    tree = grown(*((ROOT, text, "step") for text in texts), scores=scores)
    for node in tree.nodes[1:]:
        angle = math.radians(20 * (ord(node.text[0]) - ord("a")))
        (node.embeddings[EMBEDDER],) = packed(FirstLetter(), [(math.cos(angle), math.sin(angle))], 1)
    return tree


def test_the_best_stands_for_its_cluster() -> None:
    tree = embedded("a", "c", "a", "a", scores=[0.3, 0.1, 0.8, 0.8])
    merge(tree, [1, 2, 3, 4], embedder=EMBEDDER, distance=0.05, verifier=VERIFIER)
    assert [node.notes for node in tree.nodes[1:]] == [
        {"merged_into": 3},
        {"members": [2]},
        {"members": [3, 4, 1]},
        {"merged_into": 3},
    ]


def test_without_a_verifier_the_first_does() -> None:
    tree = embedded("b", "a", "b")
    merge(tree, [1, 2, 3], embedder=EMBEDDER, distance=0.05, verifier=None)
    assert [node.notes for node in tree.nodes[1:]] == [{"members": [1, 3]}, {"members": [2]}, {"merged_into": 1}]


# -- expansions ----------------------------------------------------------------------------------------------------


def of_three(*children: int) -> MergedTree:
    """A hyper-node of 2, 3 and 1 with so many children of each, in the order given."""
    tree = grown((ROOT, "a", "step"), (ROOT, "a", "step"), (ROOT, "a", "step"), *((c, "x", "eos") for c in children))
    tree.note(2, members=[2, 3, 1])
    for merged in (1, 3):
        tree.note(merged, merged_into=2)
    return MergedTree(tree)


def test_samples_go_round_the_members() -> None:
    expand = Expand(node=2, num_samples=5, until="step", max_tokens=40)
    assert [(each.node, each.num_samples, each.until) for each in spread(of_three(), expand)] == [
        (node, 1, "step") for node in (2, 3, 1, 2, 3)
    ]
    assert [each.node for each in spread(of_three(2, 3), expand)] == [1, 2, 3, 1, 2]  # where it stopped
    assert [each.node for each in spread(of_three(2, 3, 1, 2), Expand(node=2))] == [3]


def test_a_longer_member_gets_shorter_samples_and_one_without_room_none() -> None:
    view = of_three()
    view.real[3].path_tokens = 25
    view.real[1].path_tokens = 45
    asked = list(spread(view, Expand(node=2, num_samples=3, max_tokens=40)))  # the representative has 5 tokens
    assert [(each.node, each.max_tokens) for each in asked] == [(2, 40), (3, 20), (2, 40)]
    view.real[1].path_tokens = 1
    asked = list(spread(view, Expand(node=2, num_samples=3, max_tokens=40)))
    assert [(each.node, each.max_tokens) for each in asked] == [(2, 40), (3, 20), (1, 40)]


@pytest.mark.parametrize("until", ["step", 40])
def test_a_step_of_a_longer_member_is_as_long(until: Any) -> None:
    """What is near the limit of a solution is written to its end, as `Stepwise.step` has it."""
    view = of_three()
    view.real[2].path_tokens, view.real[3].path_tokens, view.real[1].path_tokens = 12, 90, 100
    step = Expand(node=2, num_samples=3, until=until, max_tokens=40)
    asked = [(each.node, each.until, each.max_tokens) for each in spread(view, step, longest=500)]
    assert asked == [(2, until, 40), (3, until, 40), (1, until, 40)]
    asked = [(each.node, each.until, each.max_tokens) for each in spread(view, step, longest=120)]
    assert asked == [(2, until, 40), (3, "end", 30), (1, "end", 20)]
    assert [each.node for each in spread(view, step, longest=100)] == [2, 3, 2]
    assert [each.max_tokens for each in spread(view, step)] == [40, 40, 40]


def test_what_does_not_go_on_from_the_text_is_asked_of_the_representative() -> None:
    say = (Message(role="user", content="Sure?"),)
    for expand in (Expand(node=2, num_samples=2, prompt=say, keep=True), Expand(node=2, num_samples=2, aside=True)):
        assert list(spread(of_three(), expand)) == [expand]
    only = Expand(node=0, num_samples=3)
    assert list(spread(of_three(), only)) == [only]
    view = of_three(2)
    view.real[4].aside = True  # and does not count
    assert [each.node for each in spread(view, Expand(node=2, prompt=" So"))] == [2]

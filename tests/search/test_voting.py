"""From leaves to an answer: the three rules, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from reason.search.tree import ROOT, Node, NodeEnd, Tree
from reason.search.voting import Selection, best_unfinished, vote
from reason.types import Answer, Problem


def tree_of(*leaves: tuple[str | None, float | None]) -> Tree:
    """Finished leaves below the root: (answer, score)."""
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    classes: dict[str, int] = {}
    for answer, score in leaves:
        number = None if answer is None else classes.setdefault(answer.strip(), len(classes))
        node = leaf(tree, "eos", tokens=5)
        node.text, node.answer, node.answer_class = f"{node.id}:{answer}", answer, number
        if score is not None:
            tree.note(node.id, score=score)
    return tree


def leaf(tree: Tree, end: NodeEnd | None, *, parent: int = ROOT, tokens: int = 0, text: str = "") -> Node:
    node = Node(id=len(tree), parent=parent, path_tokens=tokens, finish_reason=end, text=text)
    tree.add(node)
    return node


def said(tree: Tree, select: Selection) -> tuple[str | None, Any]:
    answer = vote(tree, select)
    return answer.answer, answer.confidence


# 1 is said most (3), 2 weighs most (.5 + .45), 3 has the best (.8)
RULES: list[tuple[str | None, float]] = [("1", 0.2), ("2", 0.5), ("3", 0.8), ("1", 0.3), ("2", 0.45), ("1", 0.1)]


def test_the_three_rules_on_the_same_leaves() -> None:
    tree = tree_of(*RULES)
    assert said(tree, "majority") == ("1", pytest.approx(3 / 6))
    assert said(tree, "weighted") == ("2", pytest.approx(0.95 / 2.35))
    assert said(tree, "best") == ("3", pytest.approx(1 / 6))


def test_majority_is_the_default_and_looks_at_no_score() -> None:
    tree = tree_of(*RULES)
    assert vote(tree) == vote(tree, "majority")
    assert vote(tree_of(*((answer, None) for answer, _ in RULES))) == vote(tree)


def test_answers_are_counted_by_class_and_shown_as_the_first_wrote_them() -> None:
    tree = tree_of(("2", None), (" 1", None), ("1", None), ("1 ", None))
    assert said(tree, "majority") == (" 1", 0.75)


def test_the_best_answers_in_its_own_words() -> None:
    tree = tree_of(("1", 0.2), (" 1", 0.9), ("2", 0.5))
    assert said(tree, "best") == (" 1", pytest.approx(2 / 3))
    assert vote(tree, "best").text == "2: 1"
    assert said(tree, "weighted")[0] == "1"


@pytest.mark.parametrize("select", ["majority", "weighted", "best"])
def test_ties_go_to_the_first_asked(select: Selection) -> None:
    assert said(tree_of(("b", 0.5), ("a", 0.5), ("a", 0.25), ("b", 0.25)), select)[0] == "b"
    assert said(tree_of(("a", 0.5), ("b", 0.5)), select)[0] == "a"


def test_a_tie_in_weight_that_is_none_in_number() -> None:
    tree = tree_of(("a", 0.25), ("a", 0.25), ("b", 0.5))
    assert said(tree, "weighted") == ("a", 0.5)
    assert said(tree, "best") == ("b", pytest.approx(1 / 3))


def test_who_has_no_answer_abstains_and_counts() -> None:
    tree = tree_of((None, 0.9), ("1", 0.3), (None, None), ("2", 0.1))
    assert said(tree, "majority") == ("1", 1 / 4)
    assert said(tree, "weighted") == ("1", pytest.approx(0.3 / 0.4 * 2 / 4))
    assert said(tree, "best") == ("1", 1 / 4)  # .9 has nothing to say


@pytest.mark.parametrize("select", ["majority", "weighted", "best"])
def test_only_abstentions(select: Selection) -> None:
    tree = tree_of((None, 0.1), (None, 0.2))
    tree[2].path_tokens = 9
    assert vote(tree, select) == Answer(answer=None, text="2:None", confidence=0.0)
    assert vote(tree_of(), select) == Answer(answer=None, text="", confidence=0.0)


@pytest.mark.parametrize("select", ["weighted", "best"])
def test_who_was_not_scored_abstains_and_counts(select: Selection) -> None:
    """As when a limit ended the run before the last measurement."""
    tree = tree_of(("A", 0.99), ("B", 0.01), ("B", 0.01), ("B", None))
    assert said(tree, select)[0] == "A"
    assert vote(tree, "weighted").confidence == pytest.approx(0.99 / 1.01 * 3 / 4)
    assert said(tree_of(("1", None), ("2", None), ("2", None)), select) == ("2", pytest.approx(2 / 3))
    assert said(tree_of((None, 0.5), ("2", None)), select) == ("2", 0.5)


def test_negative_weights_are_raised_by_the_lowest() -> None:
    tree = tree_of(("1", -0.1), ("2", 0.5))
    assert said(tree, "weighted") == ("2", 1.0)
    assert said(tree, "best")[0] == "2"
    assert said(tree_of(("1", -0.1), ("2", -0.5)), "best") == ("1", 0.5)
    assert said(tree, "majority")[0] == "1"
    assert said(tree_of((None, -0.1), ("2", 0.5)), "weighted") == ("2", 0.5)  # who abstains has no weight
    votes = tree_of(("1", -3.0), ("2", -2.0), ("2", -2.5), ("3", -1.75))  # 0, 1 + 1/2, 5/4
    assert said(votes, "weighted") == ("2", pytest.approx(1.5 / 2.75))


def test_weights_that_are_all_zero() -> None:
    assert said(tree_of(("1", 0.0), ("2", 0.0), ("2", 0.0)), "weighted") == ("2", 0.0)


def test_the_text_is_the_winners_best_or_its_shortest_whole_one() -> None:
    tree = tree_of(("1", 0.2), ("1", 0.4), ("2", 0.5), ("1", 0.4))
    assert vote(tree, "weighted").text == "2:1"  # the first of two
    assert vote(tree, "majority").text == "1:1"
    tree[1].path_tokens = 6
    assert vote(tree, "majority").text == "2:1"
    tree[2].finish_reason = "length"  # cut off behind its answer
    assert vote(tree, "majority").text == "4:1"
    tree[4].finish_reason = "length"
    assert vote(tree, "majority").text == "1:1"


def test_only_the_leaves_that_are_given_vote() -> None:
    tree = tree_of(("1", 0.9), ("2", 0.1), ("1", 0.2))
    answer = vote(tree, "weighted", [tree[2]])
    assert (answer.answer, answer.confidence) == ("2", 1.0)
    assert vote(tree, "majority", iter([tree[2], tree[3], tree[2]])).answer == "2"


def test_what_is_unfinished_cancelled_or_failed_does_not_vote() -> None:
    tree = tree_of(("1", None))
    ends: tuple[NodeEnd | None, ...] = ("step", "cancelled", "error", None)
    for end in ends:
        node = leaf(tree, end)
        node.answer, node.answer_class = "2", 1
    assert said(tree, "majority") == ("1", 1.0)


def test_an_inner_node_does_not_vote() -> None:
    tree = tree_of(("1", None), ("2", None))
    closed = leaf(tree, "stop", parent=2)
    closed.answer, closed.answer_class = "3", 2
    assert [node.id for node in tree.finished()] == [1, 3]


# -- the one to go on with -----------------------------------------------------------------------------------------


def test_nothing_to_go_on_with() -> None:
    tree = tree_of(("1", None))
    ends: tuple[NodeEnd | None, ...] = ("eos", "stop", "cancelled", "error", None)
    for end in ends:
        leaf(tree, end, tokens=99)
    assert best_unfinished(tree) is None


def test_the_longest_then_the_first() -> None:
    tree = tree_of()
    leaf(tree, "step", tokens=5)
    second = leaf(tree, "length", tokens=7)
    leaf(tree, "step", tokens=7)
    assert best_unfinished(tree) is second


def test_a_score_comes_before_length() -> None:
    tree = tree_of()
    scored = leaf(tree, "step", tokens=5)
    leaf(tree, "step", tokens=50)
    tree.note(scored.id, score=0.1)
    assert best_unfinished(tree) is scored
    tree.note(scored.id, score=-0.1)  # no score counts as 0
    assert best_unfinished(tree) is tree[2]


def test_the_nearest_score_on_the_path_counts() -> None:
    tree = tree_of()
    high, low = leaf(tree, "step"), leaf(tree, "step")
    tree.note(high.id, score=0.9)
    tree.note(low.id, score=0.2)
    below_high = leaf(tree, "step", parent=high.id, tokens=1)
    below_low = leaf(tree, "step", parent=low.id, tokens=9)
    assert best_unfinished(tree) is below_high  # not measured yet: its parent's
    tree.note(below_high.id, score=0.1)
    assert best_unfinished(tree) is below_low


def test_what_only_asides_and_new_texts_hang_on_may_be_gone_on_with() -> None:
    """A critique of it, an answer in its place; not its own next step."""
    tree = tree_of()
    cut = leaf(tree, "length", tokens=9)
    leaf(tree, "eos", parent=cut.id).aside = True
    leaf(tree, "eos", parent=cut.id).begins = True
    assert best_unfinished(tree) is cut
    leaf(tree, "eos", parent=cut.id)
    assert best_unfinished(tree) is None


def test_pruned_ones_come_last() -> None:
    tree = tree_of()
    pruned, going = leaf(tree, "step", tokens=90), leaf(tree, "step", tokens=1)
    tree.note(pruned.id, score=0.9, pruned=True)
    assert best_unfinished(tree) is going
    going.finish_reason = "eos"
    assert best_unfinished(tree) is pruned


def test_what_another_says_as_well_comes_last_of_all() -> None:
    """It has no score of its own: its parent's is not what the verifier thinks of it."""
    tree = tree_of()
    parent, pruned = leaf(tree, "step"), leaf(tree, "step", tokens=1)
    tree.note(parent.id, score=0.9)
    tree.note(pruned.id, score=0.2, pruned=True)
    merged = leaf(tree, "step", parent=parent.id, tokens=9)
    tree.note(merged.id, merged_into=parent.id)
    assert best_unfinished(tree) is pruned
    pruned.finish_reason = "eos"
    assert best_unfinished(tree) is merged

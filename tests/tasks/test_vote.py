"""Majority votes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.errors import UsageError
from reason.tasks.vote import Vote, majority


def test_the_largest_class_wins_as_its_first_member_wrote_it() -> None:
    assert majority(["3", r"\frac12", "0.5", None, "1/2"]) == Vote(r"\frac12", 0.6, (1, 2, 4))


def test_ties_go_to_the_class_that_appeared_first() -> None:
    assert majority(["2", "1", "1", "2"]).answer == "2"
    assert majority([None, "b c d", "a b c"]).answer == "b c d"


def test_weights_decide() -> None:
    assert majority(["1", "2", "1"], [0.2, 0.9, 0.3]) == Vote("2", 0.9 / 1.4, (1,))


def test_nobody_answers() -> None:
    assert majority([None, None]) == Vote(None, 0.0, ())
    assert majority([]) == Vote(None, 0.0, ())


def test_weights_that_are_all_zero_leave_the_first_class() -> None:
    assert majority(["1", "2"], [0.0, 0.0]) == Vote("1", 0.0, (0,))


def test_another_comparison() -> None:
    assert majority(["Paris", "paris", "Rome"], same=lambda a, b: a.lower() == b.lower()).members == (0, 1)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_weights_that_do_not_fit(weights: list[float]) -> None:
    with pytest.raises(UsageError, match="weight"):
        majority(["1", "2"], weights)


@given(st.lists(st.one_of(st.none(), st.integers(0, 4).map(str)), max_size=20))
def test_a_vote_over_plain_answers_is_counting(answers: list[str | None]) -> None:
    vote = majority(answers)
    cast = [answer for answer in answers if answer is not None]
    if not cast:
        assert vote.answer is None
        return
    most = max(cast, key=cast.count)  # max keeps the first of equals
    assert vote.answer == most
    assert vote.members == tuple(i for i, answer in enumerate(answers) if answer == most)
    assert vote.share == cast.count(most) / len(answers)

"""What RethinkMCTS asks and reads: thoughts in every form that models give them, priors, and examples that are true."""

from __future__ import annotations

import re

import pytest

from reason.search.strategies.rating import read_rating
from reason.search.strategies.rethink_mcts_prompts import EXAMPLES, ask_more_thoughts, ask_program, ask_rethought
from reason.search.strategies.rethink_mcts_reading import MAX_CHARACTERS, Thought, priors, read_rethought, read_thoughts
from reason.types import Message, Problem

SORT, CASE = "Sort the list first.", "Mind the empty list."


@pytest.mark.parametrize(
    "text",
    [
        "1. Sort the list first. [0.6]\n2. Mind the empty list. [0.3]",
        "Here are two thoughts:\n\n1) Sort the list first. (0.6)\n\n2) Mind the empty list. (0.3)\n",
        "- **Sort the list first.** - 0.6\n- Mind the empty list. 0.3/1".replace(" 0.3/1", " (0.3/1)"),
        "* [0.6] Sort the list first.\n* [0.3] Mind the empty list.",
        "Thought 1: Sort the list first. Score: 0.6\nThought 2: Mind the empty list. Score: 0.3",
        "1. Sort the list first.\n\n**Reasonableness: 60%**\n2. Mind the empty list.\n   Reasonableness: 30%",
        "0.6: Sort the list first.\n0.3: Mind the empty list.",
        "Sort the list first. [0.6]\nMind the empty list. [0.3]",
        "<think>Which?\n1. No. [0.9]</think>1. Sort the list first. [0.6]\n2. Mind the empty list. [0.3]",
        '[{"thought": "Sort the list first.", "score": 0.6}, {"thought": "Mind the empty list.", "score": 0.3}]',
        '```json\n{"thoughts": [{"Thought": "Sort the list first.", "Reasonableness": "0.6"},\n'
        ' {"Thought": "Mind the empty list.", "Reasonableness": 0.3}]}\n```',
        '{"Sort the list first.": 0.6, "Mind the empty list.": 0.3}',
        '[{"thought": "Sort the list first.", "score": 0.6}, {"thought": "Mind the empty list.", "score": 0.3}, {"th',
        "1. Sort the list first. [0.6]\n1. Sort the LIST first [0.1]\n2. Mind the empty list. [0.3]\n3. Third. [0.1]",
        "1. Sort the list first. [0.6]\n```python\nxs.sort()  # [0.9]\n```\n2. Mind the empty list. [0.3]",
    ],
)
def test_thoughts_with_scores(text: str) -> None:
    assert read_thoughts(text, 2) == [Thought(SORT, 0.6), Thought(CASE, 0.3)]


@pytest.mark.parametrize(
    ("text", "thoughts"),
    [
        ("1. Sort the list first.\n2. Mind the empty list.", [SORT, CASE]),
        ("Sort the list first.\n\nMind the empty list.", [SORT, CASE]),
        ('["Sort the list first.", "Mind the empty list."]', [SORT, CASE]),
        (
            "1. **Sort**: the numbers\n   - in place\n\n   with `sort`.\n2. Or not.",
            ["Sort: the numbers in place with `sort`.", "Or not."],
        ),
        (
            "1. Sort the list first.\n\n```python\nreturn 0\n```\n\nGood.\n2. Mind the empty list.\n\nThat is all.",
            [SORT, CASE],
        ),
        ("Return 0 for [0] and 1.5 for [1, 2].", ["Return 0 for [0] and 1.5 for [1, 2]."]),
        ('The list f(["a", "b"]) has 2 items.', ['The list f(["a", "b"]) has 2 items.']),
        ("```\nUse a stack.\n```", ["Use a stack."]),
        ("", []),
        ("0.5\n1.\n---", []),
    ],
)
def test_thoughts_without_scores(text: str, thoughts: list[str]) -> None:
    assert read_thoughts(text, 3) == [Thought(thought) for thought in thoughts]


def test_half_a_thought_is_left_out() -> None:
    text = "1. Sort the list first. [0.6]\n2. Mind the emp"
    assert read_thoughts(text, 3, cut=True) == [Thought(SORT, 0.6)]
    assert len(read_thoughts(text, 3)) == 2
    assert read_thoughts("Mind the emp", 3, cut=True) == [Thought("Mind the emp")]


def test_what_was_thought_before_is_no_new_thought() -> None:
    text = "1. sort the list, first!\n2. Mind the empty list."
    assert read_thoughts(text, 3, before=[SORT]) == [Thought(CASE)]


def test_thoughts_are_short() -> None:
    (thought,) = read_thoughts("1. " + "very " * 200, 3)
    assert len(thought.text) <= MAX_CHARACTERS
    assert thought.text.endswith("very")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.6, 0.3, 0.1], [0.6, 0.3, 0.1]),
        ([8, 2], [0.8, 0.2]),
        ([None, None, None, None], [0.25] * 4),
        ([0.6, None, 0.2], [0.5, 1 / 3, 1 / 6]),
        ([0.0, 0.0], [0.5, 0.5]),
        ([-1.0, 0.5], [0.5, 0.5]),
        ([float("inf"), 0.5], [0.5, 0.5]),
        ([0.0, 0.4], [0.0, 1.0]),
    ],
)
def test_priors(scores: list[float | None], expected: list[float]) -> None:
    assert priors([Thought("t", score) for score in scores]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "thought"),
    [
        ("Mind the empty list.", CASE),
        ("New thought: Mind the empty list.", CASE),
        ("The test fails as nothing is there.\n\n**New thought:** Mind the\nempty list.\n\nThat will do.", CASE),
        ("It fails for [].\n\nMind the empty list. [0.9]\n\n```python\nreturn 0\n```", CASE),
        ("1. Mind the empty list.", CASE),
        ("Closer than 0.5. So it is.", "Closer than 0.5. So it is."),
        ("Sort the list first.", None),
        ("```python\nreturn 0\n```", None),
        ("The new thought is:", None),
        ("", None),
    ],
)
def test_a_rethought_thought(text: str, thought: str | None) -> None:
    assert read_rethought(text, before=["sort the list first"]) == thought


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Score: 0.85", 0.85),
        ("Score: -1", -1.0),
        ("**Score:** .5", 0.5),
        ("Score (-1 to 1): 0.4", 0.4),
        ("The score, in [-1, 1], is -0.25.", -0.25),
        ("Score: 0.5/1.0", 0.5),
        ("The score is N = 1.", 1.0),
        ("1", 1.0),
        ("Score: 8/10", None),
        ("Score: 85", None),
        ("It is right.", None),
    ],
)
def test_reading_an_evaluation(text: str, rating: float | None) -> None:
    assert read_rating(text, 1) == rating


def test_the_worked_examples_are_true() -> None:
    """Their programs do what is said of them, and their thoughts are read as they are meant."""
    problem = Problem(content="?")
    failing = ask_rethought(problem, ["t"], "p", feedback="")
    passing = ask_more_thoughts(problem, ["t"], "p", passes=True, feedback="", count=5)
    for turn in (failing[0], failing[2], passing[2]):
        program, test = (
            re.search(form, turn["content"], re.DOTALL) for form in (r"```python\n(.*?)```", r">>> (.*?)\n")
        )
        (wanted,) = re.findall(r">>> .*\n    (.*)\n", turn["content"])
        assert program is not None
        assert test is not None
        names: dict[str, object] = {}
        exec(program[1], names)
        said = turn["content"].partition("\nCalls: ")[2].partition("\n")[0]
        if " raised " in said:
            with pytest.raises(IndexError, match=said.rpartition(": ")[2]):
                eval(test[1], names)
        else:
            assert repr(eval(test[1], names)) == (said.rpartition(" ")[2] or wanted)
    read = read_thoughts(passing[1]["content"], 5)
    assert all(thought.text in EXAMPLES and thought.score for thought in read)
    assert len(read) == 5
    assert read_thoughts(passing[1]["content"], 5, before=EXAMPLES) == []
    assert failing[1]["content"] in EXAMPLES


def test_programs_are_asked_for_in_the_words_of_the_problem() -> None:
    turns = (Message(role="user", content="Example"), Message(role="assistant", content="Done"))
    problem = Problem(content=(*turns, Message(role="user", content="Write f.")), question="f")
    assert ask_program(problem, []) == ask_program(problem, [""]) == problem.content
    *before, last = ask_program(problem, [SORT, "", CASE])
    assert tuple(before) == turns
    assert last["content"] == f"Write f.\n\nFollow these thoughts:\n1. {SORT}\n2. {CASE}"

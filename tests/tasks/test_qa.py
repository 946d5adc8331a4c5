"""Short answers: reading them, comparing them, and the passages in prompts."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from reason.errors import UsageError
from reason.tasks import Example, Task, load_task
from reason.tasks.qa import (
    PASSAGE_CHARACTERS,
    extract_short_answer,
    f1,
    fitting,
    is_unknown,
    normalized,
    numbered,
    same_short_answer,
)

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("The  Eiffel-Tower!", "eiffeltower"),
        ("A. P. J. Abdul Kalam", "p j abdul kalam"),  # as SQuAD has it: the "a" goes
        ("an apple, the pear", "apple pear"),
        ("theatre", "theatre"),
        ("$12 million", "12 million"),
        ("Łódź", "łódź"),
        ("The", ""),
    ],
)
def test_normal_forms(answer: str, expected: str) -> None:
    assert normalized(answer) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("Stanley", "stanley.", 1.0),
        ("Stanley, North Dakota", "Stanley", 2 * (1 / 3) * 1 / (1 / 3 + 1)),
        ("north of the sea", "the sea in the north", 2 * (2 / 3) * (2 / 3) / (4 / 3)),
        ("new new york", "new york", 2 * (2 / 3) * 1 / (5 / 3)),  # the second "new" finds none
        ("Paris", "London", 0.0),
        ("the", "a", 0.0),
        ("the", "the", 1.0),
        ("", "London", 0.0),
    ],
)
def test_f1(answer: str, reference: str, expected: float) -> None:
    assert f1(answer, reference) == pytest.approx(expected)
    assert f1(reference, answer) == pytest.approx(expected)
    assert same_short_answer(answer, reference) == (expected == 1.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"Van Hook is in Mountrail, so \boxed{Stanley}.", "Stanley"),
        (r"\boxed{\text{The Glass Orchard}}", "The Glass Orchard"),
        (r"\boxed{\$12\,million}", r"$12\,million"),
        (r"first \boxed{no}, then \boxed{yes}", "yes"),
        ("It is in the north. So the answer is: St. Louis.", "St. Louis"),
        ("So the answer is: Robert Peel, 1st Baronet.\n", "Robert Peel, 1st Baronet"),
        ('So the answer is: "Salt Road".', "Salt Road"),
        ("So the answer is **Salt Road**.", "Salt Road"),
        ("**Answer:** Washington, D.C.", "Washington, D.C."),
        ("The final answer is:\n\n**UEFA.**", "UEFA"),
        ("The answer to the question is Paris. It lies on the Seine.", "Paris"),
        ("The answer is London. But no: the answer is Paris.", "Paris"),
        ("Stanley.", "Stanley"),
        ("**Answer**: Stanley", "Stanley"),
        ("To answer the question, here are the steps:\n\n1. Where is Hest?", None),
        ("To answer this we need:\n1. Hest\nSo the answer is: Vigne.", "Vigne"),
        ("Her husband was the singer Ivo Maran.", None),
        ("<think>the answer is London</think>\nThe answer is: Paris", "Paris"),
        ("He was born in Stanley, which is a town.\nIt is in the north.", None),
        ("So the answer is: Unknown.", None),
        ("The answer is not mentioned in the passages.", None),
        (r"\boxed{No information}", None),
        (r"\boxed{No}", "No"),
        (r"\boxed{Notting Hill}", "Notting Hill"),
        ("", None),
        (r"\boxed{" + "x" * 1200 + "}", None),
    ],
)
def test_answers_are_found(text: str, expected: str | None) -> None:
    assert extract_short_answer(text) == expected


@pytest.mark.parametrize(
    ("answer", "unknown"),
    [
        ("Unknown", True),
        ("not mentioned in the passages", True),
        ("No information about him", True),
        ("Unknown (the passages do not say)", True),
        ("are not provided here", True),
        ("I don't know which", True),
        ("Unknown Pleasures", False),
        ("Uncertain Glory", False),
        ("Not Found Gallery", False),
        ("Unknown Soldier", False),
        ("I Don't Know How to Love Him", False),
        ("Unknowns", False),
    ],
)
def test_what_says_that_it_does_not_know(answer: str, unknown: bool) -> None:
    assert is_unknown(answer) == unknown


_PIECES = st.sampled_from(
    ["the answer is", ":", "\n", r"\boxed{", "}", "**", '"', " x", ".", "Unknown", "</think>", "$"]
)


@given(st.one_of(st.text(), st.lists(_PIECES, max_size=30).map("".join)))
@example("answer " * 2000)
@example("answer is: ")
def test_nothing_raises(text: str) -> None:
    found = extract_short_answer(text)
    assert found is None or (found and not is_unknown(found))
    assert same_short_answer(text, text)
    assert 0.0 <= f1(text, "the answer") <= 1.0


def test_passages_are_cut_where_they_no_longer_fit() -> None:
    assert fitting(["aaa", "bb", "c"], 5) == ("aaa", "bb")
    assert fitting(["aaa", "bbb", "c"], 5) == ("aaa",)  # no later one is put before an earlier one
    assert fitting(["aaa", "bb"], 2) == ("aa",)
    assert fitting([], 5) == ()
    assert numbered(["A: b", "C: d"]) == "[1] A: b\n\n[2] C: d"


# --- the tasks ------------------------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "id": "q1",
    "question": "Where is the  seat of Hest? ",
    "answer": "Vigne",
    "answer_aliases": ["Vigne town", "Alt-Vigne"],
    "paragraphs": [
        {"title": "Brenn", "paragraph_text": "A village on the Ola."},
        {"title": "Hest", "paragraph_text": "A district. Its seat is Vigne."},
    ],
}


def prompt_of(one: Example) -> str:
    """The user's turn."""
    content = one.problem.content
    assert not isinstance(content, str)
    return content[0]["content"]


@pytest.fixture
def load(write: Write) -> Callable[..., Task]:
    def load(*rows: dict[str, Any], name: str = "musique") -> Task:
        return load_task(name, data=write(*rows))

    return load


def test_the_prompt_has_the_best_passages_first(load: Callable[..., Task]) -> None:
    (only,) = load(ROW).examples
    assert only.problem.question == "Where is the seat of Hest?"
    assert only.problem.passages == ("Brenn: A village on the Ola.", "Hest: A district. Its seat is Vigne.")
    assert len(only.problem.content) == 1
    assert prompt_of(only) == (
        "[1] Hest: A district. Its seat is Vigne.\n\n[2] Brenn: A village on the Ola.\n\n"
        "Question: Where is the seat of Hest?\nPlease reason step by step, and put the answer, in few words, within "
        "\\boxed{}."
    )


def test_the_prompt_has_no_more_than_fits(load: Callable[..., Task]) -> None:
    long = [{"title": f"T{i}", "paragraph_text": "seat " * 1000} for i in range(4)]
    (only,) = load({**ROW, "paragraphs": long}).examples
    assert len(only.problem.passages) == 4
    assert prompt_of(only).count("seat ") == 1 + 1000 * (PASSAGE_CHARACTERS // 5004)


def test_aliases_are_right_too_and_the_best_counts(load: Callable[..., Task]) -> None:
    task = load(ROW)
    (only,) = task.examples
    assert [task.grade(only, answer) for answer in ("the vigne!", "Alt-Vigne", "Hest", None)] == [
        True,
        True,
        False,
        False,
    ]
    assert task.mark(only, "old Vigne town") == {"f1": pytest.approx(0.8)}
    assert task.mark(only, "Hest") == task.mark(only, None) == {"f1": 0.0}


def test_what_the_hub_has_and_what_has_no_answer(load: Callable[..., Task]) -> None:
    context = {"title": ["Brenn", "Hest"], "sentences": [["A village.", "On the Ola."], ["Its seat is Vigne."]]}
    row = {"id": "h", "question": "Where?", "answer": "Vigne", "context": context}
    (only,) = load(row, name="2wikimultihop").examples
    assert only.problem.passages == ("Brenn: A village. On the Ola.", "Hest: Its seat is Vigne.")
    assert len(load(ROW, {**ROW, "id": "q2", "answerable": False})) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": " "}, "the question has to be text and not empty, it is ' '"),
        ({"answer": ["x"]}, "the answer has to be text"),
        ({"paragraphs": None}, "no field 'paragraphs' or 'context'"),
        ({"paragraphs": []}, "the passages have to be a list of objects and not empty"),
        ({"paragraphs": ["text"]}, "the passages have to be a list of objects and not empty"),
    ],
)
def test_malformed_rows(load: Callable[..., Task], change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"line 1: {message}"):
        load({**ROW, **change})


def test_the_passages_that_answer_are_mostly_in_the_prompt(data_dir: Path) -> None:
    """Measured: 98% of MuSiQue's."""
    task = load_task("musique", data=data_dir)
    with gzip.open(data_dir / "qa" / "musique_200.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = {row["id"]: row for row in map(json.loads, lines)}
    there = wanted = 0
    for one in task.examples:
        for number, passage in enumerate(one.problem.passages):
            if rows[one.problem.id]["paragraphs"][number]["is_supporting"]:
                there, wanted = there + (passage in prompt_of(one)), wanted + 1
    assert there / wanted > 0.97

"""Decompositions as models write them, and as the paper's code recorded them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.search.strategies.question_tree import Question, filled, question_tree

FILM = "Where was the director of Salt Road born?"
NESTED = (
    f'{{"{FILM}": ["Who directed Salt Road?", "Where was #1 born?"], '
    '"Who directed Salt Road?": ["Which film is Salt Road?", "Who directed <1>?"]}'
)


def tree(text: str, *, question: str = FILM, max_lists: int = 4, max_questions: int = 12) -> tuple[Question, ...]:
    return question_tree(question, text, max_lists=max_lists, max_questions=max_questions)


def test_a_tree_is_its_lists_from_the_root_on() -> None:
    root, director, born, which, who = tree(NESTED)
    assert root == Question(text=FILM, parts=(1, 2), list=0)
    assert director == Question(text="Who directed Salt Road?", parts=(3, 4), list=1)
    assert born == Question(text="Where was #1 born?", needs=(1,))
    assert which == Question(text="Which film is Salt Road?")
    assert who == Question(text="Who directed <1>?", needs=(3,))
    assert filled(born, (1, 2), {1: "Lena #2 Orlow"}) == "Where was Lena #2 Orlow born?"
    assert filled(who, (3, 4), {3: "\\1"}) == "Who directed \\1?"
    assert filled(root, (), {}) == FILM


@pytest.mark.parametrize(
    "text",
    [
        f"Here it is:\n```json\n{NESTED}\n```\nDone.",
        NESTED + ".",
        NESTED.replace(FILM, "where was the director of 'Salt  Road' born"),  # not quite its words
        NESTED.replace(FILM, "The film's director?"),  # other words: then the first list is the root's
        NESTED.replace(", ", ",\n\n  "),
        NESTED.replace("Which film is Salt Road?", "Which  film\nis Salt Road?"),
    ],
)
def test_models_write_them_in_many_ways(text: str) -> None:
    assert tree(text)[1:] == tree(NESTED)[1:]
    assert tree(text)[0].parts == (1, 2)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot take it apart.",
        NESTED[:-1],
        NESTED.replace("]", "", 1),
        f'{{"{FILM}": []}}',
        f'{{"{FILM}": "Who directed it?"}}',
        f'{{"{FILM}": {{}}}}',
        f'{{"{FILM}": [["Who directed it?"]]}}',
        f'{{"{FILM}": ["Who directed it?", 3]}}',
        f'{{"{FILM}": ["Who directed it?", " "]}}',
        f'["{FILM}"]',
        "[1] " + NESTED,  # whose probability would a list's be?
        "{" * 5000,
        f'{{"{FILM}": ["Who directed it?", "{FILM.upper()}"]}}',  # itself
        f'{{"{FILM}": ["Who directed it?", "who directed it"]}}',  # twice the same
        f'{{"{FILM}": ["Who directed #1?"]}}',
        f'{{"{FILM}": ["Where was #2 born?", "Who directed it?"]}}',
        f'{{"{FILM}": ["Who directed it?", "Where was #0 born?"]}}',
        f'{{"{FILM}": ["Who directed it?", "Where was #3 born?"]}}',
    ],
)
def test_what_is_no_decomposition_leaves_the_question_alone(text: str) -> None:
    assert tree(text) == (Question(text=FILM),)


def test_only_the_unsound_list_is_left_out() -> None:
    circular = NESTED.replace("Which film is Salt Road?", FILM)
    assert [question.parts for question in tree(circular)] == [(1, 2), (), ()]
    referring = f'{{"{FILM}": ["Who made it?", "Where was #1 born?"], "Where was #1 born?": ["In which land?"]}}'
    assert [question.parts for question in tree(referring)] == [(1, 2), (), ()]


def test_limits() -> None:
    assert [question.list for question in tree(NESTED, max_lists=1)] == [0, None, None]
    assert len(tree(NESTED, max_lists=0)) == 1
    assert len(tree(NESTED, max_questions=4)) == 3
    assert len(tree(NESTED, max_questions=2)) == 1


@given(st.recursive(st.text("abc #1?<>[]"), lambda inner: st.lists(inner) | st.dictionaries(st.text("abc?"), inner)))
def test_nothing_raises_and_trees_are_sound(written: Any) -> None:
    found = tree(json.dumps(written))
    assert 1 <= len(found) <= 12
    parts = [part for question in found for part in question.parts]
    assert sorted(parts) == list(range(1, len(found)))
    for place, question in enumerate(found):
        assert all(part > place for part in question.parts)
        assert all(need < place for need in question.needs)
        assert (question.list is not None) == bool(question.parts)


@pytest.mark.parametrize("name", ["musique", "2wiki"])
def test_the_trees_of_the_papers_code(data_dir: Path, name: str) -> None:
    with gzip.open(data_dir / "qa" / f"probtree_trees_{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        trees = [json.loads(line)["nodes"] for line in lines]
    for nodes in trees:
        text = {node["question_text"] for node in nodes}
        lists = {n["question_text"]: [nodes[son]["question_text"] for son in n["sons"]] for n in nodes if n["sons"]}
        root = nodes[-1]
        ordered = {root["question_text"]: lists.pop(root["question_text"], []), **lists}
        found = question_tree(root["question_text"], json.dumps(ordered), max_lists=4, max_questions=12)
        assert {question.text for question in found} == {" ".join(each.split()) for each in text}
        assert len(found) == len(nodes)
        assert sum(map(bool, (question.parts for question in found))) == sum(bool(n["sons"]) for n in nodes)

"""Prompts for thoughts: what they ask, how answers to them are read, and that their examples are right."""

from __future__ import annotations

import gzip
import json
import re
from fractions import Fraction
from pathlib import Path

import pytest

from reason.errors import UsageError
from reason.tasks import thoughts
from reason.tasks.game24 import Arithmetic, SameExpression, evaluate, solves
from reason.tasks.prompts import GAME24, Prompt
from reason.tasks.thoughts import ThoughtPrompts, read_value, thought_prompts
from reason.types import Message, Problem

TEXT = Problem(content="How many?")
PUZZLE = Problem(content=GAME24.messages("4, 5, 6, 10", few_shot=2), equivalent=SameExpression((4, 5, 6, 10)))
STEP = "4 * 5 = 20 (left: 6 10 20)"


def general() -> ThoughtPrompts:
    return thought_prompts("general", TEXT)


def game24() -> ThoughtPrompts:
    return thought_prompts("game24", PUZZLE)


def test_the_task_says_which_prompts() -> None:
    assert thought_prompts("auto", PUZZLE) is game24()
    assert thought_prompts("auto", TEXT) is general()
    assert thought_prompts("auto", Problem(content="24 from 4 5 6 10")) is general()
    assert thought_prompts("general", PUZZLE) is general()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4 + 20 = 24\nsure", 20.0),
        ("likely", 1.0),
        ("**Impossible**.", 0.001),
        ("It is likely, but no: impossible", 0.001),
        ("impossible? No, it is sure.\n\nThe rest is easy.", 20.0),
        ("I am not sure, but it is unlikely", 0.0),
        ("assured", 0.0),
        ("", 0.0),
        ("<think>impossible? sure</think>likely", 1.0),
    ],
)
def test_the_last_verdict_counts(text: str, value: float) -> None:
    assert read_value(text) == value


def test_general_proposals_are_lines() -> None:
    text = (
        "Here are some:\n\n1. Add 3.\n2) Take 4\n- **Double** it: 6\nStep 4: Halve\n(5) Stop.\n\n3.5 is left\n-3 is too"
    )
    expected = ["Add 3.", "Take 4", "Double it: 6", "Halve", "Stop.", "3.5 is left", "-3 is too"]
    assert general().read_proposals(text, 9) == expected
    assert general().read_proposals(text, 2) == expected[:2]
    assert general().read_proposals("<think>\nmany things\n</think>\nAdd 3.", 5) == ["Add 3."]
    assert general().read_proposals("\n  \n", 5) == []


def test_proposals_for_the_game_say_what_is_left() -> None:
    text = "Steps:\n- 4 + 5 = 9 (left: 6 9 10)\n4 * 5 = 20\n10 / 4 = 2.5 (rounded, left: 2.5, 5, 6) (no)\nleft: none"
    lines = ["4 + 5 = 9 (left: 6 9 10)", "10 / 4 = 2.5 (rounded, left: 2.5, 5, 6) (no)"]
    assert game24().read_proposals(text, 5) == lines
    assert game24().read_proposals(text, 1) == lines[:1]
    (*_, last) = game24().value(PUZZLE, lines)
    assert last["content"].endswith("Numbers: 2.5 5 6")


def test_general_prompts_begin_with_the_problem() -> None:
    for messages in (
        general().propose(TEXT, [], 5),
        general().propose(TEXT, ["Add 3."], 1),
        general().value(TEXT, ["Add 3."]),
        general().judge(TEXT, "So 3.", "3"),
    ):
        (only,) = messages
        assert only["content"].startswith("Problem:\nHow many?\n\n")
    (asked,) = general().propose(TEXT, ["Add 3.", "Take 4."], 7)
    assert "Steps so far:\n1. Add 3.\n2. Take 4.\n" in asked["content"]
    assert "Give 7 different steps" in asked["content"]


def test_a_solution_is_asked_for_as_the_problem_asks_for_it() -> None:
    plain, boxed = general().conclude(TEXT, []), general().conclude(TEXT, ["Add 3."])
    assert plain[0]["content"].startswith("How many?\nPlease reason")
    assert boxed[0]["content"].startswith(plain[0]["content"] + "\n\nSteps so far:\n1. Add 3.\n")
    assert general().conclude(PUZZLE, [STEP])[:-1] == PUZZLE.content[:-1]
    assert game24().conclude(PUZZLE, []) == PUZZLE.content
    (*_, last) = game24().conclude(PUZZLE, [STEP, "10 - 6 = 4 (left: 4 20)"])
    assert last["content"].endswith(f"Numbers: 4 5 6 10\nSteps:\n{STEP}\n10 - 6 = 4 (left: 4 20)")


def test_the_game_goes_on_with_what_is_left() -> None:
    assert game24().propose(PUZZLE, [], 5)[-1]["content"].endswith("Numbers: 4 5 6 10")
    assert game24().propose(PUZZLE, [STEP], 1)[-1]["content"].endswith("Numbers: 6 10 20")
    assert game24().value(PUZZLE, ["Some thought."]) == general().value(PUZZLE, ["Some thought."])
    assert game24().judge(PUZZLE, "text", "4 + 5")[-1]["content"].endswith("Numbers: 4 5 6 10\nExpression: 4 + 5")
    assert game24().judge(PUZZLE, "text", None) == general().judge(PUZZLE, "text", None)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("4 5 6 10", "4 5 6 10"),
        ("Make 24 from the numbers 4, 5,6, 10. Use each once.", "4 5 6 10"),
        ("make 24 1 2 3 4", "1 2 3 4"),
    ],
)
def test_the_numbers_are_found_in_the_text(text: str, numbers: str) -> None:
    for content in (text, (Message(role="user", content=text),)):
        asked = game24().propose(Problem(content=content), [], 5)
        assert asked[-1]["content"].endswith(f"Numbers: {numbers}")


@pytest.mark.parametrize("text", ["4 5 6", "1 2 3 4.5", "What is 2 + 2?"])
def test_other_problems_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="the game24 prompts want a problem with four whole numbers in a row, got"):
        game24().propose(Problem(content=text), [], 5)


# --- the worked examples --------------------------------------------------------------------------------------------

EXAMPLES = {
    name: [(example.problem, example.solution) for example in prompt.worked]
    for name, prompt in vars(thoughts).items()
    if isinstance(prompt, Prompt)
}
SAME = [(name, *example) for name, examples in EXAMPLES.items() for example in examples]


@pytest.mark.parametrize(("name", "problem", "solution"), SAME)
def test_their_arithmetic_is_right(name: str, problem: str, solution: str) -> None:
    for line in f"{problem}\n{solution}".splitlines():
        sides = re.sub(r"\(left.*", "", line).split(" = ")
        values = {Fraction(side) if "." in side else arithmetic(side).value for side in sides if len(sides) > 1}
        assert len(values) <= 1, line


def arithmetic(expression: str) -> Arithmetic:
    found = evaluate(expression.strip())
    assert found is not None, expression
    return found


@pytest.mark.parametrize(("problem", "solution"), EXAMPLES["_PROPOSE_24"] + EXAMPLES["_STEP_24"])
def test_their_proposals_leave_the_right_numbers(problem: str, solution: str) -> None:
    for line in solution.splitlines():
        step, _, rest = line.partition(" (left: ")
        used, result = step.split(" = ")
        left = list(map(int, rest[:-1].split()))
        left.remove(int(result))
        assert sorted([*left, *arithmetic(used).numbers]) == sorted(map(int, problem.split()))


@pytest.mark.parametrize(("problem", "solution"), EXAMPLES["_JUDGE_24"])
def test_their_verdicts_are_right(problem: str, solution: str) -> None:
    numbers, expression = re.findall(r": (.+)", problem)
    right = solves(expression, tuple(map(int, numbers.split())))
    assert read_value(solution) == (20.0 if right else 0.001)


@pytest.mark.parametrize(("problem", "solution"), EXAMPLES["_VALUE_24"])
def test_what_they_value_is_what_they_say(problem: str, solution: str) -> None:
    reached = any(" = 24" in line or "It is 24" in line for line in solution.splitlines())
    assert (read_value(solution) == 20.0) == reached
    for line in solution.splitlines():
        if (used := evaluate(line.split(" = ")[0])) is not None and "=" in line:
            assert set(used.numbers) <= set(map(int, problem.split()))


@pytest.mark.parametrize(("problem", "solution"), EXAMPLES["_CONCLUDE_24"])
def test_their_expressions_are_what_the_steps_come_to(problem: str, solution: str) -> None:
    steps = problem.splitlines()
    numbers = tuple(sorted(map(int, steps[0].partition(": ")[2].split())))
    found = arithmetic(solution[len("\\boxed{") : -1])
    assert found.numbers == numbers
    assert f"(left: {found.value})" in steps[-1]


def test_no_puzzle_is_given_away() -> None:
    for _, problem, _ in SAME:
        given = re.findall(r"^(?:Numbers: )?([\d ]+)$", problem, re.MULTILINE)
        assert all(max(map(int, numbers.split())) > 13 for numbers in given if len(numbers.split()) == 4)


def test_recorded_proposals_are_read(data_dir: Path) -> None:
    read = total = 0
    with gzip.open(data_dir / "traces" / "game24_tot_bfs.jsonl.gz", "rt", encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            for step in row["steps"][:3]:
                lines = [path.splitlines()[-1] for path in step["new_ys"]]
                found = game24().read_proposals("\n".join(lines), 5)
                assert set(found) <= {line.strip() for line in lines}
                read, total = read + len(found), total + len(lines)
    assert (read, total) == (4857, 4904)  # the others do not say what is left

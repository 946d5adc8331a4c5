"""Solutions that rows come with: how they are cut, what is made of them, and what is said when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reason.errors import UsageError
from reason.tasks import load_task
from reason.tasks.process import FLAWED, SOUND, given
from reason.tasks.task import Task

STEPS = {"problem": "What is 2 * 3 + 1?", "steps": ["2 * 3 = 6.", " 6 + 1 = 8.\n", r"\boxed{8}"], "label": 1}
SAMPLES = {
    "question": "What is 2 * 3 + 1?",
    "answer": "7",
    "samples": [
        {"text": "2 * 3 = 6.\n\nSo \\boxed{7}\n", "correct": True, "rm_score": 1.5},
        {"text": "It is \\boxed{6}.", "pred": "six", "correct": 0, "rm_score": -2},
    ],
}


def task_of(tmp_path: Path, *rows: dict[str, Any]) -> Any:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_task(file)


def test_a_file_of_steps_is_asked_as_a_critic_is(tmp_path: Path) -> None:
    task = task_of(tmp_path, STEPS, STEPS | {"label": -1})
    first, second = task.examples
    assert (first.reference, second.reference) == ("1", "-1")
    assert task.part is not None
    assert (task.part(first), task.part(second)) == (FLAWED, SOUND)
    prompt = first.problem.content[0]["content"]
    assert (
        "paragraphs 0 to 2:\n\n[Paragraph 0]\n2 * 3 = 6.\n\n[Paragraph 1]\n6 + 1 = 8.\n\n[Paragraph 2]\n\\boxed{8}"
        in prompt
    )
    assert task.grade(first, first.problem.extract("It is paragraph 1: 6 + 1 is 7.\n\n\\boxed{1}"))


def test_given_steps(tmp_path: Path) -> None:
    (example,) = task_of(tmp_path, STEPS).examples
    row = given(example)
    (solution,) = row.solutions
    assert solution.steps == ("2 * 3 = 6.\n\n", "6 + 1 = 8.\n\n", r"\boxed{8}")
    assert (solution.answer, solution.correct) == ("8", False)
    assert row.problem.content[0]["content"].startswith("What is 2 * 3 + 1?\nPlease reason")  # type: ignore[index]
    assert (row.problem.id, row.problem.question) == (example.problem.id, "What is 2 * 3 + 1?")


def test_given_samples(tmp_path: Path) -> None:
    (example,) = task_of(tmp_path, SAMPLES).examples
    row = given(example)
    first, second = row.solutions
    assert (first.steps, first.answer, first.correct, first.reward) == (
        ("2 * 3 = 6.\n\n", "So \\boxed{7}"),
        "7",
        True,
        1.5,
    )
    assert (second.steps, second.answer, second.correct, second.reward) == (("It is \\boxed{6}.",), "six", False, -2.0)
    assert row.problem.step_delimiter == "\n\n"


def test_samples_without_empty_lines_have_a_step_in_each_line(tmp_path: Path) -> None:
    solutions = [{"text": "2 * 3 = <<2*3=6>>6\nA: 6", "correct": False}, {"text": "A: 7", "correct": True}]
    (example,) = task_of(tmp_path, {"question": "?", "answer": "7", "solutions": solutions}).examples
    row = given(example)
    assert [solution.steps for solution in row.solutions] == [("2 * 3 = <<2*3=6>>6\n", "A: 6"), ("A: 7",)]
    assert [solution.answer for solution in row.solutions] == ["6", "7"]
    assert row.problem.step_delimiter == "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 3}, "'label' has to be -1 or the index of a step, below 3; it is 3"),
        ({"label": True}, "it is True"),
        ({"steps": ["a", " "]}, "'steps' has to be a list of texts"),
        ({"problem": " "}, "the problem has to be text"),
    ],
)
def test_bad_steps(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="line 1") as caught:
        task_of(tmp_path, STEPS | change)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "samples have to be a list of objects"),
        (["text"], "samples have to be a list of objects"),
        ([{"correct": True}], "needs its text"),
        ([{"text": "a"}], "needs correct, true or false"),
        (None, "no field 'samples' or 'solutions'"),
        ([{"text": "a", "correct": True, "reward": float("nan")}], "has to be a finite number"),
    ],
)
def test_bad_samples(samples: Any, message: str, tmp_path: Path) -> None:
    (example,) = task_of(tmp_path, {"id": "a-row", "question": "?", "answer": "7", "samples": samples}).examples
    with pytest.raises(UsageError, match="a-row") as caught:
        given(example)
    assert message in str(caught.value)


def test_the_first_rows_are_like_the_others(data_dir: Path) -> None:
    whole = load_task("processbench-math", data=data_dir)
    first = load_task("processbench-math", data=data_dir, limit=200)
    assert first.examples == whole.examples[:200]

    def flawed(task: Task) -> float:
        return sum(example.reference != "-1" for example in task.examples) / len(task)

    assert flawed(first) == pytest.approx(flawed(whole), abs=0.08)


def test_every_row_of_the_data_has_solutions(data_dir: Path) -> None:
    for name in ("gsm8k", "math", "olympiadbench", "omnimath"):
        for example in load_task(f"processbench-{name}", data=data_dir).examples:
            (solution,) = given(example).solutions
            assert len(solution.steps) == len(example.row["steps"]) > int(example.reference)
    for path in ("traces/math_cot_8samples_rm", "process/gsm8k_model_solutions"):
        for example in load_task(data_dir / f"{path}.jsonl.gz").examples:
            assert len(given(example).solutions) in (4, 8)


def test_extracted_answers_agree_with_recorded_verdicts(data_dir: Path) -> None:
    """Of 4220 solutions; measured: all but one, which was recorded as right for another answer."""
    task = load_task(data_dir / "process" / "gsm8k_model_solutions.jsonl.gz")
    pairs = [(s.answer == example.reference, s.correct) for example in task.examples for s in given(example).solutions]
    assert sum(same != right for same, right in pairs) <= 1
    assert len(pairs) == 4220

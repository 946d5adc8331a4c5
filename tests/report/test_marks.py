"""What a task gives answers beside right and wrong goes from the grader to the summary."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.engine.scripted import ScriptedEngine
from reason.report.results import ProblemResult, ResultsFolder
from reason.tasks.task import Example
from tests.report.conftest import make_task

if TYPE_CHECKING:
    from tests.report.conftest import Evaluate


def near(example: Example, answer: str) -> float:
    return max(0.0, 1.0 - abs(int(answer) - int(example.reference)) / 4)


def says_two(prefix: str) -> list[str]:
    return ["no idea"] if "problem 4 " in prefix else [r"so \boxed{2}"]


def test_marks_are_averaged_over_all_problems(run: Evaluate, tmp_path: Path) -> None:
    task = replace(make_task(4), marks={"near": near})
    summary = run(task, ScriptedEngine(says_two), num_samples=1, concurrency=1)
    assert summary.accuracy == 0.25
    mark = summary.marks["near"]
    assert (mark.mean, mark.n) == ((0.75 + 1.0 + 0.75 + 0.0) / 4, 4)
    assert mark.interval.low < mark.mean < mark.interval.high
    results = ResultsFolder(tmp_path / "out").results()
    assert [result.marks["near"] for result in results.values()] == [0.75, 1.0, 0.75, 0.0]
    written = json.loads((tmp_path / "out" / "summary.json").read_text(encoding="utf-8"))["marks"]["near"]
    assert (written["mean"], written["interval"]) == (mark.mean, mark.interval._asdict())


def test_tasks_without_marks_have_none(run: Evaluate) -> None:
    assert run(make_task(2), ScriptedEngine(says_two), num_samples=1).marks == {}


def test_results_from_before_there_were_marks_are_read() -> None:
    line: dict[str, Any] = {
        "id": "p",
        "answer": "1",
        "reference": "1",
        "correct": True,
        "confidence": 1.0,
        "stopped_by": "done",
        "usage": {},
        "candidates": [],
        "failed_samples": 0,
        "error": None,
    }
    assert ProblemResult.from_dict(line).marks == {}
    assert ProblemResult.from_dict({**line, "marks": {"f1": 0.5}}).marks == {"f1": 0.5}

"""An evaluation under a plan: what is written, gone on with, and shown."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.report.evaluate import Evaluation
from reason.report.view import find_runs
from reason.route import RoutedEngine, make_router
from reason.tasks import load_task
from reason.tasks.task import Task


@pytest.fixture
def task(tmp_path: Path) -> Task:
    file = tmp_path / "sums.jsonl"
    rows = [{"id": f"p{i}", "question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(4)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_task(file)


def solver(plan: str) -> Solver:
    """The small model is sure of even numbers only; the large one is right."""

    def answers(prefix: str) -> list[str]:
        number = int(prefix.rpartition(" + ")[2].partition("?")[0])
        return [f"\\boxed{{{2 * number}}}"]

    def logprob(before: str, token: str) -> float:
        number = int(before.rpartition(" + ")[2].partition("?")[0])
        return -0.01 if number % 2 == 0 else -2.0

    return Solver(
        engine=RoutedEngine(ScriptedEngine(answers, logprob=logprob), ScriptedEngine(answers), make_router("always")),
        plan=plan,
    )


def evaluate(task: Task, out: Path, plan: str = "speceyes:gate=logprob,threshold=0.9") -> Any:
    return asyncio.run(Evaluation(task, "best-of-n", {"num_samples": 2}, out=out).run(solver(plan)))


def test_what_is_written(task: Task, tmp_path: Path) -> None:
    summary = evaluate(task, tmp_path / "out")
    assert summary.done == 4
    assert summary.totals["short_cuts"] == 2
    traces = sorted(file.name for file in (tmp_path / "out" / "traces").iterdir())
    assert traces == ["p0.plan.jsonl", "p1.jsonl", "p1.plan.jsonl", "p2.plan.jsonl", "p3.jsonl", "p3.plan.jsonl"]
    runs = {run.id: run.result for run in find_runs(tmp_path / "out")}
    assert {name for name, result in runs.items() if result is not None} == {"p0", "p1", "p2", "p3"}
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"]["plan"] == "speceyes:gate=logprob,threshold=0.9"


def test_another_plan_is_another_evaluation(task: Task, tmp_path: Path) -> None:
    evaluate(task, tmp_path / "out")
    with pytest.raises(UsageError, match=r"begun with other settings: model\.plan"):
        evaluate(task, tmp_path / "out", "speceyes:gate=logprob,threshold=0.5")


def test_a_failed_problem_is_tried_from_its_beginning(task: Task, tmp_path: Path) -> None:
    from reason.report.results import ResultsFolder

    evaluate(task, tmp_path / "out")
    ResultsFolder(tmp_path / "out").discard_traces("p1")
    assert not list((tmp_path / "out" / "traces").glob("p1.*"))

"""What value heads learn from: the solutions of an evaluation with their outcomes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.report.evaluate import Evaluation
from reason.report.rollouts import read_rollouts
from tests.report.conftest import make_task


def test_each_solution_has_its_own_outcome(tmp_path: Path) -> None:
    """Programs that behave alike where it is public are a class; hidden tests tell them apart."""
    task = make_task(1)
    (example,) = task.examples
    problem = replace(example.problem, equivalent=lambda a, b: True, extract=str.strip)
    task = replace(task, examples=(replace(example, problem=problem),), check=lambda example, answer: answer == "good")
    engine = ScriptedEngine(lambda prefix: ["good", "bad"])
    asyncio.run(Evaluation(task, "best-of-n", {"num_samples": 8}, out=tmp_path).run(Solver(engine=engine)))
    found = {engine.codec.decode(each.tokens).strip(): each for each in read_rollouts(tmp_path)}
    assert {text: each.correct for text, each in found.items()} == {"good": True, "bad": False}
    assert len({each.answer_class for each in found.values()}) == 1

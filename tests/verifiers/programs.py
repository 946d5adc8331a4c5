"""Trajectories whose answers are programs."""

from __future__ import annotations

from dataclasses import replace

from reason.tasks.code import code_problem
from reason.types import Problem, Step, Trajectory

__all__ = ["RIGHT", "WRONG", "doubling", "written"]

RIGHT = "def f(x):\n    return x * 2\n"
WRONG = "def f(x):\n    return x + 2\n"  # right for 2


def doubling(**changes: object) -> Problem:
    """Asks for a function that doubles."""
    made = code_problem(
        "Write a function f that doubles.", ["assert f(2) == 4", "assert f(3) == 6", "assert f(0) == 0"]
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def written(program: str, problem: Problem | None = None, *, finished: bool = True) -> Trajectory:
    """A solution that is a program in a fence."""
    problem = problem or doubling()
    text = f"```python\n{program}```\n"
    answer = problem.extract(text) if finished and problem.extract else None
    return Trajectory(
        problem=problem, prompt=(1,), steps=(Step(text=text, tokens=(2,)),), finished=finished, answer=answer
    )

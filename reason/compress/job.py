"""What is to be compressed, as text, and with the importance of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reason.api import as_problem
from reason.compress.costs import boxed_answer
from reason.compress.steps import split_steps, split_trace
from reason.errors import UsageError
from reason.types import Problem

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Job", "ScoredJob"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A trace to compress, checked: there are steps, and a solution.

    Raises:
        UsageError: there are none.
    """

    problem: Problem
    steps: tuple[str, ...]
    thought: str
    solution: str

    @classmethod
    def of(cls, problem: str | Problem, trace: str, solution: str | None = None) -> Self:
        """Args:
        solution: None takes what the trace says after its thinking.
        """
        asked = as_problem(problem)
        thought, said = split_trace(trace)
        steps = split_steps(thought, asked.step_delimiter)
        if not steps:
            raise UsageError("the trace has no steps: it is empty, or nothing stands before the end of its thinking")
        reference = (said if solution is None else solution).strip()
        if not reference:
            raise UsageError(
                "there is no reference solution: give one (its answer in \\boxed{}), or a trace that says one after "
                "the end of its thinking (</think>)"
            )
        return cls(problem=asked, steps=steps, thought=thought, solution=reference)

    def as_row(self) -> dict[str, Any]:
        """What it is, as the file of results has it."""
        return {"question": self.problem.content, "solution": self.solution, "steps": list(self.steps)}

    @property
    def question(self) -> str:
        """The problem's text as a scorer reads it."""
        content = self.problem.content
        if self.problem.question is not None:
            return self.problem.question
        return content if isinstance(content, str) else content[-1]["content"]

    @property
    def answer(self) -> str | None:
        """The solution's; None if it does not say one."""
        extract = self.problem.extract
        return extract(self.solution) if extract is not None else boxed_answer(self.solution)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredJob:
    """A job with the importance of its steps, and what that took."""

    job: Job
    importance: tuple[float, ...]
    num_tokens: int
    num_forwards: int
    seconds: float

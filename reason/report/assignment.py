"""One problem of an evaluation: searched, and graded. It is the same wherever that is done.

An ``Assignment`` says what is asked of each problem and can be sent to another process; a ``Place`` is where problems
are solved. ``Here`` is this process; ``reason.cluster`` has one of many machines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from reason.report.results import CandidateResult, ProblemResult, ResultsOf

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.search.driver import AnyRun
    from reason.search.tree import Strategy
    from reason.tasks.task import Example, Task
    from reason.types import Budget, Embedder, Solution, Verifier

__all__ = ["Assignment", "Here", "Outcome", "Place"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What is asked of each problem; see ``Evaluation`` for the fields."""

    task: Task
    strategy: str | Strategy
    strategy_fields: Mapping[str, Any]
    budget: Budget
    seed: int
    verifiers: Mapping[str, Verifier | Embedder]
    max_thinking_tokens: int | None
    log_samples: bool

    def without_problems(self) -> Assignment:
        """For sending: the task's rules, whose problems come one by one."""
        return replace(self, task=replace(self.task, examples=()))


class Outcome(NamedTuple):
    """What came of a problem; ``sample`` is its line of samples.jsonl, if asked for."""

    result: ProblemResult
    sample: dict[str, Any] | None = None


class Place(Protocol):
    """Where problems are solved."""

    @property
    def model(self) -> Mapping[str, Any]:
        """The model's "name", and what else is recorded of it."""
        ...

    @property
    def engines(self) -> int:
        """How many work side by side; each has as many problems under way as the evaluation says."""
        ...

    @property
    def environment(self) -> Mapping[str, Any]:
        """What else sittings record."""
        ...

    async def outcome(self, example: Example, folder: ResultsOf[ProblemResult]) -> Outcome | None:
        """What comes of a problem, whose journals are in the folder; None where it was interrupted.

        Raises:
            ReasonError: nothing.
        """
        ...

    def tokens(self) -> int:
        """Generated so far."""
        ...


class Here:
    """A ``Place``: this process."""

    engines = 1
    environment: Mapping[str, Any] = {}

    def __init__(self, assignment: Assignment, solver: Solver) -> None:
        self._assignment = assignment
        self._solver = solver
        self._running: dict[str, AnyRun] = {}
        self._policy_tokens = 0

    @property
    def model(self) -> Mapping[str, Any]:
        return self._solver.recorded

    async def outcome(self, example: Example, folder: ResultsOf[ProblemResult]) -> Outcome | None:
        journal = folder.trace(example.problem.id)
        resumed = journal.exists()  # then not all of its tokens will be this sitting's
        run = self._start(example, journal)
        solution = await self._solve(run)
        if not resumed:
            self._policy_tokens += solution.usage.policy_tokens
        if solution.stopped_by == "interrupt":  # half a search is no result; its journal goes on from there
            return None
        failed_samples = sum(node.finish_reason == "error" for node in run.tree.nodes)
        result = await self._graded(example, solution, failed_samples)
        return Outcome(result, _sample(example, solution, result) if self._assignment.log_samples else None)

    def tokens(self) -> int:
        return self._policy_tokens + sum(
            run.engine.usage(run.owner).policy_tokens for run in list(self._running.values())
        )

    def _start(self, example: Example, journal: Path) -> AnyRun:
        asked = self._assignment
        return self._solver.start(
            example.problem,
            asked.strategy,
            budget=asked.budget,
            seed=asked.seed,
            verifiers=asked.verifiers,
            journal=journal,
            max_thinking_tokens=asked.max_thinking_tokens,
            **asked.strategy_fields,
        )

    async def _solve(self, run: AnyRun) -> Solution:
        name = run.tree.problem.id
        self._running[name] = run
        try:
            return await run.solve()
        finally:
            del self._running[name]

    async def _graded(self, example: Example, solution: Solution, failed_samples: int) -> ProblemResult:
        """Grades in threads, an answer at a time, so that Ctrl-C waits for one at most."""
        task = self._assignment.task
        right: dict[str | None, bool] = {None: False}
        for answer in (solution.answer, *(candidate.answer for candidate in solution.candidates)):
            if answer not in right:
                right[answer] = await asyncio.to_thread(task.grade, example, answer)
        numbers: dict[int | None, int | None] = {None: None}
        classes = [numbers.setdefault(c.answer_class, len(numbers) - 1) for c in solution.candidates]
        marks = await asyncio.to_thread(task.mark, example, solution.answer)
        return ProblemResult(
            id=example.problem.id,
            answer=solution.answer,
            reference=example.reference,
            correct=right[solution.answer],
            confidence=solution.confidence,
            stopped_by=solution.stopped_by,
            failed_samples=failed_samples,
            usage=solution.usage.as_dict(),
            candidates=tuple(
                CandidateResult(
                    answer=candidate.answer,
                    answer_class=answer_class,
                    correct=right[candidate.answer],
                    num_tokens=candidate.num_tokens,
                    finish_reason=candidate.finish_reason,
                    score=candidate.score,
                )
                for candidate, answer_class in zip(solution.candidates, classes, strict=True)
            ),
            marks=marks,
            part=task.part(example) if task.part else "",
        )


def _sample(example: Example, solution: Solution, result: ProblemResult) -> dict[str, Any]:
    """A line of samples.jsonl: what was asked, and every text with its verdict."""
    texts = zip(solution.candidates, result.candidates, strict=True)
    return {
        "id": result.id,
        "problem": example.problem.content,
        "reference": example.reference,
        "answer": solution.answer,
        "text": solution.text,
        "candidates": [{"answer": c.answer, "correct": r.correct, "score": c.score, "text": c.text} for c, r in texts],
    }

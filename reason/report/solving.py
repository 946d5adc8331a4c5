"""The sitting of an evaluation that solves problems: runs searches, grades what comes of them."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reason.report.results import CandidateResult, ProblemResult
from reason.report.sitting import Sitting
from reason.report.summary import Summary, summarize

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.errors import ReasonError
    from reason.report.evaluate import Evaluation
    from reason.search.driver import AnyRun
    from reason.tasks.task import Example
    from reason.types import Solution

__all__ = ["Solving"]


class Solving(Sitting[ProblemResult, Summary]):
    """See the module."""

    _evaluation: Evaluation

    def __init__(self, evaluation: Evaluation, solver: Solver, config: Mapping[str, Any]) -> None:
        super().__init__(evaluation, config)
        self._solver = solver
        self._running: dict[str, AnyRun] = {}
        self._resumed: set[str] = set()
        self._policy_tokens = 0

    async def come_to(self, example: Example) -> ProblemResult | None:
        run = self._start(example)
        solution = await self._solve(run)
        if solution.stopped_by == "interrupt":  # half a search is no result; its journal goes on from there
            return None
        failed_samples = sum(node.finish_reason == "error" for node in run.tree.nodes)
        result = await self._graded(example, solution, failed_samples)
        if self._evaluation.log_samples:
            self._folder.append("samples.jsonl", _sample(example, solution, result))
        return result

    def failed(self, example: Example, error: ReasonError) -> ProblemResult:
        return ProblemResult(
            id=example.problem.id,
            answer=None,
            reference=example.reference,
            correct=False,
            confidence=0.0,
            stopped_by=None,
            usage={},
            part=self._task.part(example) if self._task.part else "",
            error=f"{type(error).__name__}: {error}",
        )

    def summarize(
        self, results: Sequence[ProblemResult], sittings: Sequence[Mapping[str, Any]]
    ) -> tuple[Summary, dict[str, Any]]:
        summary = summarize(results, total=len(self._task), config=self._config, sittings=sittings)
        return summary, summary.as_dict()

    def correct(self, results: Collection[ProblemResult]) -> int:
        return sum(result.correct for result in results)

    def tokens(self) -> int:
        return self._policy_tokens + sum(
            run.engine.usage(run.owner).policy_tokens for run in list(self._running.values())
        )

    def _start(self, example: Example) -> AnyRun:
        evaluation = self._evaluation
        journal = self._folder.trace(example.problem.id)
        if journal.exists():  # then not all of its tokens will be this sitting's
            self._resumed.add(example.problem.id)
        return self._solver.start(
            example.problem,
            evaluation.strategy,
            budget=evaluation.budget,
            seed=evaluation.seed,
            verifiers=evaluation.verifiers,
            journal=journal,
            max_thinking_tokens=evaluation.max_thinking_tokens,
            **evaluation.strategy_fields,
        )

    async def _solve(self, run: AnyRun) -> Solution:
        name = run.tree.problem.id
        self._running[name] = run
        try:
            solution = await run.solve()
        finally:
            del self._running[name]
        if name not in self._resumed:
            self._policy_tokens += solution.usage.policy_tokens
        return solution

    async def _graded(self, example: Example, solution: Solution, failed_samples: int) -> ProblemResult:
        """Grades in threads, an answer at a time, so that Ctrl-C waits for one at most."""
        right: dict[str | None, bool] = {None: False}
        for answer in (solution.answer, *(candidate.answer for candidate in solution.candidates)):
            if answer not in right:
                right[answer] = await asyncio.to_thread(self._task.grade, example, answer)
        numbers: dict[int | None, int | None] = {None: None}
        classes = [numbers.setdefault(c.answer_class, len(numbers) - 1) for c in solution.candidates]
        marks = await asyncio.to_thread(self._task.mark, example, solution.answer)
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
            part=self._task.part(example) if self._task.part else "",
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

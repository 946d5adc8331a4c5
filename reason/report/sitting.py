"""One sitting of an evaluation: solves and grades what is not done yet, and writes each result as it comes.

An error that no other problem would be spared (the engine is closed, nothing can be written, the first problems all
fail alike) ends the sitting; any other is one problem's and the rest go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeAlias

from reason.errors import EngineClosed, ReasonError
from reason.report.results import CandidateResult, ProblemResult, is_disk_error
from reason.report.statistics import standard_error
from reason.report.summary import Summary, summarize
from reason.tasks.equivalence import group

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.report.evaluate import Evaluation
    from reason.search.driver import Run
    from reason.tasks.task import Example, Task
    from reason.types import Solution

__all__ = ["OnProgress", "Progress", "Sitting"]

_FAILURES_ALIKE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where an evaluation stands. ``last`` is the problem that was just done; None at the start."""

    done: int
    total: int
    kept: int  # done in earlier sittings
    correct: int
    failed: int
    seconds: float  # of this sitting
    last: ProblemResult | None = None

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.done if self.done else None

    @property
    def standard_error(self) -> float | None:
        return standard_error([1.0] * self.correct + [0.0] * (self.done - self.correct))

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this sitting."""
        fresh = self.done - self.kept
        return self.seconds / fresh * (self.total - self.done) if fresh else None


OnProgress: TypeAlias = Callable[[Progress], None]


class Sitting:
    """See the module. The folder is open and locked."""

    def __init__(self, evaluation: Evaluation, solver: Solver, config: Mapping[str, Any]) -> None:
        self._evaluation = evaluation
        self._folder = evaluation.folder
        self._task: Task = evaluation.task
        self._solver = solver
        self._config = config
        self._results = self._folder.results()
        self._kept = len(self._results)
        self._earlier: list[dict[str, Any]] = self._folder.read("sittings.json") or []
        self._pending = deque(e for e in self._task.examples if e.problem.id not in self._results)
        self._enough_failures = min(_FAILURES_ALIKE, len(self._pending))
        self._failures: list[ReasonError] = []
        self._running: dict[str, Run] = {}
        self._resumed: set[str] = set()
        self._policy_tokens = 0
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._began = time.perf_counter()

    async def solve(self) -> None:
        """Until everything is done or the evaluation is told to stop."""
        self._tell_progress(None)
        if not self._pending:
            return
        self._write_sitting()
        working = {asyncio.ensure_future(self._work()) for _ in range(self._evaluation.concurrency)}
        waiting, stopping = set(working), asyncio.ensure_future(self._evaluation.stop.wait())
        try:
            while waiting:
                done, _ = await asyncio.wait({*waiting, stopping}, return_when=asyncio.FIRST_COMPLETED)
                for task in done & waiting:
                    task.result()
                if stopping in done:
                    break
                waiting -= done
        finally:
            for task in (stopping, *working):
                task.cancel()
            await asyncio.gather(stopping, *working, return_exceptions=True)
        self._write_sitting()

    def policy_tokens(self) -> int:
        """Tokens generated so far in this sitting."""
        return self._policy_tokens + sum(
            run.engine.usage(run.owner).policy_tokens for run in list(self._running.values())
        )

    def write_summary(self) -> Summary:
        """Of what is done, in the task's order."""
        results = [self._results[e.problem.id] for e in self._task.examples if e.problem.id in self._results]
        sittings = self._folder.read("sittings.json") or []
        summary = summarize(results, total=len(self._task), config=self._config, sittings=sittings)
        self._folder.write("summary.json", summary.as_dict())
        return summary

    def try_to_summarize(self) -> None:
        """When another error is under way, which is worth more than one of writing."""
        with contextlib.suppress(ReasonError):
            self.write_summary()

    # -- one problem -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._pending and not self._evaluation.stop.is_set():
            await self._one(self._pending.popleft())

    async def _one(self, example: Example) -> None:
        try:
            run = self._start(example)
            solution = await self._solve(run)
            if solution.stopped_by == "interrupt":  # half a search is no result; its journal goes on from there
                return
            failed_samples = sum(node.finish_reason == "error" for node in run.tree.nodes)
            result = await self._graded(example, solution, failed_samples)
        except ReasonError as error:
            if isinstance(error, EngineClosed) or is_disk_error(error):
                raise
            self._failures.append(error)
            self._add(_failed(example, error))
            fresh = len(self._results) - self._kept
            if self._enough_failures <= fresh == len(self._failures) and len(set(map(type, self._failures))) == 1:
                raise
            return
        if self._evaluation.log_samples:
            self._folder.append("samples.jsonl", _sample(example, solution, result))
        self._add(result)

    def _start(self, example: Example) -> Run:
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

    async def _solve(self, run: Run) -> Solution:
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
        classes = await asyncio.to_thread(_classes, example, solution)
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
        )

    # -- records ---------------------------------------------------------------------------------------------------

    def _add(self, result: ProblemResult) -> None:
        self._folder.append("results.jsonl", result.as_dict())
        self._results[result.id] = result
        self._write_sitting()
        self._tell_progress(result)

    def _write_sitting(self) -> None:
        """After each problem, so that a kill loses no more time than since the last one."""
        sitting = {
            "started": self._started,
            "seconds": time.perf_counter() - self._began,
            "problems": len(self._results) - self._kept,
            "environment": self._config["environment"],
        }
        self._folder.write("sittings.json", [*self._earlier, sitting])

    def _tell_progress(self, last: ProblemResult | None) -> None:
        if self._evaluation.on_progress is None:
            return
        results = self._results.values()
        progress = Progress(
            done=len(results),
            total=len(self._task),
            kept=self._kept,
            correct=sum(result.correct for result in results),
            failed=sum(result.error is not None for result in results),
            seconds=time.perf_counter() - self._began,
            last=last,
        )
        self._evaluation.on_progress(progress)


def _classes(example: Example, solution: Solution) -> list[int | None]:
    """Each candidate's class of equivalent answers, numbered by first appearance; None abstains. Blocks."""
    answering = [(i, c.answer) for i, c in enumerate(solution.candidates) if c.answer is not None]
    classes: list[int | None] = [None] * len(solution.candidates)
    for number, members in enumerate(group([answer for _, answer in answering], example.problem.equivalent)):
        for member in members:
            classes[answering[member][0]] = number
    return classes


def _failed(example: Example, error: ReasonError) -> ProblemResult:
    return ProblemResult(
        id=example.problem.id,
        answer=None,
        reference=example.reference,
        correct=False,
        confidence=0.0,
        stopped_by=None,
        usage={},
        error=f"{type(error).__name__}: {error}",
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

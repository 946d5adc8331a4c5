"""One sitting of an evaluation: comes to the results that are not there yet, and writes each as it comes.

An error that no other problem would be spared (the engine is closed, nothing can be written, the first problems all
fail alike) ends the sitting; any other is one problem's and the rest go on.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from reason.errors import EngineClosed, ReasonError
from reason.report.results import Result, ResultsOf, is_disk_error
from reason.report.statistics import standard_error

if TYPE_CHECKING:
    from reason.report.resumable import Resumable
    from reason.tasks.task import Example, Task

__all__ = ["OnProgress", "Progress", "Sitting", "spares_nobody"]

R = TypeVar("R", bound=Result)
S = TypeVar("S")

_FAILURES_ALIKE = 3
_SITTING_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where an evaluation stands. ``correct`` is None where nothing is right or wrong before all is done; ``last`` was
    just done, None at the start."""

    done: int
    total: int
    kept: int  # done in earlier sittings
    correct: int | None
    failed: int
    seconds: float  # of this sitting
    last: Result | None = None

    @property
    def accuracy(self) -> float | None:
        return self.correct / self.done if self.done and self.correct is not None else None

    @property
    def standard_error(self) -> float | None:
        if self.correct is None:
            return None
        return standard_error([1.0] * self.correct + [0.0] * (self.done - self.correct))

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this sitting."""
        fresh = self.done - self.kept
        return self.seconds / fresh * (self.total - self.done) if fresh else None


OnProgress: TypeAlias = Callable[[Progress], None]


class Sitting(abc.ABC, Generic[R, S]):
    """See the module. The folder is open and locked. R is a problem's result, S the summary."""

    def __init__(self, evaluation: Resumable[R, S], config: Mapping[str, Any]) -> None:
        self._evaluation = evaluation
        self._folder: ResultsOf[R] = evaluation.folder
        self._task: Task = evaluation.task
        self._config = config
        self._results = self._folder.results()
        self._kept = len(self._results)
        self._correct = self.correct(self._results.values())  # counted on, not anew: there may be many
        self._failed = sum(result.error is not None for result in self._results.values())
        self._earlier: list[dict[str, Any]] = self._folder.read("sittings.json") or []
        self._pending = deque(e for e in self._task.examples if e.problem.id not in self._results)
        self._enough_failures = min(_FAILURES_ALIKE, len(self._pending))
        self._failures: list[ReasonError] = []
        self._started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._began = self._written = time.perf_counter()

    async def work(self) -> None:
        """Until everything is done or the evaluation is told to stop."""
        self._tell_progress(None)
        if not self._pending:
            return
        self._write_sitting()
        lanes = min(self.lanes, len(self._pending))
        working = {asyncio.ensure_future(self._work()) for _ in range(lanes)}
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

    def write_summary(self) -> S:
        """Of what is done, in the task's order."""
        results = [self._results[e.problem.id] for e in self._task.examples if e.problem.id in self._results]
        summary, shown = self.summarize(results, self._folder.read("sittings.json") or [])
        self._folder.write("summary.json", shown)
        return summary

    def try_to_summarize(self) -> None:
        """When another error is under way, which is worth more than one of writing."""
        with contextlib.suppress(ReasonError):
            self.write_summary()

    @property
    def lanes(self) -> int:
        """Problems under way at once."""
        return self._evaluation.concurrency

    # -- what kinds of evaluations differ in -----------------------------------------------------------------------

    @abc.abstractmethod
    async def come_to(self, example: Example) -> R | None:
        """A problem's result; None where it was interrupted.

        Raises:
            ReasonError: there is none.
        """

    @abc.abstractmethod
    def failed(self, example: Example, error: ReasonError) -> R:
        """The result where ``come_to`` raised."""

    @abc.abstractmethod
    def summarize(self, results: Sequence[R], sittings: Sequence[Mapping[str, Any]]) -> tuple[S, dict[str, Any]]:
        """The figures of what is done, and the object of summary.json."""

    @abc.abstractmethod
    def correct(self, results: Collection[R]) -> int | None:
        """How many are right; None where that is not known before all are there."""

    @abc.abstractmethod
    def tokens(self) -> int:
        """What shows how fast it goes: tokens so far in this sitting, that were generated or else read."""

    # -- one problem -----------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while self._pending and not self._evaluation.stop.is_set():
            await self._one(self._pending.popleft())

    async def _one(self, example: Example) -> None:
        try:
            result = await self.come_to(example)
        except ReasonError as error:
            if spares_nobody(error):
                raise
            self._failures.append(error)
            self._add(self.failed(example, error))
            fresh = len(self._results) - self._kept
            if self._enough_failures <= fresh == len(self._failures) and len(set(map(type, self._failures))) == 1:
                raise
            return
        if result is not None:
            self._add(result)

    # -- records ---------------------------------------------------------------------------------------------------

    def _add(self, result: R) -> None:
        self._folder.append("results.jsonl", result.as_dict())
        self._results[result.id] = result
        self._failed += result.error is not None
        if self._correct is not None:
            self._correct += self.correct([result]) or 0
        if time.perf_counter() - self._written >= _SITTING_SECONDS:
            self._write_sitting()
        self._tell_progress(result)

    def _write_sitting(self) -> None:
        """Now and then, so that a kill loses little of the time that is recorded."""
        self._written = time.perf_counter()
        sitting = {
            "started": self._started,
            "seconds": time.perf_counter() - self._began,
            "problems": len(self._results) - self._kept,
            "environment": self._config["environment"],
        }
        self._folder.write("sittings.json", [*self._earlier, sitting])

    def _tell_progress(self, last: R | None) -> None:
        if self._evaluation.on_progress is None:
            return
        progress = Progress(
            done=len(self._results),
            total=len(self._task),
            kept=self._kept,
            correct=self._correct,
            failed=self._failed,
            seconds=time.perf_counter() - self._began,
            last=last,
        )
        self._evaluation.on_progress(progress)


def spares_nobody(error: ReasonError) -> bool:
    """Whether no other problem would fare better on the same engine and disk."""
    return isinstance(error, EngineClosed) or is_disk_error(error)

"""An evaluation on a fleet: problems go to whoever has room, and go elsewhere when their worker is lost.

A problem is in one lane of the evaluation's sitting from its start to its one line of results, and what a lost worker
may still have said is not listened to. So each is answered once, whatever happens to the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from reason.cluster.fleet import NOTE_SECONDS, Fleet, LostWorker, Worker, only_lost
from reason.cluster.slots import Slots
from reason.errors import EngineClosed, EngineError, ReasonError

if TYPE_CHECKING:
    from reason.cluster.replica import Reply
    from reason.report.assignment import Assignment, Outcome
    from reason.report.evaluate import Evaluation
    from reason.report.results import ProblemResult, ResultsOf
    from reason.report.summary import Summary
    from reason.tasks.task import Example

__all__ = ["on_fleet"]

_TRIES = 3
_GIVE_UP_SECONDS = 10.0

_evaluations = itertools.count()


async def on_fleet(evaluation: Evaluation, fleet: Fleet) -> Summary:
    """``Evaluation.run`` with a fleet's workers: the same folder, and the same results.

    Raises:
        ReasonError: as ``Evaluation.run``, and where no worker is left.
    """
    async with _placed(evaluation.assignment, evaluation.concurrency, fleet) as place:
        return await evaluation.run_at(place)


@contextlib.asynccontextmanager
async def _placed(assignment: Assignment, concurrency: int, fleet: Fleet) -> AsyncIterator[_OnFleet]:
    place = _OnFleet(assignment, concurrency, fleet)
    beside = [asyncio.ensure_future(work) for work in (place.watch(), *map(place.keep, range(fleet.size)))]
    try:
        yield place
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


class _OnFleet:
    """A ``Place``: the workers of a fleet, for one evaluation."""

    def __init__(self, assignment: Assignment, concurrency: int, fleet: Fleet) -> None:
        import ray

        self._fleet = fleet
        self._name = f"evaluation-{next(_evaluations)}"
        self._assignment = [ray.put(assignment.without_problems())]
        self._slots: Slots[Worker] = Slots(concurrency, expected=lambda: len(fleet.workers))
        self._policy_tokens = 0

    @property
    def model(self) -> Mapping[str, Any]:
        return self._fleet.model

    @property
    def engines(self) -> int:
        return self._fleet.size

    @property
    def environment(self) -> Mapping[str, Any]:
        return {"workers": self._fleet.size}

    def tokens(self) -> int:
        return self._policy_tokens

    async def outcome(self, example: Example, folder: ResultsOf[ProblemResult]) -> Outcome | None:
        name = example.problem.id
        began_with = folder.read_traces(name)
        for attempt in range(1, _TRIES + 1):
            worker = await self._slots.take(alone=attempt == _TRIES)
            try:
                reply = await self._ask(worker, example, began_with, folder)
            except LostWorker as error:
                self._slots.remove(worker)
                self._fleet.replace(worker, error)
                lost = error
                continue
            finally:
                self._slots.give_back(worker)
            folder.write_traces(name, reply.traces)
            if reply.error is not None:
                raise reply.error
            if reply.outcome is not None and not began_with:  # else not all of its tokens are this sitting's
                self._policy_tokens += int(reply.outcome.result.usage["policy_tokens"])
            return reply.outcome
        raise EngineError(
            f"{_TRIES} workers were lost while they solved {name}, the last with nothing else to do: {lost}"
        )

    async def keep(self, number: int) -> None:
        """Has a seat's worker take part as long as it lasts, and then the one that replaces it."""
        try:
            while (worker := self._fleet.current(number)) is not None:
                try:
                    with only_lost():
                        if not self._fleet.arrived(worker, await worker.loaded):
                            continue
                        self._slots.add(worker)
                        await worker.ended
                except LostWorker as error:
                    self._slots.remove(worker)
                    self._fleet.replace(worker, error)
            if not self._fleet.workers:
                raise self._fleet.none_left()
        except ReasonError as error:
            self._slots.close(EngineClosed(str(error)))

    async def watch(self) -> None:
        """Says so where nobody is there to work."""
        while True:
            await asyncio.sleep(NOTE_SECONDS)
            if not self._slots:
                self._fleet.note_waiting()

    async def _ask(
        self, worker: Worker, example: Example, traces: Mapping[str, bytes], folder: ResultsOf[ProblemResult]
    ) -> Reply:
        """Raises:
        LostWorker: it is gone, or its engine is broken.
        """
        name = example.problem.id
        try:
            with only_lost():
                reply: Reply = await worker.actor.solve.remote(self._name, self._assignment, example, traces)
        except asyncio.CancelledError:
            await self._give_up(worker, name, folder)
            raise
        if reply.broken:
            raise LostWorker(f"its engine is broken: {reply.error}")
        return reply

    async def _give_up(self, worker: Worker, name: str, folder: ResultsOf[ProblemResult]) -> None:
        """Keeps what a worker has of a problem, so that the next sitting goes on from there; without, it would begin
        the problem anew."""
        with contextlib.suppress(LostWorker, asyncio.TimeoutError), only_lost():
            asked = asyncio.wrap_future(worker.actor.give_up.remote(name).future())
            folder.write_traces(name, await asyncio.wait_for(asked, _GIVE_UP_SECONDS))

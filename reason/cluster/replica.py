"""What a worker runs: one engine, and some problems at a time for the evaluation that asks.

Errors come back as values. A problem's journals come with it and go back with what came of it, so that the results
folder is the driver's alone.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reason.errors import EngineError, ReasonError
from reason.report.assignment import Assignment, Here, Outcome
from reason.report.results import ResultsFolder
from reason.report.sitting import spares_nobody

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.tasks.task import Example

__all__ = ["Loaded", "Replica", "Reply", "version"]

log = logging.getLogger("reason.cluster")


class Loaded(NamedTuple):
    """What a worker is: its model as evaluations record it, and its version of this package; or why there is none."""

    model: Mapping[str, Any] | None
    version: str
    error: ReasonError | None = None


class Reply(NamedTuple):
    """What came of a problem: an outcome, an error, or neither where it was given up.

    Args:
        traces: its journals, see ``ResultsOf.read_traces``.
        broken: the error is the engine's or the machine's, and would be every other problem's too.
    """

    outcome: Outcome | None
    traces: Mapping[str, bytes]
    error: ReasonError | None = None
    broken: bool = False


class Replica:
    """The class of the actors. All methods run in one event loop.

    Args:
        make_solver: loads the model.
    """

    def __init__(self, make_solver: Callable[[], Solver]) -> None:
        self._make_solver = make_solver
        self._solver: Solver | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="reason-worker-")
        self._folder = ResultsFolder(Path(self._scratch.name))
        self._places: dict[str, Here] = {}
        self._running: dict[str, asyncio.Task[Outcome | None]] = {}

    async def load(self) -> Loaded:
        """Once, before all else."""
        try:
            self._solver = await asyncio.to_thread(self._make_solver)
        except ReasonError as error:
            return Loaded(None, version(), error)
        except Exception as error:  # a machine may lack a library, a driver or memory
            log.exception("the model was not loaded")
            return Loaded(None, version(), EngineError(f"loading the model failed: {type(error).__name__}: {error}"))
        return Loaded(self._solver.recorded, version())

    async def lasts(self) -> None:
        """Never returns: who waits for it learns when this process or its machine is gone."""
        await asyncio.Event().wait()

    async def solve(
        self, evaluation: str, assignment: Sequence[Any], example: Example, traces: Mapping[str, bytes]
    ) -> Reply:
        """Args:
        evaluation: names the assignment.
        assignment: the reference of one, in a list so that it is fetched once and not with each problem.
        traces: what earlier sittings left of the problem.
        """
        name = example.problem.id
        self._folder.write_traces(name, traces)
        place = await self._place(evaluation, assignment)
        task = self._running[name] = asyncio.ensure_future(place.outcome(example, self._folder))
        try:
            return Reply(await task, self._take_traces(name))
        except ReasonError as error:
            return Reply(None, self._take_traces(name), error, broken=spares_nobody(error))
        except asyncio.CancelledError:
            return Reply(None, {})  # ``give_up`` has the journals
        finally:
            self._running.pop(name, None)

    async def give_up(self, name: str) -> Mapping[str, bytes]:
        """Ends a problem as soon as possible; gives its journals, from which another sitting can go on."""
        if (task := self._running.pop(name, None)) is None:
            return {}
        task.cancel()
        await asyncio.wait([task])
        return self._take_traces(name)

    async def close(self) -> None:
        """Frees the model and the scratch folder."""
        if self._solver is not None:
            self._solver.close()
        self._scratch.cleanup()

    async def _place(self, evaluation: str, assignment: Sequence[Any]) -> Here:
        if evaluation not in self._places:
            assert self._solver is not None
            fetched: Assignment = await assignment[0]
            self._places.setdefault(evaluation, Here(fetched, self._solver))
        return self._places[evaluation]

    def _take_traces(self, name: str) -> dict[str, bytes]:
        traces = self._folder.read_traces(name)
        self._folder.discard_traces(name)
        return traces


def version() -> str:
    """This package's."""
    return metadata.version("reason-toolkit")

"""Workers, asked for and replaced. All are asked for at once; work begins with the first that is there."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reason.cluster.replica import Loaded, Replica, version
from reason.cluster.session import Share
from reason.errors import ReasonError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Self

    from reason.api import Solver

__all__ = ["NOTE_SECONDS", "Fleet", "LostWorker", "Worker", "only_lost"]

_STARTS = 3  # of a worker in vain, before it is done without
NOTE_SECONDS = 30.0
_CLOSE_SECONDS = 10.0
_CALLS_AT_ONCE = 10_000  # more than an evaluation's problems under way: the engine has queues of its own


@dataclass(frozen=True, eq=False, slots=True)
class Worker:
    """One replica of the engine.

    Args:
        number: its seat in the fleet; who replaces it has the same.
        actor: Ray's handle of a ``Replica``.
        loaded: what will be its ``Loaded``.
        ended: fails once it is gone.
    """

    number: int
    actor: Any
    loaded: Any
    ended: Any


class Fleet:
    """Replicas of one engine on a Ray cluster; see ``session``.

        with session(), Fleet(partial(Solver, "qwen2.5-coder-0.5b-instruct"), workers=4, share=Share(cpus=1)) as fleet:
            summary = asyncio.run(on_fleet(evaluation, fleet))

    Args:
        make_solver: loads the model, in each worker's process.
        workers: how many are asked for. The cluster may have room for fewer: the others wait for machines to come.
        share: what each has of a machine.
        on_note: told, in a line, that workers are waited for, lost, replaced or done without.

    Raises (entering it):
        UsageError: a value is not allowed, or a worker runs another version of this package.
        ReasonError: no worker could be started; the model's own errors come as they are.
    """

    def __init__(
        self,
        make_solver: Callable[[], Solver],
        *,
        workers: int,
        share: Share,
        on_note: Callable[[str], None] = lambda note: None,
    ) -> None:
        if workers < 1:
            raise UsageError(f"workers must be at least 1, got {workers}")
        share.check()
        self.share = share
        self._make_solver = make_solver
        self._note = on_note
        self._workers: list[Worker | None] = [None] * workers
        self._starts = [0] * workers  # in vain since the last that loaded
        self._model: Mapping[str, Any] | None = None
        self._last_error = "none was started"

    def __enter__(self) -> Self:
        for number in range(len(self._workers)):
            self._start(number)
        try:
            self._wait_for_first()
            if self.share.room() < self.size:
                self._note(f"not all workers can start: {self._short_of_room()}")
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        if closing := [worker.actor.close.remote() for worker in self._loaded()]:
            ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_SECONDS)
        self._kill()

    @property
    def model(self) -> Mapping[str, Any]:
        """As evaluations record it."""
        assert self._model is not None, "the fleet is entered first"
        return self._model

    @property
    def workers(self) -> tuple[Worker, ...]:
        """Those that are there or on their way."""
        return tuple(worker for worker in self._workers if worker is not None)

    @property
    def size(self) -> int:
        """How many were asked for."""
        return len(self._workers)

    def arrived(self, worker: Worker, loaded: Loaded) -> bool:
        """Whether a worker that answered can work; otherwise it is replaced.

        Raises:
            UsageError: it runs another version, or another model than the first.
            ReasonError: it says why it cannot, and none before it could.
        """
        if loaded.version != version():
            raise UsageError(
                f"a worker has reason-toolkit {loaded.version} and this process {version()}: install one version on "
                "all machines of the cluster"
            )
        if loaded.error is not None:
            if self._model is None:
                raise loaded.error
            self.replace(worker, loaded.error)
            return False
        assert loaded.model is not None
        if self._model is not None and loaded.model != self._model:
            raise UsageError(f"workers have different models: {dict(self._model)} and {dict(loaded.model)}")
        self._model = loaded.model
        self._starts[worker.number] = 0
        return True

    def replace(self, worker: Worker, why: BaseException) -> None:
        """Asks for another in its seat, unless none got as far as its model there. Does nothing the second time."""
        import ray

        if self._workers[worker.number] is not worker:
            return
        ray.kill(worker.actor)
        self._last_error = _brief(why)
        if self._starts[worker.number] < _STARTS:
            self._note(f"worker {worker.number + 1} was lost and is replaced: {self._last_error}")
            self._start(worker.number)
        else:
            self._workers[worker.number] = None
            self._note(f"worker {worker.number + 1} could not be started {_STARTS} times: {self._last_error}")

    def all_ready(self) -> bool:
        """Whether every worker that was asked for has its model."""
        return len(self._loaded()) == self.size

    def current(self, number: int) -> Worker | None:
        """Who has a seat now."""
        return self._workers[number]

    def note_waiting(self) -> None:
        """Says that nobody works, and what is needed for somebody to."""
        if self.share.room() >= self.size:
            self._note(f"no worker is ready yet: {self.size} are starting, and load the model")
        else:
            self._note(f"no worker is ready: {self._short_of_room()}")

    def _short_of_room(self) -> str:
        import ray

        free = ray.available_resources()
        left = f"{free.get('CPU', 0.0):g} CPU and {free.get('GPU', 0.0):g} GPU"
        room = f"room for {self.share.room()} of {self.size}"
        return f"each takes {self.share}, the cluster has {room}, and {left} are free"

    def none_left(self) -> ReasonError:
        """What to raise where nobody has a seat."""
        return ReasonError(
            f"no worker is left: each failed {_STARTS} times to start, the last with: {self._last_error}. "
            "What Ray says of it is in its logs, on the machine in question (/tmp/ray/session_latest/logs)"
        )

    def _start(self, number: int) -> None:
        import ray

        self._starts[number] += 1
        options = {
            "num_cpus": self.share.cpus,
            "num_gpus": self.share.gpus,
            "max_concurrency": _CALLS_AT_ONCE,
            "scheduling_strategy": "SPREAD",
        }
        actor = ray.remote(Replica).options(**options).remote(self._make_solver)
        self._workers[number] = Worker(number, actor, actor.load.remote(), actor.lasts.remote())

    def _wait_for_first(self) -> None:
        import ray

        while self._model is None:
            waited_for = {worker.loaded: worker for worker in self.workers}
            if not waited_for:
                raise self.none_left()
            done, _ = ray.wait(list(waited_for), num_returns=1, timeout=NOTE_SECONDS)
            if not done:
                self.note_waiting()
                continue
            worker = waited_for[done[0]]
            try:
                with only_lost():
                    self.arrived(worker, ray.get(done[0]))
            except LostWorker as error:
                self.replace(worker, error)

    def _loaded(self) -> list[Worker]:
        """Those that have answered."""
        import ray

        return [worker for worker in self.workers if ray.wait([worker.loaded], timeout=0)[0]]

    def _kill(self) -> None:
        import ray

        for number, worker in enumerate(self._workers):
            if worker is not None:
                ray.kill(worker.actor)
                self._workers[number] = None


class LostWorker(Exception):
    """A worker, or the machine that it was on, is gone or does not answer."""


@contextlib.contextmanager
def only_lost() -> Iterator[None]:
    """Ray's many errors for that as one. Errors of what a worker computes are left as they are."""
    from ray.exceptions import RayError, RayTaskError

    try:
        yield
    except RayTaskError:
        raise
    except RayError as error:
        raise LostWorker(_brief(error)) from error


def _brief(error: BaseException) -> str:
    """The first line of its message that says something, for a line on a terminal."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:300]

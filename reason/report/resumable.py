"""What evaluations share: a folder of results, many problems under way at once, and going on after what ended it."""

from __future__ import annotations

import abc
import asyncio
import platform
import re
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from reason.errors import UsageError
from reason.report.results import Result, ResultsOf
from reason.report.sitting import OnProgress, Sitting

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.tasks.task import Task

__all__ = ["Resumable", "environment"]

R = TypeVar("R", bound=Result)
S = TypeVar("S")

_PACKAGES = ("reason-toolkit", "torch", "transformers", "numpy", "math-verify", "sympy")
_FILE_NAME = re.compile(r"\w[\w.,=+@-]{0,199}")


class Resumable(abc.ABC, Generic[R, S]):
    """An evaluation of problems one by one. R is a problem's result, S the summary.

    Args:
        concurrency: problems under way at once.
        overwrite: start anew where the folder holds an evaluation.
        on_progress: called in the event loop at the start and whenever a problem is done.

    Raises:
        UsageError: a value that is not allowed, or two problems with one file name.
    """

    def __init__(
        self,
        task: Task,
        folder: ResultsOf[R],
        *,
        concurrency: int,
        overwrite: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        if concurrency < 1:
            raise UsageError(f"concurrency must be at least 1, got {concurrency}")
        self.task = task
        self.folder = folder
        self.concurrency = concurrency
        self.on_progress = on_progress
        self.stop = asyncio.Event()
        self._overwrite = overwrite
        self._sitting: Sitting[R, S] | None = None
        _check_ids(task)

    def check_folder(self) -> None:
        """Whether ``run`` may write to the folder, as far as can be said before the model is loaded.

        Raises:
            UsageError: the folder is another evaluation's, or in use.
            ReasonError: it cannot be written to.
        """
        with self.folder.locked():
            self.folder.check(self.config(model=None), overwrite=self._overwrite)

    def interrupt(self) -> None:
        """Ends ``run`` as soon as possible. What is under way is left; what is done is summarized."""
        self.stop.set()

    async def run(self, solver: Solver) -> S:
        """Comes to what is not done yet.

        Raises:
            UsageError: the folder holds another evaluation, or another process writes to it.
            ReasonError: the engine ended, nothing can be written, or the first problems all failed alike.
        """
        return await self.run_as(solver.recorded, lambda config: self.sitting(solver, config))

    async def run_as(
        self,
        model: Mapping[str, Any],
        sitting: Callable[[dict[str, Any]], Sitting[R, S]],
        environment: Mapping[str, Any] | None = None,
    ) -> S:
        """``run`` with what does the work given.

        Args:
            model: its "name", and what else is recorded of it.
            sitting: makes what does the work, out of the configuration.
            environment: what else is recorded of where it runs.
        """
        recorded = dict(model)
        config = self.config(model=recorded.pop("name"))
        config["model"] = {**config["model"], **recorded}
        config["environment"] = {**config["environment"], **(environment or {})}
        with self.folder.locked():
            self.folder.open(config, overwrite=self._overwrite)
            self._sitting = sitting(config)
            try:
                await self._sitting.work()
            except BaseException:
                self._sitting.try_to_summarize()
                raise
            return await asyncio.to_thread(self._sitting.write_summary)

    def tokens(self) -> int:
        """Tokens in this sitting so far: generated ones, or else those that were read."""
        return self._sitting.tokens() if self._sitting else 0

    @abc.abstractmethod
    def config(self, *, model: str | None) -> dict[str, Any]:
        """Everything that decides the results, JSON-able."""

    @abc.abstractmethod
    def sitting(self, solver: Solver, config: dict[str, Any]) -> Sitting[R, S]:
        """What does the work."""


def environment() -> dict[str, Any]:
    """Versions and platform: what results may depend on in the last digit."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {"python": platform.python_version(), "platform": platform.platform(), "packages": versions}


def _check_ids(task: Task) -> None:
    """Journals are files named after problems, on file systems too that do not tell A from a."""
    seen: dict[str, str] = {}
    for example in task.examples:
        name = example.problem.id
        if not _FILE_NAME.fullmatch(name):
            raise UsageError(f"the problem id {name!r} cannot name a file: use letters, digits and -_.,=+@")
        if name.casefold() in seen:
            raise UsageError(f"two problems of {task.name} have the ids {seen[name.casefold()]!r} and {name!r}")
        seen[name.casefold()] = name

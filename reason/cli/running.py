"""Running an evaluation from the command line: shown while it runs, ended by Ctrl-C with the figures so far."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from reason.report.resumable import Resumable
    from reason.report.sitting import Progress
    from reason.report.statistics import Estimate

__all__ = ["clock", "estimate_line", "plus_minus", "run_each", "run_watched"]

E = TypeVar("E", bound="Resumable[Any, Any]")
S = TypeVar("S")

_TICK_SECONDS = 0.5
_LINE_PROBLEMS = 10
_LINE_SECONDS = 15.0
_VERDICT_WIDTH = 60


class _View(Protocol):
    """Shows how far an evaluation is."""

    def told(self, progress: Progress) -> None: ...

    def tick(self) -> None: ...


def run_each(evaluations: Sequence[E], run: Callable[[E], Awaitable[Any]]) -> Iterator[tuple[E, Any]]:
    """Runs evaluations one after the other; each with its summary, once it is done or interrupted.

    Args:
        run: runs one.

    Raises:
        Exit: one was interrupted, after its summary.
    """
    for evaluation in evaluations:
        summary = asyncio.run(_watched(evaluation, run(evaluation)))
        yield evaluation, summary
        if evaluation.stop.is_set() and not summary.complete:
            done = f"{summary.done} of {summary.total} problems are done"
            print(f"interrupted: {done}; the same command goes on from there", file=sys.stderr, flush=True)
            raise typer.Exit(130)


async def run_watched(evaluation: Resumable[Any, S], solver: Any) -> S:
    """Evaluates; the first Ctrl-C ends it with the figures so far, the second ends the process."""
    return await _watched(evaluation, evaluation.run(solver))


async def _watched(evaluation: Resumable[Any, Any], work: Awaitable[S]) -> S:
    loop = asyncio.get_running_loop()

    def interrupt() -> None:
        evaluation.interrupt()
        loop.remove_signal_handler(signal.SIGINT)

    with contextlib.suppress(NotImplementedError, RuntimeError):  # Windows, not the main thread: Ctrl-C raises
        loop.add_signal_handler(signal.SIGINT, interrupt)
    try:
        with _view(evaluation) as view:
            evaluation.on_progress = view.told
            ticking = asyncio.ensure_future(_tick(view))
            try:
                return await work
            finally:
                ticking.cancel()
    finally:
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.remove_signal_handler(signal.SIGINT)


async def _tick(view: _View) -> None:
    while True:
        await asyncio.sleep(_TICK_SECONDS)
        view.tick()


@contextlib.contextmanager
def _view(evaluation: Resumable[Any, Any]) -> Iterator[_View]:
    """On standard error, so that pipes stay clean: a bar on a terminal, else a line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(evaluation, console)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    columns = (BarColumn(bar_width=24), MofNCompleteColumn(), TextColumn("{task.description}", markup=False))
    with Bars(*columns, console=console, transient=True) as bars:
        yield _Bar(evaluation, bars)


class _Bar:
    def __init__(self, evaluation: Resumable[Any, Any], bars: Any) -> None:
        self._evaluation, self._bars = evaluation, bars
        self._bar = bars.add_task("", total=len(evaluation.task))
        self._progress: Progress | None = None
        self._began = time.perf_counter()

    def told(self, progress: Progress) -> None:
        self._progress = progress
        self.tick()

    def tick(self) -> None:
        if self._progress is None:
            return
        parts = [
            *_standing(self._progress, self._evaluation, time.perf_counter() - self._began),
            _verdict(self._progress),
        ]
        self._bars.update(self._bar, completed=self._progress.done, description="  ".join(filter(None, parts)))


class _Lines:
    def __init__(self, evaluation: Resumable[Any, Any], console: Console) -> None:
        self._evaluation, self._console = evaluation, console
        self._began = self._last = time.perf_counter()
        self._progress: Progress | None = None
        self._shown = 0

    def told(self, progress: Progress) -> None:
        if self._progress is None:
            self._shown = progress.done
            if progress.kept:
                self._print(f"{progress.kept} of {progress.total} problems were done before")
        self._progress = progress
        if progress.last is not None and (
            progress.done - self._shown >= _LINE_PROBLEMS or progress.done == progress.total
        ):
            self._line()

    def tick(self) -> None:
        if time.perf_counter() - self._last >= _LINE_SECONDS:
            self._line()

    def _line(self) -> None:
        now = time.perf_counter()
        self._last = now
        if self._progress is not None:
            self._shown = self._progress.done
            parts = _standing(self._progress, self._evaluation, now - self._began)
            self._print("  ".join([f"{self._progress.done}/{self._progress.total}", *parts]))

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _standing(progress: Progress, evaluation: Resumable[Any, Any], seconds: float) -> list[str]:
    """Accuracy so far, speed, and what is left."""
    parts = []
    if progress.accuracy is not None:
        parts.append(f"{progress.accuracy:.1%}{plus_minus(progress.standard_error)}")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    parts.append(f"{evaluation.tokens() / seconds if seconds else 0.0:.0f} tokens/s")
    parts.append(clock(seconds))
    if progress.seconds_left is not None and progress.done < progress.total:
        parts.append(f"{clock(progress.seconds_left)} left")
    return parts


def _verdict(progress: Progress) -> str:
    """Of the last problem, on one line."""
    from reason.cli.live import plain

    return "" if progress.last is None else " ".join(plain(progress.last.verdict).split())[:_VERDICT_WIDTH]


def plus_minus(standard_error: float | None) -> str:
    """ " ± points", or nothing."""
    return "" if standard_error is None else f" ± {100 * standard_error:.1f}"


def estimate_line(name: str, estimate: Estimate, *, percent: bool = True) -> Text:
    """A figure with its standard error and its interval."""
    from rich.text import Text

    scale, digits = (100, 1) if percent else (1, 3)

    def shown(value: float) -> str:
        return f"{scale * value:.{digits}f}{'%' * percent}"

    line = Text(f"{name}  ", style="bold")
    spread = "" if estimate.standard_error is None else f" ± {scale * estimate.standard_error:.{digits}f}"
    line.append(f"{shown(estimate.mean)}{spread}", style="bold green")
    line.append(f"  [{shown(estimate.interval.low)}, {shown(estimate.interval.high)}]", style="dim")
    return line


def clock(seconds: float) -> str:
    """Minutes:seconds, with hours where there are any."""
    minutes, left = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"

"""Progress of downloads and conversions on stderr: bars on a terminal, one plain line per finished task elsewhere."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

__all__ = ["Progress", "Task", "folder_bytes", "megabytes"]


class Progress:
    """Shows tasks measured in bytes. A context manager, may be nested; outside ``with`` only plain lines are written.

    Args:
        quiet: show nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._bars: Bars | None = None
        self._depth = 0

    def __enter__(self) -> Progress:
        self._depth += 1
        if self._depth == 1 and not self._quiet and sys.stderr.isatty():
            self._bars = _bars()
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if self._depth == 0 and self._bars is not None:
            self._bars.stop()
            self._bars = None

    def task(self, label: str, total: int | None) -> Task:
        """A new task; ``total`` is its bytes, None if nobody knows."""
        bar = self._bars.add_task(label, total=total) if self._bars is not None else None
        return Task(self, label, total, bar)

    def note(self, text: str) -> None:
        """A line that stays."""
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False)
        elif not self._quiet:
            print(text, file=sys.stderr, flush=True)


class Task:
    """One download or conversion."""

    def __init__(self, progress: Progress, label: str, total: int | None, bar: TaskID | None) -> None:
        self._progress, self._label, self._total, self._bar = progress, label, total, bar

    def expect(self, total: int) -> None:
        """The task's bytes, if they were not known when it began."""
        self._total = total
        bars = self._progress._bars
        if bars is not None and self._bar is not None:
            bars.update(self._bar, total=total)

    def update(self, done: int) -> None:
        """``done`` bytes so far, not since the last call."""
        bars = self._progress._bars
        if bars is not None and self._bar is not None:
            bars.update(self._bar, completed=done if self._total is None else min(done, self._total))

    def finish(self) -> None:
        """The task is done: a full bar, or the plain line."""
        bars = self._progress._bars
        if bars is not None and self._bar is not None:
            bars.update(self._bar, completed=self._total or 1, total=self._total or 1)
        else:
            size = f" ({megabytes(self._total)})" if self._total else ""
            self._progress.note(f"  done: {self._label}{size}")

    @contextmanager
    def watching(self, done: Callable[[], int], every: float = 0.2) -> Iterator[None]:
        """Update from ``done()`` in the background while the block runs: for clients that report to nobody."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(every):
                self.update(done())

        thread = threading.Thread(target=watch, daemon=True, name="reason-progress")
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def folder_bytes(folder: Path) -> int:
    """Bytes in all files below ``folder``; files that vanish meanwhile count nothing."""
    total = 0
    for parent, _, files in os.walk(folder):
        for file in files:
            try:
                total += os.stat(os.path.join(parent, file)).st_size
            except OSError:
                continue
    return total


def megabytes(size: int) -> str:
    """A size for people, in decimal units as model pages give it."""
    return f"{size / 1e9:.2f} GB" if size >= 999.5e6 else f"{size / 1e6:.0f} MB"


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    return Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

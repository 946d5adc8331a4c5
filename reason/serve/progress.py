"""How far a search is, in lines for people who wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reason.search.driver import AnyRun, Run

__all__ = ["Lines", "progress_line"]


class Lines:
    """Tells of a run as it changes, not too often."""

    def __init__(self, tell: Callable[[str], None], seconds: float) -> None:
        self._tell = tell
        self._seconds = seconds
        self._last = ""
        self._next = 0.0

    def __call__(self, run: Run) -> None:
        if time.monotonic() < self._next:
            return
        line = progress_line(run)
        if line != self._last:
            self._last, self._next = line, time.monotonic() + self._seconds
            self._tell(line)


def progress_line(run: AnyRun) -> str:
    """How far a search is, in a line: "12 steps, 3 solutions, 812 tokens; so far 42 (2 of 3)"."""
    tree = run.tree
    finished = tree.finished()
    tokens = sum(node.num_tokens for node in tree.nodes[1:])
    done = sum(not node.pending for node in tree.nodes[1:])
    line = ", ".join((_counted(done, "step"), _counted(len(finished), "solution"), _counted(tokens, "token")))
    answers = [node for node in finished if node.answer_class is not None]
    if answers:
        classes = [node.answer_class for node in answers]
        leader = max(classes, key=classes.count)
        answer = next(node.answer for node in answers if node.answer_class == leader) or ""
        line += f"; so far {' '.join(answer[:60].split())} ({classes.count(leader)} of {len(finished)})"
    return line


def _counted(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"

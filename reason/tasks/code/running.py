"""Tests of programs in the process's sandbox, which is imported when the first program runs and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reason.sandbox import Verdict

__all__ = ["GRADE_SECONDS", "TEST_SECONDS", "check_sandbox", "run", "start"]

TEST_SECONDS = 5
"""Of computing, for one public test."""

GRADE_SECONDS = 10
"""Of computing, for all hidden tests of a row together: the slowest solution of the data sets takes half of that."""

_WALL = 6  # times as long by the clock, for other programs compute too


def check_sandbox() -> None:
    """Refuses what ``run`` would refuse: see ``reason.sandbox.check_sandbox``."""
    from reason.sandbox import check_sandbox as check

    check()


async def start(
    program: str,
    tests: Sequence[str],
    *,
    entry_point: str | None = None,
    setup: str = "",
    seconds: int = TEST_SECONDS,
) -> tuple[Verdict, ...]:
    """A verdict for each test; see ``reason.sandbox.run_tests``.

    Args:
        seconds: of computing, for each test.

    Raises:
        SandboxUnavailable: programs cannot be run here.
    """
    return await asyncio.wrap_future(
        await asyncio.to_thread(_start, program, tests, entry_point=entry_point, setup=setup, seconds=seconds)
    )


def run(
    program: str,
    tests: Sequence[str],
    *,
    entry_point: str | None = None,
    setup: str = "",
    seconds: int = TEST_SECONDS,
) -> tuple[Verdict, ...]:
    """As ``start``. Blocks."""
    return _start(program, tests, entry_point=entry_point, setup=setup, seconds=seconds).result()


def _start(
    program: str, tests: Sequence[str], *, entry_point: str | None, setup: str, seconds: int
) -> Future[tuple[Verdict, ...]]:
    from reason.sandbox import Limits, shared_sandbox

    limits = Limits(cpu_seconds=seconds, wall_seconds=float(_WALL * seconds))
    return shared_sandbox().start_tests(program, tests, entry_point=entry_point, setup=setup, limits=limits)

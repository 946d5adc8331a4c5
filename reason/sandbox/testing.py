"""Runs a program against tests and says which it passes, such that it cannot forge a pass.

Each test runs in a pair of fresh boxes. The *player* has the program, the *judge* has the test; they share one socket
and neither sees the other's processes, files or memory. In the test, the names it does not define are the program's:
calling one sends plain data to the player and gets plain data back. So whatever the program does to its own process
(``sys.exit(0)``, ``os._exit``, patched ``assert``, builtins, unittest, json or standard output, exit handlers, frames
and heap searched, objects that equal everything), it does where the decision is not made. A test passes when its text
ran to the end in the judge while the player was there.

A program can still pass by answering right for the wrong reason: it may know a benchmark's answers by heart. And a test
is trusted to test: ``assert True`` passes.

Differences from running both in one process: arguments and results are copied (what a function does to a list, a
dictionary, a set or a deque it was given is carried back, for arguments themselves); results are built-in types;
what is no plain data is an opaque object with the program's attributes and methods, equal only to itself; a test
cannot pass functions of its own to the program; a program's own exceptions arrive as the nearest built-in one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from reason.sandbox.limits import Limits, Verdict
from reason.sandbox.pool import Sandbox

__all__ = ["run_tests"]


async def run_tests(
    sandbox: Sandbox,
    program: str,
    tests: Sequence[str],
    *,
    entry_point: str | None = None,
    setup: str = "",
    files: Mapping[str, str] | None = None,
    limits: Limits | None = None,
) -> tuple[Verdict, ...]:
    """One verdict for each test. The program is executed anew for each, as a module (not as ``__main__``).

    Args:
        sandbox: where.
        program: what is tested.
        tests: texts of Python, such as ``assert f(2) == 3``.
        entry_point: a name that stands for the program's function whatever ``setup`` says, as does ``candidate``.
        setup: executed before each test in the judge; what it defines is not asked of the program.
        files: for the program, by path in its work folder.
        limits: of the program and the test together (the clock) or each (the rest).
    """

    verdicts = [
        sandbox.test(program, test, files=files, limits=limits, entry_point=entry_point, setup=setup) for test in tests
    ]
    return tuple(await asyncio.gather(*verdicts))

"""Solvers over scripted engines, for workers: functions of a module, which their processes import."""

from __future__ import annotations

import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineClosed, ModelNotFound
from tests.report.conftest import mostly_right


def quick() -> Solver:
    return Solver(engine=ScriptedEngine(mostly_right))


def slow() -> Solver:
    """About a quarter of a second for each sample."""
    return Solver(engine=ScriptedEngine(mostly_right, delay=0.02))


def held(folder: Path, last_free: int) -> Solver:
    """As ``slow``, but the problems after ``last_free`` wait until ``folder`` has a file "go".

    A process in which one waits leaves a file named after it, with its machine's name in it.
    """
    import ray

    machine = ray.get_runtime_context().get_node_id()

    def script(prefix: str) -> list[str]:
        number = re.search(r"problem (\d+) ", prefix)
        assert number is not None
        if int(number[1]) > last_free:
            (folder / str(os.getpid())).write_text(machine)
            while not (folder / "go").exists():
                time.sleep(0.02)
        return mostly_right(prefix)

    return Solver(engine=ScriptedEngine(script, delay=0.02))


def endless() -> Solver:
    """As ``slow``, but the fourth sample of each problem takes minutes."""
    return Solver(engine=ScriptedEngine(_long_fourth, delay=0.01))


def deadly() -> Solver:
    """Problem 3 ends the process."""

    def script(prefix: str) -> list[str]:
        if "problem 3 " in prefix:
            os._exit(1)
        return mostly_right(prefix)

    return Solver(engine=ScriptedEngine(script, delay=0.005))


def missing() -> Solver:
    raise ModelNotFound("no weights on this machine")


def breaking_once(mark: Path) -> Solver:
    """The engine of the first process that asks is broken: all that it is asked for fails."""
    with contextlib.suppress(FileExistsError):
        mark.touch(exist_ok=False)
        return Solver(engine=_Broken(mostly_right))
    return slow()


class _Broken(ScriptedEngine):
    def generate(self, requests: Any) -> Any:
        raise EngineClosed("its thread is gone")


def _long_fourth(prefix: str) -> list[str]:
    return [*mostly_right(prefix)[:3], "and so on " * 10_000]

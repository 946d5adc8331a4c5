"""What a program may use, and what is told of its run."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from reason.errors import UsageError

__all__ = ["Execution", "Limits", "Status", "Verdict", "execution"]

Status: TypeAlias = Literal["ok", "error", "timeout", "memory", "killed", "output-limit"]

_TRACEBACK = "Traceback (most recent call last):\n"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What one run may use. Where a limit is passed, every process of the run is killed.

    Args:
        wall_seconds: from the start to the end of the run.
        cpu_seconds: of each process, a whole number.
        memory_mb: address space of each process; also resident memory of all of them together (looked at 20 times a
            second, without the pages that they share with the warm interpreter).
        processes: processes and threads at a time, the program's own included.
        output_kb: standard output and standard error together.
        work_mb: the work folder, which is in memory; also the size of one file.
        files: files and folders in the work folder.
        open_files: descriptors open in a process.

    Raises:
        UsageError: a limit is not above zero.
    """

    wall_seconds: float = 10.0
    cpu_seconds: int = 10
    memory_mb: int = 1024
    processes: int = 32
    output_kb: int = 1024
    work_mb: int = 64
    files: int = 1024
    open_files: int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise UsageError(f"{field.name} must be above 0, not {value}")
            if field.name != "wall_seconds" and not isinstance(value, int):
                raise UsageError(f"{field.name} must be a whole number, not {value!r}")
        if self.open_files > 200:
            raise UsageError(f"open_files must be at most 200, not {self.open_files}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How a program ran.

    Args:
        status: "ok" (exit code 0), "error" (another, or an exception), "timeout" (wall clock or CPU), "memory",
            "killed" (by a signal) or "output-limit".
        exit_code: of the program; minus the signal that ended it; None where it was killed by us.
        stdout: decoded as UTF-8, at most the limit.
        stderr: the same; a traceback is its end.
        seconds: from the request to the end of all its processes, as the sandbox's own clock has it.
        traceback: the last traceback on stderr of a program that ended with an error, else "".
        error: that traceback's last line, "ZeroDivisionError: division by zero", else "". The program wrote it, so it
            is what the program says.
        lost: the sandbox lost the process that watched it, perhaps through no fault of the program; ``error`` says how.
    """

    status: Status
    exit_code: int | None
    stdout: str
    stderr: str
    seconds: float
    traceback: str = ""
    error: str = ""
    lost: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """How a program fared in one test.

    Args:
        passed: the test ran to its end, and everything in it held.
        status: "passed", "failed" (an assertion did not hold), "error" (an exception, in the program or the test), or
            why the run was ended.
        message: what failed, with the test's line; "" where it passed.
        calls: the last calls of the program's functions: "f(3) returned 4".
        traceback: of the program, where a call raised.
        execution: the program's run; its output.
    """

    passed: bool
    status: Literal["passed", "failed", "error", "timeout", "memory", "killed", "output-limit"]
    message: str
    calls: tuple[str, ...]
    traceback: str
    execution: Execution


def execution(report: Mapping[str, Any], limits: Limits) -> Execution:
    """What a keeper reported of a box, as an ``Execution``."""
    stdout, stderr, seconds = str(report["stdout"]), str(report["stderr"]), float(report["seconds"])
    code: int | None = None
    status: Status = "killed"
    if "wait" in report:
        code = os.waitstatus_to_exitcode(report["wait"])
        status = "ok" if code == 0 else "error" if code > 0 else "killed"
        spent = report["cpu"] >= limits.cpu_seconds
        if code == -signal.SIGXCPU or (code == -signal.SIGKILL and spent):
            status = "timeout"
    reason = report["reason"]
    if reason is not None:
        status, code = reason, None
    traceback = error = ""
    if status == "error" and _TRACEBACK in stderr:
        traceback = stderr[stderr.rindex(_TRACEBACK) :]
        error = next((line for line in reversed(traceback.splitlines()) if line and not line.startswith(" ")), "")
        if error.startswith("MemoryError"):
            status = "memory"
    elif status == "error" and code == 1:  # a syntax error has a place, but no traceback
        lines = stderr.strip().splitlines()
        error = lines[-1] if lines else ""
    told = Execution(status=status, exit_code=code, stdout=stdout, stderr=stderr, seconds=seconds)
    return dataclasses.replace(told, traceback=traceback, error=error or report.get("lost", ""), lost="lost" in report)

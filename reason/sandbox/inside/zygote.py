"""The warm process of a worker: has Python and the usual modules loaded, and forks a keeper for each request.

Standard input is the socket to the host. One request at a time; the first message, ``{"ready": ...}``, comes from here,
all others from keepers. Ends when the socket closes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import resource
import select
import sys
from collections.abc import Sequence

from reason.sandbox.inside import frames, keeper, linux, seccomp
from reason.sandbox.inside.box import HIGHEST_FD, Box

__all__ = ["main"]

_NOBODY = 65534
# What short programs import, and what importing in a fork would cost each of them.
_WARM = (
    "abc array ast atexit base64 bisect calendar cmath collections copy dataclasses datetime decimal enum fcntl",
    "fractions functools hashlib heapq inspect io itertools json linecache math operator random re statistics string",
    "struct textwrap threading time traceback types typing unittest",
)
_PROBE = {
    "memory_mb": 512, "cpu_seconds": 5, "processes": 4, "work_mb": 4, "files": 16, "open_files": 16, "output_kb": 4
}  # fmt: skip


def main(packages: Sequence[str], isolated: bool, folder: str) -> None:
    """Serves requests.

    Args:
        packages: folders that programs may import from, beside the standard library.
        isolated: each program gets a box; False: ``unsafe``.
        folder: the work folder.
    """
    control = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (HIGHEST_FD, HIGHEST_FD))
    if isolated and os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # changing the user took our own /proc/self from us
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # what runs here is the first to go when the machine is out of memory
    for name in " ".join(_WARM).split():
        importlib.import_module(name)
    sys.path[:] = [entry for entry in sys.path if entry] + list(packages)
    if isolated:
        seccomp.program()  # made once, for all that are forked
    gc.disable()
    gc.collect()
    gc.freeze()
    problem = _try(folder) if isolated else None
    frames.send(control, {"ready": problem is None, "problem": problem})
    if problem is not None:
        return
    while True:
        select.select([control], [], [])
        pid = os.fork()
        if pid == 0:
            try:
                keeper.keep(control, isolated=isolated, folder=folder)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(70)
        status = os.waitpid(pid, 0)[1]
        while not isolated and _reap():
            pass
        if status != 0 or _closed(control):
            return


def _try(folder: str) -> str | None:
    """Starts one box. None, or why that cannot be done."""
    try:
        box = Box(lambda: None, limits=_PROBE, files={}, isolated=True, folder=folder)
        report = box.wait()
    except OSError as error:
        return str(error)
    return None if report.get("wait") == 0 else report.get("failed", "the first process of a box died")


def _reap() -> bool:
    with contextlib.suppress(ChildProcessError):
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    return False


def _closed(control: int) -> bool:
    poll = select.poll()
    poll.register(control, select.POLLRDHUP)
    return any(event & (select.POLLRDHUP | select.POLLHUP) for _, event in poll.poll(0))

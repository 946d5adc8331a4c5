"""One program in namespaces of its own: user, mounts, process ids, IPC. When its first process ends, all of it ends.

    keeper ──clone── init (process 1 of the box, mounts, then only waits) ──fork── program (no rights, limits, filter)

Without isolation (``unsafe``) init is a plain child and nothing but the limits and the clock holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from reason.sandbox.inside import linux, seccomp

__all__ = ["HIGHEST_FD", "WORK_FOLDER", "Box"]

WORK_FOLDER = "/box"
HIGHEST_FD = 512  # the zygote's own limit of open files
_INSIDE_ID = 1000
_SPACES = linux.CLONE_NEWUSER | linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWIPC


class Box:
    """A started program: pipes to it, and how it ended.

    Args:
        body: what the program's process does; it must not return.
        limits: the fields of ``Limits``.
        files: text by path in the work folder.
        fds: descriptors the program gets besides 0, 1 and 2: as 3, 4, ...
        isolated: False runs it without namespaces, in ``folder``.
    """

    def __init__(
        self,
        body: Callable[[], None],
        *,
        limits: Mapping[str, Any],
        files: Mapping[str, str],
        fds: Sequence[int] = (),
        isolated: bool,
        folder: str,
    ) -> None:
        stdin, self.stdin = os.pipe()
        self.stdout, stdout = os.pipe()
        self.stderr, stderr = os.pipe()
        self.status, status = os.pipe()
        self._isolated, self._ended = isolated, False
        uid, gid = os.geteuid(), os.getegid()
        self.pid = linux.clone(_SPACES) if isolated else os.fork()
        if self.pid == 0:
            try:
                if isolated:
                    linux.map_identity(uid, gid, inside=_INSIDE_ID)
                    _mounts(limits)
                else:
                    os.setsid()
                os.chdir(folder)
                _write(files)
                _init(body, limits, [stdin, stdout, stderr, *fds], status, isolated)
            except BaseException as error:
                _fail(status, error)
        for fd in (stdin, stdout, stderr, status):
            os.close(fd)

    def kill(self) -> None:
        """Ends every process of the box (without isolation: those that did not leave the process group)."""
        with contextlib.suppress(ProcessLookupError):
            if self._ended:
                return
            if self._isolated:
                os.kill(self.pid, signal.SIGKILL)
            else:
                os.killpg(self.pid, signal.SIGKILL)

    def wait(self) -> dict[str, Any]:
        """Waits until every process is gone. {wait: the program's wait status, cpu: seconds}, or {failed: why}."""
        text = b""
        while part := os.read(self.status, 4096):
            text += part
        self._ended = True
        os.waitpid(self.pid, 0)  # of process 1: returns when all others are gone too
        if not self._isolated:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        lines = text.splitlines()
        return json.loads(lines[0]) if lines else {}


def _mounts(limits: Mapping[str, Any]) -> None:
    size, flags = int(limits["work_mb"]) << 20, linux.MS_NOSUID | linux.MS_NODEV
    options = f"size={size},nr_inodes={int(limits['files'])},mode=700"
    linux.mount("work", WORK_FOLDER, "tmpfs", flags, options)
    hidden = flags | linux.MS_NOEXEC | linux.MS_RDONLY
    try:
        linux.mount("proc", "/proc", "proc", hidden)  # of this box's processes only
    except OSError:  # some containers forbid it; then there is none
        linux.mount("none", "/proc", "tmpfs", hidden, "size=4096")


def _write(files: Mapping[str, str]) -> None:
    for name, text in files.items():
        folder = os.path.dirname(name)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)


def _init(
    body: Callable[[], None], limits: Mapping[str, Any], fds: Sequence[int], status: int, isolated: bool
) -> NoReturn:
    """Starts the program, waits for it, says how it ended. Whatever it left behind ends with this process."""
    if isolated:  # before the fork, so that the program never sees a first process with rights or in sight
        linux.drop_capabilities()
        linux.prctl(linux.PR_SET_DUMPABLE, 0)
    program = os.fork()
    if program == 0:
        try:
            _become_program(limits, fds, status, isolated)
            body()
        except BaseException as error:
            _fail(len(fds), error)
        os._exit(0)
    os.dup2(status, 0)
    os.closerange(1, HIGHEST_FD)
    while True:
        pid, wait = os.wait()
        if pid == program:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            report = {"wait": wait, "cpu": used.ru_utime + used.ru_stime}
            os.write(0, json.dumps(report).encode() + b"\n")
            os._exit(0)


def _become_program(limits: Mapping[str, Any], fds: Sequence[int], status: int, isolated: bool) -> None:
    """Gives up everything that the program must not have. ``status`` stays open as the descriptor after the last."""
    import fcntl

    if isolated:
        os.setsid()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, HIGHEST_FD // 2) for fd in (*fds, status)]
    for target, fd in enumerate(high):
        os.dup2(fd, target)
    os.closerange(len(high), HIGHEST_FD)
    os.set_inheritable(len(fds), False)
    _limit(limits)
    if isolated:
        linux.prctl(linux.PR_SET_DUMPABLE, 1)  # its own /proc/self is its own
        seccomp.install()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.close(len(fds))


def _limit(limits: Mapping[str, Any]) -> None:
    cpu, memory = int(limits["cpu_seconds"]), int(limits["memory_mb"]) << 20
    wanted = {
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_NPROC: (limits["processes"] + 1,) * 2,  # and the box's init
        resource.RLIMIT_FSIZE: (int(limits["work_mb"]) << 20,) * 2,
        resource.RLIMIT_NOFILE: (limits["open_files"],) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
    }
    for which, (soft, hard) in wanted.items():
        ceiling = resource.getrlimit(which)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(which, (soft, hard))


def _fail(status: int, error: BaseException) -> NoReturn:
    with contextlib.suppress(BaseException):
        os.write(status, json.dumps({"failed": f"{type(error).__name__}: {error}"[:500]}).encode() + b"\n")
    os._exit(70)

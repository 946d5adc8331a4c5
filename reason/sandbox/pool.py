"""The pool of warm workers, and the runs in them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal

from reason.errors import ReasonError, UsageError
from reason.sandbox import backends
from reason.sandbox.inside import frames
from reason.sandbox.limits import Execution, Limits, Verdict, execution

__all__ = ["Sandbox"]

_GRACE = 10.0  # seconds after a run's own limit at which its worker counts as hung
_REPLY_LIMIT = 256 << 20


class _WorkerEnded(Exception):
    """The worker closed the connection."""


class _Worker:
    """One warm worker, one run at a time."""

    def __init__(self, backend: backends.Backend, folder: str) -> None:
        self._process = backends.start(backend, folder)
        self._process.control.setblocking(False)
        self.kill = weakref.finalize(self, self._process.kill)

    def end(self) -> None:
        """Ends the connection, on which another task waits; that one then kills it."""
        with contextlib.suppress(OSError):
            self._process.control.shutdown(socket.SHUT_RDWR)

    async def ready(self) -> None:
        """Waits until it is warm.

        Raises:
            ReasonError: it cannot start.
        """
        try:
            reply = await self.receive()
            problem = None if reply["ready"] else str(reply["problem"])
        except _WorkerEnded:
            problem = self._process.said() or "it ended without a word"
        if problem is not None:
            self.kill()
            raise ReasonError(f"a worker of the sandbox could not start: {problem}")

    async def ask(self, *messages: Mapping[str, Any]) -> dict[str, Any]:
        """Sends a request of one or two messages and waits for its one reply."""
        loop = asyncio.get_running_loop()
        try:
            for message in messages:
                await loop.sock_sendall(self._process.control, frames.encode(message))
        except OSError:
            raise _WorkerEnded from None
        return await self.receive()

    async def receive(self) -> dict[str, Any]:
        """The next message of the worker."""
        import json

        length = frames.decode(await self._read(frames.header_length), limit=_REPLY_LIMIT)
        message: dict[str, Any] = json.loads(await self._read(length))
        return message

    async def _read(self, length: int) -> bytes:
        loop, parts = asyncio.get_running_loop(), []
        while length:
            try:
                part = await loop.sock_recv(self._process.control, min(length, 1 << 20))
            except OSError:
                part = b""
            if not part:
                raise _WorkerEnded
            parts.append(part)
            length -= len(part)
        return b"".join(parts)


class Sandbox:
    """Runs Python programs that nobody has read.

    What holds against a hostile program (docs/sandbox.md has the whole): it reads no file but the system's, Python's
    and its own; writes none but in a work folder in memory that ends with the run; reaches no network, and no process,
    descriptor or variable of this process or of another run; uses no more than its limits; and nothing of it is left
    when ``run`` returns. In ``test`` it cannot make a test pass but by returning the values that the test asks for:
    the test is in another process, in other namespaces, and only plain data comes back. What does not hold: protection
    from a defect in the Linux kernel or the processor, and from measuring how busy the machine is.

    Workers start when they are first needed, one for each run in flight; one that dies or hangs is replaced. To be used
    in one event loop.

    Args:
        limits: of runs that bring none of their own.
        workers: runs at a time.
        unsafe: run without any isolation. Only limits and the clock hold, and a program can do what you can.

    Raises:
        SandboxUnavailable: programs cannot be isolated here, and ``unsafe`` is not set.
    """

    def __init__(self, limits: Limits | None = None, *, workers: int = 2, unsafe: bool = False) -> None:
        if workers < 1:
            raise UsageError(f"workers must be at least 1, not {workers}")
        self.limits = limits if limits is not None else Limits()
        self._backend = backends.unprotected() if unsafe else backends.find()
        self._slots = asyncio.Semaphore(workers)
        self._free: list[_Worker] = []
        self._at_work: set[_Worker] = set()
        self._folder = tempfile.mkdtemp(prefix="reason-unsafe-") if unsafe else "/"
        self._tidy = weakref.finalize(self, shutil.rmtree, self._folder, True) if unsafe else None
        self._closed = False

    @property
    def backend(self) -> str:
        """ "bubblewrap", "namespaces" or "unsafe"."""
        return self._backend.name

    async def run(
        self, program: str, *, stdin: str = "", files: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> Execution:
        """Runs a main program to its end.

        Args:
            program: Python text.
            stdin: what it reads from standard input.
            files: text by path, relative to the work folder, where the program starts.
            limits: of this run.

        Raises:
            UsageError: a path leaves the work folder.
            ReasonError: the sandbox itself fails.
        """
        limits = limits if limits is not None else self.limits
        reply = await self._ask(limits, _request(program, files, limits, stdin=stdin, tested=False))
        return _execution(reply["program"], limits)

    async def run_many(
        self, programs: Iterable[str], *, stdin: str = "", limits: Limits | None = None
    ) -> list[Execution]:
        """Runs programs, as many at a time as there are workers. Results in the order of the programs."""
        return await asyncio.gather(*[self.run(program, stdin=stdin, limits=limits) for program in programs])

    async def test(
        self,
        program: str,
        test: str,
        *,
        entry_point: str | None = None,
        setup: str = "",
        files: Mapping[str, str] | None = None,
        limits: Limits | None = None,
    ) -> Verdict:
        """Runs one test of a program; see ``run_tests``."""
        limits = limits if limits is not None else self.limits
        request = _request(program, files, limits, stdin="", tested=True)
        reply = await self._ask(limits, request, {"setup": setup, "test": test, "entry_point": entry_point})
        ran, judged = _execution(reply["program"], limits), _execution(reply["judge"], limits)
        return _verdict(ran, judged, reply["verdict"])

    async def close(self) -> None:
        """Ends the workers, also those that are at work. Idempotent."""
        self._closed = True
        while self._free:
            self._free.pop().kill()
        for worker in self._at_work:
            worker.end()
        if self._tidy is not None:
            self._tidy()

    async def __aenter__(self) -> Sandbox:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _ask(self, limits: Limits, *messages: Mapping[str, Any]) -> dict[str, Any]:
        async with self._slots:
            for attempt in (1, 2):
                if self._closed:
                    raise UsageError("the sandbox is closed")
                worker = await self._worker()
                kept = False
                self._at_work.add(worker)
                try:
                    reply = await asyncio.wait_for(worker.ask(*messages), limits.wall_seconds + _GRACE)
                    kept = not self._closed
                    return reply
                except asyncio.TimeoutError:
                    return _lost("timeout", "the worker hung, and was replaced")
                except _WorkerEnded:  # it may have died before: once more, with a fresh one
                    if attempt == 2:
                        return _lost("killed", "the worker died, and was replaced")
                finally:
                    self._at_work.discard(worker)
                    if kept:
                        self._free.append(worker)
                    else:
                        worker.kill()
        raise AssertionError("two attempts return or raise")

    async def _worker(self) -> _Worker:
        if self._free:
            return self._free.pop()
        worker = _Worker(self._backend, self._folder)
        try:
            await worker.ready()
        except BaseException:
            worker.kill()
            raise
        return worker


def _request(
    program: str, files: Mapping[str, str] | None, limits: Limits, *, stdin: str, tested: bool
) -> dict[str, Any]:
    for name in files or {}:
        parts = name.split("/")
        if name.startswith("/") or ".." in parts or not parts[-1]:
            raise UsageError(f"files are named relative to the work folder, like 'data/a.txt', not {name!r}")
    values = {"program": program, "files": dict(files or {}), "stdin": stdin, "tested": tested}
    return {**values, "limits": dataclasses.asdict(limits)}


def _lost(reason: str, said: str) -> dict[str, Any]:
    report = {"reason": reason, "stdout": "", "stderr": said, "seconds": 0.0, "lost": said}
    return {"program": report, "judge": report, "verdict": None}


def _execution(report: Mapping[str, Any], limits: Limits) -> Execution:
    if "failed" in report:
        raise ReasonError(f"the sandbox could not start a program: {report['failed']}")
    return execution(report, limits)


def _verdict(ran: Execution, judged: Execution, found: Mapping[str, Any] | None) -> Verdict:
    limited = _limit_passed(ran)
    told = Verdict(passed=False, status="error", message="", calls=(), traceback="", execution=ran)
    if found is None:
        limited = limited or _limit_passed(judged)
        return dataclasses.replace(told, status=limited or "error", message=f"no verdict: {limited or judged.error}")
    message, traceback = str(found["message"]), str(found["traceback"])
    told = dataclasses.replace(told, calls=tuple(str(call) for call in found["calls"]))
    if not found["ended"] and limited is None:  # it waited for the next call; how it ended then is an accident
        ran = dataclasses.replace(ran, status="ok", exit_code=None, traceback="", error="")
        told = dataclasses.replace(told, execution=ran)
    if found["passed"] is True and limited is None:
        return dataclasses.replace(told, passed=True, status="passed")
    if found["ended"] or limited is not None:
        message = f"the program ended: {limited or ran.error or ran.status}"
        told = dataclasses.replace(told, message=message, traceback=traceback or ran.traceback)
        return dataclasses.replace(told, status=limited or ("killed" if ran.status == "killed" else "error"))
    told = dataclasses.replace(told, message=message, traceback=traceback)
    return dataclasses.replace(told, status="failed") if message.startswith("AssertionError") else told


def _limit_passed(run: Execution) -> Literal["timeout", "memory", "output-limit"] | None:
    status = run.status
    return status if status == "timeout" or status == "memory" or status == "output-limit" else None

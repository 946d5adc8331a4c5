"""Serves one request in a process of its own: starts its boxes, watches output, clock and memory, reports, ends.

The zygote never reads a request, so no program is forked from memory in which another's tests have been. The player's
box is started before the keeper has read the test.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from reason.sandbox.inside import frames, judge, player, program
from reason.sandbox.inside.box import Box

__all__ = ["REQUEST_LIMIT", "keep"]

REQUEST_LIMIT = 256 << 20
_TICK = 0.05  # seconds between two looks at the memory
_PARTING = 0.2  # seconds a program that hung up on the judge has to end, so that its end can be told


class _Watched:
    """A box and what came out of it."""

    def __init__(self, box: Box, stdin: str, output_limit: int) -> None:
        self.box = box
        self.reason: str | None = None  # why it was killed
        self.output: dict[int, bytearray] = {box.stdout: bytearray(), box.stderr: bytearray()}
        self.ended = False
        self._limit = output_limit
        self._stdin = stdin.encode("utf-8", "surrogatepass")
        os.set_blocking(box.stdin, False)
        self.feed()

    def feed(self) -> bool:
        """Writes what the program takes of its input; False when all is written or nobody reads."""
        with contextlib.suppress(BlockingIOError):
            try:
                while self._stdin:
                    self._stdin = self._stdin[os.write(self.box.stdin, self._stdin[: 1 << 16]) :]
            except BrokenPipeError:
                self._stdin = b""
        if self._stdin:
            return True
        if self.box.stdin >= 0:
            os.close(self.box.stdin)
            self.box.stdin = -1
        return False

    def read(self, fd: int) -> bool:
        """Takes what is there; False at the end of the output."""
        part = os.read(fd, 1 << 16)
        room = self._limit - sum(map(len, self.output.values()))
        self.output[fd] += part[: max(0, room)]
        if len(part) > room:
            self.reason = self.reason or "output-limit"
            self.box.kill()
        return bool(part)

    def kill(self, reason: str) -> None:
        """Ends the box; the first reason stays."""
        if self.reason is None and not self.ended:
            self.reason = reason
            self.box.kill()

    def finish(self, started: float) -> dict[str, Any]:
        """Waits for the end of the box; what the host is told."""
        self.ended = True
        report = self.box.wait()
        seconds = time.monotonic() - started
        for fd in self.output:
            while self.read(fd):
                pass
        texts = [bytes(part).decode("utf-8", "replace") for part in self.output.values()]
        return {**report, "reason": self.reason, "stdout": texts[0], "stderr": texts[1], "seconds": seconds}


def keep(control: int, *, isolated: bool, folder: str) -> NoReturn:
    """Serves the request that waits on ``control`` and ends this process."""
    baseline = _resident(os.open("/proc/self", os.O_DIRECTORY)) if isolated else 0
    request = frames.receive(control, limit=REQUEST_LIMIT)
    if request is None:
        os._exit(0)
    if not isolated:
        folder = tempfile.mkdtemp(dir=folder)
    started, limits = time.monotonic(), request["limits"]
    output = int(limits["output_kb"]) << 10

    def open_box(body: Any, fds: tuple[int, ...] = (), files: Mapping[str, str] = {}, stdin: str = "") -> _Watched:
        box = Box(body, limits=limits, files=files, fds=fds, isolated=isolated, folder=folder)
        return _Watched(box, stdin, output)

    source = request["program"]
    if not request["tested"]:
        files = {**request["files"], program.PROGRAM_FILE: source}
        main = open_box(lambda: program.run(source), (), files, request["stdin"])
        _watch([main], started + limits["wall_seconds"], control, limits, baseline)
        frames.send(control, {"program": main.finish(started)})
        os._exit(0)

    mine, theirs = socket.socketpair()
    verdict, verdict_write = os.pipe()
    files = {**request["files"], program.PROGRAM_FILE: source}
    played = open_box(lambda: player.serve(source, 3), (theirs.fileno(),), files)
    theirs.close()
    test = frames.receive(control, limit=REQUEST_LIMIT)  # only now: the player's memory was copied without it
    if test is None:
        os._exit(0)

    def decide() -> None:
        judge.decide(test["setup"], test["test"], test["entry_point"], 3, 4)
        program.end(0)

    judged = open_box(decide, (mine.fileno(), verdict_write))
    mine.close()
    os.close(verdict_write)
    _watch([judged, played], started + limits["wall_seconds"], control, limits, baseline)
    found = None
    with contextlib.suppress(frames.FrameError):
        found = frames.receive(verdict, limit=REQUEST_LIMIT)
    if found is not None and found["ended"] and not played.ended:
        _watch([played], time.monotonic() + _PARTING, control, limits, baseline)
        if played.reason == "timeout":  # it hung up and went on: killed, but no limit was passed
            played.reason = None
    played.box.kill()
    frames.send(control, {"program": played.finish(started), "judge": judged.finish(started), "verdict": found})
    os._exit(0)


def _watch(boxes: list[_Watched], deadline: float, control: int, limits: Mapping[str, Any], baseline: int) -> None:
    """Until the first of the boxes has ended: moves data, and kills where a limit is passed."""
    poll = select.poll()
    poll.register(control, select.POLLRDHUP | select.POLLHUP)
    owners: dict[int, tuple[_Watched, str]] = {}
    for watched in boxes:
        owners[watched.box.stdout] = owners[watched.box.stderr] = (watched, "output")
        owners[watched.box.status] = (watched, "status")
        if watched.box.stdin >= 0:
            owners[watched.box.stdin] = (watched, "stdin")
            poll.register(watched.box.stdin, select.POLLOUT)
        for fd in (watched.box.stdout, watched.box.stderr, watched.box.status):
            poll.register(fd, select.POLLIN)
    proc = os.open("/proc", os.O_DIRECTORY)
    memory = int(limits["memory_mb"]) << 20
    look = time.monotonic() + _TICK  # by the clock: a program that prints all the time is looked at too
    while not boxes[0].ended:
        left = deadline - time.monotonic()
        if left <= 0:
            for watched in boxes:
                watched.kill("timeout")
            left = 1.0
        ready = poll.poll(min(left, _TICK) * 1000)
        if baseline and time.monotonic() >= look:
            look = time.monotonic() + _TICK
            if _memory(proc, baseline) > memory:
                for watched in boxes:
                    watched.kill("memory")
        for fd, _ in ready:
            if fd == control:  # the host is gone
                for watched in boxes:
                    watched.box.kill()
                os._exit(0)
            watched, what = owners[fd]
            if what == "output":
                going = watched.read(fd)
            elif what == "stdin":
                going = watched.feed()
            else:
                watched.ended, going = True, False
            if not going:
                poll.unregister(fd)
    os.close(proc)


def _memory(proc: int, baseline: int) -> int:
    """Bytes that the processes of this worker have beyond what they were forked with."""
    total = 0
    for name in os.listdir(proc):
        if name.isdigit():
            with contextlib.suppress(OSError):
                folder = os.open(name, os.O_DIRECTORY, dir_fd=proc)
                total += max(0, _resident(folder) - baseline)
    return total


def _resident(folder: int) -> int:
    """Resident bytes of the process whose folder in /proc this is; closes the folder."""
    try:
        fd = os.open("statm", os.O_RDONLY, dir_fd=folder)
        try:
            return int(os.read(fd, 200).split()[1]) * _PAGE
        finally:
            os.close(fd)
    finally:
        os.close(folder)


_PAGE = os.sysconf("SC_PAGE_SIZE")

"""Starts, asks, kills and restarts the worker process of ``reason.tasks.math_worker``.

A plain subprocess with pipes, because it has to work from notebooks, from threads and beside torch, where forking
does not, and because only a process can be stopped inside a long integer power.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

from reason.errors import ReasonError

__all__ = ["MathProcess", "Verdict"]

Verdict: TypeAlias = Literal["equal", "different", "hung", "crashed"]

_START_SECONDS = 120.0  # importing the computer algebra takes under a second, on a loaded machine many


class MathProcess:
    """At most one worker process, started when first asked. One caller at a time.

    Args:
        memory_mb: address space the worker may use (enforced on Linux).
    """

    def __init__(self, *, memory_mb: int = 2048) -> None:
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._finalizer: weakref.finalize[..., Any] | None = None
        self._asked = 0

    @property
    def pid(self) -> int | None:
        """The worker's process id, or None while none runs."""
        return self._process.pid if self._process is not None else None

    def compare(self, a: str, b: str, *, limit_seconds: float) -> Verdict:
        """Asks whether two normal forms are the same. A worker that hangs or dies is replaced at the next call.

        Raises:
            ReasonError: the worker cannot start, so nothing can be compared.
        """
        if self._process is None:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        self._asked += 1
        request = {"id": self._asked, "a": a, "b": b, "limit": limit_seconds}
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._replies.get(timeout=limit_seconds)
            if line is None:
                self.close()
                return "crashed"
            reply = json.loads(line)
            assert reply["id"] == self._asked, "one request at a time, and a late reply dies with its worker"
        except queue.Empty:
            self.close()
            return "hung"
        except OSError:
            self.close()
            return "crashed"
        except BaseException:  # Ctrl-C: the reply that is still under way must not answer the next question
            self.close()
            raise
        return "equal" if reply["equal"] else "different"

    def close(self) -> None:
        """Ends the worker. Idempotent; the next ``compare`` starts another."""
        if self._finalizer is not None:
            self._finalizer()
        self._process = self._finalizer = None

    def _start(self) -> None:
        replies: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "reason.tasks.math_worker", str(self._memory_mb)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                encoding="ascii",
                env=_environment(),
                start_new_session=True,  # Ctrl-C in the terminal is for us; closing our pipe ends the worker
            )
            assert process.stdout is not None
            reader = threading.Thread(
                target=_pump, args=(process.stdout, replies), name="reason-math-replies", daemon=True
            )
            reader.start()
            self._finalizer = weakref.finalize(self, _end, process, reader, os.getpid())
            self._process, self._replies = process, replies
            try:
                line = replies.get(timeout=_START_SECONDS)
            except queue.Empty:
                line = None
            except BaseException:
                self.close()
                raise
            if line is None:
                self.close()
                errors.seek(0)
                raise ReasonError(
                    "the process that compares mathematical answers could not start; "
                    f"check that math-verify[antlr4-13-2] is installed. It said:\n{errors.read()[-2000:].strip()}"
                )


def _environment() -> dict[str, str]:
    """Our environment, with this package importable, and without modules of the working directory in the way."""
    roots = [str(Path(__file__).resolve().parents[2])]
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *roots]))
    return {**os.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _pump(stdout: IO[str], replies: queue.SimpleQueue[str | None]) -> None:
    """Moves lines to where they can be waited for with a limit; None marks the end."""
    for line in stdout:
        replies.put(line)
    replies.put(None)


def _end(process: subprocess.Popen[str], reader: threading.Thread, owner: int) -> None:
    if os.getpid() != owner:  # a forked child holds a copy of the pipes; the worker is its parent's
        return
    process.kill()
    process.wait()
    reader.join()
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.close()
    with contextlib.suppress(OSError):  # what was still buffered cannot be written any more
        process.stdin.close()

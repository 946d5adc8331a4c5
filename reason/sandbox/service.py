"""One sandbox for a whole process: for callers in any thread, and in any event loop.

It has an event loop in a thread of its own and as many workers as there are cores, begins when it is first asked and
ends with the process. What programs did in tests is remembered, so that a grader, a verifier and a vote that ask the
same cost one run.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import TypeAlias

from reason.errors import SandboxUnavailable, UsageError
from reason.sandbox import backends
from reason.sandbox.limits import Execution, Limits, Verdict
from reason.sandbox.pool import Sandbox

__all__ = ["SandboxService", "allow_unsafe", "check_sandbox", "shared_sandbox"]

_Key: TypeAlias = tuple[str, str, str | None, str, Limits]

_KEPT_OUTPUT = 4000  # characters of a program's standard output, and of its standard error


class SandboxService:
    """Tests programs; safe to share between threads.

    Args:
        workers: runs at a time; by default the cores that this process may use.
        unsafe: run without isolation.
        cache_size: verdicts remembered; those not asked for go first.
    """

    def __init__(self, *, workers: int | None = None, unsafe: bool = False, cache_size: int = 20_000) -> None:
        self._sandbox = Sandbox(workers=workers or _usable_cores(), unsafe=unsafe)
        self._cache_size = cache_size
        self._cache: OrderedDict[_Key, asyncio.Future[Verdict]] = OrderedDict()  # touched in the loop's thread alone
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="reason-sandbox", daemon=True)
        self._thread.start()
        self._closed = False

    @property
    def backend(self) -> str:
        """ "bubblewrap", "namespaces" or "unsafe"."""
        return self._sandbox.backend

    def start_tests(
        self,
        program: str,
        tests: Sequence[str],
        *,
        entry_point: str | None = None,
        setup: str = "",
        limits: Limits | None = None,
    ) -> Future[tuple[Verdict, ...]]:
        """Begins to run tests: a verdict for each; see ``reason.sandbox.run_tests``. Of what programs print, verdicts
        have the end."""
        if self._closed:
            raise UsageError("the sandbox is closed")
        asked = [(program, test, entry_point, setup, limits or self._sandbox.limits) for test in tests]
        return asyncio.run_coroutine_threadsafe(self._all(asked), self._loop)

    def start_run(self, program: str, *, limits: Limits | None = None) -> Future[Execution]:
        """Begins to run a main program; see ``Sandbox.run``. It is run each time it is asked for."""
        if self._closed:
            raise UsageError("the sandbox is closed")
        return asyncio.run_coroutine_threadsafe(self._sandbox.run(program, limits=limits), self._loop)

    def run_tests(
        self,
        program: str,
        tests: Sequence[str],
        *,
        entry_point: str | None = None,
        setup: str = "",
        limits: Limits | None = None,
    ) -> tuple[Verdict, ...]:
        """As ``start_tests``. Blocks."""
        return self.start_tests(program, tests, entry_point=entry_point, setup=setup, limits=limits).result()

    def close(self) -> None:
        """Ends the workers and the thread; who waits for tests is told that they are cancelled. Idempotent."""
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._sandbox.close()

    async def _all(self, asked: Sequence[_Key]) -> tuple[Verdict, ...]:
        return tuple(await asyncio.gather(*map(self._one, asked)))

    async def _one(self, key: _Key) -> Verdict:
        """What is under way is waited for; what failed, was cancelled or was lost with its worker is asked anew."""
        known = self._cache.get(key)
        if known is None:
            known = self._cache[key] = asyncio.ensure_future(self._test(*key))
            known.add_done_callback(lambda done: self._forget_failed(key, done))
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)
        else:
            self._cache.move_to_end(key)
        return await asyncio.shield(known)

    async def _test(self, program: str, test: str, entry_point: str | None, setup: str, limits: Limits) -> Verdict:
        verdict = await self._sandbox.test(program, test, entry_point=entry_point, setup=setup, limits=limits)
        ran = verdict.execution
        ended = dataclasses.replace(ran, stdout=ran.stdout[-_KEPT_OUTPUT:], stderr=ran.stderr[-_KEPT_OUTPUT:])
        return dataclasses.replace(verdict, execution=ended)

    def _forget_failed(self, key: _Key, done: asyncio.Future[Verdict]) -> None:
        failed = done.cancelled() or done.exception() is not None or done.result().execution.lost
        if failed and self._cache.get(key) is done:
            del self._cache[key]


_lock = threading.Lock()
_shared: SandboxService | None = None
_unsafe_allowed = False


def allow_unsafe() -> None:
    """From now on this process runs programs without isolation where they cannot be isolated. Where they can, they
    still are."""
    global _unsafe_allowed
    _unsafe_allowed = True


def shared_sandbox() -> SandboxService:
    """The process's sandbox. Blocks while the first worker is tried.

    Raises:
        SandboxUnavailable: programs cannot be isolated here, and ``allow_unsafe`` was not called.
    """
    global _shared
    with _lock:
        if _shared is None:
            _shared = SandboxService(unsafe=_must_be_unsafe())
        return _shared


@atexit.register
def _close() -> None:
    if _shared is not None:
        _shared.close()


def check_sandbox() -> None:
    """Refuses early what ``shared_sandbox`` would refuse later. Starts a worker once in a process's life.

    Raises:
        SandboxUnavailable: see ``shared_sandbox``.
    """
    _must_be_unsafe()


def _must_be_unsafe() -> bool:
    try:
        backends.find()
    except SandboxUnavailable:
        if not _unsafe_allowed:
            raise
        return True
    return False


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _renew() -> None:
    """A forked child has no thread of the service, and must not talk to its parent's workers."""
    global _shared, _lock
    _shared, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)

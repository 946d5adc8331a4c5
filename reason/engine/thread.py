"""The thread that engines compute in: it owns the models and runs their loops, an iteration of each in turn.

Engines that work together on one machine share a thread: two forwards at once cost more than one after the other.
Kernels and torch's operations have helper threads for each thread that computes, and where more of them wait awake than
there are cores, all wait longer.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from reason.engine.cores import compute_alone
from reason.engine.loop import EngineLoop
from reason.errors import EngineClosed

__all__ = ["EngineThread"]

T = TypeVar("T")


class EngineThread:
    """See the module's docstring. It begins with the first loop and ends with the last.

    What it is told crosses by a locked inbox, in order: calls are made between two rounds of iterations.
    """

    def __init__(self, name: str) -> None:
        self._inbox: deque[tuple[Callable[[], object], EngineLoop | None]] = deque()
        self._wake = threading.Condition()
        self._ended = False
        self._loops: dict[EngineLoop, Callable[[Exception], None]] = {}  # touched in the thread alone
        self._thread = threading.Thread(target=self._serve, name=f"reason-engine-{name}", daemon=True)

    def add(self, make: Callable[[], EngineLoop], on_failure: Callable[[Exception], None]) -> EngineLoop:
        """Has the thread make a loop and run it from then on. Blocks.

        Args:
            on_failure: called in the thread if an iteration raises, which ends the loop.

        Raises:
            BaseException: what the making raised.
            EngineClosed: the thread has ended.
        """
        made: queue.SimpleQueue[EngineLoop | BaseException] = queue.SimpleQueue()
        abandoned = threading.Event()

        def begin() -> None:
            try:
                loop = make()
            except BaseException as error:
                made.put(error)
                return
            if abandoned.is_set():
                for runner in loop.runners():
                    runner.release()
                return
            self._loops[loop] = on_failure
            if all(each.runner.native for each in self._loops):
                compute_alone()
            made.put(loop)

        if not self.tell(begin):
            raise EngineClosed("the engine to run beside is closed")
        with self._wake:
            if self._thread.ident is None:
                self._thread.start()
        try:
            outcome = made.get()
        except BaseException:  # an interrupt: what is being made has no use
            abandoned.set()
            raise
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def drop(self, loop: EngineLoop) -> None:
        """Runs a loop no longer. In the thread alone."""
        self._loops.pop(loop, None)

    def tell(self, call: Callable[[], object], loop: EngineLoop | None = None) -> bool:
        """Has the thread make a call; False if it has ended and never will.

        Args:
            loop: whose call it is; if it raises, that loop has failed.
        """
        with self._wake:
            if self._ended:
                return False
            self._inbox.append((call, loop))
            self._wake.notify()
            return True

    def ask(self, call: Callable[[], T]) -> T:
        """The result of a call made by the thread; made here, once that has ended, or by the thread itself."""
        if self.is_current:
            return call()
        answered = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def answer() -> None:
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)
            finally:
                answered.set()

        if not self.tell(answer):
            self._thread.join()
            return call()
        answered.wait()
        if errors:
            raise errors[0]
        return results[0]

    @property
    def is_current(self) -> bool:
        """Whether it is the thread that asks."""
        return threading.current_thread() is self._thread

    def settle(self) -> None:
        """Waits until it has done what it was told; if no loop is left then, until it has ended."""
        if not self.is_current and not self.ask(lambda: len(self._loops)):
            self._thread.join(timeout=10)  # unless another loop is being made

    def _serve(self) -> None:
        while True:
            with self._wake:
                while not self._inbox and self._loops and all(loop.idle for loop in self._loops):
                    self._wake.wait()
                calls = list(self._inbox)
                self._inbox.clear()
                if not calls and not self._loops:
                    self._ended = True
                    return
            for call, caller in calls:
                self._guarded(call, caller)
            for loop in list(self._loops):
                if not loop.idle:
                    self._guarded(loop.step, loop)

    def _guarded(self, call: Callable[[], object], loop: EngineLoop | None) -> None:
        """Makes a call. One that raises has met a bug of ours: nobody may wait for ever, and other loops go on."""
        try:
            call()
        except Exception as error:
            on_failure = None if loop is None else self._loops.pop(loop, None)
            if on_failure is not None:
                on_failure(error)

"""How much is under way at once: so many requests run, so many wait, the others are sent away."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from reason.serve.failures import ApiError, busy

__all__ = ["Admission", "Place"]


class Admission:
    """Args:
    max_running: requests that are worked on at once.
    max_queued: requests that wait for their turn.
    """

    def __init__(self, *, max_running: int, max_queued: int) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._queue: deque[asyncio.Future[None]] = deque()
        self._mean_seconds = 1.0  # of the last requests
        self.running = 0
        self.closing = False
        self._interrupts: set[Callable[[], None]] = set()

    @property
    def queued(self) -> int:
        return len(self._queue)

    def enter(self) -> Place:
        """A place, or one in the queue; it must be left.

        Raises:
            ApiError: there is none (429), or the server is about to end (503).
        """
        if self.closing:
            raise ApiError(503, "the server is shutting down", kind="server_error", code="shutting_down")
        if self.running < self._max_running and not self._queue:
            self.running += 1
            return Place(self, None)
        if len(self._queue) >= self._max_queued:
            wait = (len(self._queue) + self.running) * self._mean_seconds / self._max_running
            raise busy(
                f"{self.running} requests are under way and {len(self._queue)} wait; try again later",
                retry_after=round(min(max(wait, 1.0), 120.0)),
            )
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        return Place(self, turn)

    def interrupt_all(self) -> None:
        """Has searches end with the best answer so far."""
        for interrupt in list(self._interrupts):
            interrupt()

    def _leave(self, turn: asyncio.Future[None] | None, seconds: float) -> None:
        if turn is not None and not turn.done():
            self._queue.remove(turn)
            turn.cancel()
            return
        self._mean_seconds += 0.2 * (seconds - self._mean_seconds)
        self.running -= 1
        while self._queue and self.running < self._max_running:
            self.running += 1
            self._queue.popleft().set_result(None)


class Place:
    """See ``Admission.enter``. ``tokens`` are those that the work here generated, None until it is done."""

    def __init__(self, admission: Admission, turn: asyncio.Future[None] | None) -> None:
        self._admission = admission
        self._turn = turn
        self._left = False
        self.tokens: int | None = None
        self._began = time.monotonic()
        self._interrupt: Callable[[], None] | None = None

    async def turn(self) -> None:
        """Waits for it."""
        if self._turn is not None:
            await asyncio.shield(self._turn)  # who cancels the waiting leaves the place, too
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Since its turn came."""
        return time.monotonic() - self._began

    def on_interrupt(self, interrupt: Callable[[], None]) -> None:
        """What ends the work here with what there is."""
        self._interrupt = interrupt
        self._admission._interrupts.add(interrupt)

    def leave(self) -> None:
        """Gives it to the next one. Idempotent."""
        if self._left:
            return
        self._left = True
        if self._interrupt is not None:
            self._admission._interrupts.discard(self._interrupt)
        self._admission._leave(self._turn, self.seconds)

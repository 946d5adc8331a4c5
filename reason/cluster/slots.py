"""Which worker takes the next problem: the one with the fewest under way, as soon as it has room.

A worker has room for as many as the evaluation says, but for no more than an even share of what is left: few problems
spread over all workers, those included that are still to come.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Slots"]

W = TypeVar("W")


@dataclass(slots=True)
class _Room:
    under_way: int = 0
    kept: bool = False  # for one problem alone, which waits until the others are done or is under way
    alone: bool = False  # it is under way


class Slots(Generic[W]):
    """Room at workers, for one event loop.

    Args:
        most: problems under way at once at one worker.
        expected: how many workers there are or may come.
    """

    def __init__(self, most: int, expected: Callable[[], int]) -> None:
        self._most = most
        self._expected = expected
        self._rooms: dict[W, _Room] = {}
        self._waiting: deque[asyncio.Future[W]] = deque()
        self._waiting_alone: deque[asyncio.Future[W]] = deque()
        self._closed: BaseException | None = None

    def __len__(self) -> int:
        return len(self._rooms)

    def add(self, worker: W) -> None:
        """A worker is there."""
        self._rooms[worker] = _Room()
        self._serve()

    def remove(self, worker: W) -> None:
        """A worker is gone, with what was under way there. Idempotent."""
        self._rooms.pop(worker, None)
        self._serve()

    def close(self, error: BaseException) -> None:
        """There will be no more workers: who waits, or comes later, gets the error."""
        self._closed = error
        for waiting in (self._waiting_alone, self._waiting):
            while (waiter := _first(waiting)) is not None:
                waiter.set_exception(error)

    async def take(self, *, alone: bool = False) -> W:
        """Room for one problem, once there is some; ``alone`` is with no other at the same worker."""
        if self._closed is not None:
            raise self._closed
        waiter: asyncio.Future[W] = asyncio.get_running_loop().create_future()
        (self._waiting_alone if alone else self._waiting).append(waiter)
        self._serve()
        try:
            return await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled() and waiter.exception() is None:  # it was given room in the same moment
                self.give_back(waiter.result())
            self._serve()  # a worker may have been kept for it
            raise

    def give_back(self, worker: W) -> None:
        """The room that ``take`` gave; nothing where the worker is gone."""
        if (room := self._rooms.get(worker)) is not None:
            room.under_way -= 1
            if room.under_way == 0:
                room.kept = room.alone = False
            self._serve()

    def _serve(self) -> None:
        self._serve_alone()
        while _first(self._waiting) is not None:
            worker = self._freest()
            if worker is None or self._rooms[worker].under_way >= self._limit():
                return
            self._hand(self._waiting, worker)

    def _serve_alone(self) -> None:
        """Workers that are kept do not get new problems, so that each is idle in the end."""
        waiting = sum(not waiter.done() for waiter in self._waiting_alone)
        kept = [worker for worker, room in self._rooms.items() if room.kept and not room.alone]
        for spare in kept[waiting:]:  # for who has given up
            self._rooms[spare].kept = False
        del kept[waiting:]
        while len(kept) < waiting and (worker := self._freest()) is not None:
            self._rooms[worker].kept = True
            kept.append(worker)
        for worker in kept:
            if self._rooms[worker].under_way == 0 and _first(self._waiting_alone) is not None:
                self._rooms[worker].alone = True
                self._hand(self._waiting_alone, worker)

    def _freest(self) -> W | None:
        open_to_all = (worker for worker, room in self._rooms.items() if not room.kept)
        return min(open_to_all, key=lambda worker: self._rooms[worker].under_way, default=None)

    def _limit(self) -> int:
        left = len(self._waiting) + sum(room.under_way for room in self._rooms.values())
        return min(self._most, math.ceil(left / max(1, self._expected())))

    def _hand(self, waiting: deque[asyncio.Future[W]], worker: W) -> None:
        self._rooms[worker].under_way += 1
        waiting.popleft().set_result(worker)


def _first(waiting: deque[asyncio.Future[W]]) -> asyncio.Future[W] | None:
    """Who waits the longest; those that were cancelled or served are dropped."""
    while waiting and waiting[0].done():
        waiting.popleft()
    return waiting[0] if waiting else None

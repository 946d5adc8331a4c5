"""In which order requests go to a server, and how many at once.

A server keeps the KV of prefixes that it has computed. Requests that arrive together mostly share one, and if all of
them are sent at once it is computed for each: so the first goes ahead, and the others follow when its first token is
there.
A prefix that a completion ended with, or that was asked for before, is known and holds nobody up; one with more text
behind it is another.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import NamedTuple

from reason.types import Path

__all__ = ["Turnstile"]

_KNOWN = 4096


class _Waiting(NamedTuple):
    prefix: Path
    turn: asyncio.Future[None]


class Turnstile:
    """Lets requests pass, first come, first served, but for those that wait for a prefix. Used in one event loop.

    Args:
        limit: requests under way at once.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._active = 0
        self._queue: deque[_Waiting] = deque()
        self._warming: set[Path] = set()
        self._known: OrderedDict[Path, None] = OrderedDict()

    async def enter(self, prefix: Path) -> None:
        """Waits for this request's turn. Whoever has entered leaves."""
        waiting = _Waiting(prefix, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._advance()
        try:
            await waiting.turn
        except asyncio.CancelledError:
            if waiting.turn.done() and not waiting.turn.cancelled():  # its turn had come
                self.leave(prefix)
            else:
                self._queue.remove(waiting)
            raise

    def warm(self, path: Path) -> None:
        """The server has computed a path: requests for it need not wait."""
        self._known[path] = None
        self._known.move_to_end(path)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        if path in self._warming:
            self._warming.discard(path)
            self._advance()

    def leave(self, prefix: Path) -> None:
        """A request is over, whatever came of it."""
        self._active -= 1
        if prefix not in self._known:  # it failed before it had a token: the next of its kind goes ahead
            self._warming.discard(prefix)
        self._advance()

    def _advance(self) -> None:
        for waiting in list(self._queue):
            if self._active >= self._limit:
                return
            if waiting.turn.done() or waiting.prefix in self._warming:  # given up, or to wait
                continue
            if waiting.prefix not in self._known:
                self._warming.add(waiting.prefix)
            self._queue.remove(waiting)
            self._active += 1
            waiting.turn.set_result(None)

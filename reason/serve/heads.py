"""HTTP connections whose requests' heads must come whole in time.

uvicorn times a connection only between a reply and the first byte after it: a client that connects and says nothing, or
sends its head a byte a minute, keeps its connection for as long as it likes.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["TimedHeads"]


class TimedHeads(H11Protocol):
    """Args:
    head_seconds: after connecting, or after a reply, within which a request's head must have come; else the connection
        is closed.
    """

    def __init__(self, *args: Any, head_seconds: float, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_seconds = head_seconds
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self._await_head()
        super().on_response_complete()

    def _await_head(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(self._head_seconds, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        answering: Any = self.cycle  # None before the first request
        if answering is None or answering.response_complete:
            self.transport.close()

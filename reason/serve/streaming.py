"""Work that ends when its client goes away: server-sent events with a heartbeat, and replies in one piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from reason.serve.failures import as_api_error
from reason.serve.replies import event

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

__all__ = ["ClientGone", "EventStream", "unless_gone"]

T = TypeVar("T")

_HEARTBEAT = b": still at work\n\n"


class ClientGone(Exception):
    """The client closed the connection, so its work was cancelled."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of work that is cancelled when the client goes away.

    Raises:
        ClientGone: it did.
    """
    working, watching = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGone
        return working.result()
    finally:
        await _end(working, watching)


class EventStream:
    """A response of server-sent events, an ASGI application.

    Args:
        events: closed when the stream ends, also where the client goes away or an event fails; a failure is the last
            event.
        heartbeat_seconds: after so much silence a comment is sent, so that nobody on the way hangs up.
        stall_seconds: a client that takes nothing for so long has gone away.
        on_close: called in the end, whether or not the events ever began.
        failure: how an error is told, as an event.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        heartbeat_seconds: float,
        stall_seconds: float,
        on_close: Callable[[], None],
        failure: Callable[[Mapping[str, Any]], bytes] = event,
    ) -> None:
        self._events = events
        self._heartbeat_seconds = heartbeat_seconds
        self._stall_seconds = stall_seconds
        self._on_close = on_close
        self._failure = failure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = asyncio.ensure_future(_gone(receive))
        following: asyncio.Task[bytes | None] | None = None
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-accel-buffering", b"no"),  # a proxy that waits for more would hold the tokens back
        ]
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            while True:
                following = following or asyncio.ensure_future(self._following())
                await asyncio.wait(
                    {following, watching}, timeout=self._heartbeat_seconds, return_when=asyncio.FIRST_COMPLETED
                )
                if watching.done():
                    return
                data = _HEARTBEAT
                if following.done():
                    told, following = following.result(), None
                    if told is None:
                        break
                    data = told
                if not await self._sent(send, data):
                    return
            await self._sent(send, b"", more=False)
        finally:
            try:
                await _end(watching, *([following] if following is not None else []))
                await self._events.aclose()
            finally:
                self._on_close()

    async def _sent(self, send: Send, data: bytes, *, more: bool = True) -> bool:
        """Sends data; False if the client stopped reading, so that there is no room for more on the way to it."""
        sending = asyncio.ensure_future(send({"type": "http.response.body", "body": data, "more_body": more}))
        try:
            await asyncio.wait({sending}, timeout=self._stall_seconds)
            if not sending.done():
                return False
            sending.result()
            return True
        finally:
            await _end(sending)

    async def _following(self) -> bytes | None:
        """The next event, a failure as one; None after the last."""
        try:
            return await anext(self._events)
        except StopAsyncIteration:
            return None
        except Exception as error:
            return self._failure(as_api_error(error).body())


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Bodies of requests, read whole: of a limited size, and sent within a limited time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from reason.serve.failures import ApiError, bad_request
from reason.serve.limits import Limits
from reason.serve.streaming import ClientGone

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["WholeBodies", "read_body"]


async def read_body(scope: Scope, receive: Receive, limits: Limits) -> bytes:
    """What a client sends.

    Raises:
        ApiError: it is too large, or takes too long.
        ClientGone: the client went away meanwhile.
    """
    limit = limits.max_body_bytes
    too_large = ApiError(413, f"a body may have at most {limit} bytes here", code="body_too_large")
    length = Headers(scope=scope).get("content-length", "0")
    if not length.isascii() or not length.isdigit():
        raise bad_request("Content-Length is not a number")
    if len(length) > 18 or int(length) > limit:
        raise too_large
    try:
        return await asyncio.wait_for(_received(receive, limit, too_large), limits.stall_seconds)
    except asyncio.TimeoutError:
        message = f"the body was not sent within {limits.stall_seconds:g} seconds"
        raise ApiError(408, message, code="timeout") from None


async def _received(receive: Receive, limit: int, too_large: ApiError) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > limit:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


class WholeBodies:
    """Around an application that would read bodies of any size for any time: it gets those that are here, whole."""

    def __init__(self, app: ASGIApp, limits: Limits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": await read_body(scope, receive, self._limits)}]

        async def replaying() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replaying, send)

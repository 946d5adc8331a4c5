"""The server as a process: it listens, and ends in order.

At SIGTERM or Ctrl-C no request is taken any more. Those under way have a deadline: most of it they may go on for, then
searches are told to end with their best answer so far, and what is still there at its end, or at a second Ctrl-C, loses
its connection, which ends it. The process then ends with status 0.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import signal
import socket
import time
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from reason.errors import UsageError
from reason.serve.heads import TimedHeads
from reason.serve.service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp

__all__ = ["Server", "bind", "url_of"]

log = logging.getLogger("reason.serve")

_SHARE = 0.7
"""Of the deadline, after which searches are told to end."""

_LOOK_SECONDS = 0.05

_LATE_SECONDS = 5
"""After the deadline, in which the work of lost connections ends before uvicorn cancels it, each with a trace."""

_UNTAKEN_MILLISECONDS = 60_000
"""After which the system gives up a connection whose other end takes nothing, or is no more there."""


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        UsageError: the port is taken, or not allowed, or there is no such address here.
    """
    if not 0 <= port < 1 << 16:
        raise UsageError(f"cannot serve on {host} port {port}: ports are numbers from 0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=256)
    except OSError as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot serve on {host} port {port}: {why}; choose others with --host and --port") from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # connections inherit it
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNTAKEN_MILLISECONDS)
    return listening


def url_of(listening: socket.socket) -> str:
    """Where clients find what listens there."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Args:
    grace_seconds: the deadline of what is under way when the server is to end.
    lifespan: whether the app is told of its beginning and end.
    """

    def __init__(self, app: ASGIApp, service: Service, *, grace_seconds: float, lifespan: bool = False) -> None:
        config = uvicorn.Config(
            app,
            http=functools.partial(TimedHeads, head_seconds=service.limits.stall_seconds),  # type: ignore[arg-type]
            ws="none",
            lifespan="on" if lifespan else "off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=math.ceil(grace_seconds) + _LATE_SECONDS,
        )
        super().__init__(config)
        self._service = service
        self._grace_seconds = grace_seconds
        self._at_once = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ends it in order, a second Ctrl-C at once, a third one whatever is still under way.

        uvicorn would also raise the signal again when all is over, and the process would end as if it had been killed.
        """
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = self._at_once
            self._at_once = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        admission = self._service.admission
        admission.closing = True
        if waiting := admission.running + admission.queued:
            requests = "1 request" if waiting == 1 else f"{waiting} requests"
            log.warning("waiting up to %g s for %s; Ctrl-C again ends now", self._grace_seconds, requests)
        ending = asyncio.ensure_future(self._end_work())
        try:
            await super().shutdown(sockets)
        finally:
            ending.cancel()

    async def _end_work(self) -> None:
        """Has searches end when most of the deadline is over, and all else at its end."""
        began = time.monotonic()
        interrupted = False
        while (gone := time.monotonic() - began) < self._grace_seconds and not self._at_once:
            if gone >= self._grace_seconds * _SHARE and not interrupted:
                self._service.admission.interrupt_all()
                interrupted = True
            await asyncio.sleep(_LOOK_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()

"""HTTP to one server: a pool of connections, timeouts, attempts that are made again, and errors that say what to do."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import json
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from reason.engine.remote.address import Address
from reason.errors import ReasonError, ServerError, UsageError

if TYPE_CHECKING:
    import httpx

__all__ = ["Connection", "Retry"]

T = TypeVar("T")

_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_NOT_YET = frozenset({429, 503})  # it is there, and loads a model for one
_LONGEST_WAIT = 120.0  # seconds
_CONNECT_SECONDS = 10.0
_SHOWN = 300  # characters of what a server says


class Retry(Exception):
    """An attempt failed in a way that may pass. ``wait`` is what the server asked for, in seconds."""

    def __init__(self, error: ServerError, wait: float = 0.0) -> None:
        super().__init__(str(error))
        self.error, self.wait = error, wait


class Unreachable(Retry):
    """Nobody answered at all."""


class Connection:
    """Used in one event loop.

    Args:
        timeout: seconds without a byte from the server, after which a request has failed.
        retries: attempts beside the first.
        backoff: seconds before the second attempt; doubled for each one after it, and drawn between half and whole.
        limit: connections.
        transport: instead of the network; an ``httpx.AsyncBaseTransport``.

    Raises:
        UsageError: httpx is not installed, or the API key cannot be one.
    """

    def __init__(
        self, address: Address, *, timeout: float, retries: int, backoff: float, limit: int, transport: Any = None
    ) -> None:
        try:
            import httpx
        except ImportError:
            raise UsageError("models on a server need httpx: pip install 'reason-toolkit[remote]'") from None
        self._httpx = httpx
        self.address = address
        self.retried = 0
        self._timeout, self._retries, self._backoff = timeout, retries, backoff
        self._key = address.key()
        self._jitter = random.Random()
        self._client = httpx.AsyncClient(
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
            timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_SECONDS), pool=None),
            limits=httpx.Limits(max_connections=limit, max_keepalive_connections=limit),
            follow_redirects=False,
            trust_env=not address.is_local,
            transport=transport,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def get(self, url: str, *, open_to_all: bool = False) -> Any | None:
        """The JSON at an address; None where the server has nothing there, or fails at it.

        Args:
            open_to_all: that it is kept from us is as if it were not there.

        Raises:
            ServerError: it cannot be reached, is never ready, or refuses the key.
        """

        async def once() -> Any:
            try:
                with self._told():
                    response = await self._client.get(url)
            except Unreachable as failed:  # these come first, when an address is often wrong
                raise failed.error from None
            if response.status_code in _NOT_YET and not open_to_all:  # elsewhere a gateway may mean "not here"
                self._check(response.status_code, response.headers, response.text)
            return response

        response = await self.again(once)
        if response.status_code in (401, 403) and not open_to_all:
            raise self._refused(response.status_code, response.text)
        if response.status_code != 200:
            return None
        with contextlib.suppress(ValueError):
            return response.json()
        return None

    async def post(self, url: str, body: dict[str, Any]) -> Any:
        """The JSON that answers a body.

        Raises:
            ServerError: there is none.
        """

        async def once() -> Any:
            with self._told():
                response = await self._client.post(url, json=body)
                self._check(response.status_code, response.headers, response.text)
                return response.json()

        return await self.again(once)

    async def events(self, url: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """One attempt at a body that is answered piece by piece. Closing the iterator closes the connection, at which
        servers end the work.

        Raises:
            Retry, ServerError: it failed, now or in the middle.
        """
        with self._told():
            async with self._client.stream("POST", url, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    self._check(response.status_code, response.headers, response.text)
                if "text/event-stream" not in response.headers.get("content-type", ""):  # it does not stream
                    yield json.loads(await response.aread())
                    return
                async for line in _lines(response):
                    name, _, data = line.partition(b":")
                    data = data.strip()
                    if name not in (b"data", b"error") or data in (b"", b"[DONE]"):
                        continue
                    event = json.loads(data)
                    if name == b"error":  # as older llama.cpp writes them
                        event = {"error": event}
                    if isinstance(event, dict):
                        self._check_event(event)
                        yield event

    async def again(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of an attempt, made again while it raises ``Retry``.

        Raises:
            ServerError: the last attempt's error.
        """
        for failed in range(self._retries + 1):
            try:
                return await attempt()
            except Retry as retry:
                if failed == self._retries:
                    times = f" (after {failed + 1} attempts)" if failed else ""
                    raise ServerError(f"{retry.error}{times}", status=retry.error.status) from None
                if retry.wait > _LONGEST_WAIT:
                    raise ServerError(
                        f"{retry.error}; it asks to wait for {retry.wait:.0f} s: try again later",
                        status=retry.error.status,
                    ) from None
                self.retried += 1
                delay = self._backoff * 2**failed * self._jitter.uniform(0.5, 1.0)
                wait = max(retry.wait, min(delay, _LONGEST_WAIT))
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    # -- errors ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Says in our words what HTTP says in its own."""
        httpx, host = self._httpx, self.address.host
        try:
            yield
        except httpx.ConnectTimeout as error:
            raise Unreachable(self._error(f"no connection to {host} within {_CONNECT_SECONDS:.0f} s")) from error
        except httpx.TimeoutException:
            raise self._error(
                f"{host} was silent for {self._timeout:g} s: it hangs, or has more to do than it can; look at its log, "
                "send it less at once (max_concurrent) or wait longer (timeout)"
            ) from None
        except httpx.ConnectError as error:
            hint = "is the server running, and is that its address?"
            raise Unreachable(self._error(f"cannot connect to {self.address.url} ({error}); {hint}")) from None
        except httpx.TransportError as error:
            raise Retry(self._error(f"the connection to {host} broke ({type(error).__name__}: {error})")) from None
        except ValueError as error:
            raise self._error(
                f"{host} answered what is no JSON ({error}); is {self.address.url} its address?"
            ) from None

    def _check(self, status: int, headers: Any, text: str) -> None:
        if status == 200:
            return
        if status in (401, 403):
            raise self._refused(status, text)
        if 300 <= status < 400:
            raise self._error(
                f"{self.address.host} sends us elsewhere (HTTP {status}), which is not followed: give the "
                "address that it is to be asked at"
            )
        error = self._error(f"{self.address.host} answered HTTP {status}: {_said(text)}", status=status)
        raise Retry(error, _retry_after(headers.get("retry-after"))) if status in _AGAIN else error

    def _check_event(self, event: dict[str, Any]) -> None:
        """Servers put errors into a stream that has begun."""
        if not event.get("error"):
            return
        told = event["error"]
        status = told.get("code") if isinstance(told, dict) else None
        status = status if isinstance(status, int) else 500
        error = self._error(f"{self.address.host} broke off (HTTP {status}): {_said(json.dumps(event))}", status=status)
        raise Retry(error) if status in _AGAIN else error

    def _refused(self, status: int, text: str) -> ReasonError:
        name = self.address.api_key_env
        which = f"the key in {name}" if self._key is not None else f"a request without a key ({name} is not set)"
        return self._error(f"{self.address.host} refused {which} (HTTP {status}): {_said(text)}", status=status)

    def _error(self, message: str, *, status: int | None = None) -> ServerError:
        """What it says never holds the key, whatever the server repeats."""
        return ServerError(message if self._key is None else message.replace(self._key, "***"), status=status)


def _said(text: str) -> str:
    """The message in a server's answer, in short."""
    told: Any = text
    with contextlib.suppress(ValueError):
        told = json.loads(text)
    for key in ("error", "message", "detail"):
        if isinstance(told, dict) and told.get(key):
            told = told[key]
    shown = " ".join(str(told).split())
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"


async def _lines(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The lines of a stream of events. ``aiter_lines`` would end them at letters that may stand within a text."""
    begun = b""
    async for piece in response.aiter_bytes():
        *whole, begun = (begun + piece).split(b"\n")
        for line in whole:
            yield line
    yield begun


def _retry_after(value: str | None) -> float:
    """Seconds, from a number or a date."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0

"""Streams to clients that do not read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from reason.serve.streaming import EventStream


async def test_a_client_that_takes_nothing_has_gone_away() -> None:
    closed: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"data: {}\n\n"
        finally:
            closed.append("events")

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    stream = EventStream(events(), heartbeat_seconds=60, stall_seconds=0.02, on_close=lambda: closed.append("place"))
    await asyncio.wait_for(stream({}, receive, send), 60)
    assert closed == ["events", "place"]


async def test_one_that_does_not_take_the_end_has_gone_away() -> None:
    closed: list[str] = []

    async def events() -> AsyncGenerator[bytes, None]:
        yield b"data: {}\n\n"

    async def send(message: Any) -> None:
        if not message.get("more_body", True):
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    stream = EventStream(events(), heartbeat_seconds=60, stall_seconds=0.02, on_close=lambda: closed.append("place"))
    await asyncio.wait_for(stream({}, receive, send), 60)
    assert closed == ["place"]


async def test_one_that_reads_slowly_has_not() -> None:
    taken: list[bytes] = []

    async def events() -> AsyncGenerator[bytes, None]:
        for number in range(5):
            yield b"%d" % number

    async def send(message: Any) -> None:
        await asyncio.sleep(0.01)
        taken.append(message.get("body", b""))

    async def receive() -> Any:
        await asyncio.Event().wait()

    stream = EventStream(events(), heartbeat_seconds=60, stall_seconds=30, on_close=lambda: None)
    await stream({}, receive, send)
    assert b"".join(taken) == b"01234"

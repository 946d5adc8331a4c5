"""Samples that are given up."""

from __future__ import annotations

import asyncio

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.serve.plain import write
from reason.types import Request


@pytest.mark.parametrize("live", [False, True])
async def test_no_task_is_left_behind(live: bool) -> None:
    engine = ScriptedEngine(["a" * 1000], delay=0.01)
    request = Request(prefix=engine.codec.encode("x"), seed=0, key=0, max_tokens=1000)
    written = write(engine, [request], live=live, seconds=60)

    async def read() -> None:
        async for _ in written:
            pass

    before = asyncio.all_tasks()
    reading = asyncio.ensure_future(read())
    await asyncio.sleep(0.1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await written.aclose()
    await asyncio.sleep(0.01)
    assert asyncio.all_tasks() == before

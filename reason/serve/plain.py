"""The model without a search: samples as they were asked for, and their text while it is written.

Engines tell what their unfinished requests have written so far (``Engine.progress``), so a stream is the very request
that would have been made without streaming, looked at while it runs: the text is the same, penalties, grammars and stop
strings included. What may yet turn out to be a stop string, or is half of a letter, is not sent before that is clear.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from reason.serve.failures import ApiError
from reason.types import Completion, Engine, Request

__all__ = ["Written", "certain", "write"]

LOOK_SECONDS = 0.04
"""How often a stream looks what there is: a reader sees no difference, and the engine is not in the way of it."""


@dataclass(frozen=True, slots=True)
class Written:
    """All that is certain of a sample's text so far, and at its end the completion."""

    index: int
    text: str
    completion: Completion | None = None


async def write(
    engine: Engine, requests: Sequence[Request], *, live: bool, seconds: float
) -> AsyncGenerator[Written, None]:
    """Runs requests of one owner, whose keys are different. Closing the iterator cancels what is unfinished.

    Args:
        live: tell of texts that grow, not only of those that are finished.
        seconds: all of them may take.

    Raises:
        ApiError: they took longer.
    """
    arrived: asyncio.Queue[Completion] = asyncio.Queue()

    async def collect() -> None:
        async with contextlib.aclosing(engine.generate(requests)) as completions:  # type: ignore[type-var]
            async for completion in completions:
                arrived.put_nowait(completion)

    work = asyncio.ensure_future(collect())
    sent = dict.fromkeys(range(len(requests)), "")  # by index of what is unfinished
    deadline = time.monotonic() + seconds
    try:
        while sent:
            left = deadline - time.monotonic()
            if left <= 0:
                message = f"the samples were not finished after {seconds:g} seconds"
                raise ApiError(504, message, kind="server_error", code="timeout")
            if arrived.empty():
                await _next(arrived, work, min(LOOK_SECONDS, left) if live else left)
            while not arrived.empty():
                completion = arrived.get_nowait()
                del sent[completion.index]
                yield Written(completion.index, completion.text, completion)
            if live and sent:
                grown = engine.progress(requests[0].owner)
                for index, before in list(sent.items()):
                    text = certain(grown.get(requests[index].key, ""), requests[index].stop)
                    if len(text) > len(before) and text.startswith(before):
                        sent[index] = text
                        yield Written(index, text)
        await work
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def _next(arrived: asyncio.Queue[Completion], work: asyncio.Task[None], seconds: float) -> None:
    """Waits until something has arrived or the time is up; raises what the work raised."""
    getting = asyncio.ensure_future(arrived.get())
    try:  # not wait_for, which before Python 3.12 may take a cancellation for the result that comes with it
        await asyncio.wait({getting, work}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        if getting.done():
            arrived.put_nowait(getting.result())  # one waits here at a time, so it stays the only one or the first
        elif work.done():
            work.result()
    finally:
        getting.cancel()


def certain(text: str, stop: Sequence[str]) -> str:
    """The part of an unfinished text that stays as it is."""
    places = [place for each in stop if (place := text.find(each)) >= 0]
    if places:
        return text[: min(places)]
    text = text.rstrip("\ufffd")
    held = (k for each in stop for k in range(min(len(each) - 1, len(text)), 0, -1) if text.endswith(each[:k]))
    return text[: len(text) - max(held, default=0)]

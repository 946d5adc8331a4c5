"""Work on several requests, in the order in which it is finished."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from typing import TypeVar

__all__ = ["as_finished"]

T = TypeVar("T")


@contextlib.asynccontextmanager
async def as_finished(tasks: Sequence[asyncio.Future[T]]) -> AsyncIterator[Iterator[Awaitable[T]]]:
    """Their results as they come; what is unfinished in the end is cancelled and waited for."""
    try:
        yield asyncio.as_completed(tasks)
    finally:
        for pending in tasks:
            pending.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

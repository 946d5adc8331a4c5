"""From synchronous code into asynchronous code."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Coroutine
from concurrent.futures import Future, wait
from typing import Any, TypeVar

__all__ = ["run_sync"]

T = TypeVar("T")


def run_sync(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine to its end from synchronous code, inside a running event loop too (on a thread of its own). An
    interrupt ends it in both cases."""
    if not _loop_runs():
        return asyncio.run(work)
    began: queue.SimpleQueue[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = queue.SimpleQueue()
    ended: Future[T] = Future()

    async def watched() -> T:
        task = asyncio.current_task()
        assert task is not None
        began.put((asyncio.get_running_loop(), task))
        return await work

    def run() -> None:
        try:
            ended.set_result(asyncio.run(watched()))
        except BaseException as error:
            ended.set_exception(error)

    threading.Thread(target=run, name="reason-solve").start()
    try:
        wait([ended])  # not Thread.join, which Python may take for done when it is interrupted
    except BaseException:  # Ctrl-C in a notebook
        loop, task = began.get()
        with contextlib.suppress(RuntimeError):  # it has ended by itself, and its loop is closed
            loop.call_soon_threadsafe(task.cancel)
        wait([ended])
        raise
    return ended.result()


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True

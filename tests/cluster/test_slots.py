"""Who takes the next problem."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from reason.cluster.slots import Slots
from reason.errors import EngineClosed


def taken(tasks: list[asyncio.Task[str]]) -> Counter[str]:
    return Counter(task.result() for task in tasks if task.done())


async def settled(tasks: list[asyncio.Task[str]]) -> Counter[str]:
    for _ in range(5):
        await asyncio.sleep(0)
    return taken(tasks)


def ask(slots: Slots[str], count: int, *, alone: bool = False) -> list[asyncio.Task[str]]:
    return [asyncio.ensure_future(slots.take(alone=alone)) for _ in range(count)]


async def test_problems_wait_for_the_first_worker_and_fill_it() -> None:
    slots: Slots[str] = Slots(3, expected=lambda: 1)
    tasks = ask(slots, 5)
    assert not await settled(tasks)
    slots.add("a")
    assert await settled(tasks) == {"a": 3}
    slots.give_back("a")
    assert await settled(tasks) == {"a": 4}
    await cancelled(tasks)


async def test_few_problems_spread_over_workers_that_are_still_to_come() -> None:
    slots: Slots[str] = Slots(8, expected=lambda: 2)
    tasks = ask(slots, 6)
    slots.add("a")
    assert await settled(tasks) == {"a": 3}
    slots.add("b")
    assert await settled(tasks) == {"a": 3, "b": 3}


async def test_the_next_goes_to_who_has_the_fewest() -> None:
    slots: Slots[str] = Slots(4, expected=lambda: 2)
    slots.add("a")
    slots.add("b")
    tasks = ask(slots, 4)
    assert await settled(tasks) == {"a": 2, "b": 2}
    slots.give_back("b")
    tasks += ask(slots, 1)
    assert await settled(tasks) == {"a": 2, "b": 3}


async def test_who_wants_to_be_alone_gets_a_worker_that_takes_nothing_new() -> None:
    slots: Slots[str] = Slots(2, expected=lambda: 1)
    slots.add("a")
    others = ask(slots, 2)
    assert await settled(others) == {"a": 2}
    alone = ask(slots, 1, alone=True)
    later = ask(slots, 1)
    slots.give_back("a")
    assert not await settled(alone + later)
    slots.give_back("a")
    assert await settled(alone) == {"a": 1}
    assert not await settled(later)
    slots.give_back("a")
    assert await settled(later) == {"a": 1}


async def test_a_worker_that_is_kept_and_lost_is_no_loss_to_who_waited() -> None:
    slots: Slots[str] = Slots(2, expected=lambda: 2)
    slots.add("a")
    await slots.take()
    alone = ask(slots, 1, alone=True)
    assert not await settled(alone)
    slots.remove("a")
    slots.give_back("a")
    slots.add("b")
    assert await settled(alone) == {"b": 1}


async def test_cancelling_gives_room_back() -> None:
    slots: Slots[str] = Slots(1, expected=lambda: 1)
    waiting = ask(slots, 2)
    await settled(waiting)
    waiting[0].cancel()
    slots.add("a")
    assert await settled(waiting[1:]) == {"a": 1}
    handed = ask(slots, 1)
    await settled(handed)
    slots.give_back("a")  # hands the room over in the moment in which it is not wanted any more
    handed[0].cancel()
    after = ask(slots, 1)
    assert await settled(after) == {"a": 1}


async def test_who_gives_up_being_alone_keeps_no_worker() -> None:
    slots: Slots[str] = Slots(2, expected=lambda: 1)
    slots.add("a")
    others = ask(slots, 1)
    assert await settled(others) == {"a": 1}
    alone = ask(slots, 1, alone=True)
    later = ask(slots, 1)
    assert not await settled(alone + later)
    await cancelled(alone)
    assert await settled(later) == {"a": 1}
    slots.give_back("a")
    slots.give_back("a")
    assert await settled(ask(slots, 1, alone=True)) == {"a": 1}


async def test_where_no_worker_will_come_all_are_told() -> None:
    slots: Slots[str] = Slots(1, expected=lambda: 0)
    waiting = ask(slots, 2) + ask(slots, 1, alone=True)
    await settled([])
    slots.close(EngineClosed("nobody is left"))
    for task in (*waiting, *ask(slots, 1)):
        with pytest.raises(EngineClosed, match="nobody is left"):
            await task


async def cancelled(tasks: list[asyncio.Task[str]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Engines that take turns in one thread: each does what it would do alone, and ends alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from reason.errors import EngineClosed, EngineError, UsageError
from reason.types import Path, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

GREEDY = Sampling(temperature=0)


def engine_threads() -> int:
    return sum(thread.name.startswith("reason-engine") for thread in threading.enumerate())


async def test_both_at_once(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    before = engine_threads()
    one = make_engine()
    other = make_engine(beside=one, model_type="qwen2")
    assert engine_threads() == before + 1
    asked = [Request(prefix=path, sampling=GREEDY, max_tokens=12, ignore_eos=True) for path in prompts(3)]
    mine, theirs = await asyncio.gather(finish(one, asked), finish(other, asked))
    assert [each.token_ids for each in mine] == [greedy(each.prefix, 12) for each in asked]
    assert [each.token_ids for each in theirs] == [greedy(each.prefix, 12, "qwen2") for each in asked]
    assert mine != theirs


@pytest.mark.parametrize("first", [0, 1])
async def test_one_closes_and_the_other_goes_on(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path], first: int
) -> None:
    before = engine_threads()
    one = make_engine()
    engines = [one, make_engine(beside=one)]
    (path,) = prompts(1)
    request = Request(prefix=path, sampling=GREEDY, max_tokens=400, ignore_eos=True)
    ended = asyncio.ensure_future(finish(engines[first], [request]))
    going_on = asyncio.ensure_future(finish(engines[1 - first], [request]))
    await asyncio.sleep(0.05)
    engines[first].close()
    assert [each.finish_reason for each in await ended] == ["cancelled"]
    assert [each.token_ids for each in await going_on] == [greedy(path, 400)]
    with pytest.raises(EngineClosed):
        await finish(engines[first], [request])
    if first == 0:
        third = make_engine(beside=engines[1])
        assert len((await finish(third, [request]))[0].token_ids) == 400
        third.close()
    engines[1 - first].close()
    assert engine_threads() == before
    with pytest.raises(EngineClosed, match="the engine to run beside is closed"):
        make_engine(beside=engines[0])


async def test_one_fails_and_the_other_goes_on(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    greedy: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = make_engine()
    other = make_engine(beside=one)
    (path,) = prompts(1)
    request = Request(prefix=path, sampling=GREEDY, max_tokens=50, ignore_eos=True)

    def broken() -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(one._loop, "step", broken)
    failed, done = await asyncio.gather(finish(one, [request]), finish(other, [request]))
    assert isinstance(failed[0].error, EngineError)
    assert isinstance(failed[0].error.__cause__, RuntimeError)
    assert done[0].token_ids == greedy(path, 50)
    with pytest.raises(EngineClosed):
        await finish(one, [request])


async def test_a_call_that_raises_ends_its_engine_alone(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make_engine()
    other = make_engine(beside=one)
    (path,) = prompts(1)
    request = Request(prefix=path, sampling=GREEDY, max_tokens=20, ignore_eos=True)

    def broken(job: object) -> None:
        raise RuntimeError("a bug")

    going_on = asyncio.ensure_future(finish(other, [request]))
    monkeypatch.setattr(one._loop, "submit", broken)
    one._tell(lambda: one._loop.submit(None))  # type: ignore[arg-type]
    await asyncio.sleep(0.2)
    with pytest.raises(EngineClosed):
        await finish(one, [request])
    assert len((await going_on)[0].token_ids) == 20
    one.close()


async def test_what_is_malformed_hurts_nobody(make_engine: MakeEngine, prompts: MakePrompts, finish: Finish) -> None:
    engine = make_engine()
    (path,) = prompts(1)
    with pytest.raises(UsageError, match="wrong type"):
        await engine.score([path], 0, layers=("1",))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="wrong type"):
        await engine.score([("x",)], 0)  # type: ignore[list-item]
    assert (await finish(engine, [Request(prefix=path, max_tokens=3, ignore_eos=True)]))[0].error is None

"""Cancelling, closing, many event loops, and a bug in the loop: KV is freed and nobody waits for ever."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch

from reason.engine.local import LocalEngine
from reason.errors import EngineClosed, EngineError
from reason.types import Completion, Path, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

GREEDY = Sampling(temperature=0.0)
WAIT = 30.0


class Gate:
    """A logits processor that stops the engine's thread at its first call until it is opened."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    def __call__(self, tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        self.reached.set()
        assert self._open.wait(WAIT)
        return logits


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open()


def gated(gate: Gate, prefix: Path, **changes: Any) -> Request:
    sampling = Sampling(temperature=0.0, processors=(gate,))
    return replace(Request(prefix=prefix, sampling=sampling, max_tokens=20, ignore_eos=True), **changes)


def plain(prefix: Path, max_tokens: int = 20, **changes: Any) -> Request:
    return Request(prefix=prefix, sampling=GREEDY, max_tokens=max_tokens, ignore_eos=True, **changes)


async def close(stream: AsyncIterator[Completion]) -> None:
    await cast(Any, stream).aclose()


async def test_closing_the_iterator_frees_its_kv(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine()
    paths = prompts(12, 20)
    other = asyncio.ensure_future(finish(engine, [plain(path, 60) for path in paths[:3]]))
    stream = engine.generate([plain(path, 2 if i == 0 else 450) for i, path in enumerate(paths[3:])])
    first = await anext(stream)
    assert (first.index, first.finish_reason) == (0, "length")
    await close(stream)
    completions = await other
    assert [c.token_ids for c in completions] == [greedy(path, 60) for path in paths[:3]]
    engine.check_integrity()  # with nothing left in flight: nothing locked
    iterations = engine.stats().iterations
    assert iterations < 200
    await asyncio.sleep(0.02)
    assert engine.stats().iterations == iterations


async def test_cancelling_the_task_frees_its_kv(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path], gate: Gate
) -> None:
    engine = make_engine()
    paths = prompts(8, 20)
    other = asyncio.ensure_future(finish(engine, [plain(path, 30) for path in paths[:3]]))
    cancelled = asyncio.ensure_future(finish(engine, [gated(gate, path, max_tokens=400) for path in paths]))
    assert await asyncio.to_thread(gate.reached.wait, WAIT)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    gate.open()
    assert [c.token_ids for c in await other] == [greedy(path, 30) for path in paths[:3]]
    engine.check_integrity()
    assert engine.stats().iterations < 100


async def test_waiting_and_preempted_requests_can_be_cancelled(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine(kv_tokens=80, max_running=6)
    paths = prompts(10, 12)
    other = asyncio.ensure_future(finish(engine, [plain(path, 30) for path in paths[:2]]))
    streams = [engine.generate([plain(path, 60)]) for path in paths]
    waiting = [asyncio.ensure_future(cast(Any, anext(stream))) for stream in streams]
    while engine.stats().preemptions == 0:
        await asyncio.sleep(0.001)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    for stream in streams:
        await close(stream)
    assert [c.token_ids for c in await other] == [greedy(path, 30) for path in paths[:2]]


async def test_an_iterator_that_was_never_started_costs_nothing(make_engine: MakeEngine, prompts: MakePrompts) -> None:
    engine = make_engine()
    stream = engine.generate([plain(prompts(1)[0], owner="p")])
    await close(stream)
    assert engine.usage("p").calls == 0
    assert [c async for c in engine.generate([])] == []


async def test_progress_shows_what_is_unfinished(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, gate: Gate
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)

    def late(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        return gate(tokens, logits) if len(tokens) == len(prompt) + 5 else logits

    held = Request(
        prefix=prompt, key=4, sampling=Sampling(temperature=0.0, processors=(late,)), owner="p", max_tokens=9
    )
    work = asyncio.ensure_future(finish(engine, [held, plain(prompt, 3, key=5, owner="p"), plain(prompt, owner="q")]))
    assert await asyncio.to_thread(gate.reached.wait, WAIT)
    progress = dict(engine.progress("p"))
    gate.open()
    held_done, *_ = await work
    assert progress == {4: engine.codec.decode(held_done.token_ids[:5])}
    assert engine.progress("p") == {}


async def test_close_cancels_what_is_in_flight(make_engine: MakeEngine, prompts: MakePrompts, gate: Gate) -> None:
    engine = make_engine(max_running=3, max_rows=4)
    paths = prompts(6, 20)
    completions: list[Completion] = []

    async def collect() -> None:
        completions.extend([c async for c in engine.generate([plain(path, 400, owner="p") for path in paths])])

    work = asyncio.ensure_future(collect())
    scoring = asyncio.ensure_future(engine.score([paths[0] * 10], 0))
    blocked = asyncio.ensure_future(cast(Any, anext(engine.generate([gated(gate, (1, 2), max_tokens=3)]))))
    while engine.usage("p").policy_tokens < 3:
        await asyncio.sleep(0.001)
    closing = asyncio.ensure_future(asyncio.to_thread(engine.close))
    gate.open()
    await asyncio.wait_for(asyncio.gather(work, closing, return_exceptions=True), WAIT)
    assert [c.finish_reason for c in completions] == ["cancelled"] * 6
    assert any(c.token_ids for c in completions)
    with pytest.raises(EngineClosed):
        await asyncio.wait_for(scoring, WAIT)
    assert (await asyncio.wait_for(blocked, WAIT)).finish_reason in ("cancelled", "length")
    engine.check_integrity()
    assert engine.usage("p").policy_tokens >= 3  # the ledger can still be read
    assert engine.progress("p") == {}


async def test_a_closed_engine_says_so(make_engine: MakeEngine, prompts: MakePrompts, finish: Finish) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    await finish(engine, [plain(prompt, 2)])
    engine.close()
    engine.close()
    with pytest.raises(EngineClosed, match="the engine of tiny is closed"):
        await finish(engine, [plain(prompt)])
    with pytest.raises(EngineClosed):
        await engine.score([prompt], 0)


def test_a_closed_engine_can_be_collected(open_engine: MakeEngine) -> None:
    engine = open_engine()
    weights = weakref.ref(engine._loop.runner)
    engine.close()
    del engine
    gc.collect()
    assert weights() is None


def test_two_event_loops_share_one_engine(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine(kv_tokens=200)
    paths = prompts(8, 12)
    results: dict[int, list[list[Path]]] = {}

    def work(number: int) -> None:
        async def rounds() -> list[list[Path]]:
            done = []
            for _ in range(3):
                mine = [plain(path, 15, owner=str(number)) for path in paths[number::2]]
                done.append([c.token_ids for c in await finish(engine, mine)])
                await engine.score(paths[:2], 3, layers=(-1,))
            return done

        results[number] = asyncio.run(rounds())

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    for number in range(2):
        assert results[number] == [[greedy(path, 15) for path in paths[number::2]]] * 3
        assert engine.usage(str(number)).calls == 12


def test_an_event_loop_that_ends_leaves_the_engine_alive(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)

    async def abandon() -> None:
        stream = engine.generate([plain(prompt, 450), plain(prompt, 2)])
        await anext(stream)  # and the loop ends with the other request in flight

    asyncio.run(abandon())

    async def go_on() -> None:
        (completion,) = await finish(engine, [plain(prompt, 5)])
        assert completion.token_ids == greedy(prompt, 5)

    asyncio.run(go_on())


def test_an_event_loop_that_is_gone_is_not_waited_for(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    loop = asyncio.new_event_loop()
    stream = engine.generate([plain(prompt, 60), plain(prompt, 2), plain(prompt, 50)])
    loop.run_until_complete(cast(Any, anext(stream)))
    loop.close()
    while not engine._loop.idle:
        engine.stats()

    async def go_on() -> None:
        (completion,) = await finish(engine, [plain(prompt, 5)])
        assert completion.token_ids == greedy(prompt, 5)

    asyncio.run(go_on())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_bug_in_the_loop_reaches_everybody(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    reached, go = threading.Event(), threading.Event()

    def broken() -> None:
        reached.set()
        assert go.wait(WAIT)
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(engine._loop, "step", broken)
    first = asyncio.ensure_future(finish(engine, [plain(prompt), plain(prompt)]))
    assert await asyncio.to_thread(reached.wait, WAIT)
    # these come in while the loop is about to fail
    late = asyncio.ensure_future(finish(engine, [plain(prompt)]))
    scoring = asyncio.ensure_future(engine.score([prompt], 0))
    asking = asyncio.ensure_future(asyncio.to_thread(engine.usage, "p"))
    await asyncio.sleep(0.05)
    go.set()
    done = asyncio.gather(first, late, scoring, asking, return_exceptions=True)
    failed, late_failed, score_error, usage = await asyncio.wait_for(done, WAIT)
    assert isinstance(failed, list)
    assert [c.finish_reason for c in failed] == ["error", "error"]
    assert all(isinstance(c.error, EngineError) and "a bug" in str(c.error) for c in failed)
    if isinstance(late_failed, list):
        assert all(c.finish_reason in ("error", "cancelled") for c in late_failed)
    else:
        assert isinstance(late_failed, EngineError)
    assert isinstance(score_error, EngineError)
    assert not isinstance(usage, BaseException)
    with pytest.raises(EngineClosed) as raised:
        await finish(engine, [plain(prompt)])
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    engine.close()


async def test_the_ledger_can_be_read_from_the_engines_own_thread(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish
) -> None:
    engine: LocalEngine = make_engine()
    seen: list[int] = []

    def reading(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        seen.append(engine.usage("p").policy_tokens)
        return logits

    sampling = Sampling(temperature=0.0, processors=(reading,))
    await finish(engine, [Request(prefix=prompts(1)[0], sampling=sampling, max_tokens=3, ignore_eos=True, owner="p")])
    assert seen == [0, 1, 2]

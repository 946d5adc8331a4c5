"""Any schedule of requests, cancellations and scoring on a tiny pool: integrity always, all end, tokens as ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reason.engine.local import LocalEngine
from reason.types import Completion, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

SAMPLINGS = (
    Sampling(temperature=1.0),
    Sampling(temperature=0.0, logprobs=1),
    Sampling(temperature=0.7, top_p=0.8),
    Sampling(temperature=1.0, repetition_penalty=1.3),
)


@dataclass(frozen=True)
class Group:
    """Requests given to ``generate`` together; ``cancel_after``: completions taken before the iterator is closed."""

    wait: int  # turns of the event loop before it starts
    requests: tuple[tuple[int, int, int, int], ...]  # (prompt, key, tokens, sampling)
    cancel_after: int | None = None


@dataclass(frozen=True)
class Scoring:
    """Paths scored together, perhaps cancelled."""

    wait: int
    paths: tuple[int, ...]
    start: int
    cancel: bool


request_parts = st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 14), st.integers(0, len(SAMPLINGS) - 1))
groups = st.builds(
    Group,
    wait=st.integers(0, 6),
    requests=st.lists(request_parts, min_size=1, max_size=6).map(tuple),
    cancel_after=st.none() | st.integers(0, 2),
)
scorings = st.builds(
    Scoring,
    wait=st.integers(0, 6),
    paths=st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple),
    start=st.integers(0, 8),
    cancel=st.booleans(),
)


def test_any_schedule(
    open_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    rows: Callable[..., tuple[torch.Tensor, torch.Tensor]],
) -> None:
    first, second = prompts(2, 12)
    # prompts that share much, little and nothing, and one that is another's beginning
    paths = [first, (*first[:8], *second[:4]), first[:9], second, (*first, 40, 41), (*first[:-1], 42)]
    assert first[0] != second[0]
    roomy = open_engine()
    unloaded: dict[Request, Completion] = {}
    scores = {
        path: torch.log_softmax(rows(path)[0][:-1], -1).gather(1, torch.tensor(path[1:])[:, None])[:, 0]
        for path in paths
    }

    def request(parts: tuple[int, int, int, int]) -> Request:
        prompt, key, tokens, sampling = parts
        made = Request(prefix=paths[prompt], key=key, max_tokens=tokens, sampling=SAMPLINGS[sampling], owner="p")
        return replace(made, ignore_eos=True)

    async def alone(one: Request) -> Completion:
        if one not in unloaded:
            roomy.drop_cache()
            (unloaded[one],) = await finish(roomy, [one])
        return unloaded[one]

    async def generate(engine: LocalEngine, group: Group) -> None:
        for _ in range(group.wait):
            await asyncio.sleep(0)
        wanted = [request(parts) for parts in group.requests]
        stream = engine.generate(wanted)
        seen: set[int] = set()
        if group.cancel_after != 0:
            async for completion in stream:
                expected = await alone(wanted[completion.index])
                assert completion.error is None
                assert completion.token_ids == expected.token_ids
                assert len(completion.logprobs) == len(expected.logprobs)
                assert completion.index not in seen
                seen.add(completion.index)
                engine.check_integrity()
                if len(seen) == group.cancel_after:
                    break
            else:
                assert len(seen) == len(wanted)
        await cast(Any, stream).aclose()

    async def score(engine: LocalEngine, scoring: Scoring) -> None:
        for _ in range(scoring.wait):
            await asyncio.sleep(0)
        asked = [paths[i] for i in scoring.paths]
        work = asyncio.ensure_future(engine.score(asked, scoring.start, layers=(-1,)[scoring.start % 2 :], owner="v"))
        if scoring.cancel:
            await asyncio.sleep(0)
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            return
        for path, scored in zip(asked, await work, strict=True):
            first = max(scoring.start, 1)
            expected = scores[path][first - 1 :]
            torch.testing.assert_close(scored.logprobs[first - scoring.start :], expected, rtol=0, atol=5e-5)

    async def run(engine: LocalEngine, schedule: list[Group | Scoring]) -> None:
        work = [generate(engine, s) if isinstance(s, Group) else score(engine, s) for s in schedule]
        await asyncio.wait_for(asyncio.gather(*work), 60)
        engine.check_integrity()
        assert engine._loop.idle
        assert engine._loop.runner.forest.locked_tokens == 0
        usage = engine.usage("p")
        assert usage.unique_kv_tokens_mean <= usage.unique_kv_tokens_peak <= engine._loop.runner.forest.pool.capacity

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        schedule=st.lists(groups | scorings, min_size=1, max_size=6),
        kv_tokens=st.integers(28, 60),
        max_rows=st.sampled_from([1, 3, 8, 64]),
        max_running=st.sampled_from([1, 3, 64]),
    )
    def holds(schedule: list[Group | Scoring], kv_tokens: int, max_rows: int, max_running: int) -> None:
        engine = open_engine(kv_tokens=kv_tokens, max_rows=max_rows, max_running=max_running)
        try:
            asyncio.run(run(engine, schedule))
        finally:
            engine.close()

    try:
        holds()
    finally:
        roomy.close()

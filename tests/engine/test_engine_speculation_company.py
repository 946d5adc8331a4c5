"""Drafts beside whatever else is going on: preemption, cancelling, scoring, failures, other branches on their nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reason.engine.local import LocalEngine
from reason.runtime.forest import Branch, KVForest
from reason.runtime.runner import ModelRunner
from reason.speculate.draft import Rows, State, Stream
from reason.types import Completion, Path, Request, Sampling
from tests.engine.drafts import MANY, WORDS, Compare, Guess, MakeDrafting, assert_same, eight, requests_for

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakePrompts


@pytest.mark.parametrize("kv_tokens", [70, 100, 150])
@pytest.mark.parametrize("draft", [MANY, "token-recycling"])
async def test_preemption_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, draft: str, kv_tokens: int
) -> None:
    engine = await compare(requests_for(eight(prompts), temperature=0.8), draft=draft, kv_tokens=kv_tokens)
    assert engine.stats().preemptions > 0


async def test_cancelling_midway(make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish) -> None:
    requests = requests_for(eight(prompts), max_tokens=200, temperature=0.8)
    expected = await finish(make_drafting("none"), requests[:4])
    engine = make_drafting()
    other = asyncio.ensure_future(finish(engine, requests[:4]))
    short = [replace(requests[4], key=90, max_tokens=3), *requests[4:]]
    stream = cast(Any, engine.generate(short))
    first = await anext(stream)
    assert first.index == 0
    await stream.aclose()
    assert_same(await other, expected)
    assert engine.stats().accepted > 0
    engine.check_integrity()


async def test_scoring_beside_gives_the_plain_scores(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish
) -> None:
    """Some of the paths are those that branches are on, which their drafts part and join."""
    plain, engine = make_drafting("none"), make_drafting(max_rows=32)
    requests = requests_for(eight(prompts), max_tokens=60, temperature=0.8)
    expected = await finish(plain, requests)
    paths = [(*request.prefix, *c.token_ids[:40]) for request, c in zip(requests, expected, strict=True)]
    paths += [(*path[:30], 105, 3, 50) for path in paths[:3]]
    scores = await plain.score(paths, 5, layers=(-1,))
    work = asyncio.ensure_future(finish(engine, requests))
    for start in range(0, len(paths), 3):
        await asyncio.sleep(0.005)
        found = await engine.score(paths[start : start + 3], 5, layers=(-1,), owner="v")
        for scored, wanted in zip(found, scores[start : start + 3], strict=True):
            torch.testing.assert_close(scored.logprobs, wanted.logprobs, rtol=0, atol=1e-4)
            torch.testing.assert_close(scored.hidden[-1], wanted.hidden[-1], rtol=0, atol=1e-3)
    assert_same(await work, expected)
    assert engine.stats().accepted > 0


async def test_drafts_do_not_hold_up_the_scores_of_the_path_they_are_on(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish
) -> None:
    """Wrong drafts part the run that is being scored in every iteration, and it is joined again."""
    engine = make_drafting(Guess(3))
    (request,) = requests_for(prompts(1), max_tokens=200, temperature=0.0)
    (whole,) = await finish(engine, [request])
    engine.drop_cache()
    before = engine.stats()
    work = asyncio.ensure_future(finish(engine, [request]))
    while engine.stats().iterations < before.iterations + 3:
        await asyncio.sleep(0)
    start = engine.stats()
    await engine.score([(*request.prefix, *whole.token_ids)], 5)
    assert engine.stats().rows - start.rows < 2 * 212 + 100, "rows were computed again and again"
    assert [c.token_ids for c in await work] == [whole.token_ids]
    assert engine.stats().drafted > before.drafted


async def test_a_forward_that_fails_gives_the_drafts_up(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_drafting()
    requests = requests_for(eight(prompts), temperature=0.0)
    expected = await finish(engine, requests)
    forward = ModelRunner.forward_rows
    calls = iter(range(1000))

    def failing(runner: ModelRunner, rows: Any, *layers: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("lost")
        return forward(runner, rows, *layers)

    monkeypatch.setattr(ModelRunner, "forward_rows", failing)
    done = await finish(engine, requests)
    assert {c.finish_reason for c in done} == {"error"}
    engine.check_integrity()
    assert engine._loop.runner.forest.locked_tokens == 0
    assert_same(await finish(engine, requests), expected)


@pytest.mark.parametrize("failing_at", [1, 9, 10, 11])
async def test_a_processor_that_fails_within_a_draft_fails_its_request_only(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, failing_at: int
) -> None:
    def processor(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if len(tokens) == 12 + failing_at:
            raise ValueError("no more")
        return logits

    engine = make_drafting()
    requests = requests_for(eight(prompts), temperature=0.0)
    expected = await finish(engine, requests)
    bad = [replace(r, key=50 + r.key, sampling=replace(r.sampling, processors=(processor,))) for r in requests[:3]]
    done = await finish(engine, [*bad, *requests])
    assert_same([replace(c, index=c.index - 3) for c in done[3:]], expected)
    for completion, wanted in zip(done[:3], expected, strict=False):
        assert completion.finish_reason == "error"
        assert isinstance(completion.error, ValueError)
        assert completion.token_ids == wanted.token_ids[:failing_at]


@pytest.mark.parametrize("accepting_first", [True, False])
async def test_of_two_branches_on_one_draft_node_one_accepts(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
    accepting_first: bool,
) -> None:
    plain = await finish(make_drafting("none"), requests_for([prompts(1)[0]] * 12, max_tokens=8, temperature=1.0))
    guessed = plain[0].token_ids[0]
    other = next(c.index for c in plain if c.token_ids[0] != guessed)
    keys = [0, other] if accepting_first else [other, 0]
    requests = [replace(requests_for(prompts(1), max_tokens=8, temperature=1.0)[0], key=key) for key in keys]

    engine = make_drafting(Guess(guessed, after_prompts=True))
    await finish(engine, [replace(requests[0], max_tokens=1, owner="warm")])  # the prompt is in the cache from now on
    claimed: list[Branch] = []
    claim = KVForest.claim

    def watched(forest: KVForest, branch: Branch, token: int) -> Branch:
        claimed.append(claim(forest, branch, token))
        nodes.add(id(claimed[-1].node))
        return claimed[-1]

    nodes: set[int] = set()
    monkeypatch.setattr(KVForest, "claim", watched)
    done = await finish(engine, requests)
    assert [c.token_ids for c in done] == [plain[key].token_ids for key in keys]
    assert len(claimed) == 2
    assert len(nodes) == 1, "both claimed one node"
    usage = engine.usage("p")
    assert (usage.drafted_tokens, usage.accepted_tokens, usage.policy_tokens) == (2, 1, 16)
    assert sorted(name for completion in done for name in completion.proposers if name) == ["guess"]


# -- any schedule --------------------------------------------------------------------------------------------------

SAMPLINGS = (
    Sampling(temperature=0.8),
    Sampling(temperature=0.0, logprobs=1),
    Sampling(temperature=0.8, top_p=0.8),
    Sampling(temperature=0.8, frequency_penalty=0.1),
)
request_parts = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(1, 25), st.integers(0, len(SAMPLINGS) - 1))
groups = st.tuples(
    st.integers(0, 6),  # turns of the event loop before it starts
    st.lists(request_parts, min_size=1, max_size=6),
    st.none() | st.integers(0, 2),  # completions taken before the iterator is closed
)


def test_any_schedule(make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish) -> None:
    first, second = prompts(2, 12)
    paths = [first, (*first[:8], *second[:4]), first[:9], second, (*first, WORDS[0], WORDS[1])]
    roomy = make_drafting("none")
    unloaded: dict[Request, Completion] = {}

    def request(parts: tuple[int, int, int, int]) -> Request:
        prompt, key, tokens, sampling = parts
        made = Request(prefix=paths[prompt], key=key, max_tokens=tokens, sampling=SAMPLINGS[sampling], owner="p")
        return replace(made, ignore_eos=True)

    async def alone(one: Request) -> Completion:
        if one not in unloaded:
            (unloaded[one],) = await finish(roomy, [one])
        return unloaded[one]

    async def generate(engine: LocalEngine, wait: int, parts: Sequence[Any], cancel_after: int | None) -> None:
        for _ in range(wait):
            await asyncio.sleep(0)
        wanted = [request(each) for each in parts]
        stream = cast(Any, engine.generate(wanted))
        taken = 0
        if cancel_after != 0:
            async for completion in stream:
                expected = await alone(wanted[completion.index])
                assert_same([replace(completion, index=0)], [replace(expected, index=0)])
                engine.check_integrity()
                taken += 1
                if taken == cancel_after:
                    break
        await stream.aclose()

    async def score(engine: LocalEngine, path: Path) -> None:
        await asyncio.sleep(0)
        (found,), (wanted,) = await engine.score([path], 2), await roomy.score([path], 2)
        torch.testing.assert_close(found.logprobs, wanted.logprobs, rtol=0, atol=1e-4)

    async def run(engine: LocalEngine, schedule: Sequence[Any]) -> None:
        work = [generate(engine, *group) for group in schedule]
        await asyncio.wait_for(asyncio.gather(*work, score(engine, (*first, WORDS[0], *second))), 60)
        engine.check_integrity()
        assert engine._loop.idle
        assert engine._loop.runner.forest.locked_tokens == 0

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        schedule=st.lists(groups, min_size=1, max_size=5),
        kv_tokens=st.integers(40, 90),
        max_rows=st.sampled_from([3, 8, 64]),
        draft=st.sampled_from([MANY, "token-recycling"]),
        policy=st.sampled_from(["auto", "nodes:5"]),
    )
    def holds(schedule: Sequence[Any], kv_tokens: int, max_rows: int, draft: str, policy: str) -> None:
        engine = make_drafting(draft, policy=policy, kv_tokens=kv_tokens, max_rows=max_rows)
        asyncio.run(run(engine, schedule))

    holds()


class Failing(Guess):
    """Raises in one of its methods, after a while."""

    def __init__(self, method: str, after: int = 12) -> None:
        super().__init__(70)
        self._method = method
        self._left = after

    def _count(self, method: str) -> None:
        if method == self._method:
            self._left -= 1
            if self._left < 0:
                raise RuntimeError("a source is broken")

    def state(self, stream: Stream) -> State:
        self._count("state")
        return super().state(stream)

    def extend(self, stream: Stream, count: int) -> None:
        self._count("extend")
        super().extend(stream, count)

    def observe(self, rows: Rows) -> None:
        self._count("observe")
        super().observe(rows)

    def end(self, stream: Stream) -> None:
        self._count("end")
        super().end(stream)


@pytest.mark.parametrize(("method", "after"), [("state", 0), ("state", 12), ("extend", 12), ("observe", 5), ("end", 0)])
async def test_a_source_that_fails_takes_no_request_with_it(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, method: str, after: int
) -> None:
    requests = requests_for(eight(prompts), temperature=0.8)
    expected = await finish(make_drafting("none"), requests)
    engine = make_drafting(Failing(method, after))
    with pytest.warns(RuntimeWarning, match="a source is broken"):
        assert_same(await finish(engine, requests), expected)
    engine.check_integrity()
    assert_same(await finish(engine, requests), expected)
    engine.check_integrity()

"""An engine of two real ones: each step is what its writer would have written there, and what the router's probes say
is what the draft model's states say, whoever wrote them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest
import torch

from reason.engine.local import LocalEngine
from reason.route import Drafted, RoutedEngine
from reason.route.router import Author, Rewrite
from reason.training.router.explore import Explorer, load
from reason.types import Completion, Engine, Path, Request, Sampling
from reason.verifiers import make_verifier
from reason.verifiers.recording import Recording, recording_for
from reason.verifiers.value_head import HeadVerifier, ValueHead
from tests.engine.test_engine_value_head import random_head

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

GREEDY = Sampling(temperature=0)


class InTurns:
    """The target writes each step whose number ``every`` divides."""

    author: ClassVar[Author | None] = None

    def __init__(self, head: str = "", *, every: int = 2) -> None:
        self.head = head
        self.every = every
        self.scores: list[float] = []
        self.seen: list[Drafted] = []

    def recording(self, draft: Engine) -> Recording:
        return recording_for([HeadVerifier(head=self.head)] if self.head else [], draft)

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        self.seen.append(drafted)
        if self.head:
            self.scores += await HeadVerifier(head=self.head).score([drafted.trajectory], drafted.draft, "router")
        return await rewrite() if self.every and len(self.seen) % self.every == 0 else None


Pair = Callable[..., RoutedEngine]


@pytest.fixture
def pair(make_engine: MakeEngine) -> Pair:
    def make(router: Any, **options: Any) -> RoutedEngine:
        target = make_engine(model_type="qwen2")
        draft = make_engine(beside=target)
        return RoutedEngine(draft, target, router, **{"max_step_tokens": 6, **options})

    return make


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=1.0)], ids=["greedy", "sampled"])
async def test_who_writes_everything_writes_what_it_would_alone(
    pair: Pair, prompts: MakePrompts, finish: Finish, sampling: Sampling
) -> None:
    """Steps and their ends leave no trace: the noise belongs to the position."""
    requests = [
        Request(prefix=path, sampling=sampling, seed=3, key=key, max_tokens=40, ignore_eos=True)
        for key, path in enumerate(prompts(3))
    ]
    for every, author in ((0, "draft"), (1, "target")):
        engine = pair(InTurns(every=every))
        alone = engine.draft if author == "draft" else engine.target
        expected = await finish(cast("LocalEngine", alone), requests)
        done = await finish(cast("LocalEngine", engine), requests)
        assert [each.token_ids for each in done] == [each.token_ids for each in expected]
        assert [each.text for each in done] == [each.text for each in expected]


async def test_each_step_is_its_writers_continuation_of_the_mixed_text(
    pair: Pair, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = pair(InTurns())
    (path,) = prompts(1)
    (done,) = await finish(
        cast("LocalEngine", engine), [Request(prefix=path, sampling=GREEDY, max_tokens=30, ignore_eos=True)]
    )
    expected: Path = ()
    for step in range(5):
        expected += greedy(path + expected, 6, "llama" if step % 2 == 0 else "qwen2")
    assert done.token_ids == expected
    assert done.finish_reason == "length"
    usage = engine.usage("")
    assert (usage.routed_steps, usage.escalated_steps) == (5, 2)
    assert (usage.policy_tokens, usage.draft_model_tokens) == (30 + 12, 30)


@pytest.mark.parametrize("pool", [False, True])
async def test_the_router_reads_the_draft_models_states(
    pair: Pair, prompts: MakePrompts, finish: Finish, tmp_path: FilePath, pool: bool
) -> None:
    file = tmp_path / "head.safetensors"
    random_head(-1, pool=pool).save(file)
    router = InTurns(str(file))
    engine = pair(router)
    (prompt,) = prompts(1)
    (done,) = await finish(
        cast("LocalEngine", engine), [Request(prefix=prompt, sampling=GREEDY, max_tokens=30, ignore_eos=True)]
    )
    head = ValueHead.load(file)
    for drafted, score in zip(router.seen, router.scores, strict=True):
        path = drafted.trajectory.path
        (scored,) = await engine.draft.score([path[:-1]], len(prompt) - 1, logprobs=False, layers=(-1,), owner="check")
        states = scored.hidden[-1]
        expected = float(head.values(states[-1:], states.mean(dim=0, keepdim=True))[0])
        assert score == pytest.approx(expected, abs=1e-4)
    assert engine.usage("router").verifier_tokens == 0, "nothing was computed for the router alone"
    # A request that goes on from there knows what was read.
    before = len(router.seen)
    await finish(
        cast("LocalEngine", engine),
        [Request(prefix=prompt + done.token_ids, sampling=GREEDY, max_tokens=6, ignore_eos=True)],
    )
    assert len(router.seen) == before + 1
    assert engine.usage("router").verifier_tokens == 0


async def test_what_a_router_learns_from_are_the_draft_models_states_of_the_mixed_text(
    pair: Pair, prompts: MakePrompts, finish: Finish, tmp_path: FilePath
) -> None:
    """Each token is read once, and the means are over all of the solution all the same."""
    seen: list[Drafted] = []

    class Watched(Explorer):
        async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
            seen.append(drafted)
            return await super().choose(drafted, rewrite)

    engine = pair(Watched(make_verifier("judge"), tmp_path, (0, -1), escalate=0.5))
    (prompt,) = prompts(1)
    request = Request(prefix=prompt, sampling=GREEDY, max_tokens=36, ignore_eos=True, owner="p1#0")
    (done,) = await finish(cast("LocalEngine", engine), [request])
    usage = engine.usage("p1#0")
    assert 0 < usage.escalated_steps < usage.routed_steps == len(seen) == 6
    found = [load(tmp_path, layer, draft=engine.draft.name, target=engine.target.name) for layer in (0, -1)]
    assert found[0].names == ("p1",)
    for step, drafted in enumerate(seen):
        path = drafted.trajectory.path[:-1]
        assert path[: len(prompt) + 6 * step] == (prompt + done.token_ids)[: len(prompt) + 6 * step]
        (scored,) = await engine.draft.score([path], len(prompt) - 1, logprobs=False, layers=(0, -1), owner="check")
        for examples, layer in zip(found, (0, -1), strict=True):
            states = scored.hidden[layer]
            torch.testing.assert_close(examples.states[step], states[-1].bfloat16().float(), atol=0.02, rtol=0.01)
            mean = states.mean(dim=0).bfloat16().float()
            torch.testing.assert_close(examples.means[step], mean, atol=0.02, rtol=0.01)
    engine.draft.forget("check")
    assert engine.draft.usage("p1#0").verifier_tokens <= 36 + 6 * usage.escalated_steps + 1


async def test_cancelling_frees_both(pair: Pair, prompts: MakePrompts) -> None:
    engine = pair(InTurns())
    requests = [Request(prefix=path, max_tokens=2000, ignore_eos=True, key=i) for i, path in enumerate(prompts(4))]
    completions = cast("AsyncGenerator[Completion, None]", engine.generate(requests))
    waiting = asyncio.ensure_future(anext(completions))
    await asyncio.sleep(0.2)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await completions.aclose()  # the fixture checks that nothing is left over
    for one in (engine.draft, engine.target):
        cast("LocalEngine", one).check_integrity()

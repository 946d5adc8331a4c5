"""A completion's hidden state is the mean of transformers' own states that its tokens were drawn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import PreTrainedModel

from reason.types import Completion, Path, Problem, Request, Sampling, Step, Trajectory
from reason.verifiers.embeddings.hidden import HiddenStates
from tests.engine.drafts import MANY, REJECTION, MakeDrafting, eight, requests_for

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

Rows = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def check(done: Sequence[Completion], requests: Sequence[Request], states: Callable[[Path], torch.Tensor]) -> None:
    for completion, request in zip(done, requests, strict=True):
        assert completion.error is None, completion.error
        path = request.prefix + completion.token_ids
        expected = states(path)[len(request.prefix) - 1 : -1].mean(dim=0)
        assert completion.hidden is not None
        assert completion.hidden.dtype == torch.float32
        torch.testing.assert_close(completion.hidden, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kv_tokens", [4096, 70])
async def test_it_is_transformers_own(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, rows: Rows, kv_tokens: int
) -> None:
    engine = make_engine(kv_tokens=kv_tokens)
    samplings = [Sampling(temperature=0.0), Sampling(), Sampling(repetition_penalty=1.5)] * 2
    requests = [
        Request(prefix=path, key=i, sampling=sampling, max_tokens=25 - 8 * (i % 3), ignore_eos=True, hidden=True)
        for i, (path, sampling) in enumerate(zip(prompts(6), samplings, strict=True))
    ]
    done = await finish(engine, requests)
    check(done, requests, lambda path: rows(path)[1])
    assert (engine.stats().preemptions > 0) == (kv_tokens == 70)


async def test_a_stop_inside_what_was_drafted_ends_it(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, talker: PreTrainedModel
) -> None:
    model: Any = talker

    @torch.inference_mode()
    def states(path: Path) -> torch.Tensor:
        return model.get_decoder()(input_ids=torch.tensor([path])).last_hidden_state[0]  # type: ignore[no-any-return]

    long = [replace(request, hidden=True) for request in requests_for(eight(prompts))]
    engine = make_drafting(MANY)
    done = await finish(engine, long)
    check(done, long, states)
    assert engine.stats().accepted > 50
    stopped = [replace(long[i], stop_token_ids=(done[i].token_ids[20],)) for i in range(8)]
    check(await finish(engine, stopped), stopped, states)


@pytest.mark.parametrize("rule", REJECTION)
async def test_rejection_rules(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, talker: PreTrainedModel, rule: str
) -> None:
    model: Any = talker

    @torch.inference_mode()
    def states(path: Path) -> torch.Tensor:
        return model.get_decoder()(input_ids=torch.tensor([path])).last_hidden_state[0]  # type: ignore[no-any-return]

    requests = [replace(request, hidden=True) for request in requests_for(eight(prompts), max_tokens=30)]
    engine = make_drafting(REJECTION[rule], rule=rule)
    check(await finish(engine, requests), requests, states)
    assert engine.stats().accepted > 10


async def test_only_those_that_ask_get_it(make_engine: MakeEngine, prompts: MakePrompts, finish: Finish) -> None:
    requests = [Request(prefix=path, max_tokens=5, hidden=i == 1) for i, path in enumerate(prompts(2))]
    done = await finish(make_engine(), requests)
    assert [completion.hidden is not None for completion in done] == [False, True]


async def test_the_embedder_says_the_same_with_and_without_a_recording(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    (done,) = await finish(engine, [Request(prefix=prompt, max_tokens=9, ignore_eos=True, hidden=True)])
    step = Step(text=done.text, tokens=done.token_ids, hidden=done.hidden)

    def ending_with(last: Step) -> Trajectory:
        return Trajectory(problem=Problem(content="?"), prompt=prompt, steps=(last,))

    (recorded,) = await HiddenStates().embed([ending_with(step)], engine, "recorded")
    (scored,) = await HiddenStates().embed([ending_with(replace(step, hidden=None))], engine, "scored")
    assert recorded == pytest.approx(scored, abs=2e-5)
    assert engine.usage("recorded").forwards == 0
    assert engine.usage("scored").verifier_tokens == 9, "no row for log-probabilities"

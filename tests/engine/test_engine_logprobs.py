"""Log-probabilities are the model's own: at temperature 1, before penalties, truncation and processors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from reason.types import Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

SETTINGS = {
    "greedy": Sampling(temperature=0.0, logprobs=3),
    "sampled": Sampling(temperature=1.3, logprobs=3),
    "truncated": Sampling(temperature=0.7, top_k=5, top_p=0.9, logprobs=3),
    "penalised": Sampling(temperature=1.0, repetition_penalty=1.5, presence_penalty=1.0, logprobs=3),
    "processed": Sampling(temperature=1.0, processors=(lambda tokens, logits: logits.flip(0),), logprobs=3),
    "token only": Sampling(temperature=1.0, logprobs=0),
    "whole vocabulary": Sampling(temperature=1.0, logprobs=1000),
    "none": Sampling(temperature=1.0),
}


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
async def test_they_equal_log_softmax(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    rows: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    model_type: str,
) -> None:
    engine = make_engine(model_type=model_type)
    (prompt,) = prompts(1)
    requests = [
        Request(prefix=prompt, key=i, sampling=sampling, max_tokens=9, ignore_eos=True)
        for i, sampling in enumerate(SETTINGS.values())
    ]
    done = await finish(engine, requests)
    for request, completion in zip(requests, done, strict=True):
        wanted = request.sampling.logprobs
        if wanted is None:
            assert completion.logprobs == ()
            continue
        assert len(completion.logprobs) == len(completion.token_ids) == 9
        scores = torch.log_softmax(rows(prompt + completion.token_ids, model_type)[0].double(), dim=-1)
        for place, (token, row) in enumerate(zip(completion.token_ids, completion.logprobs, strict=True)):
            expected = scores[len(prompt) + place - 1]
            assert row.token == pytest.approx(float(expected[token]), abs=2e-5)
            assert len(row.top) == min(wanted, 400)
            assert [value for _, value in row.top] == sorted((value for _, value in row.top), reverse=True)
            for token_id, value in row.top:
                assert value == pytest.approx(float(expected[token_id]), abs=2e-5)
            best = expected.topk(len(row.top)).values.tolist()
            assert [value for _, value in row.top] == pytest.approx(best, abs=2e-5)
            if request.sampling.temperature == 0.0:
                assert row.top[0][0] == token


async def test_preempted_requests_have_each_row_once(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish
) -> None:
    requests = [
        Request(prefix=path, sampling=Sampling(temperature=1.0, logprobs=1), max_tokens=25, ignore_eos=True)
        for path in prompts(6, 12)
    ]
    roomy, tight = make_engine(), make_engine(kv_tokens=70)
    expected, done = await finish(roomy, requests), await finish(tight, requests)
    assert tight.stats().preemptions > 0
    for a, b in zip(expected, done, strict=True):
        assert a.token_ids == b.token_ids
        assert [row.token for row in a.logprobs] == pytest.approx([row.token for row in b.logprobs], abs=2e-5)


async def test_penalties_and_processors_change_the_draw(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    settings = [
        Sampling(temperature=0.0),
        Sampling(temperature=0.0, frequency_penalty=50.0),
        Sampling(temperature=0.0, presence_penalty=50.0),
        Sampling(temperature=0.0, repetition_penalty=1e9),
        Sampling(temperature=0.0, processors=(lambda tokens, logits: -logits,)),
    ]
    requests = [Request(prefix=prompt, sampling=s, max_tokens=60, ignore_eos=True) for s in settings]
    plain, frequency, presence, repetition, processed = [c.token_ids for c in await finish(engine, requests)]
    assert len(set(plain)) < 60
    assert len(set(frequency)) == len(set(presence)) == 60  # nothing twice
    assert not set(repetition) & set(prompt) or len(set(repetition)) == 60
    assert processed[0] != plain[0]

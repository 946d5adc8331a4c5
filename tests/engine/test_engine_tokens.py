"""Which tokens come out: transformers' own when greedy, and the same whatever else runs when sampled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from reason.types import Completion, Path, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

GREEDY = Sampling(temperature=0.0)


def requests_for(paths: list[Path], *, sampling: Sampling, max_tokens: int = 24) -> list[Request]:
    return [
        Request(prefix=path, seed=7, key=i, sampling=sampling, max_tokens=max_tokens, ignore_eos=True, owner="p")
        for i, path in enumerate(paths)
    ]


def tokens_of(completions: list[Completion]) -> list[Path]:
    assert all(c.error is None for c in completions), [c.error for c in completions]
    return [c.token_ids for c in completions]


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
async def test_greedy_is_what_transformers_generates(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path], model_type: str
) -> None:
    engine = make_engine(model_type=model_type)
    requests = requests_for(prompts(16, 14), sampling=GREEDY)
    expected = [greedy(request.prefix, 24, model_type) for request in requests]
    assert len(set(expected)) > 8
    assert tokens_of(await finish(engine, requests)) == expected
    engine.drop_cache()
    for request, tokens in zip(requests[:4], expected, strict=False):
        assert tokens_of(await finish(engine, [request])) == [tokens]
        assert (await finish(engine, [request]))[0].finish_reason == "length"


@pytest.fixture
def mixed(prompts: MakePrompts) -> list[Request]:
    """Sampled requests: different prompts, and four rollouts of one."""
    paths = prompts(8, 20)
    return requests_for(paths + [paths[0]] * 4, sampling=Sampling(temperature=1.0))


@pytest.fixture
async def alone(make_engine: MakeEngine, mixed: list[Request], finish: Finish) -> list[Path]:
    """What each of ``mixed`` gives by itself in an empty engine."""
    engine = make_engine()
    results = []
    for request in mixed:
        engine.drop_cache()
        results += tokens_of(await finish(engine, [request]))
    assert len(set(results)) == len(results)
    return results


async def test_company_changes_nothing(
    make_engine: MakeEngine, mixed: list[Request], alone: list[Path], finish: Finish
) -> None:
    assert tokens_of(await finish(make_engine(), mixed)) == alone


async def test_other_sampling_settings_beside_change_nothing(
    make_engine: MakeEngine, mixed: list[Request], alone: list[Path], finish: Finish
) -> None:
    others = [
        Sampling(temperature=0.0),
        Sampling(temperature=0.3, logprobs=2),
        Sampling(temperature=1.0, top_k=3),
        Sampling(temperature=1.5, top_p=0.5, repetition_penalty=1.2),
        Sampling(temperature=1.0, min_p=0.3, presence_penalty=0.5, frequency_penalty=0.2),
        Sampling(temperature=1.0, processors=(lambda tokens, logits: logits * 2,)),
    ]
    beside = [Request(prefix=mixed[0].prefix, key=50 + i, sampling=s, max_tokens=9 + i) for i, s in enumerate(others)]
    interleaved = [r for pair in zip(mixed, beside * 2, strict=True) for r in pair]
    assert tokens_of(await finish(make_engine(), interleaved))[::2] == alone


@pytest.mark.parametrize("max_rows", [1, 3, 7])
async def test_chunked_prefill_changes_nothing(
    make_engine: MakeEngine, mixed: list[Request], alone: list[Path], finish: Finish, max_rows: int
) -> None:
    assert tokens_of(await finish(make_engine(max_rows=max_rows), mixed)) == alone


@pytest.mark.parametrize("kv_tokens", [60, 100, 150])
async def test_preemption_changes_nothing(
    make_engine: MakeEngine, mixed: list[Request], alone: list[Path], finish: Finish, kv_tokens: int
) -> None:
    engine = make_engine(kv_tokens=kv_tokens)
    assert tokens_of(await finish(engine, mixed)) == alone
    assert engine.stats().preemptions > 0


async def test_preemption_with_chunks_and_stop_strings(
    make_engine: MakeEngine, mixed: list[Request], alone: list[Path], finish: Finish
) -> None:
    engine = make_engine(kv_tokens=80, max_rows=5)
    assert tokens_of(await finish(engine, mixed)) == alone
    assert engine.stats().preemptions > 0


async def test_an_emptied_cache_changes_nothing(
    make_engine: MakeEngine, mixed: list[Request], alone: list[Path], finish: Finish
) -> None:
    engine = make_engine()
    assert tokens_of(await finish(engine, mixed)) == alone
    assert tokens_of(await finish(engine, mixed)) == alone  # from the cache
    engine.drop_cache()
    assert tokens_of(await finish(engine, mixed)) == alone


async def test_prompts_that_differ_in_their_last_token_only(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    (shared,) = prompts(1, 20)
    paths = [(*shared, last) for last in (40, 41, 42)] + [shared]
    expected = [greedy(path, 6) for path in paths]
    for max_rows in (512, 8):
        engine = make_engine(max_rows=max_rows)
        assert tokens_of(await finish(engine, requests_for(paths, sampling=GREEDY, max_tokens=6))) == expected


@pytest.mark.parametrize("seed", range(4))
async def test_keys_and_seeds_differ(make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, seed: int) -> None:
    engine = make_engine()
    sampling = Sampling(temperature=1.0)
    requests = [
        Request(prefix=prompts(1)[0], seed=s, key=key, sampling=sampling, max_tokens=12, ignore_eos=True)
        for s in (seed, seed + 100)
        for key in range(8)
    ]
    assert len(set(tokens_of(await finish(engine, requests)))) == 16


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (0.7, 0), (1.5, 20)])
async def test_first_tokens_follow_the_softmax(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    rows: Callable[..., tuple[torch.Tensor, torch.Tensor]],
    temperature: float,
    top_k: int,
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    draws = 4000
    sampling = Sampling(temperature=temperature, top_k=top_k)
    requests = [Request(prefix=prompt, seed=3, key=k, sampling=sampling, max_tokens=1) for k in range(draws)]
    counts = np.bincount([t[0] for t in tokens_of(await finish(engine, requests))], minlength=400)
    logits = rows(prompt)[0][-1].double() / temperature
    if top_k:
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    expected = torch.softmax(logits, dim=-1).numpy() * draws
    assert counts[expected == 0].sum() == 0
    common = expected >= 5  # the rest is one bin
    observed = [*counts[common], counts[~common].sum()]
    wanted = [*expected[common], expected[~common].sum()]
    if wanted[-1] < 5:
        observed, wanted = observed[:-1], wanted[:-1]
        wanted = [w * sum(observed) / sum(wanted) for w in wanted]
    assert chisquare(observed, wanted).pvalue > 1e-4

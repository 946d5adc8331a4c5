"""Scoring: log-probabilities and hidden states are transformers', cached or not, alone or beside generation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from reason.errors import OutOfKV, UsageError
from reason.types import Path, Request, Sampling, Scored

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

Rows = Callable[..., tuple[torch.Tensor, torch.Tensor]]

GREEDY = Sampling(temperature=0.0)


def check(
    scored: Scored, path: Path, start: int, rows: Rows, *, hidden: bool = False, model_type: str = "llama"
) -> None:
    """Compares with log_softmax and the hidden states of the whole path."""
    logits, states = rows(path, model_type)
    scores = torch.log_softmax(logits.double(), dim=-1)
    expected = torch.zeros(len(path), dtype=torch.float64)
    expected[1:] = scores[:-1].gather(1, torch.tensor(path[1:])[:, None])[:, 0]
    assert scored.logprobs.dtype == torch.float32
    torch.testing.assert_close(scored.logprobs.double(), expected[start:], rtol=0, atol=2e-5)
    if hidden:
        torch.testing.assert_close(scored.hidden[-1], states[start:], rtol=0, atol=2e-4)
    else:
        assert not scored.hidden


@pytest.mark.parametrize("model_type", ["llama", "qwen2"])
@pytest.mark.parametrize("max_rows", [512, 4])
@pytest.mark.parametrize("hidden", [False, True])
async def test_every_start_cached_and_uncached(
    make_engine: MakeEngine, prompts: MakePrompts, rows: Rows, model_type: str, max_rows: int, hidden: bool
) -> None:
    engine = make_engine(model_type=model_type, max_rows=max_rows)
    (path,) = prompts(1, 21)
    for start in (0, 1, 9, 19, 20):
        engine.drop_cache()
        for _ in range(2):  # the second time from the cache
            (scored,) = await engine.score([path], start, layers=(-1,) if hidden else ())
            check(scored, path, start, rows, hidden=hidden, model_type=model_type)


@pytest.mark.parametrize("hidden", [False, True])
async def test_paths_of_one_token(make_engine: MakeEngine, rows: Rows, hidden: bool) -> None:
    engine = make_engine()
    scored = await engine.score([(5,), (6,), (5,)], 0, layers=(-1,) if hidden else ())
    for one, path in zip(scored, [(5,), (6,), (5,)], strict=True):
        check(one, path, 0, rows, hidden=hidden)


async def test_paths_that_share_and_part(make_engine: MakeEngine, prompts: MakePrompts, rows: Rows) -> None:
    (path,) = prompts(1, 16)
    paths = [path, path[:9], (*path[:9], 50, 51, 52), (*path[:12], 60), path, (*path, 70)]
    for max_rows in (512, 5):
        engine = make_engine(max_rows=max_rows)
        for one, scored in zip(paths, await engine.score(paths, 7, layers=(-1,)), strict=True):
            check(scored, one, 7, rows, hidden=True)


async def test_a_completion_scores_as_it_was_drawn(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, rows: Rows
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    request = Request(prefix=prompt, sampling=Sampling(temperature=1.0, logprobs=0), max_tokens=12, ignore_eos=True)
    (completion,) = await finish(engine, [request])
    path = prompt + completion.token_ids
    before = engine.usage("judge").verifier_tokens
    (scored,) = await engine.score([path], len(prompt), owner="judge")
    check(scored, path, len(prompt), rows)
    drawn = torch.tensor([row.token for row in completion.logprobs])
    torch.testing.assert_close(scored.logprobs, drawn, rtol=0, atol=1e-5)
    assert engine.usage("judge").verifier_tokens - before == len(completion.token_ids)  # the prompt came from the cache


async def test_a_new_step_costs_the_step(make_engine: MakeEngine, prompts: MakePrompts) -> None:
    engine = make_engine()
    path = prompts(1, 40)[0]
    await engine.score([path[:30]], 0, layers=(-1,), owner="judge")
    assert engine.usage("judge").verifier_tokens == 30
    await engine.score([path], 30, layers=(-1,), owner="judge")
    assert engine.usage("judge").verifier_tokens == 30 + 11  # and the row that predicts the step's first token
    assert engine.usage("judge").policy_tokens == 0


async def test_scoring_beside_generation(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, rows: Rows, greedy: Callable[..., Path]
) -> None:
    starts = prompts(6, 15)
    requests = [Request(prefix=path, sampling=GREEDY, max_tokens=20, ignore_eos=True) for path in starts]
    paths = [path + greedy(path, 12) for path in starts[:3]]  # what is being generated meanwhile
    for max_rows in (512, 9):
        engine = make_engine(max_rows=max_rows)
        scoring = asyncio.gather(*(engine.score([path], 4, layers=(-1,)) for path in paths))
        completions, scored = await asyncio.gather(finish(engine, requests), scoring)
        assert [c.token_ids for c in completions] == [greedy(path, 20) for path in starts]
        for path, (one,) in zip(paths, scored, strict=True):
            check(one, path, 4, rows, hidden=True)


async def test_more_paths_than_the_pool_holds(make_engine: MakeEngine, prompts: MakePrompts, rows: Rows) -> None:
    paths = [path[::-1] for path in prompts(5, 40)]
    for max_rows in (512, 16):
        engine = make_engine(kv_tokens=64, max_rows=max_rows)
        for path, scored in zip(paths, await engine.score(paths, 3, layers=(-1,)), strict=True):
            check(scored, path, 3, rows, hidden=True)


@pytest.mark.parametrize("max_rows", [4, 12, 512])
async def test_a_scoring_path_gives_way_to_generation(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    rows: Rows,
    greedy: Callable[..., Path],
    max_rows: int,
) -> None:
    engine = make_engine(kv_tokens=72, max_rows=max_rows)
    start, long = prompts(1, 6)[0], prompts(4, 60)[3]
    request = Request(prefix=start, sampling=GREEDY, max_tokens=40, ignore_eos=True)
    completions, scored = await asyncio.gather(
        finish(engine, [request]), asyncio.wait_for(engine.score([long, long[:50]], 2, layers=(-1,)), 60)
    )
    assert completions[0].error is None
    assert completions[0].token_ids == greedy(start, 40)
    check(scored[0], long, 2, rows, hidden=True)
    check(scored[1], long[:50], 2, rows, hidden=True)


@pytest.mark.parametrize("start", [-1, 10, 11])
async def test_a_start_outside_the_path(make_engine: MakeEngine, prompts: MakePrompts, rows: Rows, start: int) -> None:
    engine = make_engine()
    paths = prompts(3, 10)
    with pytest.raises(UsageError, match=rf"start must be in \[0, 10\), got {start}"):
        await engine.score(paths, start)
    with pytest.raises(UsageError):
        await engine.score([paths[0], paths[1][:5], paths[2]], 7)
    (scored,) = await engine.score(paths[:1], 9)
    check(scored, paths[0], 9, rows)


async def test_a_path_that_is_empty_or_too_long(make_engine: MakeEngine, prompts: MakePrompts) -> None:
    engine = make_engine(kv_tokens=32)
    with pytest.raises(UsageError, match="start"):
        await engine.score([()], 0)
    with pytest.raises(OutOfKV, match="the path has 33 tokens; this engine holds 32"):
        await engine.score(prompts(1, 33), 0)


@pytest.mark.parametrize("token", [-1, 400, 1 << 40])
async def test_a_token_outside_the_vocabulary_harms_nobody_else(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path], token: int
) -> None:
    engine = make_engine()
    (prompt,) = prompts(1)
    request = Request(prefix=prompt, sampling=GREEDY, max_tokens=30, ignore_eos=True)
    generating = asyncio.ensure_future(finish(engine, [request]))
    with pytest.raises(UsageError, match="outside the vocabulary of 400"):
        await engine.score([(1, token, 2)], 0)
    (completion,) = await generating
    assert completion.token_ids == greedy(prompt, 30)


async def test_cancelled_scoring_frees_its_path(make_engine: MakeEngine, prompts: MakePrompts, rows: Rows) -> None:
    engine = make_engine(max_rows=1)
    path = prompts(1, 60)[0]
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(engine.score([path] * 3, 0, layers=(-1,)), 0.005)
    engine.check_integrity()
    (scored,) = await engine.score([path[:20]], 0)
    check(scored, path[:20], 0, rows)

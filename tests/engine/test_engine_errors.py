"""A request that fails says why, and nobody else notices."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from reason.engine.codec import StopMatcher
from reason.engine.local import LocalEngine
from reason.errors import OutOfKV, UsageError
from reason.types import Path, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakeEngine, MakePrompts

GREEDY = Sampling(temperature=0.0)


def raising(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    raise ZeroDivisionError("on purpose")


def raising_later(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return raising(tokens, logits) if len(tokens) > 6 else logits


def forbidding_all(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return torch.full_like(logits, -math.inf)


def reshaping(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return logits[:-1]


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "empty prefix": ({"prefix": ()}, UsageError, "at least one token"),
    "token too large": ({"prefix": (1, 400)}, UsageError, "outside the vocabulary of 400"),
    "guessed token too large": ({"guess": (1, 400)}, UsageError, "guessed token is outside the vocabulary of 400"),
    "token negative": ({"prefix": (-1, 1)}, UsageError, "outside the vocabulary of 400"),
    "token of no integer type": ({"prefix": ("a",)}, UsageError, "."),
    "prompt too long": ({"prefix": (1,) * 129}, OutOfKV, "the prompt has 129 tokens; this engine holds 128"),
    "no tokens wanted": ({"max_tokens": 0}, UsageError, "max_tokens must be at least 1, got 0"),
    "no limit": ({"max_tokens": None}, UsageError, "."),
    "negative temperature": ({"sampling": Sampling(temperature=-0.1)}, UsageError, "temperature"),
    "temperature nan": ({"sampling": Sampling(temperature=math.nan)}, UsageError, "temperature"),
    "temperature infinite": ({"sampling": Sampling(temperature=math.inf)}, UsageError, "temperature"),
    "top_p of 0": ({"sampling": Sampling(top_p=0.0)}, UsageError, "top_p"),
    "top_p above 1": ({"sampling": Sampling(top_p=1.1)}, UsageError, "top_p"),
    "negative top_k": ({"sampling": Sampling(top_k=-1)}, UsageError, "top_k"),
    "min_p above 1": ({"sampling": Sampling(min_p=1.5)}, UsageError, "min_p"),
    "negative logprobs": ({"sampling": Sampling(logprobs=-1)}, UsageError, "logprobs"),
    "repetition penalty of 0": ({"sampling": Sampling(repetition_penalty=0.0)}, UsageError, "repetition_penalty"),
    "seed too large": ({"seed": 1 << 64}, UsageError, "64 bits"),
    "key too large": ({"key": -(1 << 64)}, UsageError, "64 bits"),
    "empty stop string": ({"stop": ("x", "")}, UsageError, "stop string must not be empty"),
    "stop of no text": ({"stop": (1,)}, UsageError, "wrong type"),
    "token of another type": ({"prefix": (1.0, 2.0)}, UsageError, "wrong type"),
    "guess of another type": ({"guess": (1.5,)}, UsageError, "wrong type"),
    "half a top_k": ({"sampling": Sampling(top_k=2.5)}, UsageError, "wrong type"),  # type: ignore[arg-type]
    "half a row": ({"sampling": Sampling(logprobs=1.5)}, UsageError, "wrong type"),  # type: ignore[arg-type]
    "half a token": ({"max_tokens": 2.5}, UsageError, "wrong type"),
    "seed of another type": ({"seed": 0.5}, UsageError, "wrong type"),
    "sampling that is none": ({"sampling": {"temperature": 0}}, UsageError, "wrong type"),
    "probe that is none": ({"probes": ("head",)}, UsageError, "wrong type"),
    "owner of no name": ({"owner": []}, UsageError, "wrong type"),
    "processor raises": ({"sampling": Sampling(processors=(raising,))}, ZeroDivisionError, "on purpose"),
    "processor raises later": ({"sampling": Sampling(processors=(raising_later,))}, ZeroDivisionError, "on purpose"),
    "processor forbids all": ({"sampling": Sampling(processors=(forbidding_all,))}, UsageError, "no token possible"),
    "processor reshapes": ({"sampling": Sampling(processors=(reshaping,))}, UsageError, r"shape \(399,\)"),
    "bad regex": ({"sampling": Sampling(regex="(")}, UsageError, "regex is not a valid grammar"),
    "bad schema": ({"sampling": Sampling(json_schema="{")}, UsageError, "json_schema is not a valid grammar"),
    "bad grammar": ({"sampling": Sampling(lark="start: missing")}, UsageError, "lark is not a valid grammar"),
    "two grammars": ({"sampling": Sampling(regex="a", lark="b")}, UsageError, "one grammar"),
}


@pytest.mark.parametrize("name", BAD)
async def test_it_fails_alone(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path], name: str
) -> None:
    changes, kind, message = BAD[name]
    engine = make_engine(kv_tokens=128)
    good = [Request(prefix=path, sampling=GREEDY, max_tokens=12, ignore_eos=True) for path in prompts(3, 5)]
    bad = replace(good[0], **{"key": 9, "sampling": Sampling(), **changes})
    completions = await finish(engine, [good[0], bad, *good[1:]])
    failed = completions.pop(1)
    assert failed.finish_reason == "error"
    assert isinstance(failed.error, kind)
    with pytest.raises(kind, match=message):
        raise failed.error
    assert [c.token_ids for c in completions] == [greedy(r.prefix, 12) for r in good]
    (again,) = await finish(engine, good[:1])  # and the engine lives
    assert again.token_ids == completions[0].token_ids


async def test_what_was_drawn_before_the_error_is_kept(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    (prompt,) = prompts(1, 5)
    sampling = Sampling(temperature=0.0, processors=(raising_later,), logprobs=0)
    (failed,) = await finish(make_engine(), [Request(prefix=prompt, sampling=sampling, ignore_eos=True)])
    assert failed.token_ids == greedy(prompt, 2)
    assert len(failed.logprobs) == 2


async def test_an_error_while_many_are_preempted(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine(kv_tokens=60)
    plain = [Request(prefix=path, sampling=GREEDY, max_tokens=20, ignore_eos=True) for path in prompts(6, 10)]
    processed = [
        Request(
            prefix=path,
            sampling=Sampling(temperature=0.0, processors=(lambda t, row: raising(t, row) if len(t) > 15 else row,)),
        )
        for path in prompts(6, 10)
    ]
    completions = await finish(engine, [r for pair in zip(plain, processed, strict=True) for r in pair])
    assert [c.token_ids for c in completions[::2]] == [greedy(r.prefix, 20) for r in plain]
    assert all(isinstance(c.error, ZeroDivisionError) for c in completions[1::2])
    assert engine.stats().preemptions > 0


async def test_a_stop_string_that_cannot_be_followed(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    greedy: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Streaming decoders of some tokenizers refuse some sequences."""

    def refusing(self: StopMatcher, token: int) -> str | None:
        raise ValueError("invalid prefix")

    monkeypatch.setattr(StopMatcher, "push", refusing)
    engine = make_engine()
    plain = Request(prefix=prompts(1)[0], sampling=GREEDY, max_tokens=5, ignore_eos=True)
    failed, done = await finish(engine, [replace(plain, stop=("x",)), plain])
    assert isinstance(failed.error, ValueError)
    assert done.token_ids == greedy(plain.prefix, 5)


def lose_a_forward(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one fails, and no other."""

    def broken(rows: object, *layers: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine._loop.runner, "forward_rows", broken)


async def test_a_forward_that_fails_ends_what_was_in_it(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    greedy: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine()
    lose_a_forward(engine, monkeypatch)
    requests = [Request(prefix=path, sampling=GREEDY, max_tokens=5, ignore_eos=True) for path in prompts(3)]
    scoring = asyncio.ensure_future(engine.score([requests[0].prefix], 2))
    failed = await finish(engine, requests)
    assert [str(c.error) for c in failed] == ["out of memory"] * 3
    scored = await asyncio.gather(scoring, return_exceptions=True)
    assert isinstance(scored[0], RuntimeError | list)  # it was in that forward, or came after it
    assert [c.token_ids for c in await finish(engine, requests)] == [greedy(r.prefix, 5) for r in requests]


async def test_a_forward_that_fails_spares_what_was_not_in_it(
    make_engine: MakeEngine,
    prompts: MakePrompts,
    finish: Finish,
    greedy: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = make_engine(max_rows=5)
    lose_a_forward(engine, monkeypatch)
    requests = [Request(prefix=path, sampling=GREEDY, max_tokens=5, ignore_eos=True) for path in prompts(3, 5)]
    failed, *done = await finish(engine, requests)
    assert str(failed.error) == "out of memory"
    assert [c.token_ids for c in done] == [greedy(r.prefix, 5) for r in requests[1:]]
    assert engine.usage(requests[0].owner).calls == 3


async def test_a_completion_that_fills_the_pool_ends_at_it(
    make_engine: MakeEngine, prompts: MakePrompts, finish: Finish, greedy: Callable[..., Path]
) -> None:
    engine = make_engine(kv_tokens=32)
    (prompt,) = prompts(1, 10)
    (completion,) = await finish(engine, [Request(prefix=prompt, sampling=GREEDY, max_tokens=100, ignore_eos=True)])
    assert completion.error is None
    assert completion.finish_reason == "length"
    assert completion.token_ids == greedy(prompt, 23)  # the last token's KV is not needed

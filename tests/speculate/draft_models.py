"""Tiny random models that draft, and what transformers says at the places that they draft."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from reason.runtime.noise import StreamNoise
from reason.runtime.runner import ModelRunner
from reason.runtime.sampler import Draw, draw_tokens
from reason.speculate.draft import Distribution, State, Stream
from reason.speculate.policy.ranking import Candidate, Ranking
from reason.speculate.sources.draft_model import DraftModel
from reason.types import Sampling
from tests.tiny import random_model

VOCAB = 60
ALL_SHAPES = ["chain", "rsd-c:3,2,1", "rsd-s:3", "dyspec:24"]
PROMPT = [3, 14, 15, 9, 2, 6, 5]

MakeRunner = Callable[..., ModelRunner]


def make_model(seed: int, vocab: int = VOCAB) -> Any:
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = random_model("qwen2", vocab_size=vocab, seed=seed, **small)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(3.0)  # as sure of itself as a trained model
    return model


def begun(source: DraftModel, tokens: Sequence[int], *, temperature: float = 0.0, key: int = 0) -> Stream:
    stream = Stream(list(tokens), len(tokens), temperature, seed=5, key=key)
    source.begin(stream)
    return stream


def told(source: DraftModel, stream: Stream, tokens: Sequence[int]) -> None:
    stream.tokens.extend(tokens)
    source.extend(stream, len(tokens))


def computed(source: DraftModel, stream: Stream) -> dict[tuple[int, ...], Distribution]:
    """Every place that can be reached by what is proposed."""
    found: dict[tuple[int, ...], Distribution] = {}

    def visit(path: tuple[int, ...], state: State) -> None:
        if state is not None:
            found[path] = source.distribution(state)
            for token in range(VOCAB):
                visit((*path, token), source.step(state, token))

    visit((), source.state(stream))
    return found


def expect(model: Any, tokens: Sequence[int], temperature: float) -> torch.Tensor:
    """The model's own next-token probabilities, [vocab]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]
    return torch.softmax(logits.double() / (temperature or 1.0), dim=-1)


def check_distribution(model: Any, tokens: Sequence[int], temperature: float, got: Distribution) -> None:
    p = expect(model, tokens, temperature)
    assert list(got.probabilities) == pytest.approx(p.topk(10).values.tolist(), rel=1e-3, abs=1e-6)
    assert p[list(got.tokens)].tolist() == pytest.approx(list(got.probabilities), rel=1e-3, abs=1e-6)


def sample(model: Any, tokens: Sequence[int], stream: Stream) -> int:
    """The plain sample at the end of ``tokens``."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1:]
    draw = Draw(0, stream.seed, stream.key, len(tokens), Sampling(temperature=stream.temperature))
    return draw_tokens(logits, [draw])[0]


def candidates(stream: Stream, path: tuple[int, ...], expected: Distribution) -> list[Candidate]:
    return Ranking().candidates(stream, StreamNoise(stream.seed, stream.key), len(path) + 1, expected)


def count_rows(runner: ModelRunner) -> list[int]:
    """The rows of each forward from now on."""
    counts: list[int] = []
    forward_rows = runner.forward_rows

    def counting(rows: Any, *layers: Any) -> Any:
        counts.append(len(rows))
        return forward_rows(rows, *layers)

    runner.forward_rows = counting  # type: ignore[method-assign, assignment]
    return counts


def at(source: DraftModel, stream: Stream, path: tuple[int, ...]) -> Distribution:
    state = source.state(stream)
    for token in path:
        state = source.step(state, token)
    return source.distribution(state)

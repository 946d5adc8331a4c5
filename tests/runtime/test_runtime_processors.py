"""Penalties against transformers and against their formulas; user functions; what is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from reason.errors import UsageError
from reason.runtime.processors import needs_processing, process_row
from reason.types import LogitsProcessor, Sampling

VOCAB = 12
ids = st.integers(0, VOCAB - 1)
prefixes = st.lists(ids, min_size=1, max_size=8)
continuations = st.lists(ids, max_size=8)
rows = st.lists(st.floats(-8, 8, width=32), min_size=VOCAB, max_size=VOCAB).map(torch.tensor)


@given(rows, prefixes, continuations, st.sampled_from([0.5, 1.1, 1.3, 4.0]))
@settings(deadline=None, max_examples=50)
def test_repetition_penalty_is_that_of_transformers(
    row: torch.Tensor, prefix: list[int], generated: list[int], penalty: float
) -> None:
    theirs: Any = RepetitionPenaltyLogitsProcessor(penalty)
    expected = theirs(torch.tensor([prefix + generated]), row[None].clone())[0]
    got = process_row(row, prefix, generated, Sampling(repetition_penalty=penalty), None)
    torch.testing.assert_close(got, expected)


@given(rows, prefixes, continuations, st.floats(-2, 2, width=32), st.floats(-2, 2, width=32))
@settings(deadline=None, max_examples=50)
def test_presence_and_frequency_penalties_count_what_was_generated(
    row: torch.Tensor, prefix: list[int], generated: list[int], presence: float, frequency: float
) -> None:
    """logit - presence * [count > 0] - frequency * count, the prompt not counted."""
    counts = Counter(generated)
    penalty = [presence * (counts[token] > 0) + frequency * counts[token] for token in range(VOCAB)]
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    got = process_row(row, prefix, generated, sampling, None)
    torch.testing.assert_close(got, row - torch.tensor(penalty), atol=1e-5, rtol=1e-5)


def test_penalties_come_first_and_processors_in_order() -> None:
    row = torch.tensor([2.0, -2.0, 1.0, 0.0])
    seen: list[list[float]] = []

    def doubled(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.tolist())
        return logits * 2

    def shifted(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        return logits + 1

    sampling = Sampling(repetition_penalty=2.0, presence_penalty=0.5, processors=(doubled, shifted))
    got = process_row(row, [0], [1], sampling, None)
    assert seen == [[1.0, -4.5, 1.0, 0.0]]
    assert got.tolist() == [3.0, -8.0, 3.0, 1.0]


def test_a_processor_is_given_the_whole_path() -> None:
    paths: list[tuple[int, ...]] = []

    def watch(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        paths.append(tuple(tokens))
        assert logits.dtype == torch.float32
        return logits

    sampling = Sampling(processors=(watch, watch))
    process_row(torch.zeros(VOCAB, dtype=torch.bfloat16), [3, 1, 4], [1, 5], sampling, None)
    assert paths == [(3, 1, 4, 1, 5)] * 2


def test_the_row_that_was_given_is_not_changed() -> None:
    def clear(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        logits[:5] = -torch.inf
        return logits

    row = torch.ones(VOCAB)
    everything = Sampling(repetition_penalty=2.0, presence_penalty=1.0, frequency_penalty=1.0, processors=(clear,))
    got = process_row(row, [1, 7], [2, 8], everything, None)
    assert torch.equal(row, torch.ones(VOCAB))
    assert got.isinf().sum() == 5


def _shorter(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return logits[:-1]


def _deeper(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return logits[None]


def _nothing(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return torch.full_like(logits, -torch.inf)


def _not_numbers(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return logits * float("nan")


@pytest.mark.parametrize("processor", [_shorter, _deeper])
def test_another_shape_is_refused(processor: LogitsProcessor) -> None:
    with pytest.raises(UsageError, match="shape"):
        process_row(torch.zeros(VOCAB), [1], [], Sampling(processors=(processor,)), None)


@pytest.mark.parametrize("processor", [_nothing, _not_numbers])
def test_leaving_no_token_is_refused(processor: LogitsProcessor) -> None:
    with pytest.raises(UsageError, match="no token possible"):
        process_row(torch.zeros(VOCAB), [1], [], Sampling(processors=(processor,)), None)


@pytest.mark.parametrize(
    ("sampling", "needed"),
    [
        (Sampling(), False),
        (Sampling(temperature=0.0, top_k=3, top_p=0.5, min_p=0.1, logprobs=3), False),
        (Sampling(repetition_penalty=1.1), True),
        (Sampling(presence_penalty=0.1), True),
        (Sampling(frequency_penalty=-0.1), True),
        (Sampling(processors=(_nothing,)), True),
        (Sampling(json_schema=""), True),
        (Sampling(regex=""), True),
        (Sampling(lark=""), True),
    ],
)
def test_needs_processing(sampling: Sampling, needed: bool) -> None:
    assert needs_processing(sampling) is needed

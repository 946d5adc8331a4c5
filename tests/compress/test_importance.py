"""Importance scores: the formula, and the scorer against transformers' own attention, one step at a time."""

from __future__ import annotations

from typing import Any

import pytest

from reason.compress import attention
from reason.compress.attention import AttentionScorer
from reason.compress.importance import Relevance, Scorer, bidirectional, check_alpha
from reason.errors import UnsupportedModel, UsageError
from tests.tiny import random_model

STEPS = ("First, x = 3.", "Then 2x = 6, as one sees.", "No.", "Hmm, wait. Let me see that once more, in full.", "x")
QUESTION = "What is 2x?"
CUE = " It is in the step."


class Bytes:
    """A tokenizer whose tokens are bytes."""

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        assert not add_special_tokens
        return list(text.encode())


def make(model_type: str = "llama", **options: Any) -> AttentionScorer:
    return AttentionScorer(random_model(model_type, vocab_size=264), Bytes(), name="tiny", **options)


def slowly(model: Any, step: str, text: str, sink: tuple[int, ...] = ()) -> tuple[float, float]:
    """A and NLL of one step by the formulas, without batches, hooks or cuts."""
    import torch

    first, second = [*sink, *step.encode()], list(text.encode())
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([first + second]), output_attentions=True)
    weights = out.attentions[-1][0]  # [heads, n, n]
    total = 0.0
    for head in range(weights.shape[0]):
        for reader in range(len(first), len(first) + len(second)):
            for seen in range(len(sink), len(first)):
                total += float(weights[head, reader, seen])
    rows = torch.log_softmax(out.logits[0].double(), dim=-1)
    losses = [-float(rows[len(first) + place - 1, token]) for place, token in enumerate(second)]
    return total / (len(first) - len(sink)), sum(losses) / len(losses)


def relevances(scorer: Scorer, steps: tuple[str, ...] = STEPS, text: str = QUESTION) -> list[Relevance]:
    found = dict(pair for batch in scorer.relevance(steps, text, CUE) for pair in batch)
    assert sorted(found) == list(range(len(steps)))
    return [found[number] for number in range(len(steps))]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gpt2"])
@pytest.mark.parametrize("limits", [(1 << 22, 1 << 26), (1, 1), (3000, 1 << 26)])
def test_the_scorer_is_transformers_own(
    monkeypatch: pytest.MonkeyPatch, model_type: str, limits: tuple[int, int]
) -> None:
    monkeypatch.setattr(attention, "_MAX_SCORES", limits[0])
    monkeypatch.setattr(attention, "_MAX_LOGITS", limits[1])
    scorer = make(model_type)
    assert isinstance(scorer, Scorer)
    model = random_model(model_type, vocab_size=264)
    for step, found in zip(STEPS, relevances(scorer), strict=True):
        total, loss = slowly(model, step, QUESTION + CUE)
        assert found.attention == pytest.approx(total, rel=1e-4)
        assert found.nll == pytest.approx(loss, rel=1e-4)
        assert found.num_tokens == len((step + QUESTION + CUE).encode())
    batches = [len(batch) for batch in scorer.relevance(STEPS, QUESTION, CUE)]
    assert sum(batches) == len(STEPS)
    assert {(1 << 22, 1 << 26): max(batches) == 5, (1, 1): max(batches) == 1}.get(limits, 1 < max(batches) < 5)


@pytest.mark.usefixtures("one_thread")
def test_what_is_too_long_is_cut() -> None:
    """Of the text the last half of the context, of the step the first tokens that fit."""
    scorer = make(context=40)
    text = "a question that is much longer than half of the context"
    cut = (text + CUE)[-20:]
    model = random_model("llama", vocab_size=264)
    for step, found in zip(STEPS, relevances(scorer, text=text), strict=True):
        total, loss = slowly(model, step[:20], cut)
        assert found.attention == pytest.approx(total, rel=1e-4)
        assert found.nll == pytest.approx(loss, rel=1e-4)
        assert found.num_tokens <= 40
    short = relevances(make(context=200), text=QUESTION)[3]  # a short text leaves the step its room
    assert short.num_tokens == len((STEPS[3] + QUESTION + CUE).encode())


@pytest.mark.usefixtures("one_thread")
def test_a_sink_before_the_step() -> None:
    model = random_model("llama", vocab_size=264)
    with pytest.raises(UnsupportedModel, match="tiny has no token that begins or ends texts"):
        make(sink=True)
    tokenizer = Bytes()
    tokenizer.eos_token_id = 260  # type: ignore[attr-defined]
    scorer = AttentionScorer(random_model("llama", vocab_size=264), tokenizer, name="tiny", sink=True)
    for step, found in zip(STEPS, relevances(scorer), strict=True):
        total, loss = slowly(model, step, QUESTION + CUE, sink=(260,))
        assert found.attention == pytest.approx(total, rel=1e-4)
        assert found.nll == pytest.approx(loss, rel=1e-4)


def test_the_models_own_limit() -> None:
    model = random_model("llama", vocab_size=264, max_position_embeddings=32)
    scorer = AttentionScorer(model, Bytes(), name="tiny", context=1024)
    assert max(relevance.num_tokens for relevance in relevances(scorer)) == 32


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 16 tokens, got 8"):
        make(context=8)
    with pytest.raises(UsageError, match="has no tokens"):
        next(make().relevance(["a", ""], QUESTION, CUE))
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(UsageError, match=r"alpha must be in \[0, 1\]"):
            check_alpha(alpha)


@pytest.mark.usefixtures("one_thread")
def test_a_model_without_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make()
    monkeypatch.setattr(scorer, "_weights", None)
    scorer._model.set_attn_implementation("sdpa")
    with pytest.raises(UnsupportedModel, match="tiny gives no attention weights"):
        next(scorer.relevance(STEPS, QUESTION, CUE))


def test_the_formula() -> None:
    question = [Relevance(4.0, 2.0, 9), Relevance(1.0, 5.0, 9)]
    solution = [Relevance(2.0, 1.0, 9), Relevance(3.0, 0.5, 9)]
    assert bidirectional(question, solution, 0.5) == pytest.approx((3.0 / 1.5, 2.0 / 2.75))
    assert bidirectional(question, solution, 0.0) == pytest.approx((2.0, 0.2))
    assert bidirectional(question, solution, 1.0) == pytest.approx((2.0, 6.0))
    assert bidirectional(question, solution, 0.25) == pytest.approx((3.5 / 1.75, 1.5 / 3.875))
    assert bidirectional([Relevance(1.0, 0.0, 1)], [Relevance(1.0, 0.0, 1)], 0.5)[0] > 1e6

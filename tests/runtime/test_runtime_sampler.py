"""Draws against the distribution that they must have, by chi-square; and against their own definition, exactly."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import stats
from transformers import (
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reason.runtime import sampler
from reason.runtime.native import native_kernels
from reason.runtime.noise import TAIL_GUMBEL, gumbel, position_state
from reason.runtime.sampler import TOP_TOKENS, Draw, TopRows, draw_tokens, probabilities, raw_logprobs
from reason.types import Sampling

P_VALUE = 1e-4
COUNT = 3000

F64 = npt.NDArray[np.float64]


@pytest.fixture(params=[4, 64], ids=["head of 4", "head of 64"])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many tokens have noise of their own; with 4, most draws meet the tail."""
    size = int(request.param)
    monkeypatch.setattr(sampler, "HEAD_TOKENS", size)
    return size


def random_row(vocab: int, seed: int = 0, spread: float = 1.5) -> torch.Tensor:
    return torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread


def warped(row: torch.Tensor, sampling: Sampling) -> F64:
    """The distribution that transformers would sample from: its warpers in its order."""
    scores: Any = row.double()[None]
    steps: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        steps.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        steps.append(MinPLogitsWarper(sampling.min_p))
    for step in steps:
        scores = step(None, scores)
    result: F64 = torch.softmax(scores[0], dim=-1).numpy()
    return result


def draw_many(row: torch.Tensor, sampling: Sampling, count: int = COUNT, seed: int = 0) -> list[int]:
    """One token for each of ``count`` keys."""
    return draw_tokens(row[None], [Draw(0, seed, key, 5, sampling) for key in range(count)])


def fits(observed: Sequence[int], expected: F64) -> bool:
    """Chi-square of draws against probabilities; cells that expect fewer than five draws are put together."""
    counts = np.bincount(observed, minlength=len(expected)).astype(float)
    assert not counts[expected == 0].any(), "a token was drawn that cannot be"
    scaled = expected * len(observed)
    rare = scaled < 5
    cells = np.append(counts[~rare], counts[rare].sum()), np.append(scaled[~rare], scaled[rare].sum())
    some = cells[1] > 0
    return int(some.sum()) == 1 or bool(
        stats.chisquare(cells[0][some], cells[1][some], sum_check=False).pvalue > P_VALUE
    )


SAMPLINGS = [
    Sampling(temperature=1.0),
    Sampling(temperature=0.6),
    Sampling(temperature=2.5),
    Sampling(temperature=1.0, top_k=1),
    Sampling(temperature=1.0, top_k=3),
    Sampling(temperature=1.3, top_k=9),
    Sampling(temperature=1.0, top_k=1000),
    Sampling(temperature=1.0, top_p=0.05),
    Sampling(temperature=1.0, top_p=0.5),
    Sampling(temperature=1.6, top_p=0.97),
    Sampling(temperature=1.0, min_p=0.02),
    Sampling(temperature=0.7, min_p=0.3),
    Sampling(temperature=1.0, min_p=1.0),
    Sampling(temperature=1.0, top_k=3, top_p=0.6),
    Sampling(temperature=2.0, top_k=12, top_p=0.8),
    Sampling(temperature=1.0, top_k=10, min_p=0.1),
    Sampling(temperature=1.5, top_p=0.9, min_p=0.05),
    Sampling(temperature=1.5, top_k=14, top_p=0.9, min_p=0.05),
    Sampling(temperature=2.0, top_k=14, top_p=0.95, min_p=0.2),
]


def label(sampling: Sampling) -> str:
    return f"T{sampling.temperature}-k{sampling.top_k}-p{sampling.top_p}-m{sampling.min_p}"


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=label)
def test_draws_follow_the_warped_softmax(sampling: Sampling) -> None:
    row = random_row(24)
    expected = warped(row, sampling)
    tokens = draw_many(row, sampling)
    likely = np.nonzero(expected * COUNT > 12)[0]
    assert set(likely) <= set(tokens), "a token that should be drawn never was"
    assert fits(tokens, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_draws_from_a_vocabulary_larger_than_the_head(spread: float, dtype: torch.dtype) -> None:
    """Nearly flat: most of the mass lies in the tail. In blocks, and ragged at the end."""
    row = random_row(130 * 128 + 50, spread=spread).to(dtype)
    tokens = draw_many(row, Sampling(temperature=1.0))
    p = torch.softmax(row.double(), dim=-1).numpy()
    order = np.argsort(-p)
    bucket = np.empty(len(p), dtype=np.int64)  # by rank: the head, and the tail in slices
    bucket[order] = np.minimum(np.arange(len(p)) // 64, 40)
    assert fits(bucket[tokens].tolist(), np.bincount(bucket, weights=p).astype(float))
    low = np.arange(len(p)) % 16
    assert fits(low[tokens].tolist(), np.bincount(low, weights=p).astype(float))


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("sampling", [Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9)], ids=label)
def test_bf16_logits_are_sampled_as_they_are(sampling: Sampling) -> None:
    row = random_row(24, seed=3).to(torch.bfloat16)
    assert len(set(row.tolist())) == 24, "no ties, so that the truncation is unambiguous"
    assert fits(draw_many(row, sampling), warped(row, sampling))


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize(
    "pair",
    [((0, 0), (0, 1)), ((0, 0), (1, 0)), ((7, 0), (7, 1)), ((0, 3), (0, 1 << 40))],
    ids=["keys", "seeds", "keys of another seed", "distant keys"],
)
def test_two_rollouts_are_independent(pair: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Their joint distribution is the product, over positions."""
    row, sampling = random_row(7, seed=1), Sampling(temperature=1.0)
    p = warped(row, sampling)
    drawn = [
        draw_tokens(row[None], [Draw(0, seed, key, position, sampling) for position in range(COUNT)])
        for seed, key in pair
    ]
    joint = [a * 7 + b for a, b in zip(*drawn, strict=True)]
    assert fits(joint, np.outer(p, p).ravel())


@pytest.mark.usefixtures("head")
def test_neighbouring_positions_are_independent() -> None:
    row, sampling = random_row(7, seed=1), Sampling(temperature=1.0)
    tokens = draw_tokens(row[None], [Draw(0, 3, 4, position, sampling) for position in range(2 * COUNT)])
    p = warped(row, sampling)
    assert fits([a * 7 + b for a, b in zip(tokens[::2], tokens[1::2], strict=True)], np.outer(p, p).ravel())


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=label)
def test_a_draw_is_the_argmax_of_log_p_plus_noise(sampling: Sampling) -> None:
    """The rule that draft sources rank their candidates by, so it must hold token for token."""
    row = random_row(40)
    p = warped(row, sampling)
    with np.errstate(divide="ignore"):
        log_p = np.log(p)
    states = position_state(0, np.arange(300), 5)
    expected = (log_p + gumbel(states[:, None], np.arange(40))).argmax(axis=1)
    assert draw_many(row, sampling, 300) == expected.tolist()


@pytest.mark.parametrize("sampling", SAMPLINGS[3:], ids=label)
def test_truncated_draws_do_not_depend_on_the_head(sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut that reaches beyond the head falls back to the whole row, under the same noise."""
    row = random_row(40, spread=0.7)
    whole = draw_many(row, sampling, 200)
    for size in (1, 2, 5, 13):
        monkeypatch.setattr(sampler, "HEAD_TOKENS", size)
        assert draw_many(row, sampling, 200) == whole, f"head of {size}"


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_draw_does_not_depend_on_what_else_is_drawn(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 300, generator=generator).to(dtype)
    logits[3] = (logits[3] * 2).round()  # many ties
    draws = [
        Draw(int(row), seed, key, position, sampling)
        for (seed, key, position), sampling, row in zip(
            itertools.product((0, 9), (1, 2, 3), (4, 5)),
            itertools.cycle([*SAMPLINGS, Sampling(temperature=0.0)]),
            torch.randint(12, (12,), generator=generator),
        )
    ]
    draws += [draw._replace(row=3, key=k) for k, draw in enumerate(draws)]
    together = draw_tokens(logits, draws)
    for draw, token in zip(draws, together, strict=True):
        assert draw_tokens(logits, [draw]) == [token]
        assert draw_tokens(logits[draw.row : draw.row + 1], [draw._replace(row=0)]) == [token]
        moved = torch.cat([torch.zeros(5, 300, dtype=dtype), logits[draw.row : draw.row + 1]])
        assert draw_tokens(moved, [draw._replace(row=5)]) == [token]
    assert draw_tokens(logits, draws[::-1]) == together[::-1]


def test_draws_may_share_a_row_and_equal_coordinates_give_equal_tokens() -> None:
    logits = random_row(50)[None]
    draws = [Draw(0, 1, key % 10, 3, Sampling(temperature=1.5)) for key in range(40)]
    tokens = draw_tokens(logits, draws)
    assert tokens[:10] * 4 == tokens
    assert len(set(tokens)) > 1
    assert draw_tokens(logits.expand(40, -1), [d._replace(row=i) for i, d in enumerate(draws)]) == tokens
    assert draw_tokens(logits, []) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_greedy_ties_go_to_the_lowest_id(dtype: torch.dtype) -> None:
    logits = torch.zeros(3, 5000, dtype=dtype)
    logits[1, [4999, 70, 300]] = 2.0
    logits[2, 17:] = 1.0
    greedy = Sampling(temperature=0.0, top_k=2, top_p=0.5)
    draws = [Draw(row, 0, key, 0, greedy) for key in range(3) for row in (2, 0, 1)]
    assert draw_tokens(logits, draws) == [17, 0, 70] * 3


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("temperature", [1e-5, 1e-30, 1e-300])
def test_a_very_small_temperature_is_greedy(temperature: float) -> None:
    for seed in range(10):
        row = random_row(400, seed=seed)
        assert set(draw_many(row, Sampling(temperature=temperature), 50)) == {int(row.argmax())}


@pytest.mark.usefixtures("head")
def test_a_very_large_temperature_is_uniform() -> None:
    tokens = draw_many(random_row(100, spread=5.0), Sampling(temperature=1e7))
    assert fits(tokens, np.full(100, 0.01))


@pytest.mark.usefixtures("head")
def test_large_logits_do_not_overflow() -> None:
    row = random_row(24) + 8e4
    assert fits(draw_many(row, Sampling(temperature=1.0)), warped(row, Sampling(temperature=1.0)))


@pytest.mark.usefixtures("head")
@pytest.mark.parametrize("sampling", SAMPLINGS[:3] + SAMPLINGS[8:11], ids=label)
def test_a_masked_token_is_never_drawn(sampling: Sampling) -> None:
    row = random_row(300)
    allowed = [3, 77, 200, 201, 202, 299]
    masked = torch.full_like(row, -torch.inf)
    masked[allowed] = row[allowed]
    tokens = draw_many(masked, sampling, 1000)
    assert set(tokens) <= set(allowed)
    assert fits(tokens, warped(masked, sampling))


@pytest.mark.parametrize("scale", [1.0, 1e-3], ids=["masked", "underflow"])
def test_an_empty_tail_never_wins(scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no token outside the head is possible, rounding may still leave the tail a mass of about 1e-8. Its noise
    is made as large as it can get, so that it wins if anything lets it."""
    monkeypatch.setattr(sampler, "gumbel", _tail_on_top)
    for seed in range(100):
        row = random_row(2000, seed=seed, spread=1.0)
        finite = row.topk(60).indices
        hopeless = torch.full_like(row, -torch.inf if scale == 1.0 else -50.0)
        hopeless[finite] = row[finite] * scale
        (token,) = draw_tokens(hopeless[None], [Draw(0, 0, 0, 0, Sampling(temperature=scale))])
        assert token in finite


def _tail_on_top(state: npt.NDArray[np.uint64], tokens: npt.ArrayLike) -> F64:
    noise = gumbel(state, tokens)
    return np.where(np.asarray(tokens) == TAIL_GUMBEL, 36.0, noise)


# -- the exact top -------------------------------------------------------------------------------------------------

TOP_SHAPES = [(5, 5), (100, 8), (128 * 40, 8), (128 * 40 + 1, 19), (128 * 3, 1), (9999, 64), (30_000, 64)]


@pytest.mark.parametrize(("vocab", "size"), TOP_SHAPES)
@pytest.mark.parametrize("kind", ["random", "tied", "masked"])
@pytest.mark.parametrize("top", [sampler._top, sampler._top_by_blocks])
def test_top_has_the_values_of_topk(top: Callable[..., Any], kind: str, vocab: int, size: int) -> None:
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(4, vocab, generator=generator)
    if kind == "tied":
        logits = (logits * 2).round().to(torch.bfloat16)
    elif kind == "masked":
        logits[torch.rand(4, vocab, generator=generator) < 0.999] = -torch.inf
    values, tokens = top(logits, size)
    assert torch.equal(values, torch.topk(logits, size, dim=-1).values)
    assert torch.equal(logits.gather(1, tokens), values)
    for row_values, row_tokens in zip(values.tolist(), tokens.tolist(), strict=True):
        assert len(set(row_tokens)) == size
        order = [(-value, token) for value, token in zip(row_values, row_tokens, strict=True)]
        assert order == sorted(order)


@pytest.mark.skipif(native_kernels() is None, reason="no compiled kernels on this machine")
@pytest.mark.parametrize(("vocab", "size"), TOP_SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_top_is_the_first_of_the_stable_order(dtype: torch.dtype, vocab: int, size: int) -> None:
    """Those that tie at its end too: the lower tokens are in."""
    generator = torch.Generator().manual_seed(vocab)
    logits = (torch.randn(4, vocab, generator=generator) * 2).round().to(dtype)
    logits[1] = 0.0
    logits[2] = -torch.inf
    logits[3, -size:] = 9.0
    values, tokens = sampler._top(logits, size)
    assert torch.equal(tokens, logits.sort(dim=-1, descending=True, stable=True).indices[:, :size])
    assert torch.equal(values, logits.gather(1, tokens).float())


@pytest.mark.skipif(native_kernels() is None, reason="no compiled kernels on this machine")
@pytest.mark.parametrize(("vocab", "size"), TOP_SHAPES)
def test_compiled_top_of_a_broken_row_has_tokens_of_its_own(vocab: int, size: int) -> None:
    logits = torch.full((3, vocab), torch.nan)
    logits[0, 1::7] = 1.0
    logits[1] = -logits[1]
    logits[2, vocab // 2 :] = -torch.inf
    _, tokens = sampler._top(logits, size)
    assert all(len(set(row)) == size for row in tokens.tolist())
    assert 0 <= int(tokens.min()) <= int(tokens.max()) < vocab


# -- what rejection rules verify against ---------------------------------------------------------------------------


@pytest.mark.parametrize("vocab", [40, 5000])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=label)
def test_probabilities_are_the_warped_softmax(sampling: Sampling, vocab: int) -> None:
    """In a vocabulary larger than the head too."""
    row = random_row(vocab, seed=2)
    found = probabilities(row, sampling)
    assert found.dtype == np.float64
    assert found.shape == (vocab,)
    assert found.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(found, warped(row, sampling), rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=label)
def test_draws_are_draws_from_the_probabilities(sampling: Sampling, dtype: torch.dtype) -> None:
    row = random_row(40, seed=5).to(dtype)
    with np.errstate(divide="ignore"):
        log_p = np.log(probabilities(row, sampling))
    noise = gumbel(position_state(0, np.arange(300), 5)[:, None], np.arange(40))
    assert draw_many(row, sampling, 300) == (log_p + noise).argmax(axis=1).tolist()


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), Sampling(temperature=0.0, top_k=5, top_p=0.3)])
def test_greedy_probability_is_all_on_the_token_that_is_drawn(sampling: Sampling) -> None:
    for seed in range(5):
        row = (random_row(30, seed=seed) * 2).round()  # with ties
        found = probabilities(row, sampling)
        assert found.sum() == 1.0
        assert [int(found.argmax())] == draw_tokens(row[None], [Draw(0, 0, 0, 0, sampling)])


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=label)
def test_what_is_masked_has_no_probability(sampling: Sampling) -> None:
    row = random_row(300)
    allowed = [3, 77, 200, 201, 202, 299]
    masked = torch.full_like(row, -torch.inf)
    masked[allowed] = row[allowed] + 1e4
    before = masked.clone()
    found = probabilities(masked, sampling)
    assert torch.equal(masked, before)
    assert set(np.nonzero(found)[0]) <= set(allowed)
    np.testing.assert_allclose(found, warped(masked, sampling), rtol=0, atol=1e-9)


# -- what draft sources learn from ---------------------------------------------------------------------------------


def tops_of(logits: torch.Tensor, draws: Sequence[Draw]) -> list[TopRows]:
    tops: list[TopRows] = []
    assert draw_tokens(logits, draws, tops) == draw_tokens(logits, draws), "looking at rows changes no draw"
    return tops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab", [12, 300, 128 * 140 + 3])
@pytest.mark.parametrize("temperature", [0.0, 0.6, 1.7])
def test_tops_are_the_likeliest_of_the_untruncated_softmax(temperature: float, vocab: int, dtype: torch.dtype) -> None:
    logits = torch.stack([random_row(vocab, seed) for seed in range(5)]).to(dtype)
    sampling = Sampling(temperature=temperature, top_k=2, top_p=0.5)
    (top,) = tops_of(logits, [Draw(row, 0, key, 3, sampling) for key in range(3) for row in (4, 1, 3)])
    assert top.rows == [1, 3, 4], "each row once, ascending"
    p = torch.softmax(logits.double() / (temperature or 1.0), dim=-1)[top.rows]
    best = p.topk(TOP_TOKENS, dim=-1)
    assert top.tokens.shape == top.probabilities.shape == (3, TOP_TOKENS)
    np.testing.assert_allclose(top.probabilities, best.values.numpy(), rtol=1e-5)
    np.testing.assert_allclose(p.gather(1, torch.from_numpy(top.tokens)).numpy(), top.probabilities, rtol=1e-5)
    assert all(len(set(row)) == TOP_TOKENS for row in top.tokens.tolist())


def test_tops_come_once_a_temperature() -> None:
    logits = torch.stack([random_row(50, seed) for seed in range(3)])
    draws = [
        Draw(row, 0, 0, 0, Sampling(temperature=temperature))
        for row, temperature in ((0, 0.5), (1, 1.0), (2, 0.0), (1, 0.5), (0, 0.5))
    ]
    tops = tops_of(logits, draws)
    assert [top.rows for top in tops] == [[2], [0, 1], [1]]
    assert not np.allclose(tops[1].probabilities[1], tops[2].probabilities[0])


def test_tops_of_a_small_vocabulary_are_filled_up() -> None:
    logits = torch.stack([random_row(4), random_row(4, seed=1)])
    (top,) = tops_of(logits, [Draw(row, 0, 0, 0, Sampling(temperature=1.0)) for row in (0, 1)])
    assert top.tokens[:, 4:].tolist() == [[-1] * (TOP_TOKENS - 4)] * 2
    assert not top.probabilities[:, 4:].any()
    assert top.probabilities.sum(axis=1).tolist() == pytest.approx([1.0, 1.0])
    assert [sorted(row[:4]) for row in top.tokens.tolist()] == [[0, 1, 2, 3]] * 2


# -- log-probabilities ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("top", [0, 1, 5, 99])
def test_raw_logprobs_are_the_log_softmax(top: int, dtype: torch.dtype) -> None:
    logits = torch.stack([random_row(40, seed) for seed in range(5)]).to(dtype)
    exact = torch.log_softmax(logits.double(), dim=-1)
    rows, tokens = [4, 0, 0, 2], [7, 3, 39, 0]
    results = raw_logprobs(logits, rows, tokens, top)
    for result, row, token in zip(results, rows, tokens, strict=True):
        assert result.token == pytest.approx(float(exact[row, token]), abs=1e-5)
        assert len(result.top) == min(top, 40)
        ids = [i for i, _ in result.top]
        assert [value for _, value in result.top] == pytest.approx(exact[row, ids].tolist(), abs=1e-5)
        if dtype == torch.float32:
            assert ids == exact[row].topk(len(ids)).indices.tolist()


def test_counts_of_a_long_run_of_keys_do_not_repeat() -> None:
    """Best-of-N lives on this: the drawn first tokens of N rollouts are as diverse as N independent draws."""
    row = random_row(1000, spread=0.1)
    tokens = draw_many(row, Sampling(temperature=1.0), 256)
    distinct = [len(set(np.random.default_rng(i).choice(1000, 256).tolist())) for i in range(200)]
    assert min(distinct) - 5 <= len(Counter(tokens)) <= max(distinct) + 5

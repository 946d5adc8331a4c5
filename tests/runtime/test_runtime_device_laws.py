"""Draws made where the logits are, against the sampler's: the same noise, hence the same tokens."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from reason.runtime import sampler
from reason.runtime.device_laws import NUCLEUS_TOKENS, Laws, RawRows
from reason.runtime.device_noise import gumbel, uniform
from reason.runtime.noise import gumbel as host_gumbel
from reason.runtime.noise import position_state
from reason.runtime.noise import uniform as host_uniform
from reason.runtime.sampler import Draw, TopRows, draw_tokens, probabilities, raw_logprobs
from reason.runtime.transfer import Fetch
from reason.types import Sampling

SAMPLINGS = [
    Sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    for temperature, top_k, top_p, min_p in itertools.product(
        (0.0, 0.5, 1.0, 2.0), (0, 5, 200), (1.0, 0.9, 0.3), (0.0, 0.05)
    )
]


@pytest.fixture(params=[4, 64], ids=["head of 4", "head of 64"])
def head(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many tokens have noise of their own; with 4, most draws meet the tail."""
    size = int(request.param)
    monkeypatch.setattr(sampler, "HEAD_TOKENS", size)
    return size


def random_logits(rows: int, vocab: int, spread: float = 1.5) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab)) * spread


def test_the_noise_is_the_hosts() -> None:
    numbers = [0, 1, -1, (1 << 63) - 1, -(1 << 63)]
    state = position_state(np.array(numbers)[:, None], 7, np.array([3, 9]))[:, :, None]  # [5, 2, 1]
    tokens = np.array([0, 1, 151_935, -1, -2])
    on_device = torch.from_numpy(state.view(np.int64)), torch.from_numpy(tokens)
    assert (uniform(*on_device).numpy() == host_uniform(state, tokens)).all()
    np.testing.assert_allclose(gumbel(*on_device).numpy(), host_gumbel(state, tokens), rtol=1e-12)


@pytest.mark.parametrize("vocab", [7, 256, 500, 3000])
def test_the_draws_are_the_samplers(head: int, vocab: int) -> None:
    logits = random_logits(9, vocab)
    draws = [Draw(i % 9, 3, i, 7 * i, sampling) for i, sampling in enumerate(SAMPLINGS * 4)]
    laws = Laws(logits, draws)
    expected = draw_tokens(logits, draws)
    undecided = laws.undecided.tolist()
    found = zip(laws.draw().tolist(), expected, undecided, strict=True)
    assert all(one == other for one, other, is_open in found if not is_open)
    rest = [draw for draw, is_open in zip(draws, undecided, strict=True) if is_open]
    assert all(not draw.sampling.top_k and sampler.truncates(draw.sampling) for draw in rest)
    assert bool(rest) is (vocab > NUCLEUS_TOKENS)
    if rest:
        whole = Laws(logits, rest, whole=True)
        assert not whole.undecided.any()
        assert whole.draw().tolist() == draw_tokens(logits, rest)


def test_a_nucleus_that_is_not_looked_at_to_its_end_is_undecided() -> None:
    flat = torch.zeros(1, 4 * NUCLEUS_TOKENS)
    half, tenth = (Draw(0, 0, 0, 0, Sampling(temperature=1.0, top_p=p)) for p in (0.5, 0.1))
    assert Laws(flat, [half, tenth]).undecided.tolist() == [True, False]
    assert Laws(flat, [half], whole=True).undecided.tolist() == [False]


def test_a_draw_depends_on_nobody_beside_it() -> None:
    logits = random_logits(5, 700)
    draws = [Draw(i % 5, 1, i, i, sampling) for i, sampling in enumerate(SAMPLINGS)]
    together = Laws(logits, draws).draw().tolist()
    for draw, token in zip(draws, together, strict=True):
        assert Laws(logits[draw.row : draw.row + 1], [draw._replace(row=0)]).draw().tolist() == [token]


def test_the_head_is_the_same_beside_wider_ones(head: int) -> None:
    """Where many tokens tie, as in bf16."""
    logits = random_logits(40, 3000).bfloat16().mul(4).round()
    plain = [Draw(row, 1, row, 2, Sampling(temperature=1.0)) for row in range(40)]
    alone = Laws(logits, plain).draw().tolist()
    for beside in (Sampling(temperature=1.0, top_k=100), Sampling(temperature=1.0, top_p=0.5)):
        assert Laws(logits, [*plain, Draw(0, 0, 0, 0, beside)]).draw().tolist()[:-1] == alone


@pytest.mark.parametrize("vocab", [5, 300, 1000, 20_000])
@pytest.mark.parametrize("spread", [1, 50])
def test_the_likeliest_are_a_stable_sorts(vocab: int, spread: int) -> None:
    logits = random_logits(5, vocab, spread).round().neg()  # negative zeros too
    logits[1, ::3] = -torch.inf
    size = min(vocab, 70)
    raw = RawRows(logits, size, statistics=False)
    assert raw.top_tokens.tolist() == logits.sort(dim=1, descending=True, stable=True).indices[:, :size].tolist()


def test_rows_in_several_blocks_are_drawn_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(20, 300)
    draws = [Draw(i, 1, i, i, SAMPLINGS[-i]) for i in range(20)]
    at_once = Laws(logits, draws).draw().tolist()
    monkeypatch.setattr("reason.runtime.device_laws._ELEMENTS", 3 * 300)
    assert Laws(logits, draws).draw().tolist() == at_once


def test_greedy_ties_go_to_the_lowest_token() -> None:
    logits = torch.zeros(2, 500)
    logits[1, [70, 400]] = 1.0
    greedy = [Draw(row, 0, 0, 0, Sampling(temperature=0.0)) for row in range(2)]
    assert Laws(logits, greedy).draw().tolist() == [0, 70]


def test_an_impossible_row_is_known() -> None:
    logits = random_logits(2, 100)
    logits[1] = -torch.inf
    draws = [Draw(row, 0, 0, 0, Sampling(temperature=1.0)) for row in range(2)]
    assert Laws(logits, draws).possible.tolist() == [True, False]


@pytest.mark.parametrize("sampling", SAMPLINGS[::3])
def test_probabilities_are_the_samplers(sampling: Sampling) -> None:
    logits = random_logits(3, 90)
    tokens = torch.tensor([[*range(90), -1]] * 3)
    found = Laws(logits, [Draw(row, 0, 0, 0, sampling) for row in range(3)]).probabilities(tokens)
    for row in range(3):
        np.testing.assert_allclose(found[row, :90].numpy(), probabilities(logits[row], sampling), rtol=1e-5, atol=1e-12)
    assert (found[:, 90] == 0.0).all()


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1.0), Sampling(temperature=0.7, top_k=9), Sampling(temperature=0.0)]
)
def test_choosing_goes_through_the_law_in_order(sampling: Sampling) -> None:
    """Over a grid of coins every token comes as often as its probability says: p, but for three tokens' own weights."""
    count = 20_000
    logits = random_logits(1, 600)
    laws = Laws(logits, [Draw(0, 0, 0, 0, sampling)] * count)
    p = probabilities(logits[0], sampling)
    likely = np.argsort(-p)[:2].tolist()
    tokens, weights = [*likely, 5, -1], [0.1, 0.0, 0.3, 9.0]
    law = 0.5 * p
    law[tokens[:3]] = weights[:3]
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    chosen = laws.choose(
        torch.tensor([tokens] * count),
        torch.tensor([weights] * count, dtype=torch.float64),
        torch.full((count,), 0.5, dtype=torch.float64),
        uniforms,
    ).numpy()
    assert (np.diff(chosen) >= 0).all()
    counts = np.bincount(chosen, minlength=600)
    assert np.abs(counts - count * law / law.sum()).max() < 1.5


def test_likeliest_tokens_are_what_sources_see() -> None:
    logits = random_logits(4, 200)
    draws = [Draw(row, 0, 0, 0, Sampling(temperature=0.8)) for row in range(4)]
    tops: list[TopRows] = []
    draw_tokens(logits, draws, tops)
    tokens, p = Laws(logits, draws).likeliest()
    assert (tokens.numpy() == tops[0].tokens).all()
    np.testing.assert_allclose(p.numpy(), tops[0].probabilities, rtol=1e-5)


@pytest.mark.parametrize("top", [0, 3])
@pytest.mark.parametrize("statistics", [False, True])
def test_what_is_recorded_is_the_samplers(top: int, statistics: bool) -> None:
    logits = random_logits(4, 300)
    logits[2, 10:40] = -torch.inf
    rows, tokens = [0, 2, 2, 3], [5, 1, 299, 7]
    raw = RawRows(logits, top, statistics)
    found = raw.logprobs(torch.tensor(rows), torch.tensor(tokens))
    for i, expected in enumerate(raw_logprobs(logits, rows, tokens, top, statistics)):
        assert float(found[i]) == pytest.approx(expected.token, abs=1e-5)
        assert raw.top_tokens[rows[i]].tolist() == [token for token, _ in expected.top]
        assert raw.top_logprobs[rows[i]].tolist() == pytest.approx([value for _, value in expected.top], abs=1e-5)
        if statistics:
            numbers = [expected.entropy, expected.self_certainty]
            assert raw.numbers[rows[i], 1:].tolist() == pytest.approx(numbers, abs=1e-4)


def test_a_fetch_brings_back_what_was_given() -> None:
    tensors = [
        torch.tensor([True, False, True]),
        torch.arange(12, dtype=torch.float64).view(3, 4).T,
        torch.randn(3, 2).bfloat16(),
        torch.arange(10)[::3],
        torch.empty(2, 0),
        torch.tensor(5, dtype=torch.int32),
    ]
    for found, given in zip(Fetch(tensors).wait(), tensors, strict=True):
        assert found.dtype == given.dtype
        assert torch.equal(found, given)

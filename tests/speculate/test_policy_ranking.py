"""Ranking: the order of candidates is the sampler's own, and their estimates become what happens."""

from __future__ import annotations

import random
from itertools import product

import numpy as np
import pytest
import torch

from reason.runtime.noise import StreamNoise, gumbel, position_state
from reason.runtime.sampler import Draw, draw_tokens
from reason.speculate.draft import Distribution, Stream
from reason.speculate.policy import (
    Ranking,
)
from reason.types import Sampling

ROW = Distribution([40, 41, 42, 43], [0.4, 0.3, 0.15, 0.05])


def offered(ranking: Ranking, stream: Stream, depth: int, expected: Distribution) -> dict[int, float]:
    found = ranking.candidates(stream, StreamNoise(stream.seed, stream.key), depth, expected)
    assert len({candidate.token for candidate in found}) == len(found)
    return {candidate.token: candidate.estimate for candidate in found}


@pytest.mark.parametrize(("seed", "key"), [(0, 0), (7, 3), (-5, -9), (1 << 62, -(1 << 62))])
def test_coupled_candidates_are_ranked_by_log_q_plus_the_samplers_noise(seed: int, key: int) -> None:
    for length, depth in product((1, 2, 50), (1, 2, 5)):
        stream = Stream(list(range(length)), 1, temperature=0.7, seed=seed, key=key)
        state = position_state(seed, key, length + depth - 1)
        scores = np.log(ROW.probabilities) + gumbel(state, list(ROW.tokens))
        found = offered(Ranking(), stream, depth, ROW)
        assert list(found) == [ROW.tokens[i] for i in np.argsort(-scores)][: len(found)]
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert sum(found.values()) < 1.0


def test_a_source_that_knows_the_target_is_always_right() -> None:
    """With q = p the first candidate is the token that the sampler draws."""
    p = torch.softmax(torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0)
    order = p.argsort(descending=True)
    expected = Distribution(order.tolist(), p[order].double().tolist())
    right = 0
    for key in range(200):
        stream = Stream([1, 2, 3], 1, temperature=1.0, seed=5, key=key)
        (drawn,) = draw_tokens(p.log()[None], [Draw(0, 5, key, 3 + 2 - 1, Sampling(temperature=1.0))])
        found = offered(Ranking(), stream, 2, expected)
        right += next(iter(found)) == drawn
        assert found[drawn] > 0.1
    assert right == 200


def test_a_clear_lead_is_a_high_estimate() -> None:
    leads: list[tuple[float, float]] = []
    for key in range(100):
        stream = Stream([1], 1, temperature=1.0, key=key)
        scores = np.sort(np.log(ROW.probabilities) + gumbel(position_state(0, key, 1), list(ROW.tokens)))
        leads.append((float(scores[-1] - scores[-2]), max(offered(Ranking(), stream, 1, ROW).values())))
    leads.sort()
    assert np.mean([estimate for _, estimate in leads[80:]]) > 1.5 * np.mean([estimate for _, estimate in leads[:20]])


@pytest.mark.parametrize(("coupled", "temperature"), [(True, 0.0), (False, 0.0), (False, 0.8)])
def test_without_noise_the_estimate_is_q(coupled: bool, temperature: float) -> None:
    stream = Stream([1, 2], 1, temperature=temperature)
    found = offered(Ranking(coupled=coupled), stream, 1, ROW)
    assert found == dict(zip(ROW.tokens, ROW.probabilities, strict=True))


def test_candidates_below_the_floor_are_left_out() -> None:
    stream, noise = Stream([1, 2], 1, temperature=0.0), StreamNoise(0, 0)
    assert [c.token for c in Ranking().candidates(stream, noise, 1, ROW, 0.2)] == [40, 41]
    assert Ranking().candidates(stream, noise, 1, ROW, 0.9) == []
    assert Ranking().candidates(stream, noise, 1, Distribution((), ())) == []


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_probability_of_zero_is_no_candidate(temperature: float) -> None:
    stream = Stream([1, 2], 1, temperature=temperature)
    assert set(offered(Ranking(), stream, 1, Distribution([40, 41, 42], [0.6, 0.2, 0.0]))) <= {40, 41}


def settle_many(ranking: Ranking, stream: Stream, rate: float, proposer: str, depth: int = 1) -> None:
    noise = StreamNoise(stream.seed, stream.key)
    rng = random.Random(0)
    for _ in range(800):
        candidate, *_ = ranking.candidates(stream, noise, depth, Distribution([40], [0.5], [proposer]))
        ranking.settle(candidate.proposer, candidate.bucket, rng.random() < rate)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_calibration_moves_estimates_to_what_happens(rate: float, temperature: float) -> None:
    stream = Stream([1, 2], 1, temperature=temperature)
    ranking = Ranking()

    def estimate(proposer: str, depth: int = 1) -> float:
        return offered(ranking, stream, depth, Distribution([40], [0.5], [proposer]))[40]

    start, other, deeper = estimate("a"), estimate("b"), estimate("a", 5)
    settle_many(ranking, stream, rate, "a")
    assert estimate("a") == pytest.approx(rate, abs=0.08)
    assert estimate("b") == other
    assert estimate("a", 5) == deeper
    ranking.reset()
    assert estimate("a") == start

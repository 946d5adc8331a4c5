"""The sampling noise: uniform, repeatable, and independent along every coordinate."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from reason.runtime.noise import TAIL_DRAW, TAIL_GUMBEL, StreamNoise, gumbel, position_state, uniform

P_VALUE = 1e-4
COUNT = 20_000
_WORD = 1 << 64


def _undo_shift(x: int, shift: int) -> int:
    whole = x
    for _ in range(64 // shift):
        whole = x ^ (whole >> shift)
    return whole


def state_that_hashes_to(bits: int, token: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """The state for which the hash of ``token`` is ``bits``: SplitMix64's finaliser, backwards."""
    x = _undo_shift(bits, 31) * pow(0x94D049BB133111EB, -1, _WORD) % _WORD
    x = _undo_shift(x, 27) * pow(0xBF58476D1CE4E5B9, -1, _WORD) % _WORD
    x = (_undo_shift(x, 30) - 0x9E3779B97F4A7C15) % _WORD
    return np.array([x ^ (token % _WORD)], dtype=np.uint64)


@pytest.mark.parametrize("bits", [0, 1, _WORD // 2, _WORD - (1 << 12), _WORD - 1])
def test_uniforms_are_strictly_inside_the_unit_interval(bits: int) -> None:
    """At the extreme values of the hash, which sampling would meet once in a quadrillion draws."""
    state = state_that_hashes_to(bits, token=7)
    value = uniform(state, [7])[0]
    assert 0.0 < value < 1.0
    assert abs(value - bits / _WORD) < 1e-12
    assert np.isfinite(gumbel(state, [7])[0])


def test_noise_is_a_function_of_its_coordinates() -> None:
    state = position_state([1, 1, 2], [5, 6, 5], [9, 9, 9])
    assert state.tolist() == [int(position_state(s, k, 9)) for s, k in ((1, 5), (1, 6), (2, 5))]
    tokens = np.arange(50)
    every = gumbel(state[:, None], tokens)
    assert every.shape == (3, 50)
    assert every[1, 17] == gumbel(state[1:2], [17])[0]
    assert np.array_equal(every, gumbel(state[:, None], tokens))


def test_coordinates_may_be_any_int64() -> None:
    extremes = [-(2**63), -1, 0, 1, 2**63 - 1]
    states = {int(position_state(s, k, p)) for s in extremes for k in extremes for p in extremes}
    assert len(states) == 125


def test_coordinates_are_not_interchangeable() -> None:
    assert (
        len({int(position_state(*c)) for c in ((1, 2, 3), (1, 3, 2), (2, 1, 3), (2, 3, 1), (3, 1, 2), (3, 2, 1))}) == 6
    )


@pytest.mark.parametrize("coordinate", ["seed", "key", "position", "token"])
@pytest.mark.parametrize("step", [1, 2, 1 << 32])
def test_noise_along_one_coordinate_is_uniform_and_uncorrelated(coordinate: str, step: int) -> None:
    """Neighbouring counters are the hard case for a hash: lag 1 stands for neighbours."""
    line = np.arange(COUNT) * step
    zero = np.zeros(COUNT, dtype=np.int64)
    coordinates = [line if coordinate == name else zero for name in ("seed", "key", "position")]
    values = uniform(position_state(*coordinates), line if coordinate == "token" else zero)
    assert stats.kstest(values, "uniform").pvalue > P_VALUE
    for lag in (1, 2, 16):
        assert stats.pearsonr(values[:-lag], values[lag:]).pvalue > P_VALUE
    counts, _, _ = np.histogram2d(values[:-1:2], values[1::2], bins=8, range=[[0, 1], [0, 1]])
    assert stats.chisquare(counts.ravel()).pvalue > P_VALUE


def test_keys_are_independent_token_by_token() -> None:
    tokens = np.arange(COUNT)
    noise = [gumbel(position_state(0, key, 0)[None], tokens) for key in range(4)]
    for i in range(4):
        for j in range(i):
            assert stats.pearsonr(noise[i], noise[j]).pvalue > P_VALUE


def test_gumbel_noise_has_gumbel_quantiles() -> None:
    noise = gumbel(position_state(3, np.arange(COUNT), 11), 0)
    assert stats.kstest(noise, "gumbel_r").pvalue > P_VALUE


def test_the_tail_has_noise_of_its_own() -> None:
    state = position_state(0, np.arange(COUNT), 0)
    special = [gumbel(state, TAIL_GUMBEL), gumbel(state, TAIL_DRAW)]
    assert stats.pearsonr(special[0], special[1]).pvalue > P_VALUE
    for token in (0, 1, 2):
        assert stats.pearsonr(special[0], gumbel(state, token)).pvalue > P_VALUE


EDGES = (0, 1, -1, 7, -12345, (1 << 31) + 3, (1 << 63) - 1, -(1 << 63))


@pytest.mark.parametrize("seed", EDGES)
@pytest.mark.parametrize("key", EDGES)
def test_a_stream_has_the_same_noise_one_value_at_a_time(seed: int, key: int) -> None:
    noise = StreamNoise(seed, key)
    tokens = [0, 1, 42, 151_935, TAIL_GUMBEL, TAIL_DRAW]
    for position in (0, 1, 2, 500, 100_000, -3):
        state = position_state(seed, key, position)
        assert noise.at(position) == int(state)
        expected = gumbel(state, tokens)
        assert [StreamNoise.gumbel(noise.at(position), token) for token in tokens] == pytest.approx(
            expected.tolist(), rel=1e-14, abs=1e-14
        )


def test_a_streams_noise_is_the_same_over_many_places() -> None:
    """Up to the last bit of a logarithm, so that it ranks tokens as the sampler does."""
    noise, rng = StreamNoise(11, -4), np.random.default_rng(0)
    positions, tokens = rng.integers(0, 1 << 20, 3000), rng.integers(0, 1 << 18, 3000)
    expected = gumbel(position_state(11, -4, positions), tokens)
    found = [noise.gumbel(noise.at(p), t) for p, t in zip(positions.tolist(), tokens.tolist(), strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("bits", [0, 1, _WORD // 2, _WORD - 1])
def test_a_streams_noise_is_finite(bits: int) -> None:
    (state,) = state_that_hashes_to(bits, token=7).tolist()
    assert StreamNoise.gumbel(state, 7) == pytest.approx(float(gumbel(np.array([state], np.uint64), [7])[0]))

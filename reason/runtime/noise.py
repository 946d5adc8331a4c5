"""Sampling noise that belongs to the position: a counter-based hash of (seed, key, position, token).

A token's Gumbel noise can be had for any token, in any order, by anyone (the sampler, a draft source), without state.
The hash is SplitMix64's finaliser applied along the chain of coordinates (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

__all__ = ["TAIL_DRAW", "TAIL_GUMBEL", "StreamNoise", "gumbel", "position_state", "uniform"]

U64 = npt.NDArray[np.uint64]

TAIL_GUMBEL = -1
"""The "token" whose noise stands for all tokens outside the head."""
TAIL_DRAW = -2
"""The "token" whose uniform picks one of them."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _mix(state: U64, value: U64) -> U64:
    with np.errstate(over="ignore"):
        x = (state ^ value) + _GOLDEN
        x = (x ^ (x >> np.uint64(30))) * _MIX_1
        x = (x ^ (x >> np.uint64(27))) * _MIX_2
        return x ^ (x >> np.uint64(31))


def _as_u64(values: npt.ArrayLike) -> U64:
    return np.asarray(values, dtype=np.int64).astype(np.uint64)


def position_state(seeds: npt.ArrayLike, keys: npt.ArrayLike, positions: npt.ArrayLike) -> U64:
    """The hash state of each (seed, key, position); inputs broadcast, any int64."""
    start = np.zeros(np.broadcast_shapes(np.shape(seeds), np.shape(keys), np.shape(positions)), dtype=np.uint64)
    return _mix(_mix(_mix(start, _as_u64(seeds)), _as_u64(keys)), _as_u64(positions))


def uniform(state: U64, tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Uniforms strictly inside (0, 1), 52 bits; ``state`` and ``tokens`` broadcast."""
    bits = _mix(state, _as_u64(tokens)) >> np.uint64(12)  # 52 bits: of 53, adding one half would round the largest to 1
    return (bits.astype(np.float64) + 0.5) * 2.0**-52


def gumbel(state: U64, tokens: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise of each (state, token)."""
    noise: npt.NDArray[np.float64] = -np.log(-np.log(uniform(state, tokens)))
    return noise


_MASK = (1 << 64) - 1


def _mix_one(state: int, value: int) -> int:
    """``_mix`` of plain integers."""
    x = ((state ^ (value & _MASK)) + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class StreamNoise:
    """The noise of one (seed, key), a value at a time: for draft sources, which want a few tokens at each place, where
    an array call costs more than its work. Equal to ``gumbel`` up to the last bit of a logarithm."""

    __slots__ = ("_start",)

    def __init__(self, seed: int, key: int) -> None:
        self._start = _mix_one(_mix_one(0, seed), key)

    def at(self, position: int) -> int:
        """The hash state of a position."""
        return _mix_one(self._start, position)

    @staticmethod
    def gumbel(state: int, token: int) -> float:
        """Standard Gumbel noise of a token at a position's ``state``."""
        return -math.log(-math.log(((_mix_one(state, token) >> 12) + 0.5) * 2.0**-52))

"""``reason.runtime.noise`` where the logits are: the same hash in torch's integers, bit for bit.

Torch has no shifts or products of unsigned 64-bit integers; products of signed ones wrap alike, and a shift's sign bits
are masked off.
"""

from __future__ import annotations

import torch

__all__ = ["gumbel", "uniform"]

_GOLDEN, _MIX_1, _MIX_2 = (
    number - (1 << 64) for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def uniform(state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Uniforms strictly inside (0, 1), float64; ``state`` (the bits of ``position_state``) and ``tokens``, both int64,
    broadcast."""
    x = (state ^ tokens) + _GOLDEN
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return (_shifted(x ^ _shifted(x, 31), 12).double() + 0.5) * 2.0**-52


def gumbel(state: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise of each (state, token), equal to the host's up to the last bit of a logarithm."""
    return -torch.log(-torch.log(uniform(state, tokens)))


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A shift to the right that brings in zeros."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)

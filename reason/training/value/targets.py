"""What a value is drawn towards: FETCH's adjusted λ-returns, whose first weight is on the outcome (Monte Carlo).

    G_T = z,   G_t = (1 - λ) v_{t+1} + λ G_{t+1}        z in {0, 1} the outcome, v the head's own values, detached
    target_t = (1 - α) z + α G_t                         α from 0 to 1 over the first steps of the optimiser

That is the return that generalised advantage estimation has with γ = 1 and a reward at the end alone. The original
mixes two squared errors of values in [-1, 1] instead of two targets; for squared errors and cross-entropies the
gradient is the same. α = 0 throughout is Monte Carlo; λ = 1 is, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["lambda_returns", "ramp"]


def lambda_returns(values: torch.Tensor, outcomes: torch.Tensor, rollout: torch.Tensor, lambda_: float) -> torch.Tensor:
    """G for each place, [places].

    Args:
        values: [places], of places in order, those of one rollout together.
        outcomes: [rollouts].
        rollout: [places], ascending.
        lambda_: in [0, 1].
    """
    import torch

    position = _from_the_end(rollout)
    returns = outcomes[rollout].clone()
    for back in range(1, int(position.max()) + 1 if len(position) else 0):
        at = torch.nonzero(position == back)[:, 0]
        returns[at] = (1 - lambda_) * values[at + 1] + lambda_ * returns[at + 1]
    return returns


def ramp(step: int, length: int) -> float:
    """α at a step of the optimiser; a length of 0 is at 1 from the start."""
    return 1.0 if length == 0 else min(1.0, step / length)


def _from_the_end(rollout: torch.Tensor) -> torch.Tensor:
    """How many places of the same rollout follow each place."""
    import torch

    _, counts = torch.unique_consecutive(rollout, return_counts=True)
    ends = torch.cumsum(counts, 0).repeat_interleave(counts)
    return ends - 1 - torch.arange(len(rollout))

"""What a value head is fitted by.

    loss = cross-entropy(v, target) over places + rank * mean log(1 + exp(-(l_right - l_wrong)))

The second part (RankNet, Burges et al., https://doi.org/10.1145/1102351.1102363) is over the pairs of a right and a
wrong solution of the same problem, l the logits at their ends: votes and searches compare solutions of one problem,
where cross-entropy is mostly about which problems are hard.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reason.training.value.rollouts import FINAL, INNER

if TYPE_CHECKING:
    import torch

__all__ = ["place_loss", "rank_loss"]


def place_loss(logits: torch.Tensor, target: torch.Tensor, kind: torch.Tensor, inner: float) -> torch.Tensor:
    """Mean cross-entropy in nats over places, all [places]; those within steps weigh ``inner`` beside 1."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    weight = torch.where(kind == INNER, inner, 1.0)
    return (weight * cross_entropy(logits, target, reduction="none")).sum() / weight.sum().clamp_min(1e-9)


def rank_loss(logits: torch.Tensor, outcome: torch.Tensor, problem: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
    """Over the pairs at the ends of solutions, all [places]; 0 where there is none."""
    import torch
    from torch.nn.functional import softplus

    final = kind == FINAL
    value, right = logits[final], outcome[final] == 1
    _, group, count = torch.unique(problem[final], return_inverse=True, return_counts=True)
    order = torch.argsort(group, stable=True)
    column = torch.arange(len(order)) - (count.cumsum(0) - count).repeat_interleave(count)
    at = torch.full((len(count), int(count.max()) if len(count) else 0), -1)  # [problems, solutions of each]
    at[group[order], column] = order
    there = at >= 0
    pairs = (there & right[at])[:, :, None] & (there & ~right[at])[:, None, :]
    problems, better, worse = torch.nonzero(pairs, as_tuple=True)
    lead = value[at[problems, better]] - value[at[problems, worse]]
    return softplus(-lead).mean() if len(lead) else logits.sum() * 0

"""Ridge regression of Δ on the draft model's states, as a value head.

    minimise  mean_steps (Δ - w . x - v . z - b)^2 + penalty (|w|^2 + |v|^2)

x is the state that the drafted step's last token is drawn from, z the mean over the solution so far, both scaled to
deviation 1. The head's value is P(Δ > 0) by Platt's calibration, which keeps the order.

Departure: the paper fits a network to I[Δ > 0] by cross-entropy, where a step that the target improves by a hair counts
as much as one that it makes right. What both came to is in docs/log.md.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from reason.training.router.explore import Examples
from reason.verifiers.value_head import ValueHead

__all__ = ["calibrated", "fit_ridge"]


def fit_ridge(examples: Examples, penalty: float, *, model: str, layer: int) -> ValueHead:
    """A head whose logits are the regression's; it is not calibrated yet.

    Args:
        penalty: of the weights, a step.
        model, layer: whose states they are.
    """
    x, z = (_Scaled(each) for each in (examples.states, examples.means))
    inputs = torch.cat([x.of(examples.states), z.of(examples.means)], dim=1).double()
    delta = examples.advantage.double()
    gram = inputs.T @ inputs + penalty * len(delta) * torch.eye(inputs.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, inputs.T @ (delta - delta.mean())).float()
    size = examples.states.shape[1]
    tensors = {
        "mean": x.mean,
        "std": x.std,
        "out.weight": weights[None, :size],
        "out.bias": delta.mean().float()[None],
        "pool.weight": weights[None, size:],
        "pool.mean": z.mean,
        "pool.std": z.std,
        "calibration": torch.tensor([1.0, 0.0]),
    }
    return ValueHead("fitting", model, layer, tensors)


def calibrated(head: ValueHead, platt: torch.Tensor) -> ValueHead:
    """The head with values of sigmoid(scale * logit + shift).

    Args:
        platt: scale and shift, [2].
    """
    weights = dict(head.weights)
    # Files keep weights in float16: the largest becomes 1, and what is constant goes into the shift, which is exact.
    largest = torch.cat([weights["out.weight"], weights["pool.weight"]]).abs().amax().clamp(min=1e-12)
    for name in ("out.weight", "pool.weight"):
        weights[name] = weights[name] / largest
    weights["calibration"] = torch.stack([platt[0] * largest, platt[1] + platt[0] * weights["out.bias"][0]])
    weights["out.bias"] = torch.zeros(1)
    return replace(head, weights=weights)


class _Scaled:
    """States with mean 0 and deviation 1 in what is learnt from."""

    def __init__(self, states: torch.Tensor) -> None:
        self.mean = states.mean(dim=0)
        self.std = states.std(dim=0).clamp(min=1e-6)

    def of(self, states: torch.Tensor) -> torch.Tensor:
        return (states - self.mean) / self.std

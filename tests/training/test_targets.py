"""λ-returns, by hand and against the sum that defines them."""

from __future__ import annotations

import pytest
import torch

from reason.training.value.targets import lambda_returns, ramp


def test_by_hand() -> None:
    values = torch.tensor([0.2, 0.4, 0.9, 0.5])
    returns = lambda_returns(values, torch.tensor([1.0, 0.0]), torch.tensor([0, 0, 0, 1]), 0.5)
    # the last of the first: 1; before it .5 * .9 + .5 * 1 = .95; before that .5 * .4 + .5 * .95 = .675
    assert returns.tolist() == pytest.approx([0.675, 0.95, 1.0, 0.0])


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.8, 1.0])
def test_it_is_generalised_advantage_estimation(lambda_: float) -> None:
    """G_t = v_t + sum_k λ^k δ_{t+k}, δ_t = r_t + v_{t+1} - v_t, with the outcome as the reward after the last place."""
    generator = torch.Generator().manual_seed(0)
    lengths = [5, 1, 9]
    rollout = torch.repeat_interleave(torch.arange(3), torch.tensor(lengths))
    values, outcomes = torch.rand(len(rollout), generator=generator), torch.tensor([1.0, 0.0, 1.0])
    returns = lambda_returns(values, outcomes, rollout, lambda_)
    begin = 0
    for number, length in enumerate(lengths):
        v = [*values[begin : begin + length].tolist()]
        for t in range(length):
            expected = v[t]
            for k in range(length - t):
                following = float(outcomes[number]) if t + k == length - 1 else v[t + k + 1]
                expected += lambda_**k * (following - v[t + k])
            assert float(returns[begin + t]) == pytest.approx(expected, abs=1e-5)
        begin += length


def test_one_is_monte_carlo_and_zero_the_next_value() -> None:
    values, outcomes = torch.tensor([0.1, 0.7, 0.3]), torch.tensor([1.0])
    rollout = torch.zeros(3, dtype=torch.long)
    assert lambda_returns(values, outcomes, rollout, 1.0).tolist() == [1.0, 1.0, 1.0]
    assert lambda_returns(values, outcomes, rollout, 0.0).tolist() == pytest.approx([0.7, 0.3, 1.0])
    assert lambda_returns(values[:0], outcomes, rollout[:0], 0.5).tolist() == []


def test_the_ramp() -> None:
    assert [ramp(step, 4) for step in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert ramp(0, 0) == 1.0

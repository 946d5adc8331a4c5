"""SpecEyes' separability, by hand."""

from __future__ import annotations

import math
import statistics

import pytest

from reason.errors import UsageError
from reason.types import Problem, Step, TokenLogprobs, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.separability import Separability

ROWS = [[-0.1, -3.0, -4.0, -6.0], [-0.7, -0.8, -5.0, -5.5], [-0.01, -6.0, -7.0, -9.0]]


def trajectory(rows: list[list[float]]) -> Trajectory:
    logprobs = tuple(TokenLogprobs(row[0], tuple(enumerate(row))) for row in rows)
    step = Step(text="x", tokens=tuple(range(len(rows))), logprobs=logprobs)
    return Trajectory(problem=Problem(content="?"), prompt=(1,), steps=(step,))


def of(row: list[float]) -> float:
    return (row[0] - statistics.mean(row[1:])) / (statistics.pstdev(row[1:]) + 1e-6)


@pytest.mark.parametrize("variant", ["worst", "mean", "bottom-20%"])
async def test_by_hand(variant: str) -> None:
    figures = sorted(of(row) for row in ROWS)
    figure = statistics.mean(figures) if variant == "mean" else figures[0]
    verifier = make_verifier(f"separability:variant={variant}")
    (score,) = await verifier.score([trajectory(ROWS)], None, "o")  # type: ignore[arg-type]
    assert score == pytest.approx(1 / (1 + math.exp(-0.6 * figure)))


async def test_more_tokens_than_are_compared() -> None:
    rows = [[-0.1, -3.0, -4.0, -50.0]]
    (score,) = await Separability(top_k=3).score([trajectory(rows)], None, "o")  # type: ignore[arg-type]
    assert score == pytest.approx(1 / (1 + math.exp(-0.6 * of(rows[0][:3]))))


async def test_rows_that_say_too_little() -> None:
    with pytest.raises(UsageError, match="separability verifier reads what is recorded"):
        await Separability().score([trajectory([[-0.1, -2.0]])], None, "o")  # type: ignore[arg-type]
    nothing = Trajectory(problem=Problem(content="?"), prompt=(1,), steps=())
    assert await Separability().score([nothing], None, "o") == [0.5]  # type: ignore[arg-type]
    impossible = trajectory([[0.0, -math.inf, -math.inf]])
    assert await Separability().score([impossible], None, "o") == [pytest.approx(1.0)]  # type: ignore[arg-type]


def test_settings() -> None:
    assert make_verifier("separability").top_logprobs == 64
    for wrong in ("top_k=2", "slope=0", "variant=best"):
        with pytest.raises(UsageError):
            make_verifier(f"separability:{wrong}")

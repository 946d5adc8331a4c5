"""The probability of one part of a step."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import UsageError
from reason.types import Path, Problem, Step, TokenLogprobs, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.span_logprob import SpanLogProb

ENGINE = ScriptedEngine(["x"])
PIECES = ("It", " is", " B", ". ", "So", " the", " answer", " is: ", "B")


class PieceCodec(ByteCodec):
    """Tokens are numbers of pieces of text; as many tokenizers do, it leaves out the blank a text begins with."""

    def __init__(self, pieces: tuple[str, ...]) -> None:
        super().__init__()
        self._pieces = pieces

    def decode(self, tokens: Any) -> str:
        return "".join(self._pieces[token] for token in tokens).removeprefix(" ")


class PieceEngine(ScriptedEngine):
    def __init__(self, pieces: tuple[str, ...]) -> None:
        super().__init__(["x"])
        self._codec = PieceCodec(pieces)


def trajectory(tokens: Path, values: list[float]) -> Trajectory:
    rows = tuple(TokenLogprobs(value) for value in values)
    step = Step(text="", tokens=tokens, logprobs=rows)
    return Trajectory(problem=Problem(content="?"), prompt=(1,), steps=(step,))


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


@pytest.mark.parametrize("pieces", [PIECES, (" It", *PIECES[1:])])
async def test_the_explanation_is_what_precedes_the_answer(pieces: tuple[str, ...]) -> None:
    path = trajectory(tuple(range(9)), logs(0.5, 0.5, 0.25, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1))
    verifier = make_verifier("span-logprob:before=So the answer is")
    assert await verifier.score([path], PieceEngine(pieces), "p") == [pytest.approx((0.5 * 0.5 * 0.25) ** (1 / 4))]


async def test_only_tokens_that_lie_wholly_in_the_part_count() -> None:
    pieces = ('{"q": ["', "a", '", "', "b", '"]', ', "b": [', '"c', '"', "]}")
    path = trajectory(tuple(range(9)), logs(0.1, 0.5, 0.25, 0.5, 0.1, 0.1, 0.9, 0.4, 0.1))
    first, second, third = (make_verifier(f"span-logprob:after=[,before=],index={i}") for i in range(3))
    engine = PieceEngine(pieces)
    assert await first.score([path], engine, "p") == [pytest.approx((0.5 * 0.25 * 0.5) ** (1 / 3))]
    assert await second.score([path], engine, "p") == [pytest.approx((0.9 * 0.4) ** (1 / 2))]
    assert await third.score([path], engine, "p") == [0.0]


async def test_what_nobody_generated_is_left_out() -> None:
    path = trajectory(tuple(b"So: " + b"xy. So the answer is"), logs(0.5, 0.125, 1.0, 1.0, *[0.1] * 16))
    assert await SpanLogProb(before="So the answer").score([path], ENGINE, "p") == [pytest.approx(0.5)]


async def test_without_the_texts_it_asks_for() -> None:
    path = trajectory(tuple(b"ab"), logs(0.5, 0.125))
    for verifier, expected in (
        (SpanLogProb(), 0.25),
        (SpanLogProb(before="So"), 0.25),  # it has not come to its answer
        (SpanLogProb(before="ab"), 0.0),  # there is nothing before it
        (SpanLogProb(after="["), 0.0),
        (SpanLogProb(after="a"), 0.125),
    ):
        assert await verifier.score([path], ENGINE, "p") == [pytest.approx(expected)]


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="index must be at least 0, got -1"):
        SpanLogProb(after="[", index=-1)
    with pytest.raises(UsageError, match="index counts occurrences of after, which is empty; got 1"):
        SpanLogProb(index=1)


async def test_what_was_not_recorded_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"the span-logprob verifier reads .* \(Sampling logprobs=0\)"):
        await SpanLogProb().score([trajectory(tuple(b"ab"), [])], ENGINE, "p")
    nothing = Trajectory(problem=Problem(content="?"), prompt=(1,), steps=())
    assert await SpanLogProb().score([nothing], ENGINE, "p") == [0.0]


async def test_an_empty_step_is_judged_by_the_one_before() -> None:
    path = trajectory(tuple(b"ab"), logs(0.5, 0.125))
    after = Trajectory(problem=path.problem, prompt=path.prompt, steps=(*path.steps, Step(text="", tokens=())))
    assert await SpanLogProb(after="a").score([after], ENGINE, "p") == [pytest.approx(0.125)]

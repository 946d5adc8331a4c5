"""The judge on a scripted engine: what it asks, and what it makes of the answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import UsageError
from reason.types import Path, Problem, Scored, Step, Thinking, Trajectory
from reason.verifiers.judge import Judge

PROMPT = "<user>what is 3 * 4?<assistant>"
QUESTION = "<user>sure?<assistant>"
JUDGE = Judge(question="sure?", yes=("Y",), no=("N",))


def trajectory(*steps: str) -> Trajectory:
    encode = ByteCodec().encode
    return Trajectory(
        problem=Problem(content="what is 3 * 4?"),
        prompt=encode(PROMPT),
        steps=tuple(Step(text=text, tokens=encode(text)) for text in steps),
    )


class Watched(ScriptedEngine):
    """Keeps what it was asked to score."""

    def __init__(self, **options: Any) -> None:
        super().__init__(["x"], **options)
        self.asked: list[str] = []

    async def score(
        self,
        paths: Sequence[Path],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        self.asked += [self.codec.decode(path[:start]) + "|" + self.codec.decode(path[start:]) for path in paths]
        return await super().score(paths, start, logprobs=logprobs, layers=layers, owner=owner)


async def test_the_question_comes_after_the_steps() -> None:
    engine = Watched()
    assert await JUDGE.score([trajectory("one\n", "two\n")], engine, "p") == [0.5]
    assert engine.asked == [PROMPT + "one\ntwo\n" + QUESTION + "|" + word for word in "YN"]
    assert engine.usage("p").verifier_tokens == 2


async def test_the_score_is_a_ratio_of_probabilities() -> None:
    values = {"Y": 0.3, "y": 0.15, "N": 0.05, "n": 0.1}
    engine = Watched(logprob=lambda prefix, token: math.log(values[token]))
    judge = Judge(question="sure?", yes=("Y", "y", "Y"), no=("N", "n", "No"))
    (score,) = await judge.score([trajectory("one\n")], engine, "p")
    assert score == pytest.approx(0.45 / 0.6)
    assert [text[-1] for text in engine.asked] == ["Y", "y", "N", "n"]  # each token once, no words of several


async def test_words_of_several_tokens() -> None:
    def logprob(prefix: str, token: str) -> float:
        return math.log({"Y": 0.5, "e": 0.5, "s": 0.8, "N": 0.2, "o": 0.5}[token])

    engine = Watched(logprob=logprob)
    (score,) = await Judge().score([trajectory("one\n")], engine, "p")
    assert score == pytest.approx(0.2 / 0.3)
    assert [text.rpartition("|")[2] for text in engine.asked] == ["Yes", "No"]


async def test_a_right_solution_is_above_a_wrong_one_whoever_is_beside_it() -> None:
    def logprob(prefix: str, token: str) -> float:
        right = "= 12" in prefix
        return math.log(0.7 if (token == "Y") == right else 0.1)

    engine = Watched(logprob=logprob)
    right, wrong = trajectory("3 * 4 ", "= 12\n"), trajectory("3 * 4 = 34\n")
    both = await JUDGE.score([wrong, right, wrong], engine, "p")
    assert both == pytest.approx([0.125, 0.875, 0.125])
    alone = [(await JUDGE.score([one], engine, "p"))[0] for one in (wrong, right)]
    assert alone == both[:2]
    assert await JUDGE.score([], engine, "p") == []


@pytest.mark.parametrize(
    ("yes", "no", "expected"),
    [(-math.inf, -math.inf, 0.5), (-1.0, -math.inf, 1.0), (-math.inf, -1.0, 0.0), (-1e6, -1e6, 0.5), (-1e5, 0.0, 0.0)],
)
async def test_certainty_is_finite(yes: float, no: float, expected: float) -> None:
    engine = Watched(logprob=lambda prefix, token: yes if token == "Y" else no)
    assert await JUDGE.score([trajectory("one")], engine, "p") == [pytest.approx(expected)]


async def test_a_turn_that_has_ended_is_not_ended_again() -> None:
    engine = Watched()
    await JUDGE.score([trajectory("done<")], engine, "p")  # a turn begins with "<" in bytes
    assert engine.asked[0] == PROMPT + "done" + QUESTION + "|Y"


@pytest.mark.parametrize(
    ("start", "asked"),
    [
        ("{", QUESTION + "{\n\n}\n\n|Y"),
        ("t>", QUESTION + "\n\n}\n\n|Y"),  # as if the template opened the thinking: "<assistant>" ends so
    ],
)
async def test_a_model_that_thinks_is_not_let_to(start: str, asked: str) -> None:
    engine = Watched(thinking=Thinking(start=start, end="}", end_token=ord("}")))
    await JUDGE.score([trajectory("one\n")], engine, "p")
    assert engine.asked[0] == PROMPT + "one\n" + asked


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": " "}, "question must not be empty"),
        ({"yes": ()}, "yes must be at least one spelling"),
        ({"no": "No"}, "no must be at least one spelling, none of them empty, got 'No'"),
        ({"no": ("No", "")}, "no must be at least one spelling"),
    ],
)
def test_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Judge(**fields)


async def test_yes_and_no_must_differ() -> None:
    with pytest.raises(UsageError, match="yes and no must differ"):
        await Judge(yes=("Y",), no=("Y", "N")).score([trajectory("one")], Watched(), "p")

"""The value prompt on a scripted engine: what it asks, and what it makes of the answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import EngineError, UsageError
from reason.tasks.game24 import SameExpression
from reason.types import Completion, Problem, Request, Step, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.value_prompt import ValuePrompt

PROBLEM = Problem(content="what is 3 * 4?")


def trajectory(
    *steps: str, finished: bool = False, problem: Problem = PROBLEM, answer: str | None = None
) -> Trajectory:
    encode = ByteCodec().encode
    return Trajectory(
        problem=problem,
        prompt=encode("<user>what is 3 * 4?<assistant>"),
        steps=tuple(Step(text=text, tokens=encode(text)) for text in steps),
        finished=finished,
        answer=answer,
    )


class Watched(ScriptedEngine):
    """Keeps what it was asked to write."""

    def __init__(self, script: Any, *, late: bool = False) -> None:
        super().__init__(script)
        self.asked: list[Request] = []
        self._late = late

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        self.asked += requests
        done = [completion async for completion in super().generate(requests)]
        for completion in reversed(done) if self._late else done:
            yield completion


async def test_the_score_is_a_sum_over_answers() -> None:
    engine = Watched(["sure", "It is\nlikely", "impossible"])
    assert await ValuePrompt().score([trajectory("one\n\n", "two\n\n")], engine, "p") == [21.001]
    (text,) = {engine.codec.decode(request.prefix) for request in engine.asked}
    assert "what is 3 * 4?" in text
    assert "1. one\n2. two\n" in text
    assert engine.usage("p").calls == 3
    assert engine.usage("p").policy_tokens == len("sureIt is\nlikelyimpossible")
    assert await ValuePrompt(num_values=1).score([trajectory("one"), trajectory("two")], Watched(["no idea"]), "p") == [
        0,
        0,
    ]
    assert await ValuePrompt().score([], engine, "p") == []


async def test_a_whole_solution_is_asked_about_in_other_words() -> None:
    engine = Watched(["sure"])
    await ValuePrompt(num_values=1).score([trajectory("It is ", "12.", finished=True, answer="12")], engine, "p")
    assert "A solution:\nIt is 12.\n\nIs its final" in engine.codec.decode(engine.asked[0].prefix).replace(
        "the final answer of this solution", "its final"
    )


async def test_the_game_of_24_has_prompts_of_its_own() -> None:
    puzzle = Problem(content="4, 5, 6, 10", equivalent=SameExpression((4, 5, 6, 10)))
    given = [
        trajectory("4 * 5 = 20 (left: 6 10 20)", problem=puzzle),
        trajectory("x", problem=puzzle, finished=True, answer="4 * 5 + 10 - 6"),
        trajectory("4 * 5 = 20, which leaves 6, 10 and 20.", problem=puzzle),
    ]
    engine = Watched(["sure"])
    await ValuePrompt(num_values=1).score(given, engine, "p")
    ends = [engine.codec.decode(request.prefix).removesuffix("<assistant>") for request in engine.asked]
    assert ends[0].endswith("\nNumbers: 6 10 20")
    assert ends[1].endswith("\nNumbers: 4 5 6 10\nExpression: 4 * 5 + 10 - 6")
    assert "which leaves 6, 10 and 20.\n\nCan these steps lead" in ends[2]
    engine.asked.clear()
    await ValuePrompt(num_values=1, prompts="general").score(given[:1], engine, "p")
    assert "Can these steps lead" in engine.codec.decode(engine.asked[0].prefix)


async def test_a_right_step_is_above_a_wrong_one_whoever_is_beside_it() -> None:
    def script(prefix: str) -> list[str]:
        return ["sure", "likely"] if "= 12" in prefix else ["impossible", "likely"]

    right, wrong = trajectory("3 * 4 = 12\n\n"), trajectory("3 * 4 = 34\n\n")
    verifier = ValuePrompt(num_values=2)
    together = Watched(script, late=True)
    scores = await verifier.score([wrong, right, wrong], together, "p")
    assert scores == [1.001, 21.0, 1.001]
    alone = Watched(script)
    assert [(await verifier.score([one], alone, "p"))[0] for one in (wrong, right, wrong)] == scores
    noise = [[(request.seed, request.key, request.prefix) for request in engine.asked] for engine in (together, alone)]
    assert noise[0] == noise[1]
    assert len(set(noise[0])) == 4  # two questions, two answers to each
    assert len({request.seed for request in together.asked}) == 2


async def test_fields_reach_the_requests() -> None:
    engine = Watched(["sure"])
    verifier = make_verifier("value-prompt:num_values=2,temperature=0.1,max_tokens=9,prompts=general")
    await verifier.score([trajectory("one")], engine, "mine")
    assert [(r.sampling.temperature, r.max_tokens, r.owner, r.key) for r in engine.asked] == [
        (0.1, 9, "mine", 0),
        (0.1, 9, "mine", 1),
    ]


async def test_what_fails_is_said() -> None:
    def script(prefix: str) -> list[str]:
        raise RuntimeError("no more")

    with pytest.raises(EngineError, match="the value-prompt verifier got no answer: no more"):
        await ValuePrompt().score([trajectory("one")], Watched(script), "p")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_values": 0}, "num_values must be at least 1, got 0"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"prompts": "chess"}, "prompts must be one of auto, general, game24, got 'chess'"),
    ],
)
def test_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ValuePrompt(**fields)

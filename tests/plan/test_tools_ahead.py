"""Calls ahead of time change no answer, and nothing else: a guess that is right is not made twice, one that is wrong is
dropped."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.plan import SpecEyes, ToolsAhead
from reason.route import RoutedEngine, make_router
from reason.types import Budget, Completion, Problem, Request, Solution
from reason.verifiers.tools import Call, Toolbox, Tools

pytestmark = pytest.mark.usefixtures("isolation")

PROBLEM = Problem(content="What is 17 times 23?", passages=("The Seine flows through Paris.",))
AGENT = {
    "<assistant>": ["Well: <calc>17 * 23</calc>"],
    "391\n</output>\n": ["and <calc>391 + 9</calc>"],
    "400\n</output>\n": ["\\boxed{400}"],
}
RIGHT = {
    "<assistant>": ["<calc>17 * 23</calc>"],
    "391\n</output>\n": ["<calc>391 + 9</calc>"],
    "400\n</output>\n": ["x"],
}
WRONG = {
    "<assistant>": ["<calc>17 + 23</calc>"],
    "391\n</output>\n": ["I give up"],
    "400\n</output>\n": ["<calc>0</calc>"],
}


class Counting(Toolbox):
    """Keeps what was really done, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    async def _make(self, call: Call, passages: tuple[str, ...]) -> str:
        self.done.append(call.argument)
        return await super()._make(call, passages)


def solve(small: Any, *, ahead: bool, delay: float = 0.005, budget: Budget | None = None) -> tuple[Solution, Counting]:
    box = Counting()
    tools = Tools()
    tools.__dict__["toolbox"] = box
    engine = RoutedEngine(ScriptedEngine(small), ScriptedEngine(AGENT, delay=delay), make_router("always"))
    plan = SpecEyes(gate="logprob", threshold=2.0, max_tokens=1, ahead=ahead)  # the quick answer never passes
    with Solver(engine=engine, plan=plan) as solver:
        solution = solver.solve(PROBLEM, "tool-agent", verifiers={"tools": tools}, budget=budget)
    return solution, box


@pytest.mark.parametrize("small", [RIGHT, WRONG], ids=["right", "wrong"])
def test_no_answer_changes(small: dict[str, list[str]]) -> None:
    plain, made = solve(small, ahead=False)
    guessed, made_ahead = solve(small, ahead=True)
    assert (plain.answer, plain.text) == (guessed.answer, guessed.text) == ("400", plain.text)
    assert made.done == ["17 * 23", "391 + 9"]
    assert set(made.done) <= set(made_ahead.done)
    assert len(made_ahead.done) == len(set(made_ahead.done)), "no call is made twice"


def test_a_right_guess_is_used() -> None:
    solution, box = solve(RIGHT, ahead=True)
    assert box.done == ["17 * 23", "391 + 9"]
    assert (box.ahead, box.spared) == (2, 2)
    assert solution.usage.draft_model_tokens > 0


def test_a_wrong_guess_is_dropped() -> None:
    _, box = solve(WRONG, ahead=True)
    assert box.done[:1] == ["17 + 23"]
    assert {"17 * 23", "391 + 9"} <= set(box.done)
    assert box.spared == 0


def test_guesses_end_with_what_they_are_for() -> None:
    """A small model that never stops holds nothing up."""
    endless = lambda prefix: ["on and on " * 50]  # noqa: E731
    box = Counting()
    tools = Tools()
    tools.__dict__["toolbox"] = box
    small = ScriptedEngine(endless, delay=0.01)
    engine = RoutedEngine(small, ScriptedEngine(AGENT), make_router("always"))

    async def timed() -> Solution:
        with Solver(engine=engine, plan=SpecEyes(gate="logprob", threshold=2.0, max_tokens=1, ahead=True)) as solver:
            run = solver.start(PROBLEM, "tool-agent", verifiers={"tools": tools})
            return await asyncio.wait_for(run.solve(), 5)

    assert asyncio.run(timed()).answer == "400"


@pytest.mark.parametrize("limit", [30, 60, 120, 4000])
def test_a_budget_counts_guesses(limit: int) -> None:
    solution, _ = solve(RIGHT, ahead=True, budget=Budget(policy_tokens=limit))
    of_the_gate = 1
    assert solution.usage.policy_tokens <= limit + of_the_gate
    assert (solution.answer == "400") == (limit >= 120)


@pytest.mark.parametrize(("most", "guessed"), [(None, 12), (60, 12), (45, 5), (40, 0)])
def test_a_guess_has_what_a_budget_leaves_beside_the_turn(most: int | None, guessed: int) -> None:
    """The agent may write 40 tokens and writes 30; the small model would say 12."""
    small = ScriptedEngine(["x" * 12])
    engine = ToolsAhead(ScriptedEngine(["y" * 30], delay=0.002), small, Toolbox(), PROBLEM)

    async def write() -> Completion:
        asked = Request(prefix=(1,), max_tokens=40, max_generated=most, stop=("</calc>",), owner="o")
        (done,) = [completion async for completion in engine.generate([asked])]
        return done

    done = asyncio.run(write())
    assert (len(done.token_ids), done.discarded) == (30, guessed)
    assert engine.usage("o").policy_tokens == 30 + guessed
    assert engine.generated_per_token == 2

"""The agent's loop on a scripted model: calls, answers, limits, and going on from a journal."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.types import Problem, Solution

pytestmark = pytest.mark.usefixtures("isolation")

SCRIPT = {
    "<assistant>": ["First: <calc>17 * 23</calc>"],
    "<output>\n391\n</output>\n": ["Then <search>Paris</search>"],
    "Paris.\n</output>\n": ["So it is \\boxed{391}."],
}
PROBLEM = Problem(content="What is 17 times 23?", passages=("The Seine flows through Paris.",))


def solve(script: Any, problem: Problem = PROBLEM, **fields: Any) -> Solution:
    with Solver(engine=ScriptedEngine(script)) as solver:
        return solver.solve(problem, "tool-agent", **fields)


def test_call_observe_answer() -> None:
    solution = solve(SCRIPT)
    assert solution.answer == "391"
    assert solution.text == (
        "First: <calc>17 * 23</calc>\n<output>\n391\n</output>\nThen <search>Paris</search>\n<output>\n"
        "[1] The Seine flows through Paris.\n</output>\nSo it is \\boxed{391}."
    )
    assert solution.usage.calls == 3


def test_what_there_is_to_call() -> None:
    asked: list[str] = []

    def script(prefix: str) -> list[str]:
        asked.append(prefix)
        return ["\\boxed{1}"]

    solve(script)
    solve(script, Problem(content="What is 1?"))
    assert "<search>" in asked[0]
    assert "<search>" not in asked[1]
    assert asked[1].rstrip().endswith("<assistant>")
    assert "What is 1?" in asked[1].rpartition("<user>")[2]
    assert "\\boxed{650}" in asked[1].partition("<assistant>")[2], "an example, as a turn of its own"


def test_calls_run_out() -> None:
    def script(prefix: str) -> list[str]:
        if prefix.endswith("\\boxed{"):
            return ["391}.\nand more"]
        return [f"Once more: <calc>{prefix.count('<output>')} + 1</calc>"]

    solution = solve(script, max_calls=3)
    assert solution.answer == "391"
    assert solution.text.count("<output>") == 3, "the fourth call is not answered, and nothing but the answer follows"
    assert solution.usage.calls == 5
    assert solve(script, max_calls=0).text.count("<output>") == 0


def test_half_a_call_is_not_made() -> None:
    whole = "<calc>12 * 345</calc>"

    def script(prefix: str) -> list[str]:
        written = prefix.rpartition("<assistant>")[2]
        return ["\\boxed{4140}"] if "4140" in written else [whole[len(written) :]]

    solution = solve(script, turn_tokens=12)
    assert solution.text.startswith(whole + "\n<output>\n4140\n")
    assert solution.answer == "4140"


def test_a_call_that_just_fits_is_made() -> None:
    call = "<calc>17 * 23</calc>"

    def script(prefix: str) -> list[str]:
        written = prefix.rpartition("<assistant>")[2]
        return ["\\boxed{391}"] if "<output>" in written else [f"{call} and more"[len(written) :]]

    for turn_tokens in (len(call), len(call) + 1):
        assert solve(script, turn_tokens=turn_tokens).answer == "391"


def test_a_turn_that_is_too_long_goes_on() -> None:
    whole = "It is a long way to \\boxed{391}."

    def script(prefix: str) -> list[str]:
        written = prefix.rpartition("<assistant>")[2]
        return ["17}"] if written.endswith("The final answer is \\boxed{") else [whole[len(written) :]]

    solution = solve(script, turn_tokens=10)
    assert (solution.answer, solution.text) == ("391", whole)
    assert solve(script, turn_tokens=10, max_tokens=20).answer == "17", "closed where its tokens run out"


def test_agents_side_by_side_vote() -> None:
    def script(prefix: str) -> list[str]:
        if "<output>" in prefix.rpartition("<assistant>")[2]:
            return ["\\boxed{2}"]
        return ["<calc>1 + 1</calc>", "\\boxed{3}", "<calc>1 + 1</calc>"]

    solution = solve(script, num_samples=3)
    assert (solution.answer, round(solution.confidence, 2)) == ("2", 0.67)


def test_python_runs_in_the_sandbox() -> None:
    script = {
        "<assistant>": ["<python>print(sum(range(11)))</python>"],
        "55\n</output>\n": ["\\boxed{55}"],
    }
    assert solve(script).answer == "55"


def test_a_resumed_run_makes_no_call_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reason.verifiers.tools import Toolbox

    journal = tmp_path / "run.jsonl"

    def once() -> Solution:
        with Solver(engine=ScriptedEngine(SCRIPT)) as solver:
            return asyncio.run(solver.start(PROBLEM, "tool-agent", journal=journal).solve())

    first = once()

    async def refused(*given: Any) -> str:
        raise AssertionError("a call was made again")

    monkeypatch.setattr(Toolbox, "answer", refused)
    assert once().text == first.text

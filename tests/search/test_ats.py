"""Autonomous tree search: what the model is shown, and which answers count."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from reason.errors import UsageError
from reason.search.strategies import ats
from reason.search.strategies.ats import AutonomousTreeSearch
from reason.search.tree import ROOT, Expand, Node, Room, Tree
from reason.tasks.game24 import evaluate
from reason.types import Message, Problem

if TYPE_CHECKING:
    from tests.search.conftest import WatchedEngine

Solve = Callable[..., Any]


def asked(strategy: AutonomousTreeSearch, problem: Problem) -> tuple[Message, ...]:
    """The messages of the one expansion that it asks for."""
    tree = Tree(problem, [Node(id=ROOT, parent=None, finish_reason="step")])
    (action,) = strategy.ask(tree, Room(8))
    assert isinstance(action, Expand)
    assert isinstance(action.prompt, tuple)
    assert (action.node, action.until, action.aside) == (ROOT, "end", False)
    return action.prompt


@pytest.mark.parametrize("search", ["bfs", "dfs"])
@pytest.mark.parametrize("few_shot", [0, 1, 2])
def test_each_problem_is_followed_by_the_instruction(search: Any, few_shot: int) -> None:
    prompt = asked(AutonomousTreeSearch(search=search, few_shot=few_shot), Problem(content="How many?"))
    assert [message["role"] for message in prompt] == ["user", "assistant"] * few_shot + ["user"]
    instruction = f"Solve the problem by a {'breadth' if search == 'bfs' else 'depth'}-first search that you write down"
    assert all(f"}}.\n\n{instruction}" in message["content"] for message in prompt[::2])
    assert prompt[-1]["content"].startswith("How many?\nPlease reason step by step")
    assert all(message["content"].endswith("}.") for message in prompt[1::2])


def test_the_problems_own_turns_stay() -> None:
    content = (Message(role="system", content="Be brief."), Message(role="user", content="How many?"))
    prompt = asked(AutonomousTreeSearch(), Problem(content=content))
    assert prompt[0] == content[0]
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert prompt[-1]["content"].startswith("How many?\n\nSolve the problem by")


def test_the_last_conclusion_counts_and_a_search_without_one_abstains(
    solve: Solve, watched: type[WatchedEngine]
) -> None:
    texts = [
        "1: 4\n2: 5\n1.1: 8",
        "1: 4\nThe answer is 4.\n(revised) 1: 5\nThe answer is 5.",
        "1: 4\n1.1: 8, a dead end",
        "**Answer:** 5",
        "1: 8\n1.1: 8",
    ]
    solution = solve(watched(texts), AutonomousTreeSearch(num_samples=5), problem=Problem(content="How many?"))
    assert (solution.answer, solution.confidence) == ("5", pytest.approx(2 / 5))
    assert solution.text in texts
    assert len(solution.candidates) == 5
    assert solution.usage.calls == 5
    nothing = solve(watched(texts[:1]), AutonomousTreeSearch(), problem=Problem(content="How many?"))
    assert (nothing.answer, nothing.confidence) == (None, 0.0)


@pytest.mark.parametrize(
    ("line", "counts"),
    [
        ("The answer is 4.", True),
        ("So the final answer is 4", True),
        ("Therefore, the answer: 4", True),
        ("### Final Answer: 4", True),
        ("Solution: 4", True),
        (r"It is \boxed{4}", True),
        ("2.1: 4 answers no question", False),
        ("Level 3", False),
    ],
)
def test_what_looks_like_a_conclusion(line: str, counts: bool) -> None:
    assert bool(ats._CONCLUSION.search(f"1: 4\n{line}\n")) is counts


def test_failures_do_not_vote(solve: Solve, watched: type[WatchedEngine]) -> None:
    texts = ["The answer is 4", "The answer is 5", "The answer is 5"]
    engine = watched(texts, failing=[2])
    solution = solve(engine, AutonomousTreeSearch(num_samples=3), problem=Problem(content="How many?"))
    assert (solution.answer, solution.confidence) == ("4", 0.5)


def test_fields() -> None:
    with pytest.raises(UsageError, match="few_shot must be at most 2, got 3"):
        AutonomousTreeSearch(few_shot=3)
    with pytest.raises(UsageError, match="few_shot must be at least 0"):
        AutonomousTreeSearch(few_shot=-1)
    with pytest.raises(UsageError, match="search must be one of bfs, dfs"):
        AutonomousTreeSearch(search="best")  # type: ignore[arg-type]


def test_the_worked_examples_are_right() -> None:
    for example in (example for examples in ats._WORKED.values() for example in examples):
        for line in example.solution.splitlines():
            for left, right in re.findall(r": ([\d+*\- ]+) = (\d+)", line):
                found = evaluate(left)
                assert found is not None
                assert found.value == int(right), line
        goal = next(line for line in example.solution.splitlines() if "the goal" in line and "not the goal" not in line)
        target = re.search(r"lead to (\d+)|Make (\d+)", example.problem)
        assert target is not None
        assert f"= {target[1] or target[2]}, the goal" in goal


def test_breadth_first_examples_number_their_states() -> None:
    for example in ats._WORKED["bfs"]:
        states = re.findall(r"^([\d.]+):", example.solution, re.MULTILINE)
        assert len(set(states)) == len(states)
        assert all(state.rpartition(".")[0] in {"", *states} for state in states)
        depths = [state.count(".") for state in states]
        assert depths == sorted(depths)

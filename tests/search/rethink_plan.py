"""Planned thoughts and programs: what a model says to RethinkMCTS, and what its programs score."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reason.engine.scripted import ScriptedEngine
from reason.search.tree import Node, Tree
from reason.types import Engine, Message, Problem, Review, Solution, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

VERIFIER = "public-tests"
PROBLEM = Problem(
    content=(Message(role="user", content="Write f, in a block."),),
    question="Write f.",
    tests=("assert f() == 1",),
    extract=lambda text: text if text.startswith("def") else None,
    equivalent=lambda a, b: a == b,
    closing="",
)


@dataclass(frozen=True)
class Plan:
    """What the model says, by the thoughts so far, "a.b"; and what its programs score.

    Args:
        lists: the thoughts that are listed next.
        rethought: what stands in the last thought's place.
        scores: of programs; 0 where it says nothing.
        evaluations: what the model says of programs that pass.
        failing: requests that end with an error: "list a", "program a.b", "rethink a", "evaluate a".
    """

    lists: Mapping[str, str] = field(default_factory=dict)
    rethought: Mapping[str, str] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    evaluations: Mapping[str, str] = field(default_factory=dict)
    failing: Sequence[str] = ()

    def says(self, prefix: str) -> list[str]:
        request = request_of(prefix)
        if request in self.failing:
            raise RuntimeError("on purpose")
        kind, _, path = request.partition(" ")
        if kind == "list":
            return [self.lists.get(path, "1. x [0.5]\n2. y [0.5]")]
        if kind == "rethink":
            return [self.rethought.get(path, f"Rather {path.replace('.', ' ')} again.")]
        if kind == "evaluate":
            return [self.evaluations.get(path, "Score: 0")]
        return [f"def {path}"]


def request_of(prefix: str) -> str:
    """What a prompt asks for, and about which thoughts."""
    turn = prefix.rpartition("<user>")[2]
    listed = re.search(r"(?:Thoughts so far|Follow these thoughts):\n((?:\d+\. .*\n?)*)", turn)
    path = ".".join(re.findall(r"^\d+\. (.*?)(?:<assistant>)?$", listed[1] if listed else "", re.MULTILINE))
    if "to take the place of the last" in turn:
        return f"rethink {path}"
    if "Give" in turn:
        return f"list {path}"
    if "Score: N" in turn:
        return f"evaluate {re.findall(r'<assistant>def (.*)<user>', prefix)[-1]}"
    return f"program {path}"


@dataclass(frozen=True)
class Planned:
    """Scores as planned, and says something of each program."""

    plan: Plan
    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        raise AssertionError("it can say why")

    async def review(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[Review]:
        scores = [self.plan.scores.get(each.text.removeprefix("def "), 0.0) for each in trajectories]
        said = [f"feedback on {each.text}" for each in trajectories]
        return [Review(score, "" if score == 1 else text) for score, text in zip(scores, said, strict=True)]


@dataclass
class Played:
    solution: Solution
    tree: Tree
    prompts: list[str]

    @property
    def requests(self) -> list[str]:
        return [request_of(prompt) for prompt in self.prompts]

    @property
    def programs(self) -> list[str]:
        return [node.text.removeprefix("def ") for node in self.tree.nodes[1:] if not node.aside]

    def program(self, path: str) -> Node:
        return next(node for node in self.tree.nodes[1:] if node.text == f"def {path}")


def play(make_run: MakeRun, plan: Plan, strategy: Any, **options: Any) -> Played:
    prompts: list[str] = []

    class Watched(ScriptedEngine):
        async def generate(self, requests: Any) -> Any:
            prompts.extend(self.codec.decode(request.prefix) for request in requests)
            async for completion in super().generate(requests):
                yield completion

    options = {"problem": PROBLEM, "verifiers": {VERIFIER: Planned(plan)}, **options}
    run = make_run(Watched(plan.says), strategy, **options)
    solution = asyncio.run(asyncio.wait_for(run.solve(), 20))
    return Played(solution, run.tree, prompts)

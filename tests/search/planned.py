"""Planned trees: what each path goes on with, written as text.

A plan maps a path, "a1.b", to the steps below it in the order asked for: "c .4" is a step named c, "=3 .4" a solution
that answers 3, "= .4" one that answers nothing, "fails" a sample that fails. The number is its score. Where a plan says
nothing the step is "z .0".
"""

from __future__ import annotations

import asyncio
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reason.engine.scripted import ScriptedEngine
from reason.search.tree import ROOT, Node, NodeEnd, Strategy, Tree
from reason.types import Engine, Problem, Trajectory
from reason.verifiers.embeddings import AUTO_EMBEDDING

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

VERIFIER, EMBEDDER = "auto", AUTO_EMBEDDING


class PlannedEngine(ScriptedEngine):
    """Plays a plan."""

    def __init__(self, plan: Mapping[str, Sequence[str]]) -> None:
        asked: Counter[str] = Counter()

        def script(prefix: str) -> list[str]:
            steps = prefix.rpartition("<assistant>")[2].split("\n\n")[:-1]
            path = ".".join(step.split()[0] for step in steps)
            planned = plan.get(path, ())
            step = planned[asked[path]] if asked[path] < len(planned) else "z .0"
            asked[path] += 1
            if step == "fails":
                raise RuntimeError("on purpose")
            return [written(step)]

        super().__init__(script)


def written(step: str) -> str:
    if not step.startswith("="):
        return f"{step}\n\n"
    return re.sub(r"^=(\S*)", lambda found: rf"\boxed{{{found[1]}}}" if found[1] else "hm", step)


@dataclass(frozen=True)
class LastNumber:
    """Scores a step by the number it ends with."""

    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [float(trajectory.steps[-1].text.split()[-1]) for trajectory in trajectories]


@dataclass(frozen=True)
class FirstLetter:
    """Embeds a step by its first letter: a at 0 degrees, b at 20, and so on; the cosine distance of neighbours is
    .06, of the next but one .23."""

    name: str = EMBEDDER
    same_distance: float | None = 0.01

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        angles = [math.radians(20 * (ord(each.steps[-1].text[0]) - ord("a"))) for each in trajectories]
        return [(math.cos(angle), math.sin(angle)) for angle in angles]


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return found and found[1]


BOXED = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)


def play(make_run: MakeRun, strategy: Strategy, plan: Mapping[str, Sequence[str]], **options: Any) -> Any:
    """The solution of a planned search, its tree, and the requests that it made."""
    requests = []

    class Watched(PlannedEngine):
        async def generate(self, asked: Any) -> Any:
            requests.extend(asked)
            async for completion in super().generate(asked):
                yield completion

    options.setdefault("verifiers", {VERIFIER: LastNumber(), EMBEDDER: FirstLetter()})
    run = make_run(Watched(plan), strategy, problem=BOXED, **options)
    solution = asyncio.run(asyncio.wait_for(run.solve(), 10))
    return solution, run.tree, requests


def names(tree: Tree, nodes: Sequence[int] | None = None) -> list[str]:
    """What nodes say first, by default all below the root."""
    found = tree.nodes[1:] if nodes is None else [tree[node] for node in nodes]
    return [node.text.split()[0].replace("\\boxed{", "=").replace("}", "") if node.text else "-" for node in found]


def expanded(tree: Tree) -> list[str]:
    """The nodes that were expanded, in that order."""
    order = dict.fromkeys(node.parent for node in tree.nodes[1:] if node.parent is not None)
    return ["" if node == ROOT else names(tree, [node])[0] for node in order]


def grown(*nodes: tuple[int, str, NodeEnd | None], scores: Sequence[float | None] = ()) -> Tree:
    """A tree by hand: of each node below the root its parent, its text and how it ended."""
    tree = Tree(Problem(content="What?"), [Node(id=ROOT, parent=None, finish_reason="step", context=(1,))])
    for parent, text, end in nodes:
        tree.add(Node(id=len(tree), parent=parent, text=text, finish_reason=end, num_tokens=5))
        tree.nodes[-1].path_tokens = tree[parent].path_tokens + 5
    for node, score in enumerate(scores, start=1):
        if score is not None:
            tree[node].scores[VERIFIER] = (score,)
    return tree

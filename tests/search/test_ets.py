"""ETS on hand-made levels: what a branch's KV costs against what it is worth, what clusters keep, and where it is
REBASE."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.cost_model import best_leaves
from reason.search.strategies.ets import ETS
from reason.search.strategies.rebase import REBASE
from reason.search.tree import ROOT, Expand, Measure, Node, Room, Tree
from reason.types import Engine, Problem, Trajectory
from tests.search.planned import EMBEDDER, VERIFIER

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

PROMPT = (1, 2, 3)


class Level:
    """A tree with a level of candidates for ``strategy``, which is not told of it yet."""

    def __init__(self, strategy: REBASE) -> None:
        self.strategy: Any = strategy
        root = Node(id=ROOT, parent=None, context=PROMPT, finish_reason="step")
        self.tree = Tree(Problem(content="?"), [root])
        self._fresh = 100

    def parent(self, kept: int, tokens: int) -> int:
        """A step of the first level that got ``kept`` next steps."""
        node = self._add(ROOT, tokens, None)
        self.tree.note(node, kept=kept)
        return node

    def candidate(self, parent: int, score: float, tokens: int = 10, angle: float | None = None, like: int = 0) -> int:
        """A scored next step; ``like`` another one, word for word."""
        node = self._add(parent, tokens, like or None)
        self.tree[node].scores[VERIFIER] = (score,)
        if angle is not None:
            vector = np.array([math.cos(angle), math.sin(angle)], dtype="<f2")
            self.tree[node].embeddings[EMBEDDER] = vector.tobytes()
        return node

    def _add(self, parent: int, tokens: int, like: int | None) -> int:
        context = self.tree[parent].context + tuple(range(self._fresh, self._fresh + tokens))
        text = f"step {self._fresh}"
        self._fresh += tokens
        if like is not None:
            context, text = self.tree[like].context, self.tree[like].text
        self.tree.add(Node(id=len(self.tree), parent=parent, context=context, text=text, finish_reason="step"))
        return len(self.tree) - 1

    def told(self) -> dict[int, int]:
        """What each candidate is allocated; those that are pruned are not in it."""
        self.strategy.tell(self.tree, range(1, len(self.tree)))
        deepest = [node for node in self.tree.nodes if node.depth == max(n.depth for n in self.tree.nodes)]
        assert all(("kept" in node.notes) != ("pruned" in node.notes) for node in deepest)
        return {node.id: node.notes["kept"] for node in deepest if "kept" in node.notes}


def branches(strategy: REBASE) -> Level:
    """Two short steps below a short one, a third below a long one; each is allocated one of three next steps."""
    level = Level(strategy)
    short, long = level.parent(2, 5), level.parent(1, 30)
    level.candidate(short, 0.6, 5)
    level.candidate(short, 0.6, 5)
    level.candidate(long, 0.5, 5)
    return level


PLAIN = ETS(width=3, kv_weight=1.0, diversity_weight=0.0, node_cost="tokens")


def test_a_branch_that_costs_more_than_it_is_worth_is_pruned() -> None:
    """The long branch holds 35 of 50 tokens and is worth a third; the whole width goes to the others."""
    assert branches(REBASE(width=3)).told() == {3: 1, 4: 1, 5: 1}
    assert branches(PLAIN).told() == {3: 2, 4: 1}
    assert branches(replace(PLAIN, kv_weight=0.47)).told() == {3: 1, 4: 1, 5: 1}  # 0.7 * 0.47 < 1/3
    assert branches(replace(PLAIN, kv_weight=0.48)).told() == {3: 2, 4: 1}


def test_nodes_cost_the_same_if_told_so() -> None:
    """Of six nodes, the root's among them, the third's branch is two: worth its price up to kv_weight 1."""
    uniform = replace(PLAIN, node_cost="uniform")
    assert branches(uniform).told() == {3: 1, 4: 1, 5: 1}
    assert branches(replace(uniform, kv_weight=1.01)).told() == {3: 2, 4: 1}


def test_what_is_decided_is_noted() -> None:
    level = branches(PLAIN)
    level.told()
    assert [level.tree[node].notes["weight"] for node in (3, 4, 5)] == pytest.approx([1 / 3] * 3)
    (program,) = level.tree[ROOT].notes["programs"]
    assert program == {"depth": 2, "candidates": 3, "worth": 2, "objective": pytest.approx(2 / 3 - 15 / 50)}


def test_the_prompt_costs_nothing() -> None:
    level = branches(PLAIN)
    program = level.strategy.program(level.tree, level.tree.nodes[3:], [1 / 3] * 3)
    costs = {(first, second): round(2 / 3 - program.value((first, second)), 6) for first, second in ((0, 1), (0, 2))}
    assert costs == {(0, 1): 15 / 50, (0, 2): 45 / 50}


def test_the_same_words_are_held_once() -> None:
    """Two equal steps of 20 tokens are worth 2/3 and hold 20 of 40; the third is worth 1/3 for as much."""

    def level(**fields: Any) -> Level:
        made = Level(replace(PLAIN, kv_weight=1.2, **fields))
        first = made.candidate(ROOT, 0.5, 20)
        made.candidate(ROOT, 0.5, 20, like=first)
        made.candidate(ROOT, 0.5, 20)
        return made

    assert level().told() == {1: 2, 2: 1}
    assert level(node_cost="uniform").told() == {1: 1, 2: 1, 3: 1}


# -- clusters ------------------------------------------------------------------------------------------------------


def four(**fields: Any) -> Level:
    """Four steps worth and costing a quarter each, the first two and the last two alike in meaning."""
    level = Level(ETS(width=4, distance=0.05, node_cost="tokens", **fields))
    for angle in (0.0, 0.1, 1.5, 1.4):
        level.candidate(ROOT, 0.5, angle=angle)
    return level


def test_of_each_cluster_one_is_kept() -> None:
    """At kv_weight 2 each loses a quarter and a cluster brings half of diversity_weight."""
    assert four(kv_weight=2.0, diversity_weight=0.6).told() == {1: 2, 3: 2}
    assert list(four(kv_weight=2.0, diversity_weight=0.4).told().values()) == [4]  # one has to be
    assert four(kv_weight=1.0, diversity_weight=0.6).told() == {1: 1, 2: 1, 3: 1, 4: 1}


def test_clusters_are_by_the_distance() -> None:
    level = four(kv_weight=2.0, diversity_weight=0.6)
    level.told()
    assert [level.tree[node].notes["cluster"] for node in (1, 2, 3, 4)] == [0, 0, 1, 1]
    wide = replace(level.strategy, distance=2.0)
    program = wide.program(level.tree, level.tree.nodes[1:], [0.25] * 4)
    assert set(program.clusters) == {0}
    assert program.bonus == 0.6
    assert len(best_leaves(program)) == 1


def test_a_cluster_does_not_outlive_a_price_that_is_too_high() -> None:
    """What a cluster is worth is shared by their number: with four of them nothing pays."""
    level = Level(ETS(width=4, distance=0.01, kv_weight=2.0, diversity_weight=0.6, node_cost="tokens"))
    for angle in (0.0, 0.4, 0.8, 1.2):
        level.candidate(ROOT, 0.5, angle=angle)
    assert list(level.told().values()) == [4]


def test_steps_are_embedded_where_it_matters() -> None:
    def asked(level: Level) -> list[str]:
        for node in level.tree.nodes[1:]:
            node.embeddings.clear()
        actions = level.strategy.ask(level.tree, Room(8))
        return [action.name for action in actions if isinstance(action, Measure)]

    assert asked(four()) == [EMBEDDER]
    for fields in ({"kv_weight": 0.0}, {"diversity_weight": 0.0}):
        assert asked(four(**fields)) == []
        assert four(**fields).strategy.measures == (VERIFIER,)
    same = Level(ETS(width=2, kv_weight=1.0))
    same.candidate(ROOT, 0.5, like=same.candidate(ROOT, 0.5))
    assert asked(same) == []
    assert same.told() == {1: 1, 2: 1}


def test_it_waits_for_embeddings() -> None:
    level = four(kv_weight=2.0)
    vector = level.tree[2].embeddings.pop(EMBEDDER)
    level.strategy.tell(level.tree, range(1, 5))
    assert not any("kept" in node.notes for node in level.tree.nodes)
    (measure,) = level.strategy.ask(level.tree, Room(8))
    assert measure == Measure(nodes=(2,), name=EMBEDDER)
    level.tree.measuring.add((2, EMBEDDER))
    assert level.strategy.ask(level.tree, Room(8)) == []
    level.tree[2].embeddings[EMBEDDER] = vector
    assert level.told() == {1: 2, 3: 2}


def test_what_gives_scores_is_no_embedder() -> None:
    level = four(embedder="mine")
    level.tree[1].scores["mine"] = (0.5,)
    with pytest.raises(UsageError, match="'mine' gave scores, not vectors: it is no embedder"):
        level.told()


# -- whole searches ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LastDigit:
    """Scores a step by its last digit."""

    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [int(trajectory.steps[-1].text.strip()[-1]) / 10 for trajectory in trajectories]


@dataclass(frozen=True)
class FirstLetter:
    """Embeds a step by its first letter."""

    name: str = EMBEDDER

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        return [[float(letter == trajectory.steps[-1].text[0]) for letter in "abc"] for trajectory in trajectories]


def written(prefix: str) -> list[str]:
    """Steps in the order asked for anywhere; after three of them the answer."""
    if prefix.count("\n\n") == 3:
        return [f"so {letter} 5" for letter in "xyz"]
    return [f"{letter}{' and on' * length} {digit}\n\n" for letter, length, digit in WRITTEN]


WRITTEN = [("a", 0, 5), ("b", 3, 6), ("a", 1, 6), ("c", 9, 5), ("a", 0, 5), ("b", 2, 7), ("c", 0, 3)]
Search = Callable[[REBASE], Tree]


@pytest.fixture
def search(make_run: MakeRun) -> Search:
    def whole(strategy: REBASE) -> Tree:
        problem = Problem(content="What?", extract=lambda text: text[-3], equivalent=lambda a, b: a == b)
        measured = {VERIFIER: LastDigit(), EMBEDDER: FirstLetter()}
        verifiers = {name: measured[name] for name in strategy.measures}
        run = make_run(ScriptedEngine(written), strategy, verifiers=verifiers, problem=problem)
        solution = asyncio.run(asyncio.wait_for(run.solve(), 10))
        assert solution.stopped_by == "done"
        assert len(solution.candidates) == 12
        return run.tree

    return whole


def shape(tree: Tree) -> list[tuple[object, ...]]:
    return [(n.parent, n.text, n.notes.get("kept"), n.notes.get("pruned"), n.notes.get("score")) for n in tree.nodes]


def test_without_a_price_it_is_rebase(search: Search) -> None:
    """However much diversity is worth: all are kept, and a price of 0 is no bonus."""
    for rounding in ("round", "ceil"):
        plain = search(REBASE(width=12, rounding=rounding))
        for more in ({}, {"diversity_weight": 0.0}, {"node_cost": "uniform"}):
            assert shape(search(ETS(width=12, rounding=rounding, kv_weight=0.0, **more))) == shape(plain)


def test_with_one_it_holds_less(search: Search) -> None:
    def held(tree: Tree) -> int:
        kept = [node.id for node in tree.nodes if node.depth and "kept" in node.notes]
        return len({tree[node].context[:end] for node in kept for end in range(len(tree[node].context))})

    sizes = [held(search(ETS(width=12, kv_weight=price, distance=0.5))) for price in (0.0, 2.0, 6.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2]


def test_the_width_left_is_shared_by_the_survivors(search: Search) -> None:
    tree = search(ETS(width=12, kv_weight=4.0, distance=0.5))
    for depth in (1, 2, 3):
        level = [node for node in tree.nodes if node.depth == depth]
        assert sum(node.notes.get("kept", 0) for node in level) == len(level) == 12
        assert any("pruned" in node.notes for node in level)


def test_a_move_at_a_time() -> None:
    strategy = ETS(width=4)
    tree = Level(strategy).tree
    (asked,) = strategy.ask(tree, Room(4))
    assert isinstance(asked, Expand)
    assert (asked.node, asked.num_samples) == (ROOT, 4)


# -- fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kv_weight": -1.0}, "kv_weight must be at least 0, got -1.0"),
        ({"diversity_weight": -0.1}, "diversity_weight must be at least 0, got -0.1"),
        ({"distance": 3.0}, r"distance must be in \[0, 2\], got 3.0"),
        ({"embedder": "self-certainty"}, "self-certainty scores steps; embedders are hidden"),
        ({"node_cost": "bytes"}, "node_cost must be one of uniform, tokens"),
        ({"solver": "glpk"}, "solver must be one of highs, cbc"),
        ({"width": 0}, "width must be at least 1, got 0"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ETS(**fields)


def test_an_embedder_of_ones_own() -> None:
    assert ETS(embedder="mine").measures == (VERIFIER, "mine")
    assert ETS(embedder="mine", diversity_weight=0.0).measures == (VERIFIER,)

"""REBASE on hand-made trees: what is allocated, how the width shrinks, what rewards are."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UnknownName, UsageError
from reason.search.strategies import make_strategy
from reason.search.strategies.rebase import REBASE
from reason.search.tree import ROOT, Expand, Node, Room, Tree
from reason.types import Budget, Engine, Problem, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

VERIFIER = "auto"
NO_LIMITS = Budget()
Plan = Mapping[str, Sequence[str]]
Play = Callable[..., Any]  # a solution and its tree


def planned(plan: Plan) -> Callable[[str], list[str]]:
    """The steps below a path (its steps' first letters) in the order asked for; "=3 .5" ends a solution, the number is
    the score."""
    asked: Counter[str] = Counter()

    def script(prefix: str) -> list[str]:
        path = "".join(step[0] for step in prefix.rpartition("<assistant>")[2].split("\n\n")[:-1])
        step = plan[path][asked[path]]
        asked[path] += 1
        if step == "fails":
            raise RuntimeError("on purpose")
        return [re.sub(r"^=(\d)", r"\\boxed{\1}", step) + ("" if step.startswith("=") else "\n\n")]

    return script


@dataclass(frozen=True)
class LastNumber:
    """Scores a step by the number it ends with."""

    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [float(trajectory.steps[-1].text.split()[-1]) for trajectory in trajectories]


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return found and found[1]


@pytest.fixture
def play(make_run: MakeRun) -> Play:
    def whole(plan: Plan, *, max_in_flight: int = 64, budget: Budget = NO_LIMITS, **fields: Any) -> Any:
        problem = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)
        run = make_run(
            ScriptedEngine(planned(plan)),
            REBASE(**fields),
            verifiers={VERIFIER: LastNumber()},
            problem=problem,
            max_in_flight=max_in_flight,
            budget=budget,
        )
        return asyncio.run(asyncio.wait_for(run.solve(), 10)), run.tree

    return whole


def marked(tree: Tree, note: str) -> dict[str, Any]:
    """Which paths have a note, and its value."""
    named = {node.id: "".join(step.text[:1] for step in tree.path(node.id)) for node in tree.nodes}
    return {named[node.id]: node.notes[note] for node in tree.nodes if note in node.notes}


def scored(*scores: float, width: int | None = None, **fields: Any) -> Tree:
    """One level of open candidates with these scores, and the strategy told of it."""
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    strategy = REBASE(width=width or len(scores), **fields)
    for score in scores:
        node = Node(id=len(tree), parent=ROOT, text=f"{score}\n\n", finish_reason="step")
        tree.add(node)
        node.scores[VERIFIER] = (score,)
    strategy.tell(tree, range(1, len(tree)))
    return tree


def kept(tree: Tree) -> list[int]:
    return [node.notes.get("kept", 0) for node in tree.nodes[1:]]


@pytest.mark.parametrize(
    ("scores", "rounding", "shares"),
    [
        # exp(R / .2) in proportion 1, .368, .135, .135: of four 2.44, .90, .33, .33
        ((0.9, 0.7, 0.5, 0.5), "ceil", [3, 1, 0, 0]),
        ((0.9, 0.7, 0.5, 0.5), "round", [3, 1, 0, 0]),
        # 1, .607, .607, .607: of four 1.42, .86, .86, .86
        ((0.8, 0.9, 0.8, 0.8), "ceil", [1, 2, 1, 0]),
        ((0.8, 0.9, 0.8, 0.8), "round", [1, 1, 1, 1]),
        ((0.3, 0.3, 0.3), "ceil", [1, 1, 1]),
    ],
)
def test_the_width_is_shared_out_by_reward(scores: Any, rounding: Any, shares: list[int]) -> None:
    tree = scored(*scores, rounding=rounding)
    assert kept(tree) == shares
    assert [bool(node.notes.get("pruned")) for node in tree.nodes[1:]] == [not share for share in shares]


def test_the_balance_temperature() -> None:
    assert kept(scored(0.9, 0.7, 0.5, 0.5, balance_temperature=100.0)) == [1, 1, 1, 1]
    assert kept(scored(0.9, 0.7, 0.5, 0.5, balance_temperature=0.01)) == [4, 0, 0, 0]


def test_each_gets_so_many_steps_and_finished_ones_take_their_share_of_the_width(play: Play) -> None:
    plan = {
        "": ["a .7", "=1 .9", "b .9", "=2 .2", "c .5"],  # three are left: 1.99, .73, .27
        "b": ["d .1", "e .6"],
        "a": ["=3 .3"],  # two are left: .15, 1.85
        "be": ["=4 .8", "f .6"],
        "bef": ["=4 .1"],
    }
    solution, tree = play(plan, width=5)
    assert marked(tree, "kept") == {"a": 1, "b": 2, "be": 2, "bef": 1}
    assert marked(tree, "pruned") == {"c": True, "bd": True}
    assert [sum(node.depth == depth for node in tree.nodes) for depth in (1, 2, 3, 4)] == [5, 3, 2, 1]
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "3", "4", "4"]
    assert solution.stopped_by == "done"
    assert (solution.answer, solution.confidence) == ("4", pytest.approx(0.9 / 2.3))  # .8 and .1, as 1 has .9


def test_all_solutions_vote_and_by_score(play: Play) -> None:
    plan = {"": ["=1 .4", "=2 .9", "=1 .3", "=3 .1", "=3 .1", "=3 .1"]}
    for select, answer in (("weighted", "2"), ("majority", "3"), ("best", "2")):
        assert play(plan, width=6, select=select)[0].answer == answer


def test_a_failed_sample_takes_its_place_with_it(play: Play) -> None:
    plan = {"": ["a .5", "fails", "b .5", "fails"], "a": ["=1 .5"], "b": ["fails"]}
    solution, tree = play(plan, width=4)
    assert marked(tree, "kept") == {"a": 1, "b": 1}
    assert (solution.answer, len(tree)) == ("1", 1 + 4 + 2)


def test_a_solution_cut_off_at_the_limit_has_ended(play: Play) -> None:
    plan = {
        "": ["aaaaa .5", "b .5", "=1 .5"],  # 10 tokens and 6; at most 25, and 15 a step
        "a": ["xxxxxxxxxxxx .3 and more"],
        "b": ["d .5"],
        "bd": ["=2 .5"],
    }
    solution, tree = play(plan, width=3, max_tokens=25, max_step_tokens=15)
    assert [node.finish_reason for node in tree.nodes if node.depth == 2] == ["length", "step"]
    assert marked(tree, "kept") == {"a": 1, "b": 1, "bd": 1}
    assert [candidate.answer for candidate in solution.candidates] == ["1", None, "2"]


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_narrow_room_changes_nothing(play: Play, room: int) -> None:
    plan = {
        "": ["a .7", "=1 .9", "b .9", "=2 .2", "c .5"],
        "b": ["d .1", "e .6"],
        "a": ["=3 .3"],
        "be": ["=4 .8", "f .6"],
        "bef": ["=4 .1"],
    }
    whole, wide = play(plan, width=5)
    narrow, tree = play(plan, width=5, max_in_flight=room)
    assert narrow.candidates == whole.candidates
    for note in ("kept", "pruned", "score"):
        assert marked(tree, note) == marked(wide, note)


def test_a_level_is_a_barrier() -> None:
    """Nothing is allocated while one of its steps is under way, or not scored."""
    strategy = REBASE(width=3)
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    (asked,) = strategy.ask(tree, Room(2))
    assert isinstance(asked, Expand)
    assert (asked.node, asked.num_samples, asked.until) == (ROOT, 3, "step")
    for place in (1, 2, 3):
        tree.add(Node(id=place, parent=ROOT, text="a", finish_reason="step" if place < 3 else None))
        tree[place].scores[VERIFIER] = (0.5,)
    strategy.tell(tree, [1, 2])
    assert strategy.ask(tree, Room(9)) == []
    tree[3].finish_reason = "step"
    tree[3].scores.clear()
    strategy.tell(tree, [3])
    (measure,) = strategy.ask(tree, Room(9))
    assert measure.nodes == (3,)  # type: ignore[union-attr]
    assert not any("kept" in node.notes for node in tree.nodes)
    tree[3].scores[VERIFIER] = (0.5,)
    strategy.tell(tree, [3])
    assert kept(tree) == [1, 1, 1]
    assert [action.node for action in strategy.ask(tree, Room(9)) if isinstance(action, Expand)] == [1, 2, 3]


# -- rewards of other units ----------------------------------------------------------------------------------------


def test_scores_that_are_no_probabilities_are_spread_over_the_unit_interval() -> None:
    """z = -1.34, -.45, .45, 1.34; Phi = .090, .327, .673, .910; exp(Phi / .2) in proportion .012, .039, .222, .727: of
    four 2.91 to the best. As they are, all goes there."""
    assert kept(scored(10.0, 12.0, 14.0, 16.0)) == [0, 0, 1, 3]
    assert kept(scored(10.0, 12.0, 14.0, 16.0, scale="none")) == [0, 0, 0, 4]
    assert kept(scored(-0.4, -0.3, -0.2, -0.1)) == [0, 0, 1, 3]  # the unit does not matter
    assert kept(scored(17.0, 17.0, 17.0)) == [1, 1, 1]


def test_probabilities_are_taken_as_they_are_unless_told_otherwise() -> None:
    assert kept(scored(0.50, 0.51, 0.52, 0.53)) == [1, 1, 1, 1]
    assert kept(scored(0.50, 0.51, 0.52, 0.53, rounding="ceil")) == [0, 1, 1, 2]  # the last pays for the first
    assert kept(scored(0.50, 0.51, 0.52, 0.53, scale="even")) == [0, 0, 1, 3]
    assert kept(scored(0.0, 0.01, 1.0, 0.99)) == [0, 0, 2, 2]  # 0 and 1 are some, too


def test_one_score_beyond_the_interval_anywhere_says_what_unit_it_is(play: Play) -> None:
    """The second level would pass for probabilities."""
    plan = {
        "": ["a 2", "b 2", "c 2", "d 2"],
        **{name: [f"{name} {score}"] for name, score in zip("abcd", (0.50, 0.51, 0.52, 0.53), strict=True)},
        "cc": ["=1 0.5"] * 4,
        "dd": ["=1 0.5"] * 4,
    }
    _, tree = play(plan, width=4)
    assert marked(tree, "kept") == {"a": 1, "b": 1, "c": 1, "d": 1, "cc": 1, "dd": 3}


# -- fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"balance_temperature": 0.0}, "balance_temperature must be more than 0, got 0.0"),
        ({"balance_temperature": float("nan")}, "balance_temperature must be more than 0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"rounding": "floor"}, "rounding must be one of ceil, round, got 'floor'"),
        ({"scale": "min-max"}, "scale must be one of auto, none, even"),
        ({"verifier": "agreement"}, "agreement compares finished solutions"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        REBASE(**fields)


def test_it_has_no_beam_width() -> None:
    assert REBASE(width=7).width == 7
    with pytest.raises(UnknownName):
        make_strategy("rebase", beam_width=2)

"""DVTS on hand-made trees: subtrees that neither displace nor wait for each other."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.strategies.dvts import DVTS
from reason.search.tree import ROOT, Expand, Node, NodeEnd, Room, Tree
from reason.types import Engine, Problem, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

VERIFIER = "auto"


@dataclass(frozen=True)
class LastNumber:
    """Scores a step by the number it ends with."""

    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [float(trajectory.steps[-1].text.split()[-1]) for trajectory in trajectories]


def planned(plan: Mapping[str, Sequence[str]]) -> Callable[[str], list[str]]:
    """The steps below a path (its steps' first letters) in the order asked for; "=3 .5" ends a solution."""
    asked: Counter[str] = Counter()

    def script(prefix: str) -> list[str]:
        path = "".join(step[0] for step in prefix.rpartition("<assistant>")[2].split("\n\n")[:-1])
        step = plan[path][asked[path]]
        asked[path] += 1
        if step == "fails":
            raise RuntimeError("on purpose")
        return [re.sub(r"^=(\d)", r"\\boxed{\1}", step) + ("" if step.startswith("=") else "\n\n")]

    return script


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return found and found[1]


Play = Callable[..., Any]  # a solution and its tree


@pytest.fixture
def play(make_run: MakeRun) -> Play:
    def whole(plan: Mapping[str, Sequence[str]], *, max_in_flight: int = 64, **fields: Any) -> Any:
        problem = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)
        engine, strategy = ScriptedEngine(planned(plan)), DVTS(**fields)
        verifiers = {VERIFIER: LastNumber()}
        run = make_run(engine, strategy, verifiers=verifiers, problem=problem, max_in_flight=max_in_flight)
        return asyncio.run(asyncio.wait_for(run.solve(), 10)), run.tree

    return whole


def marked(tree: Tree, note: str) -> set[str]:
    """The paths that have a note."""
    return {"".join(s.text[:1] for s in tree.path(node.id)) for node in tree.nodes if node.notes.get(note)}


PLAN = {
    "": ["a .2", "b .1", "c .9", "d .8"],
    "a": ["e .3", "f .4"],
    "c": ["g .6", "h .5"],
    "af": ["=1 .9", "=2 .2"],
    "cg": ["=3 .7", "=3 .1"],
}


def test_the_best_of_one_subtree_displaces_no_others(play: Play) -> None:
    """A beam would keep c and d; here each half keeps its own best."""
    solution, tree = play(PLAN, width=4, beam_width=2, select="best")
    assert marked(tree, "kept") >= {"a", "c", "af", "cg"}
    assert marked(tree, "pruned") >= {"b", "d", "ae", "ch"}
    assert len(tree) == 1 + 4 + 4 + 4
    assert solution.answer == "1"
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "3", "3"]


def test_no_room_changes_it(play: Play) -> None:
    shapes = set()
    for room in (1, 2, 3, 64):
        _, tree = play(PLAN, width=4, beam_width=2, max_in_flight=room)
        steps = sorted(tree.text(node.id) for node in tree.nodes)
        shapes.add((tuple(steps), *map(frozenset, (marked(tree, "kept"), marked(tree, "pruned")))))
    assert len(shapes) == 1


def test_a_subtree_ends_at_a_finished_best(play: Play) -> None:
    """Also where an unfinished sibling is there; and goes on where the finished one is not the best."""
    plan = {
        "": ["=1 .9", "b .8", "=2 .3", "d .7"],
        "d": ["=3 .5", "e .4"],
    }
    solution, tree = play(plan, width=4, beam_width=2, select="majority")
    assert len(tree) == 1 + 4 + 2
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "3"]
    assert marked(tree, "kept") == {"\\", "d", "d\\"}
    assert solution.stopped_by == "done"


def test_finished_siblings_vote_unfinished_ones_never(play: Play) -> None:
    plan = {
        "": ["=7 .5", "=8 .4", "c says \\boxed{9} .3", "=8 .4"],
    }
    solution, tree = play(plan, width=4, beam_width=2, select="majority")
    assert (solution.answer, solution.confidence) == ("8", pytest.approx(2 / 3))
    assert tree[3].open
    assert tree[3].answer is None
    assert "pruned" in tree[2].notes  # it votes nevertheless: it is a whole solution
    weighted, _ = play(plan, width=4, beam_width=2, select="weighted")
    assert (weighted.answer, weighted.confidence) == ("8", pytest.approx(0.8 / 1.3))


def test_one_failed_sample_and_a_failed_subtree(play: Play) -> None:
    plan = {"": ["fails", "b .1", "fails", "fails"], "b": ["=1 .5", "fails"]}
    solution, tree = play(plan, width=4, beam_width=2)
    assert (solution.answer, solution.stopped_by, len(tree)) == ("1", "done", 7)
    assert marked(tree, "kept") == {"b", "b\\"}


# -- move by move --------------------------------------------------------------------------------------------------


class Hand:
    """A tree grown by hand, the strategy being told of each result."""

    def __init__(self, **fields: Any) -> None:
        self.tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
        self.strategy = DVTS(**fields)

    def begin(self, parent: int = ROOT, count: int = 1) -> list[int]:
        first = len(self.tree)
        for _ in range(count):
            self.tree.add(Node(id=len(self.tree), parent=parent))
        return list(range(first, len(self.tree)))

    def end(self, node: int, score: float | None, end: NodeEnd = "step") -> None:
        self.tree[node].finish_reason = end
        self.strategy.tell(self.tree, [node])
        if score is not None:
            self.tree[node].scores[VERIFIER] = (score,)
            self.strategy.tell(self.tree, [node])

    def asked(self, room: int = 64) -> list[tuple[int, ...]]:
        """Of an expansion (node, samples), of a measurement the nodes."""
        asked: list[tuple[int, ...]] = []
        for action in self.strategy.ask(self.tree, Room(room)):
            asked.append((action.node, action.num_samples) if isinstance(action, Expand) else action.nodes)
        return asked


def test_a_subtree_goes_on_while_others_are_pending() -> None:
    hand = Hand(width=4, beam_width=2)
    assert hand.asked() == [(ROOT, 4)]
    first = hand.begin(count=4)
    assert hand.asked() == []
    hand.end(3, None)
    hand.end(4, None)
    assert hand.asked() == [(3, 4)]  # measures the second pair
    hand.tree.measuring |= {(3, VERIFIER), (4, VERIFIER)}
    assert hand.asked() == []
    hand.tree.measuring.clear()
    hand.end(3, 0.1)
    assert hand.asked() == [(4,)]
    hand.end(4, 0.2)
    assert hand.asked() == [(4, 2)]  # two samples below node 4, the first pair still being pending
    assert all(hand.tree[node].pending for node in first[:2])
    below = hand.begin(4, 2)
    assert hand.asked() == []
    for node in below:
        hand.end(node, 0.5)
    assert hand.asked() == [(5, 2)]
    hand.end(1, 0.3)
    hand.end(2, 0.3)
    assert hand.asked() == [(1, 2), (5, 2)]  # a tie goes to the first asked
    assert [node.id for node in hand.tree.nodes if node.notes.get("kept")] == [1, 4, 5]


def test_it_asks_for_what_a_subtree_lacks() -> None:
    hand = Hand(width=4, beam_width=4)
    hand.begin(count=3)
    assert hand.asked(1) == [(ROOT, 1)]
    hand.begin()
    for node, score in ((1, 0.1), (2, 0.2), (3, 0.9), (4, 0.3)):
        hand.end(node, score)
    hand.begin(3, 1)
    assert hand.asked(2) == [(3, 3)]
    hand.end(5, 0.1)
    assert hand.asked(2) == [(3, 3)]  # waits for its siblings before it is measured
    assert "kept" not in hand.tree[5].notes


def test_when_nothing_more_may_start_what_is_finished_is_measured() -> None:
    hand = Hand(width=4, beam_width=2)
    hand.begin(count=4)
    hand.end(1, None, "eos")
    hand.end(2, None)
    assert hand.asked(0) == [(1, 2)]
    for node in (3, 4):
        hand.end(node, None, "cancelled")
    assert hand.asked(0) == [(1,)]  # only what may vote
    hand.end(1, 0.5)
    assert hand.asked(0) == []


def test_two_subtrees_that_end_leave_nothing_to_ask() -> None:
    hand = Hand(width=2, beam_width=1)
    hand.begin(count=2)
    hand.end(1, 0.1, "eos")
    assert hand.asked() == []
    hand.end(2, 0.2, "length")
    assert hand.asked() == []


def test_the_width_is_a_multiple_of_the_beam_width() -> None:
    with pytest.raises(UsageError, match="width must be a multiple of beam_width, got 6 and 4"):
        DVTS(width=6, beam_width=4)
    with pytest.raises(UsageError, match="agreement compares finished solutions"):
        DVTS(verifier="agreement")

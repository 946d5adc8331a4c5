"""FETCH's merging around other strategies: what they see, what is asked for in their name, and when."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason.errors import UnknownName, UsageError
from reason.search.journal import read_journal
from reason.search.merging import MergedTree
from reason.search.strategies import make_strategy
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_first import BestFirst
from reason.search.strategies.dvts import DVTS
from reason.search.strategies.early_stopping import UnanimousWindow
from reason.search.strategies.merge import Merge
from reason.search.strategies.rebase import REBASE
from reason.search.tree import ROOT, Action, Cancel, Expand, Measure, Room, Strategy, Tree
from reason.search.voting import vote
from reason.types import Answer, Budget
from tests.search.planned import EMBEDDER, VERIFIER, FirstLetter, LastNumber, expanded, grown, names, play
from tests.search.test_conformance import PathEngine, shape
from tests.search.test_conformance import solve as solve_path

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

CUT = 0.05  # equal first letters are one state, neighbours (.06) are not


def merged(tree: Tree) -> dict[str, str]:
    return {
        names(tree, [node.id])[0]: names(tree, [node.notes["merged_into"]])[0]
        for node in tree.nodes
        if "merged_into" in node.notes
    }


# -- around strategies that exist ------------------------------------------------------------------------------------


def test_a_beam_keeps_states_and_goes_round_their_members(make_run: MakeRun) -> None:
    plan = {
        "": ["a1 .7", "a2 .9", "b .3", "a3 .8"],
        "a2": ["c .1", "d .2"],
        "a3": ["e .3"],
        "a1": ["f .4"],
        "b": ["g .5", "h .6"],
    }
    alone = play(make_run, Beam(width=4, beam_width=2), plan)[1]
    assert expanded(alone)[:3] == ["", "a2", "a3"]
    solution, tree, _ = play(make_run, Merge(inner=Beam(width=4, beam_width=2, max_steps=3), distance=CUT), plan)
    assert merged(tree) == {"a1": "a2", "a3": "a2"}
    assert tree[2].notes["members"] == [2, 4, 1]
    assert {names(tree, [node.id])[0]: node.notes["kept"] for node in tree.nodes if "kept" in node.notes} == {
        "a2": 2,
        "b": 2,
        "g": 2,
        "h": 2,
    }
    # of the two samples below the state one comes from each of its two best members
    below = [(names(tree, [node.id])[0], names(tree, [node.parent or 0])[0]) for node in tree.nodes if node.depth == 2]
    assert below == [("c", "a2"), ("e", "a3"), ("g", "b"), ("h", "b")]
    assert tree.text(6) == "a3 .8\n\ne .3\n\n"
    assert solution.stopped_by == "done"


def test_best_first_does_not_expand_a_state_twice(make_run: MakeRun) -> None:
    plan = {
        "": ["a1 .9", "a2 .8", "b .7"],
        "a1": ["c .2", "d .1"],
        "a2": ["f .3"],
        "b": ["=1 .95"],
    }
    inner = BestFirst(num_children=3, iterations=6)
    alone = play(make_run, inner, plan)[1]
    assert expanded(alone) == ["", "a1", "a2", "b"]
    solution, tree, _ = play(make_run, Merge(inner=inner, distance=CUT), plan)
    assert merged(tree)["a2"] == "a1"
    assert len(tree) == len(alone) - 3
    below = [names(tree, [node.parent or 0])[0] for node in tree.nodes if node.depth == 2]
    assert below == ["a1", "a2", "a1", "b", "b", "b"]
    assert solution.answer == "1"


def test_the_width_goes_to_states(make_run: MakeRun) -> None:
    """Merged nodes are shown as failures, but take nothing of REBASE's width with them."""
    plan = {
        "": ["a1 .7", "a2 .9", "b .9", "a3 .8"],
        "a2": ["=1 .5"],
        "a3": ["c1 .5"],
        "b": ["=2 .5", "fails"],
        "a3.c1": ["=3 .5"],
    }
    solution, tree, _ = play(make_run, Merge(inner=REBASE(width=4), distance=CUT), plan)
    kept = {names(tree, [node.id])[0]: node.notes["kept"] for node in tree.nodes if "kept" in node.notes}
    assert kept == {"a2": 2, "b": 2, "c1": 1}
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "3"]


def test_solutions_are_not_merged_and_vote(make_run: MakeRun) -> None:
    plan = {"": ["=1 .3", "=1 .3", "=2 .5", "a .4"], "a": ["=2 .1"] * 4}
    solution, tree, _ = play(make_run, Merge(inner=Beam(width=4, beam_width=2, select="majority"), distance=2.0), plan)
    assert merged(tree) == {}
    assert [candidate.answer for candidate in solution.candidates] == ["1", "1", "2", "2", "2", "2", "2"]


def test_nothing_is_measured_twice(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: Counter[str] = Counter()
    score = LastNumber.score

    async def counting(self: LastNumber, trajectories: Any, engine: Any, owner: str) -> list[float]:
        scored.update(trajectory.text for trajectory in trajectories)
        return await score(self, trajectories, engine, owner)

    monkeypatch.setattr(LastNumber, "score", counting)
    plan = {"": ["a1 .7", "a2 .9", "b .3", "=3 .8"], "a2": ["c .1", "d .2"], "a1": ["e .3"], "b": ["g .5", "=4 .6"]}
    _, tree, _ = play(make_run, Merge(inner=Beam(width=4, beam_width=2, max_steps=3), distance=CUT), plan)
    texts = Counter(tree.text(node.id) for node in tree.nodes[1:])
    assert scored == texts
    assert len(tree) > 8


def test_a_member_that_failed_or_was_sampled_alone(make_run: MakeRun) -> None:
    plan = {"": ["a .9", "fails", "a .5"], "a": ["fails", "b .8", "fails"], "a.b": ["=1 .9"]}
    solution, tree, _ = play(make_run, Merge(inner=BestFirst(num_children=3, iterations=4), distance=CUT), plan)
    assert tree[1].notes["members"] == [1, 3]
    assert solution.answer == "1"


@pytest.mark.parametrize("room", [1, 2, 3, 64])
def test_a_narrow_room_merges_the_same_siblings(make_run: MakeRun, room: int) -> None:
    plan = {"": ["a1 .7", "a2 .9", "b .3", "a3 .8"], "a2": ["=1 .1"], "a3": ["=2 .3"], "b": ["=1 .5", "=3 .6"]}
    strategy = Merge(inner=Beam(width=4, beam_width=2), distance=CUT)
    solution, tree, _ = play(make_run, strategy, plan, max_in_flight=room)
    assert merged(tree) == {"a1": "a2", "a3": "a2"}
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "1", "3"]


@pytest.mark.parametrize("inner", [Beam(width=8, beam_width=2), DVTS(width=8, beam_width=4)])
@pytest.mark.parametrize(("window", "room"), [(2, 64), (3, 2), (8, 64)])
def test_early_stopping_inside(inner: Any, window: int, room: int, tmp_path: Path) -> None:
    """What has ended unseen counts as under way, and is given up with what really is."""
    stepwise = type(inner)(**{**vars(inner), "max_tokens": 120, "max_step_tokens": 20})
    strategy = Merge(inner=UnanimousWindow(inner=stepwise, window=window, in_flight=3), distance=0.3)
    whole = tmp_path / "whole.jsonl"
    first, run = solve_path(PathEngine(), strategy, max_in_flight=room, journal=whole)
    assert first.stopped_by == "done"
    assert first.answer is not None
    assert all(candidate.score is not None for candidate in first.candidates)
    assert not any(node.pending for node in run.tree.nodes)
    for jitter in range(4):
        again, other = solve_path(PathEngine(jitter=jitter), strategy, max_in_flight=room)
        assert shape(other.tree) == shape(run.tree)
        assert again.answer == first.answer
    lines = whole.read_bytes().splitlines(keepends=True)
    for count in range(0, len(lines), 5):
        torn = tmp_path / f"torn-{count}.jsonl"
        torn.write_bytes(b"".join(lines[:count]))
        assert shape(solve_path(PathEngine(), strategy, max_in_flight=room, journal=torn)[1].tree) == shape(run.tree)


def test_a_window_that_is_never_unanimous_lets_the_inner_search_end() -> None:
    beam = Beam(width=8, beam_width=2, max_tokens=120, max_step_tokens=20)
    whole, _ = solve_path(PathEngine(), Merge(inner=beam, distance=0.3))
    strategy = Merge(inner=UnanimousWindow(inner=beam, window=20, in_flight=64), distance=0.3)
    watched, _ = solve_path(PathEngine(), strategy)
    assert [candidate.text for candidate in watched.candidates] == [candidate.text for candidate in whole.candidates]


def test_merging_stands_in_the_trace(make_run: MakeRun, tmp_path: Path) -> None:
    plan = {"": ["a1 .7", "a2 .9"], "a2": ["=1 .5"], "a1": ["=1 .5"]}
    trace = tmp_path / "trace.jsonl"
    play(make_run, Merge(inner=Beam(width=2, beam_width=2), distance=CUT), plan, journal=trace)
    notes = [event["notes"] for event in read_journal(trace) if "notes" in event]
    assert {"1": {"merged_into": 2}, "2": {"members": [2, 1], "score": 0.9, "kept": 2}} in json.loads(json.dumps(notes))


# -- what the inner strategy sees ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy:
    """Expands the root, then everything open that it is shown, and remembers what it saw."""

    num_samples: int = 4
    measures: tuple[str, ...] = (VERIFIER,)
    saw: list[list[str | None]] = field(default_factory=list)  # how the nodes below the root ended, at each ask
    told: list[tuple[int, ...]] = field(default_factory=list)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        self.saw.append([node.finish_reason for node in tree.children(ROOT)])
        missing = self.num_samples - len(tree.children(ROOT))
        if missing:
            return [Expand(node=ROOT, num_samples=missing, until="step", max_tokens=50)]
        return [Expand(node=leaf.id, until="end", max_tokens=50) for leaf in tree.leaves() if leaf.open]

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        assert not any(tree[node].pending for node in done)
        self.told.append(tuple(done))

    def answer(self, tree: Tree) -> Answer:
        return vote(tree)


def test_open_siblings_are_seen_when_all_of_them_are_decided_about(make_run: MakeRun) -> None:
    spy = Spy()
    plan = {"": ["a .1", "=1 .2", "fails", "a .3"]}
    solution, _, _ = play(make_run, Merge(inner=spy, distance=CUT), plan, max_in_flight=1)
    whole = next(place for place, seen in enumerate(spy.saw) if "error" in seen[:1])
    assert [None, "eos"] in spy.saw[:whole]  # a solution is seen at once
    assert [None, "eos", "error", None] in spy.saw[:whole]
    assert not any("step" in seen for seen in spy.saw[:whole])
    assert spy.saw[whole] == ["error", "eos", "error", "step"]
    assert spy.told[:3] == [(2,), (3,), (1, 4)]
    assert solution.answer == "1"


def test_embeddings_are_asked_for_when_nothing_is_missing() -> None:
    strategy = Merge(inner=Spy(num_samples=3), distance=CUT)
    due = [Measure(nodes=(1, 2), name=EMBEDDER), Measure(nodes=(1, 2), name=VERIFIER)]
    tree = grown((ROOT, "a", "step"), (ROOT, "b", "step"))
    assert strategy.ask(tree, Room(5)) == [Expand(node=ROOT, num_samples=1, until="step", max_tokens=50)]
    tree = grown((ROOT, "a", "step"), (ROOT, "b", "step"), (ROOT, "", None))
    assert strategy.ask(tree, Room(5)) == []
    tree[3].finish_reason = "error"
    assert strategy.ask(tree, Room(5)) == due
    tree.measuring.add((1, EMBEDDER))
    tree[2].scores[VERIFIER] = (0.5,)
    assert strategy.ask(tree, Room(5)) == [Measure(nodes=(2,), name=EMBEDDER), Measure(nodes=(1,), name=VERIFIER)]


def test_when_nothing_more_may_be_started_nothing_is_embedded() -> None:
    strategy = Merge(inner=Beam(width=3, beam_width=3), distance=CUT)
    tree = grown((ROOT, "a", "step"), (ROOT, "=1", "eos"))
    assert strategy.ask(tree, Room(0)) == [Measure(nodes=(2,), name=VERIFIER)]


def test_strategies_without_a_verifier_get_the_first(make_run: MakeRun) -> None:
    spy = Spy(num_samples=3, measures=())
    strategy = Merge(inner=spy, distance=CUT)
    assert strategy.measures == (EMBEDDER,)
    _, tree, _ = play(make_run, strategy, {"": ["a .1", "b .2", "a .3"]})
    assert merged(tree) == {"a": "a"}
    assert tree[1].notes["members"] == [1, 3]
    assert all(not node.scores for node in tree.nodes)


def test_only_what_is_under_way_is_cancelled() -> None:
    class Quitter(Spy):
        def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
            self.saw.append([node.finish_reason for node in tree.children(ROOT)])
            pending = tuple(node.id for node in tree.nodes if node.pending)
            return [Cancel(nodes=pending)] if pending else []

    tree = grown((ROOT, "a", "step"), (ROOT, "", None), (ROOT, "", None))
    spy = Quitter()
    assert Merge(inner=spy, distance=CUT).ask(tree, Room(5)) == [Cancel(nodes=(2, 3))]
    tree[2].finish_reason = tree[3].finish_reason = "cancelled"
    assert Merge(inner=spy, distance=CUT).ask(tree, Room(5)) == []
    assert spy.saw[-1] == ["cancelled", "cancelled", "cancelled"]
    assert tree[1].open


def test_the_view_is_no_part_of_the_strategy() -> None:
    """Two problems under one strategy object do not meet."""
    strategy = Merge(inner=Beam(width=2, beam_width=2), distance=CUT)
    one, other = grown((ROOT, "a", "step")), grown((ROOT, "a", "step"), (ROOT, "b", "step"))
    assert isinstance(strategy.ask(one, Room(5))[0], Expand)
    assert isinstance(strategy.ask(other, Room(5))[0], Measure)
    assert isinstance(strategy.ask(one, Room(5))[0], Expand)
    assert type(one) is Tree
    assert type(MergedTree(one)) is MergedTree


# -- fields ----------------------------------------------------------------------------------------------------------


def test_by_name() -> None:
    assert make_strategy("merge", inner="best-first", num_children=3, embedder="minilm") == Merge(
        inner=BestFirst(num_children=3), embedder="minilm"
    )
    assert make_strategy("merge", width=8) == Merge(inner=Beam(width=8))
    nested = make_strategy("esc", inner="merge", width=8, distance=0.1, window=3)
    assert nested == UnanimousWindow(inner=Merge(inner=Beam(width=8), distance=0.1), window=3)
    with pytest.raises(UnknownName, match=r"unknown field of merge 'widht'\. Did you mean 'width'"):
        make_strategy("merge", widht=8)
    assert isinstance(Merge(), Strategy)


def test_an_embedder_has_a_distance_of_its_own(make_run: MakeRun) -> None:
    plan = {"": ["a1 .1", "b .2", "a2 .3", "=1 .4"]}
    assert merged(play(make_run, Merge(inner=Spy()), plan)[1]) == {"a1": "a2"}
    assert merged(play(make_run, Merge(inner=Spy(), distance=0.1), plan)[1]) == {"a1": "a2", "b": "a2"}
    of_its_own = {VERIFIER: LastNumber(), EMBEDDER: FirstLetter(same_distance=0.1)}
    assert merged(play(make_run, Merge(inner=Spy()), plan, verifiers=of_its_own)[1]) == {"a1": "a2", "b": "a2"}


def test_an_embedder_in_the_place_of_auto_may_lack_a_distance(make_run: MakeRun) -> None:
    mine = {VERIFIER: LastNumber(), EMBEDDER: FirstLetter(same_distance=None)}
    with pytest.raises(UsageError, match="the embedder given for 'auto-embedder' has no same_distance"):
        play(make_run, Merge(inner=Spy()), {"": ["a1 .1", "a2 .3"]}, verifiers=mine)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"distance": -0.1}, r"distance must be in \[0, 2\], got -0.1"),
        ({"distance": 2.1}, r"distance must be in \[0, 2\], got 2.1"),
        ({"embedder": "judge"}, "judge scores steps; embedders are hidden, minilm"),
        ({"embedder": "mine"}, "the embedder 'mine' has no distance of its own; give one"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Merge(**fields)


def test_an_embedder_of_your_own(make_run: MakeRun) -> None:
    strategy = Merge(inner=Spy(), embedder="mine", distance=CUT)
    tree = grown(*((ROOT, "a", "step") for _ in range(4)))
    assert strategy.ask(tree, Room(3))[0] == Measure(nodes=(1, 2, 3, 4), name="mine")
    tree[1].scores["mine"] = (0.5,)
    with pytest.raises(UsageError, match="'mine' gave scores, not vectors"):
        strategy.tell(tree, [1])


@pytest.mark.parametrize("limit", ["policy_tokens", "calls"])
def test_budgets_end_it_with_what_is_there(make_run: MakeRun, limit: str) -> None:
    plan = {"": ["a1 .7", "a2 .9", "b .3", "=3 .8"], "a2": ["c .1", "d .2"], "a1": ["e .3"], "b": ["g .5", "=4 .6"]}
    strategy = Merge(inner=Beam(width=4, beam_width=2, max_steps=3), distance=CUT)
    for amount in (3, 5, 7, 20, 30, 45):
        solution, tree, requests = play(make_run, strategy, plan, budget=Budget(**{limit: amount}))
        used = solution.usage.policy_tokens if limit == "policy_tokens" else len(requests)
        assert used <= amount
        assert not any(node.pending for node in tree.nodes)

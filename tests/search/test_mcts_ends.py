"""Where Monte Carlo tree search ends: solutions, failures, narrow rooms, and fields that are not allowed."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest

from reason.errors import UsageError
from reason.search.strategies.mcts import MCTS, ReSTMCTS, RStarMath
from reason.search.tree import ROOT, Cancel, Expand, Measure, Node, Room
from tests.search.mcts_game import Game, plain

# -- solutions and ends --------------------------------------------------------------------------------------------


def test_what_is_finished_is_left_out() -> None:
    game = Game(plain(iterations=2, exploration=0.0), {"0": "=a .9", "1": ".1", "1.0": "=b .9", "1.1": "=b .8"}).play()
    assert game.expanded() == ["", "1"]
    assert game.note("visits") == {"": 4, "0": 1, "1": 3, "1.0": 1, "1.1": 1}


@pytest.mark.parametrize(
    "strategy",
    [
        plain(iterations=3),
        MCTS(iterations=3, in_flight=4),
        ReSTMCTS(iterations=3, num_children=2),
        RStarMath(iterations=3, num_children=2),
    ],
    ids=["plain", "rollouts", "ReSTMCTS", "RStarMath"],
)
def test_where_all_is_finished_the_root_is_expanded_anew(strategy: MCTS) -> None:
    solved = Game(strategy, default="=a .5").play()
    assert solved.expanded() == ["", "", ""]
    assert [node.answer for node in solved.tree.children(ROOT)] == ["a"] * 6
    script = {"0": "=a .5", "1": "=a .4", "2": ".3", "3": ".6"}
    game = Game(strategy, script, default="=a .5").play()
    assert game.expanded()[:2] == ["", ""]
    assert set(game.expanded()[2:]) <= {"2", "3"}  # there is something to select now
    assert len(game.tree.children(ROOT)) == 4
    failed = Game(strategy, default="!").play()
    assert failed.expanded() == [""]


def test_what_is_finished_is_revisited() -> None:
    script = {"0": "=a .9", "1": ".1"}
    game = Game(plain(iterations=6, exploration=0.0, revisit=True), script).play()
    assert game.expanded() == [""]
    assert game.note("revisits") == {"": 5}
    assert game.note("visits") == {"": 7, "0": 6, "1": 1}
    # c = .5: after k revisits .9 + .5 sqrt(ln(k + 2) / (k + 1)) against .1 + .5 sqrt(ln(k + 2))
    explored = Game(plain(iterations=40, exploration=0.5, revisit=True), script)
    explored.play(3)
    revisits = next(k for k in range(99) if 0.5 * math.sqrt(math.log(k + 2)) * (1 - 1 / math.sqrt(k + 1)) > 0.9 - 0.1)
    assert explored.note("revisits") == {"": revisits}


def test_an_end_without_an_answer_is_worth_the_least() -> None:
    assert Game(plain(iterations=1), {"0": "= .9", "1": ".3"}).play(3).note("value") == {"0": 0.0, "1": 0.3}
    nats = Game(plain(iterations=1), {"0": "= 19", "1": "12"}).play(3)
    assert nats.note("value") == {"0": 12.0, "1": 12.0}
    assert nats.note("score") == {"0": 19.0, "1": 12.0}
    raw = Game(plain(iterations=1, scale="none"), {"0": "= -1", "1": "-3"}).play(3)
    assert raw.note("value") == {"0": -3.0, "1": -3.0}


def test_it_stops_at_a_good_solution() -> None:
    script = {"0": ".95", "0.0": "=a .9", "0.1": ".2"}
    fields: dict[str, Any] = {"iterations": 9, "stop_value": 0.9, "exploration": 0.0}
    game = Game(plain(**fields), script).play()
    assert game.expanded() == ["", "0"]
    assert game.note("stopped") == {"": True}
    game.tree.add(Node(id=len(game.tree), parent=ROOT))
    assert game.strategy.ask(game.tree, Room(9)) == [Cancel(nodes=(len(game.tree) - 1,))]
    spread = Game(plain(**fields), {"0": "19", "0.0": "=a 20", "0.1": "12"}, default="=a 15").play()
    assert spread.note("stopped") == {}


def test_solutions_that_have_ended_when_it_stops_vote() -> None:
    game = Game(plain(iterations=9, stop_value=0.9), {"0": "=a .9"}).play()
    assert game.note("stopped") == {"": True}
    for end in ("eos", "step", None):
        game.tree.add(Node(id=len(game.tree), parent=1, finish_reason=end))
    assert game.ask() == [Cancel(nodes=(5,))]  # siblings are scored together
    (asked,) = game.ask()
    assert asked == Measure(nodes=(3,), name=game.strategy.verifier)
    game.play()
    assert set(game.note("score")) == {"0", "1", "0.0"}


def test_without_an_answer_the_best_leaf_is_written_to_its_end() -> None:
    script = {"0": ".2", "1": ".8", "1.0": ".3", "1.0.0": "=a .4"}
    game = Game(plain(iterations=2, exploration=0.0), script).play()
    assert game.expanded() == ["", "1", "1.1"]
    last = [action for action in game.asked if isinstance(action, Expand)][-1]
    assert (last.num_samples, last.until, last.sampling.temperature) == (1, "end", 0.0)
    answered = Game(plain(iterations=2, exploration=0.0), {**script, "1.1.0": "=b .1"}).play()
    assert answered.strategy.answer(answered.tree).answer == "b"
    assert answered.note("score")["1.1.0"] == 0.1
    assert Game(plain(iterations=2, exploration=0.0), {**script, "1.1": "=c .5"}).play().expanded() == ["", "1"]
    assert Game(plain(iterations=1)).play().expanded() == ["", "0"]  # of equals the first


# -- failures, rooms, fields ---------------------------------------------------------------------------------------


def test_failures_are_left_out() -> None:
    game = Game(plain(iterations=2, exploration=0.0), {"0": "!", "1": ".5", "1.0": "!", "1.1": "!"}).play()
    assert game.expanded() == ["", "1"]
    assert game.note("visits") == {"": 1, "1": 1}
    for strategy in (plain(), ReSTMCTS(), RStarMath(num_children=2), plain(widening=0.5, iterations=3)):
        failed = Game(strategy, default="!").play()
        assert all(node.finish_reason == "error" for node in failed.tree.nodes[1:])
        assert not failed.note("visits")
    best = Game(ReSTMCTS(iterations=1), {"0": "!", "1": ".3", "2": ".4", "2.0": "!"}).play(5)
    assert best.note("value") == {"1": 0.3, "2": 0.4}


@pytest.mark.parametrize("room", [1, 2, 3])
@pytest.mark.parametrize(
    "strategy",
    [
        MCTS(iterations=6, num_children=3),
        MCTS(iterations=6, num_children=3, simulate="none", widening=0.5),
        ReSTMCTS(iterations=6),
        RStarMath(iterations=3, num_children=3, max_steps=4),
    ],
    ids=lambda strategy: type(strategy).__name__,
)
def test_a_narrow_room_gives_whole_iterations(strategy: MCTS, room: int) -> None:
    wide, narrow = (Game(strategy, {"1": "=a .5", "0.0.0": "=b .6"}, room=size).play() for size in (64, room))
    for game in (wide, narrow):
        assert not any(node.pending for node in game.tree.nodes)
        if not strategy.widening:
            steps = Counter(
                node.parent
                for node in game.tree.nodes[1:]
                if "rollout" not in node.notes and "completing" not in game.tree[node.parent or ROOT].notes
            )
            assert set(steps.values()) == {3}
            assert len(steps) >= strategy.iterations


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"in_flight": 0}, "in_flight must be at least 1, got 0"),
        ({"num_children": 0}, "num_children must be at least 1, got 0"),
        ({"exploration": -0.1}, "exploration must be at least 0, got -0.1"),
        ({"alpha": 1.5}, r"alpha must be in \[0, 1\], got 1.5"),
        ({"widening": -0.5}, r"widening must be in \[0, 1\], got -0.5"),
        ({"discount": 0.0}, r"discount must be in \(0, 1\], got 0.0"),
        ({"widening": 0.5, "simulate": "best"}, "need whole expansions; use widening=0"),
        ({"widening": 0.5, "to_the_end": True}, "need whole expansions; use widening=0"),
        ({"verifier": "agreement"}, "agreement compares finished solutions"),
        ({"rule": "ucb"}, "rule"),
        ({"backup": "median"}, "backup"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MCTS(**fields)

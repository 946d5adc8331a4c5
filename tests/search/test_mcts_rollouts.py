"""What a node of Monte Carlo tree search is worth: rollouts, backups, and the published forms, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from reason.search.strategies.mcts import MCTS, ReSTMCTS, RStarMath
from reason.search.tree import Expand
from tests.search.mcts_game import Game, plain


@pytest.mark.parametrize(
    ("script", "value"),
    [
        ({"0.0": "=a .8", "0.1": "=b .6"}, 0.75 * 0.4 + 0.25 * 0.7),
        ({"0.0": "=a .8", "0.1": "!"}, 0.75 * 0.4 + 0.25 * 0.8),
        ({"0.0": "=a .8", "0.1": "= .9"}, 0.75 * 0.4 + 0.25 * 0.4),  # without an answer: 0
        ({"0.0": "!", "0.1": "!"}, 0.4),
        ({"0": "=a .4"}, 0.4),
    ],
)
def test_rollouts(script: dict[str, str], value: float) -> None:
    strategy = MCTS(in_flight=1, iterations=1, num_children=1, num_rollouts=2, alpha=0.25)
    game = Game(strategy, {"0": ".4", **script}).play()
    assert game.note("value") == {"0": pytest.approx(value)}
    assert game.note("visits") == {"": 1, "0": 1}
    assert game.note("q")[""] == pytest.approx(value)
    assert set(game.note("rollout")) == set() if script.get("0") else {"0.0", "0.1"}


def test_rollouts_are_solutions_and_not_selected() -> None:
    script = {"0": ".4", "0.0": "=a .8", "0.1": ".3", "0.1.0": "=b .9"}
    game = Game(MCTS(in_flight=1, iterations=2, num_children=1), script).play()
    assert game.expanded() == ["", "0", "0", "0.1"]  # a step, a rollout, a step, a rollout
    assert [node.answer for node in game.tree.finished()] == ["a", "b"]
    assert game.strategy.answer(game.tree).answer == "b"
    assert [action.until for action in game.asked if isinstance(action, Expand)] == ["step", "end", "step", "end"]


def test_short_rollouts_are_worth_their_best_step() -> None:
    strategy = MCTS(in_flight=1, iterations=1, num_children=1, rollout_steps=3)
    game = Game(strategy, {"0": ".4", "0.0": ".6", "0.0.0": ".9", "0.0.0.0": ".1"}).play(8)
    assert game.note("value") == {"0": pytest.approx(0.5 * 0.4 + 0.5 * 0.9)}
    assert set(game.note("rollout")) == {"0.0", "0.0.0", "0.0.0.0"}
    assert len(game.tree) == 5
    ended = Game(strategy, {"0": ".4", "0.0": ".6", "0.0.0": "=a .5"}).play()
    assert ended.note("value") == {"0": pytest.approx(0.5 * 0.4 + 0.5 * 0.6)}
    assert len(ended.tree) == 4


def test_the_best_of_an_expansion_is_simulated_and_visited() -> None:
    strategy = MCTS(in_flight=1, iterations=2, num_children=3, simulate="best", exploration=0.3)
    game = Game(strategy, {"0": ".2", "1": ".6", "2": ".6", "1.0": "=a .9"}).play(6)
    assert game.note("rollouts") == {"1": 1}
    assert game.note("value") == pytest.approx({"0": 0.2, "1": 0.75, "2": 0.6})
    assert game.note("visits") == {"": 1, "1": 1}
    # never visited: 1 and the own value; so .2 + 1, .75 + .3 * 0, .6 + 1
    assert game.expanded()[2:] == ["2"]


def test_a_solution_that_is_the_best_needs_no_rollouts() -> None:
    game = Game(ReSTMCTS(iterations=1, in_flight=1, stop_value=0.0), {"0": ".5", "1": "=a .6", "2": ".4"}).play()
    assert game.note("value") == {"0": 0.5, "1": 0.6, "2": 0.4}
    assert game.note("visits") == {"": 1, "1": 1}
    assert len(game.tree) == 4


def test_rest_mcts_by_hand() -> None:
    script = {"0": ".5", "1": ".6", "2": ".4", "1.0": ".7", "1.0.0": ".8", "1.0.0.0": ".3"}
    game = Game(ReSTMCTS(iterations=3, in_flight=1), script)
    game.play_until(lambda: game.note("visits").get("") == 1)
    assert game.note("value") == pytest.approx({"0": 0.5, "1": 0.5 * 0.6 + 0.5 * 0.8, "2": 0.4})
    assert game.note("q") == pytest.approx({"": 0.7, "1": 0.7})
    game.play()
    # 2nd: .5 + 1, .7, .4 + 1: node 0. Its children are worth .5, the best again after simulation.
    # 3rd: .5 + .7 sqrt(2 ln 2) = 1.324, .7 + .824 = 1.524, .4 + 1: node 1, whose own .7 gives way to its child's .5
    assert game.note("visits") == {"": 3, "0": 1, "0.0": 1, "1": 2, "1.1": 1}
    assert game.note("q") == pytest.approx({"": (1 * 0.5 + 2 * 0.5) / 3, "0": 0.5, "0.0": 0.5, "1": 0.5, "1.1": 0.5})


def test_rstar_math_goes_to_the_end_and_backs_up_solutions_only() -> None:
    script = {"0": ".2", "1": ".6", "1.0": ".3", "1.1": "=a .7", "1.0.0": "=b .9", "1.0.1": "= .8"}
    game = Game(RStarMath(iterations=2, num_children=2, in_flight=1), script)
    game.play_until(lambda: len(game.expanded()) == 4)
    assert game.expanded() == ["", "1", "1.0", "0"]  # down to the end; nothing is left below 1 then
    assert set(game.note("descend")) == {"1", "1.0"}
    assert game.note("visits") == {"": 3, "0": 1, "1": 4, "1.0": 3, "1.1": 1, "1.0.0": 1, "1.0.1": 1}
    assert game.note("q")["0"] == 0.2
    assert game.note("q")["1"] == pytest.approx((0.6 + 0.7 + 0.9 + 0.0) / 4)
    assert game.note("q")["1.0"] == pytest.approx((0.3 + 0.9 + 0.0) / 3)
    assert game.note("q")[""] == pytest.approx((0.7 + 0.9 + 0.0) / 3)


def test_the_best_scored_vote() -> None:
    script = {"0": "=a .1", "1": "=b .9", "2": "=a .2", "3": "=b .3", "4": "=a .3"}
    fields: dict[str, Any] = {"iterations": 1, "num_children": 5, "select": "majority"}
    for voters, answer, share in ((0, "a", 3 / 5), (2, "b", 2 / 2), (3, "b", 2 / 3), (1, "b", 1.0)):
        game = Game(plain(voters=voters, **fields), script).play()
        found = game.strategy.answer(game.tree)
        assert found.answer == answer
        assert found.confidence == pytest.approx(share)

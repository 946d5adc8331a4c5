"""Monte Carlo tree search on hand-made trees: bounds, virtual losses, expansion, widening."""

from __future__ import annotations

from typing import Any

import pytest

from reason.search.bandits import widened
from reason.search.strategies.mcts import MCTS
from reason.search.tree import ROOT, Expand, Node, Room, Tree
from reason.types import Problem
from tests.search.mcts_game import Game, plain

VERIFIER = MCTS().verifier


# -- selection -----------------------------------------------------------------------------------------------------

SMALL = {"": (10, 0.5), "0": (6, 0.7), "1": (3, 0.6), "0.0": (2, 0.9), "0.1": (3, 0.5)}


def small(**values: float) -> Tree:
    """A tree with the statistics of ``SMALL``, (visits, q); nodes 1 to 4 are worth .5 each, or what is said."""
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    at = {"": ROOT}
    for place, (visits, q) in SMALL.items():
        if place:
            at[place] = len(tree)
            tree.add(Node(id=len(tree), parent=at[place.rpartition(".")[0]], finish_reason="step"))
            tree[at[place]].scores[VERIFIER] = (0.5,)
            tree.note(at[place], score=0.5, value=values.get(f"v{at[place]}", 0.5))
        tree.note(at[place], visits=visits, q=q)
    return tree


def selected(strategy: MCTS, tree: Tree, *, room: int = 2) -> int:
    (asked,) = strategy.ask(tree, Room(room))
    assert isinstance(asked, Expand)
    return asked.node


@pytest.mark.parametrize(
    ("fields", "node"),
    [
        # ln 10 = 2.303 above 1 and 2, ln 6 = 1.792 above 3 and 4
        ({"exploration": 0.0}, 3),
        ({"exploration": 0.3}, 3),  # .7 + .186 > .6 + .263, then .9 + .284 > .5 + .232
        ({"exploration": 0.5}, 2),  # .7 + .310 < .6 + .438
        # sqrt 10 = 3.162, P = 1/2: .7 + c .226 and .6 + c .395, so node 2 from c = .590 on
        ({"rule": "puct", "exploration": 0.58}, 3),
        ({"rule": "puct", "exploration": 0.60}, 2),
        # P = .690 and .310 for values .9 and .1: .7 + c .312 > .6 + c .245
        ({"rule": "puct", "exploration": 0.60, "v1": 0.9, "v2": 0.1}, 3),
    ],
)
def test_selection(fields: dict[str, Any], node: int) -> None:
    values = {name: fields[name] for name in fields if name.startswith("v")}
    strategy = plain(iterations=99, **{name: fields[name] for name in fields if name not in values})
    assert selected(strategy, small(**values)) == node


@pytest.mark.parametrize(
    ("loss", "c", "node"),
    [
        (0.0, 0.3, 3),  # as above: what is under way does not count
        (1.0, 0.3, 2),  # 1: .7 * 6/7 + .3 sqrt(ln 11 / 7) = .776,  2: .6 + .3 sqrt(ln 11 / 3) = .868
        (0.9, 0.0, 3),  # .7 * 6/6.9 = .609 > .6
        (1.1, 0.0, 2),  # .7 * 6/7.1 = .592 < .6
    ],
)
def test_what_is_under_way_counts_as_lost(loss: float, c: float, node: int) -> None:
    tree = small()
    for _ in range(2):
        tree.add(Node(id=len(tree), parent=4))
    strategy = plain(iterations=99, in_flight=2, virtual_loss=loss, exploration=c)
    assert selected(strategy, tree) == node


@pytest.mark.parametrize(("loss", "node"), [(5.0, 3), (7.0, 2)])
def test_lost_visits_are_worth_the_least_there_is(loss: float, node: int) -> None:
    """All values are 1 less: 1 is worth (-.3 * 6 - .5 loss) / (6 + loss), 2 is worth -.4."""
    tree = small()
    for each in tree.nodes:
        tree.note(each.id, q=each.notes["q"] - 1.0, value=-0.5)
    for _ in range(2):
        tree.add(Node(id=len(tree), parent=4))
    strategy = plain(iterations=99, in_flight=2, virtual_loss=loss, exploration=0.0, scale="none")
    assert selected(strategy, tree) == node


def test_selections_spread_over_a_batch() -> None:
    """The first goes where the values are highest; it is not waited for, and each of the next takes it into account."""
    tree = small()
    actions = plain(iterations=99, in_flight=3, exploration=0.3).ask(tree, Room(64))
    assert [action.node for action in actions if isinstance(action, Expand)] == [3, 2, 4]
    greedy = plain(iterations=99, in_flight=3, exploration=0.0, virtual_loss=0.0).ask(tree, Room(64))
    assert [action.node for action in greedy if isinstance(action, Expand)] == [3, 4, 2]
    assert len(plain(iterations=99, in_flight=3).ask(tree, Room(3))) == 2  # more than there is room for is not planned
    assert len(plain(iterations=3, in_flight=3).ask(tree, Room(64))) == 1  # two of three have been


def test_values_of_any_size_give_the_same_search() -> None:
    script = {f"{a}.{b}": f"{(a * 7 + b * 3) % 10 / 10}" for a in range(3) for b in range(3)}
    script |= {"0": "0.0", "1": "1.0", "2": ".4", "1.1.2": "=a .9", "0.0": "= .3"}
    nats = {place: f"{says.rpartition(' ')[0]} {12 + 5 * float(says.split()[-1])}" for place, says in script.items()}
    one = Game(plain(iterations=12, num_children=3, scale="min-max"), script).play()
    other = Game(plain(iterations=12, num_children=3), nats, default="14.5").play()
    assert len(one.tree) > 20
    assert one.expanded() == other.expanded()
    assert other.note("q")[""] == pytest.approx(12 + 5 * one.note("q")[""])


# -- expansion -----------------------------------------------------------------------------------------------------


def test_an_iteration_after_another() -> None:
    game = Game(plain(iterations=3, exploration=0.0), {"0": ".2", "1": ".8", "1.1": ".4"}).play()
    assert game.expanded()[:3] == ["", "1", "1.0"]
    assert game.note("visits") == {"": 6, "0": 1, "1": 5, "1.0": 3, "1.1": 1, "1.0.0": 1, "1.0.1": 1}
    assert game.note("q")["1"] == pytest.approx((0.8 + 0.5 + 0.4 + 0.5 + 0.5) / 5)
    assert game.note("q")[""] == pytest.approx((0.2 + 0.8 + 0.5 + 0.4 + 0.5 + 0.5) / 6)


def test_an_expansion_is_entered_when_all_of_it_is_evaluated() -> None:
    game = Game(MCTS(iterations=9, in_flight=4), {"0": ".5", "1": ".5"}, default="=b .5")
    game.play_until(lambda: "0" in game.note("value"))
    assert game.note("rollouts") == {"0": 1, "1": 1}
    assert "1" not in game.note("value")
    assert game.expanded() == ["", "0", "1"]  # the rollouts


def test_progressive_widening() -> None:
    game = Game(plain(iterations=6, num_children=1, widening=0.5)).play()
    # root of N visits: 1 child; at N = 1 it has all it may; 2 from N = 2 on; at 4 the first child, of 2 visits, widens
    assert game.expanded()[:6] == ["", "0", "", "1", "0", ""]


@pytest.mark.parametrize(("factor", "exponent"), [(1, 0.5), (2, 0.5), (1, 0.8), (3, 0.25)])
def test_no_node_is_wider_than_its_visits_allow(factor: int, exponent: float) -> None:
    game = Game(MCTS(iterations=60, num_children=factor, widening=exponent, simulate="none", in_flight=5)).play()
    for node in game.tree.nodes:
        if node.notes.get("visits"):  # at the last widening it had a visit less, and may have had four under way
            assert len(game.tree.children(node.id)) <= widened(factor, exponent, node.notes["visits"] + 4)
    assert len(game.tree) == 1 + 60 + 1
    assert len(game.tree.children(ROOT)) == widened(factor, exponent, 60)


def test_a_batch_widens_as_far_as_it_counts() -> None:
    """Under way is as good as visited: 2, 2, 3 and 4 children are allowed, and a fifth has to wait."""
    game = Game(MCTS(iterations=60, num_children=2, widening=0.5, simulate="none", in_flight=8))
    assert len(game.ask()) == 4
    assert game.ask() == []


def test_only_solutions_below_widen_a_node() -> None:
    game = Game(plain(iterations=3, num_children=1, widening=0.5), default="=a .5").play()
    assert game.expanded() == ["", "", ""]


def test_an_open_node_that_is_waited_for_widens_none_above_it() -> None:
    """Below the root a solution, and a step whose only child is pending: both have as many as they may."""
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    tree.add(Node(id=1, parent=ROOT, finish_reason="eos", answer="1"))
    tree.add(Node(id=2, parent=ROOT, finish_reason="step"))
    tree.add(Node(id=3, parent=2))
    for node in (1, 2):
        tree[node].scores[VERIFIER] = (0.5,)
        tree.note(node, score=0.5, value=0.5)
    tree.note(1, visits=1, q=0.5)
    tree.note(ROOT, visits=1, q=0.5)
    strategy = plain(iterations=9, in_flight=4, num_children=1, widening=0.5)
    assert strategy.ask(tree, Room(9)) == []
    tree[3].finish_reason = "error"
    assert selected(strategy, tree, room=1) == 2

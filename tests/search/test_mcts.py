"""Monte Carlo tree search on hand-made trees: bounds, virtual losses, widening, rollouts, backups, solutions, ends."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from reason.errors import UsageError
from reason.search.bandits import widened
from reason.search.strategies.mcts import MCTS, ReSTMCTS, RStarMath
from reason.search.tree import ROOT, Action, Cancel, Expand, Measure, Node, Room, Tree
from reason.types import Problem

VERIFIER = MCTS().verifier


class Game:
    """Plays a strategy against a script, results in the order asked.

    Args:
        script: what the children are, by their places on the path ("1.0": the root's second child's first). ".5" is a
            step of that score, "=a .5" a solution with answer a, "= .5" one without, "!" fails. Else ``default``. What
            is asked for to the end ends.
        room: samples in flight.
    """

    def __init__(
        self, strategy: MCTS, script: Mapping[str, str] | None = None, *, default: str = ".5", room: int = 64
    ) -> None:
        self.strategy = strategy
        self.tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
        self.asked: list[Action] = []
        self._script = script or {}
        self._default = default
        self._room = room
        self._work: deque[int | Measure] = deque()
        self._classes: list[str] = []
        self._to_the_end = [False]  # by node

    def ask(self) -> list[Action]:
        """Starts what the strategy wants."""
        in_flight = sum(isinstance(work, int) for work in self._work)
        actions = list(self.strategy.ask(self.tree, Room(self._room - in_flight)))
        self.asked += actions
        for action in actions:
            if isinstance(action, Measure):
                self.tree.measuring.update((node, action.name) for node in action.nodes)
                self._work.append(action)
            elif isinstance(action, Cancel):
                for node in action.nodes:
                    self.tree[node].finish_reason = "cancelled"
                self._work = deque(work for work in self._work if work not in action.nodes)
            else:
                for _ in range(min(action.num_samples, self._room - in_flight)):
                    in_flight += 1
                    self._work.append(len(self.tree))
                    self._to_the_end.append(action.until == "end")
                    self.tree.add(Node(id=len(self.tree), parent=action.node))
        return actions

    def tell(self) -> bool:
        """Ends the oldest work. Whether there was any."""
        if not self._work:
            return False
        work = self._work.popleft()
        if isinstance(work, Measure):
            for scored in work.nodes:
                self.tree[scored].scores[work.name] = (float(self._says(scored).split()[-1]),)
                self.tree.measuring.discard((scored, work.name))
            self.strategy.tell(self.tree, work.nodes)
            return True
        says = self._says(work)
        node: Node = self.tree[work]
        ends = says.startswith("=") or self._to_the_end[work]
        node.finish_reason = "error" if says == "!" else "eos" if ends else "step"
        if answer := says.split()[0][1:] if says.startswith("=") else "":
            if answer not in self._classes:
                self._classes.append(answer)
            node.answer, node.answer_class = answer, self._classes.index(answer)
        self.strategy.tell(self.tree, [work])
        return True

    def play(self, tells: int = 10_000) -> Game:
        self.ask()
        while tells and self.tell():
            self.ask()
            tells -= 1
        return self

    def play_until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            work = len(self._work)
            self.play(1)
            assert work or self._work, "it ended before"

    def note(self, name: str) -> dict[str, Any]:
        """A note of all nodes that have it, by their places."""
        return {self.place(node.id): node.notes[name] for node in self.tree.nodes if name in node.notes}

    def expanded(self) -> list[str]:
        """Where expansions were asked for, in order."""
        return [self.place(action.node) for action in self.asked if isinstance(action, Expand)]

    def place(self, node: int) -> str:
        places = [[c.id for c in self.tree.children(n.parent or ROOT)].index(n.id) for n in self.tree.path(node)]
        return ".".join(map(str, places))

    def _says(self, node: int) -> str:
        return self._script.get(self.place(node), self._default)


def plain(**fields: Any) -> MCTS:
    """One selection at a time, two children, no rollouts."""
    return MCTS(**{"in_flight": 1, "simulate": "none", **fields})


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


# -- rollouts ------------------------------------------------------------------------------------------------------


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


# -- solutions and ends --------------------------------------------------------------------------------------------


def test_what_is_finished_is_left_out() -> None:
    game = Game(plain(iterations=9, exploration=0.0), {"0": "=a .9", "1": ".1", "1.0": "=b .9", "1.1": "=b .8"}).play()
    assert game.expanded() == ["", "1"]  # then there is nothing left to find, iterations or not
    assert game.note("visits") == {"": 4, "0": 1, "1": 3, "1.0": 1, "1.1": 1}


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

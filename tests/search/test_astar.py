"""A* on hand-made trees: a tab in a step's text costs 1, everything else nothing."""

from __future__ import annotations

import asyncio
import heapq
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.driver import Run
from reason.search.strategies.astar import AStar
from reason.search.tree import ROOT, Expand, Node, Room, Tree
from reason.types import Budget, Engine, Problem, Solution, TokenLogprobs, Trajectory

Plan = Mapping[str, Sequence[str]]
"""The steps below a state, in the order in which they are asked for. "a 3" is the step a that costs 3, "a+b 3" is one
step whose text is as that of a and b, "=1 4" ends the solution with answer 1, "!" fails."""


def written(step: str) -> str:
    name, _, cost = step.partition(" ")
    text = f"\\boxed{{{name[1:]}}}" if name.startswith("=") else name.replace("+", "\n")
    return text + "\t" * int(cost) + ("" if name.startswith("=") else "\n\n")


def state(text: str) -> str:
    return " ".join(text.split())


class Playing(ScriptedEngine):
    """Plays a plan."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(self._next, logprob=lambda prefix, token: -float(token == "\t"))
        self._plan = plan
        self._asked: Counter[str] = Counter()

    def _next(self, prefix: str) -> list[str]:
        at = state(prefix.rpartition("<assistant>")[2])
        self._asked[at] += 1
        step = self._plan[at][self._asked[at] - 1]
        if step.startswith("!"):
            raise RuntimeError("this one fails")
        return [written(step)]


@dataclass(frozen=True)
class Scores:
    """Scores a state by a table; 1 where it says nothing."""

    table: Mapping[str, float] = field(default_factory=dict)
    name: str = "self-certainty"
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [self.table.get(state(trajectory.text), 1.0) for trajectory in trajectories]


@dataclass(frozen=True, kw_only=True)
class Told(AStar):
    """A* that is told h."""

    table: Mapping[str, float] = field(default_factory=dict)

    def heuristic(self, tree: Tree, node: Node) -> float:
        return self.table.get(state(tree.text(node.id)), 0.0)


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return None if found is None or found[1] == "none" else found[1]


BOXED = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)
MANY: dict[str, Any] = {"num_solutions": 1000, "max_expansions": 1000, "cost": "sum"}


def play(
    plan: Plan,
    strategy: AStar,
    *,
    scores: Mapping[str, float] | None = None,
    max_in_flight: int = 64,
    budget: Budget | None = None,
) -> tuple[Solution, Tree]:
    verifiers = {name: Scores(scores or {}) for name in strategy.measures}
    run = Run(
        Playing(plan),
        BOXED,
        strategy,
        strategy_name="test",
        budget=budget or Budget(),
        seed=0,
        owner="run",
        verifiers=verifiers,
        max_in_flight=max_in_flight,
    )
    return asyncio.run(asyncio.wait_for(run.solve(), 20)), run.tree


def closed(tree: Tree) -> list[str]:
    """The states in the order in which they were expanded."""
    found = sorted((node for node in tree.nodes if "closed" in node.notes), key=lambda node: node.notes["closed"])
    return [state(tree.text(node.id)) for node in found]


def noted(tree: Tree, name: str) -> dict[str, Any]:
    return {state(tree.text(node.id)): node.notes[name] for node in tree.nodes[1:] if name in node.notes}


# -- optimality ----------------------------------------------------------------------------------------------------


def remaining(plan: Plan, at: str = "") -> float:
    """The true cost from a state to the end of its cheapest solution."""
    costs = [math.inf]
    for step in plan.get(at, ()):
        name, _, cost = step.partition(" ")
        costs.append(int(cost) + (0 if name.startswith("=") else remaining(plan, state(f"{at} {name}"))))
    return min(costs)


def textbook(plan: Plan, h: Mapping[str, float], weight: float) -> tuple[float, list[str]]:
    """A* on a tree as in any textbook: the first solution's cost, and the states expanded."""
    order: list[str] = []
    entries: list[tuple[float, bool, int, int, float, str]] = [(0.0, True, 0, 0, 0.0, "")]
    made = 0
    while True:
        _, unfinished, depth, _, g, at = heapq.heappop(entries)
        if not unfinished:
            return g, order
        order.append(at)
        for step in plan[at]:
            name, _, cost = step.partition(" ")
            ends = name.startswith("=")
            after = state(f"{at} {name}")
            made += 1
            f = g + int(cost) + (0.0 if ends else weight * h[after])
            heapq.heappush(entries, (f, not ends, depth - 1, made, g + int(cost), after))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Trees with two steps below each state, at most four deep, in which every leaf is a solution."""
    plan: dict[str, list[str]] = {}
    level = [""]
    for depth in range(4):
        below: list[str] = []
        for at in level:
            plan[at] = []
            for letter in "ab":
                ends = depth == 3 or draw(st.integers(0, 3)) == 0
                cost = draw(st.integers(0, 9))
                name = f"={len(plan)}{letter}" if ends else letter
                plan[at].append(f"{name} {cost}")
                below += [] if ends else [state(f"{at} {name}")]
        level = below
    return plan


@settings(max_examples=50, deadline=None)
@given(plans(), st.floats(0.0, 1.0), st.randoms(use_true_random=False), st.integers(1, 3))
def test_the_first_solution_is_the_cheapest(plan: Plan, share: float, coins: Any, parallel: int) -> None:
    """With any h that is admissible, consistent or not, however many entries are expanded at once."""
    table = {at: share * coins.random() * remaining(plan, at) for at in plan}
    strategy = Told(num_children=2, parallel=parallel, table=table, **MANY)
    solution, tree = play(plan, strategy)
    (best,) = [node for node in tree.finished() if tree.text(node.id) == solution.text]
    assert best.notes["g"] == best.notes["f"] == remaining(plan)
    for node in (node for node in tree.nodes if "f" in node.notes):  # others were on their way when it ended
        assert node.notes["g"] == tree.text(node.id).count("\t")
        assert node.notes["f"] == node.notes["g"] + node.notes["h"]


@settings(max_examples=50, deadline=None)
@given(plans(), st.randoms(use_true_random=False), st.sampled_from([0.0, 1.0, 2.5]))
def test_it_expands_what_the_textbook_does(plan: Plan, coins: Any, weight: float) -> None:
    table = {at: coins.random() * remaining(plan, at) for at in plan}
    strategy = Told(num_children=2, parallel=1, weight=weight, table=table, **MANY)
    solution, tree = play(plan, strategy)
    cost, order = textbook(plan, table, weight)
    assert closed(tree) == order
    assert solution.text.count("\t") == cost <= max(1.0, weight) * remaining(plan)


def test_uniform_cost_search_asks_no_verifier() -> None:
    plan = {"": ["a 1", "b 4"], "a": ["c 1", "=1 8"], "a c": ["=2 5", "=3 4"], "b": ["=4 1", "=5 9"]}
    strategy = AStar(num_children=2, parallel=1, weight=0.0, **MANY)
    assert strategy.measures == ()
    solution, tree = play(plan, strategy)
    assert closed(tree) == ["", "a", "a c", "b"]
    assert (solution.answer, solution.stopped_by) == ("4", "done")
    assert [candidate.score for candidate in solution.candidates] == [-9.0, -7.0, -6.0, -5.0, -13.0]


def test_weight_finds_a_solution_sooner_and_it_may_cost_more() -> None:
    """h is right but for b, where it is too high by 1; the way through a looks as if it were free."""
    plan = {"": ["a 3", "b 2"], "a": ["=1 2", "=2 9"], "b": ["=3 2", "=4 9"]}
    table = {"a": 2.0, "b": 2.0}
    for weight, expanded, answer in ((1.0, ["", "b"], "3"), (0.0, ["", "b", "a"], "3")):
        solution, tree = play(plan, Told(num_children=2, parallel=1, weight=weight, table=table, **MANY))
        assert (closed(tree), solution.answer) == (expanded, answer)
    table = {"a": 1.0, "b": 2.0}
    solution, tree = play(plan, Told(num_children=2, parallel=1, weight=3.0, table=table, **MANY))
    assert (closed(tree), solution.answer) == (["", "a"], "1")  # 3 + 3 before 2 + 6; 5 instead of 4


# -- where paths meet ----------------------------------------------------------------------------------------------

# Two paths lead to the state "a b": in one step that costs 5, or in two that cost 1 each.
MEETING = {
    "": ["a+b 5", "a 1", "=9 13"],
    "a": ["b 1", "=8 20", "=7 20"],
    "a b": ["=1 10", "c 1", "=2 30"],
    "a b c": ["=3 20", "=4 20", "=5 20"],
}


def test_a_closed_state_that_is_reached_more_cheaply_passes_that_on() -> None:
    """h is admissible and inconsistent: a is 11 from the end, "a b" 10, and h says 10 and 0. "a b" is expanded on its
    dear path first. If what a saves were not passed on, its solution would cost 15 and answer 9, at 13, be returned."""
    strategy = Told(num_children=3, parallel=1, table={"a": 10.0}, **MANY)
    solution, tree = play(MEETING, strategy)
    assert closed(tree) == ["", "a b", "a b c", "a"]
    assert solution.answer == "1"
    first, second = (node for node in tree.nodes if state(tree.text(node.id)) == "a b")
    assert (first.notes["g"], first.notes["reopened"], second.notes["duplicate"]) == (2.0, 1, first.id)
    assert second.notes["pruned"]
    assert not tree.children(second.id)  # its successors are known
    solutions = {node.answer: node.notes["g"] for node in tree.finished()}
    assert solutions == {"1": 12, "2": 32, "3": 23, "4": 23, "5": 23, "7": 21, "8": 21, "9": 13}
    assert noted(tree, "g")["a b c"] == 3.0


def test_what_is_saved_reaches_states_that_other_paths_lead_to() -> None:
    """At first "a b c" is one step of 8. Through "a b" at 5 it costs 6, and 3 when that is found to cost 2."""
    plan = {"": ["a+b 5", "a 1", "a+b+c 8"], "a": ["b 1", "=1 50", "=2 50"], "a b": ["c 1", "=3 50", "=4 50"]}
    strategy = Told(num_children=3, parallel=1, table={"a": 20.0, "a b c": 30.0}, **{**MANY, "max_expansions": 3})
    _, tree = play(plan, strategy)
    assert closed(tree) == ["", "a b", "a"]
    first = {state(tree.text(node.id)): node for node in reversed(tree.nodes)}
    assert (first["a b"].notes["g"], first["a b c"].notes["g"], first["a b c"].notes["f"]) == (2.0, 3.0, 33.0)
    assert "reopened" not in first["a b c"].notes  # it was open


def test_with_a_consistent_h_nothing_is_reopened() -> None:
    strategy = Told(num_children=3, parallel=1, table={"a": 11.0, "a b": 10.0, "a b c": 10.0}, **MANY)
    solution, tree = play(MEETING, strategy)
    assert closed(tree) == ["", "a", "a b"]
    assert solution.answer == "1"
    assert "reopened" not in [note for node in tree.nodes for note in node.notes]


def test_texts_that_differ_are_told_apart_if_they_shall() -> None:
    strategy = Told(num_children=3, parallel=1, table={"a": 10.0}, drop_duplicates=False, **MANY)
    plan = {**MEETING, "a b": [*MEETING["a b"], "=6 30", "=6 30", "=6 30"]}
    solution, tree = play(plan, strategy)
    assert closed(tree)[:4] == ["", "a b", "a b c", "a"]
    assert "duplicate" not in [note for node in tree.nodes for note in node.notes]
    assert solution.answer == "9"


def test_equal_siblings_are_one_state_of_the_lesser_cost() -> None:
    plan = {"": ["a 3", "A 2", "a 4", "b 9"], "a": ["=1 1", "=2 0", "=3 4", "=4 4"]}
    solution, tree = play(plan, AStar(num_children=4, parallel=1, weight=0.0, **MANY))
    assert [node.notes.get("duplicate") for node in tree.nodes[1:5]] == [None, 1, 1, None]
    assert tree[1].notes["g"] == 2.0
    assert solution.answer == "2"
    assert closed(tree) == ["", "a"]


def test_a_step_that_says_nothing_leads_nowhere() -> None:
    plan = {"": ["a 1", "=1 9"], "a": ["\n 0", "=2 3"]}
    solution, tree = play(plan, AStar(num_children=2, parallel=1, weight=0.0, **MANY))
    assert (solution.answer, len(tree)) == ("2", 5)
    assert tree[3].notes["duplicate"] == 1


# -- f, g and h ----------------------------------------------------------------------------------------------------


def test_costs_of_steps() -> None:
    rows = tuple(TokenLogprobs(value) for value in (-0.5, -1.5, -4.0))
    node = Node(id=1, parent=0, num_tokens=3, logprobs=rows)
    assert AStar(cost="sum")._cost(node) == 6.0
    assert AStar(cost="mean")._cost(node) == 2.0
    unrecorded = Node(id=1, parent=0, num_tokens=3)
    assert AStar(cost="sum")._cost(unrecorded) == 3.0
    assert AStar(cost="mean")._cost(unrecorded) == 1.0
    assert AStar(cost="mean")._cost(Node(id=1, parent=0)) == 0.0
    assert AStar().sampling.logprobs == 0


def test_h_is_learnt_from_the_solutions() -> None:
    """Before there is one, from the first expansion: steps cost (2 + 4) / 2, and six are expected, five more. Then from
    the solution: 5 in two steps, so that (6 + 2) / 2 are expected."""
    plan = {"": ["a 2", "b 4"], "a": ["=1 3", "c 6"], "b": ["=2 9", "=3 9"], "a c": ["=4 9"] * 2}
    strategy = AStar(num_children=2, parallel=1, expected_steps=6, cost="sum", num_solutions=100, weight=2.0)
    half = {"a": 0.5, "b": 0.25, "a c": 0.75}
    _, tree = play(plan, strategy, scores=half, budget=Budget(calls=2 + 1))
    assert noted(tree, "h") == pytest.approx({"a": 0.5 * 5 * 3, "b": 0.75 * 5 * 3})
    assert noted(tree, "f")["b"] == pytest.approx(4 + 2 * 11.25)
    solution, tree = play(plan, strategy, scores=half)
    assert tree[ROOT].notes == {"closed": 1, "step_cost": 2.5, "num_steps": 4.0, "solutions": 1}
    assert noted(tree, "h") == pytest.approx(
        {"a": 0.5 * 3 * 2.5, "b": 0.75 * 3 * 2.5, "a \\boxed{1}": 0.0, "a c": 0.25 * 2 * 2.5}
    )
    assert (solution.answer, closed(tree)) == ("1", ["", "a"])
    # An estimate is never less than one step.
    assert strategy.heuristic(tree, Node(id=9, parent=0, depth=30, notes={"value": 0.0})) == 2.5


def test_scores_that_are_no_probabilities_lie_on_a_logistic_curve() -> None:
    plan = {"": ["a 1", "b 1", "c 1"], "c": ["=1 0"] * 3}
    strategy = AStar(num_children=3, parallel=1, cost="sum")
    _, tree = play(plan, strategy, scores={"a": 10.0, "b": 12.0, "c": 14.0})
    z = math.sqrt(1.5)
    wanted = {"a": 1 / (1 + math.exp(z)), "b": 0.5, "c": 1 / (1 + math.exp(-z)), "c \\boxed{1}": 1.0}
    assert noted(tree, "value") == pytest.approx(wanted)


# -- its end -------------------------------------------------------------------------------------------------------


def test_it_ends_when_there_are_enough_solutions() -> None:
    plan = {"": ["a 1", "=1 30", "=2 20"], "a": ["b 1", "=3 9", "=3 9"], "a b": ["c 1"] * 3}
    solution, tree = play(plan, AStar(num_children=3, parallel=1, weight=0.0, num_solutions=3, cost="sum"))
    assert [node.finish_reason for node in tree.children(1)] == ["step", "eos", "cancelled"]
    assert (solution.answer, [candidate.answer for candidate in solution.candidates]) == ("3", ["1", "2", "3"])
    voting = AStar(num_children=3, parallel=1, weight=0.0, num_solutions=3, cost="sum", select="majority")
    assert play(plan, voting)[0].answer == "1"  # one vote each, and the first asked for


def test_what_is_under_way_is_cancelled_when_it_is_decided() -> None:
    plan = {"": ["a 1", "b 2"], "a": ["=1 0", "=2 5"], "b": ["=3 9", "=4 9"]}
    solution, tree = play(plan, AStar(num_children=2, parallel=2, weight=0.0, **MANY))
    assert solution.answer == "1"
    assert [node.finish_reason for node in tree.children(2)] == ["cancelled", "cancelled"]


def test_what_may_be_better_is_waited_for() -> None:
    """b is less than a's solution, so its expansion is not cancelled, nor the solution taken."""
    plan = {"": ["a 1", "b 2"], "a": ["=1 3", "=2 5"], "b": ["=3 1", "=4 9"]}
    solution, _ = play(plan, AStar(num_children=2, parallel=2, weight=0.0, **MANY))
    assert solution.answer == "3"


def test_without_a_solution_the_best_is_written_to_its_end() -> None:
    """After two expansions b, at 2, is the best entry: before c, at 6."""
    plan = {"": ["a 1", "b 2"], "a": ["c 5", "d 6"]}
    strategy = AStar(num_children=2, parallel=2, weight=0.0, max_expansions=2, cost="sum")
    solution, tree = play({**plan, "b": ["x 5", "=1 7"]}, strategy)
    assert (closed(tree), solution.answer, solution.stopped_by) == (["", "a", "b"], "1", "done")
    assert [node.finish_reason for node in tree.children(2)] == ["eos", "eos"]
    solution, tree = play({**plan, "b": ["x 5", "=none 7"]}, strategy)  # once, not until it succeeds
    assert (len(tree), solution.answer, solution.stopped_by) == (7, None, "done")


def test_a_completion_that_fails_leaves_it_to_the_next_best() -> None:
    plan = {"": ["a 1", "b 2"], "a": ["c 5", "d 6"], "b": ["!", "!"]}
    strategy = AStar(num_children=2, parallel=2, weight=0.0, max_expansions=2, cost="sum")
    solution, tree = play({**plan, "a c": ["!", "=1 7"]}, strategy)
    assert (closed(tree), solution.answer, solution.stopped_by) == (["", "a", "b", "a c"], "1", "done")
    assert [node.finish_reason for node in tree.children(3)] == ["error", "eos"]
    solution, tree = play({**plan, "a c": ["!", "!"], "a d": ["!", "!"]}, strategy)
    assert (closed(tree)[2:], solution.answer, solution.stopped_by) == (["b", "a c", "a d"], None, "done")


def test_it_goes_on_in_one_go_near_its_limits() -> None:
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")])
    strategy = AStar(max_tokens=100, max_step_tokens=40, max_steps=3)
    asked = strategy.ask(tree, Room(64))
    assert [(e.node, e.num_samples, e.until, e.max_tokens) for e in asked if isinstance(e, Expand)] == [
        (ROOT, 4, "step", 40)
    ]
    tree.add(Node(id=1, parent=ROOT, path_tokens=70, finish_reason="step"))
    assert (strategy.step(tree, 1, 1).until, strategy.step(tree, 1, 1).max_tokens) == ("end", 30)
    assert strategy.step(tree, ROOT, 1, last=True).until == "end"


# -- failures, rooms, fields ---------------------------------------------------------------------------------------


def test_failures_and_solutions_without_an_answer_are_dead_ends() -> None:
    plan = {"": ["a 1", "!", "=none 0"], "a": ["!", "!", "!"]}
    solution, tree = play(plan, AStar(num_children=3, parallel=1, weight=0.0))
    assert (solution.answer, solution.stopped_by, len(tree)) == (None, "done", 7)
    assert tree[3].notes["pruned"]
    solution, _ = play({**plan, "a": ["!", "=1 1", "!"]}, AStar(num_children=3, parallel=1))
    assert solution.answer == "1"


@pytest.mark.parametrize("room", [1, 2, 3, 5])
@pytest.mark.parametrize("parallel", [1, 2])
def test_a_narrow_room_changes_nothing(room: int, parallel: int) -> None:
    plan = {"": ["a 1", "b 4"], "a": ["c 1", "=1 8"], "a c": ["=2 5", "=3 4"], "b": ["=4 1", "=5 9"]}
    solution, _ = play(plan, AStar(num_children=2, parallel=parallel, weight=0.0, **MANY), max_in_flight=room)
    assert solution.answer == "4"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_children": 0}, "num_children must be at least 1, got 0"),
        ({"parallel": 0}, "parallel must be at least 1, got 0"),
        ({"weight": -0.5}, "weight must be at least 0, got -0.5"),
        ({"expected_steps": 0}, "expected_steps must be at least 1, got 0"),
        ({"num_solutions": 0}, "num_solutions must be at least 1, got 0"),
        ({"max_expansions": 0}, "max_expansions must be at least 1, got 0"),
        ({"cost": "max"}, "cost must be one of mean, sum, got 'max'"),
        ({"select": "weighted"}, "select must be one of best, majority, got 'weighted'"),
        ({"verifier": "agreement"}, "agreement compares finished solutions"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        AStar(**fields)

"""Best-first search on planned trees: what is expanded, in which order, when it ends, and what it answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from reason.errors import UsageError
from reason.search.strategies.best_first import BestFirst
from reason.search.tree import ROOT, Expand, Measure, Room
from reason.types import Budget
from tests.search.planned import VERIFIER, expanded, grown, names, play

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun


def test_the_best_of_all_open_nodes_is_expanded_next(make_run: MakeRun) -> None:
    plan = {
        "": ["a .6", "b .8"],
        "b": ["c .3", "d .7"],
        "b.d": ["e .5", "f .2"],
        "a": ["g .1", "=1 .9"],
    }  # b .8, then d .7, then back to a .6, for e has only .5; then the solution of .9
    solution, tree, _ = play(make_run, BestFirst(num_children=2), plan)
    assert expanded(tree) == ["", "b", "d", "a"]
    assert len(tree) == 1 + 8
    assert (solution.answer, solution.stopped_by) == ("1", "done")
    assert [node.notes.get("score") for node in tree.nodes[1:]] == [0.6, 0.8, 0.3, 0.7, 0.5, 0.2, 0.1, 0.9]


def test_a_solution_ends_it_only_when_nothing_open_is_better(make_run: MakeRun) -> None:
    plan = {"": ["=1 .5", "b .6", "=2 .3"], "b": ["c .4", "=3 .2", "=4 .1"]}
    solution, tree, _ = play(make_run, BestFirst(num_children=3), plan)
    assert expanded(tree) == ["", "b"]  # then the solution of .5 is the best of what is left
    assert solution.answer == "1"
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "3", "4"]


def test_ties_go_to_the_first(make_run: MakeRun) -> None:
    plan = {"": ["a .5", "b .5", "c .5"], "a": ["=1 .9"], "b": ["=2 .9"], "c": ["=3 .9"]}
    assert expanded(play(make_run, BestFirst(num_children=3), plan)[1]) == ["", "a"]


def test_without_an_answer_a_solution_is_out_of_the_race(make_run: MakeRun) -> None:
    plan = {"": ["= .9", "a .2"], "a": ["= .8", "=5 .1"]}
    solution, tree, _ = play(make_run, BestFirst(num_children=2), plan)
    assert expanded(tree) == ["", "a"]
    assert solution.answer == "5"


def test_after_the_last_iteration_the_best_is_written_to_its_end_greedily(make_run: MakeRun) -> None:
    plan = {"": ["a .4", "b .5"], "b": ["c .1", "d .2"], "a": ["x .1\n\ny .1\n\n\\boxed{7} .3"]}
    strategy = BestFirst(num_children=2, iterations=2, max_tokens=200, max_step_tokens=50)
    solution, tree, requests = play(make_run, strategy, plan)
    assert expanded(tree) == ["", "b", "a"]
    assert names(tree) == ["a", "b", "c", "d", "x"]
    assert [request.sampling.temperature for request in requests] == [0.8] * 4 + [0.0]
    assert requests[-1].stop == ()
    assert requests[-1].max_tokens == 200 - tree[1].path_tokens
    assert solution.answer == "7"
    assert tree[5].notes["score"] == 0.3  # it is judged like the others


def test_a_completion_that_gives_no_answer_is_the_last(make_run: MakeRun) -> None:
    solution, tree, _ = play(make_run, BestFirst(num_children=2, iterations=1), {"": ["a .4", "b .5"], "b": ["= .9"]})
    assert expanded(tree) == ["", "b"]
    assert solution.answer is None


def test_a_completion_that_fails_leaves_it_to_the_next_best(make_run: MakeRun) -> None:
    plan = {"": ["a .4", "b .5"], "b": ["fails"], "a": ["=1 .1"]}
    solution, tree, _ = play(make_run, BestFirst(num_children=2, iterations=1), plan)
    assert expanded(tree) == ["", "b", "a"]
    assert solution.answer == "1"


def test_where_the_best_is_a_solution_nothing_is_completed(make_run: MakeRun) -> None:
    _, tree, _ = play(make_run, BestFirst(num_children=2, iterations=1), {"": ["a .4", "=1 .5"]})
    assert len(tree) == 3


def test_samples_that_fail_are_not_waited_for(make_run: MakeRun) -> None:
    plan = {"": ["fails", "a .2", "b .9"], "b": ["fails", "fails", "fails"], "a": ["=1 .5"]}
    solution, tree, _ = play(make_run, BestFirst(num_children=3), plan)
    assert expanded(tree) == ["", "b", "a"]
    assert solution.answer == "1"


def test_a_search_that_runs_dry_ends(make_run: MakeRun) -> None:
    solution, tree, _ = play(make_run, BestFirst(num_children=2), {"": ["= .5", "fails"]})
    assert (solution.answer, solution.stopped_by, len(tree)) == (None, "done", 3)


@pytest.mark.parametrize("room", [1, 2, 64])
def test_several_nodes_are_expanded_at_once(make_run: MakeRun, room: int) -> None:
    """c, the best of all, comes too late: a and b are under way already."""
    plan = {
        "": ["a .6", "b .5", "x .1"],
        "a": ["c .9", "d .2", "=9 .05"],
        "b": ["e .4", "f .3", "=8 .05"],
        "a.c": ["=1 .95", "g .1", "h .1"],
        "b.e": ["=2 .7", "i .1", "k .1"],
    }
    strategy = BestFirst(num_children=3, parallel=2)
    solution, tree, _ = play(make_run, strategy, plan, max_in_flight=room)
    assert set(expanded(tree)[:4]) == {"", "a", "b", "c"}
    assert solution.answer == "1"
    alone = play(make_run, BestFirst(num_children=3), plan)[1]
    assert expanded(alone) == ["", "a", "c"]


def test_what_is_worse_than_a_solution_is_not_expanded_beside_what_is_better() -> None:
    tree = grown((ROOT, "a", "step"), (ROOT, "b", "step"), (ROOT, "=1", "eos"))
    for node, score in ((1, 0.9), (2, 0.2), (3, 0.5)):
        tree.note(node, score=score)
    tree[3].answer = "1"
    strategy = BestFirst(num_children=3, parallel=3)
    assert [action.node for action in strategy.ask(tree, Room(64)) if isinstance(action, Expand)] == [1]


def test_iterations_bound_what_is_expanded_at_once() -> None:
    tree = grown((ROOT, "a", "step"), (ROOT, "b", "step"), (ROOT, "c", "step"))
    for node in (1, 2, 3):
        tree.note(node, score=0.5)
    strategy = BestFirst(num_children=3, parallel=3, iterations=3)
    assert [action.node for action in strategy.ask(tree, Room(64)) if isinstance(action, Expand)] == [1, 2]


def test_it_asks_for_what_is_missing_and_measures_siblings_together() -> None:
    strategy = BestFirst(num_children=3)
    tree = grown((ROOT, "a", "step"), (ROOT, "b", None))
    (lacking,) = strategy.ask(tree, Room(1))
    assert isinstance(lacking, Expand)
    assert (lacking.node, lacking.num_samples) == (ROOT, 1)
    tree = grown((ROOT, "a", "step"), (ROOT, "b", None), (ROOT, "c", "eos"))
    assert strategy.ask(tree, Room(1)) == []
    tree[2].finish_reason = "error"
    assert strategy.ask(tree, Room(1)) == [Measure(nodes=(1, 3), name=VERIFIER)]
    tree.measuring.update({(1, VERIFIER), (3, VERIFIER)})
    assert strategy.ask(tree, Room(1)) == []


@pytest.mark.parametrize(("aggregation", "order"), [("last", ["", "a", "c"]), ("prod", ["", "a", "b"])])
def test_a_path_is_worth_what_its_steps_are(make_run: MakeRun, aggregation: Any, order: list[str]) -> None:
    plan = {"": ["a .6", "b .5"], "a": ["c .8", "d .4"], "b": ["=1 .9", "=1 .9"], "a.c": ["=1 .9", "=1 .9"]}
    strategy = BestFirst(num_children=2, iterations=3, aggregation=aggregation)  # .6 times .8 is less than .5
    assert expanded(play(make_run, strategy, plan)[1])[:3] == order


def test_it_answers_with_the_best_or_by_vote(make_run: MakeRun) -> None:
    plan = {"": ["=1 .4", "=1 .5", "=2 .8", "=1 .1"]}
    for select, answer in (("best", "2"), ("weighted", "1"), ("majority", "1")):
        strategy = BestFirst(num_children=4, select=select)  # type: ignore[arg-type]
        assert play(make_run, strategy, plan)[0].answer == answer


def test_what_a_budget_left_unjudged_is_judged_for_the_answer(make_run: MakeRun) -> None:
    plan = {"": ["=1 .4", "=2 .9", "=1 .5", "a .6"]}
    solution, _, _ = play(make_run, BestFirst(num_children=4), plan, budget=Budget(calls=3))
    assert (solution.answer, solution.stopped_by) == ("2", "calls")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_children": 0}, "num_children must be at least 1, got 0"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"parallel": 0}, "parallel must be at least 1, got 0"),
        ({"verifier": "agreement"}, "agreement compares finished solutions"),
        ({"aggregation": "none"}, "aggregation must be one of"),
        ({"select": "last"}, "select must be one of"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BestFirst(**fields)

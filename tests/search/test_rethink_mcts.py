"""RethinkMCTS: selection, one rethink, values, what the model is told, ends; on planned thoughts and programs."""

from __future__ import annotations

import asyncio
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.journal import read_journal
from reason.search.strategies.rethink_mcts import RethinkMCTS
from reason.search.tree import ROOT, Cancel, Expand, Node, Room, Tree
from reason.types import Budget, Problem, Thinking
from tests.search.rethink_plan import PROBLEM, VERIFIER, Plan, Planned, play, request_of
from tests.search.test_conformance import Checked, shape

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun


def plain(**fields: Any) -> RethinkMCTS:
    """Without rethinking and evaluations."""
    return RethinkMCTS(**{"max_think_times": 1, "evaluation_weight": 0.0, "width": 2, **fields})


# -- selection -----------------------------------------------------------------------------------------------------

TWO = Plan(lists={"": "1. a [0.6]\n2. b [0.4]"}, scores={"a": 0.5, "b": 0.2, "a.x": 0.3})
ROOT_LN = math.sqrt(math.log(2))  # sqrt(ln N) of the root after one rollout


def test_the_first_rollout_takes_the_first_thought(make_run: MakeRun) -> None:
    """N is 1 then, so that nothing is explored and all are equal, whatever their priors."""
    plan = Plan(lists={"": "1. a [0.1]\n2. b [0.9]"})
    assert play(make_run, plan, plain(rollouts=1)).requests == ["list ", "program a"]


def test_a_limit_may_have_an_unfinished_program_end(make_run: MakeRun) -> None:
    """The closing answer is below a program, and none of a rollout."""

    def script(prefix: str) -> list[str]:
        if prefix.endswith("!"):
            return ["7}\n"]
        return ["1. a\n2. b"] if request_of(prefix).startswith("list") else ["and so on " * 100]

    problem = replace(PROBLEM, extract=lambda text: "7" if "7}" in text else None, closing="!")
    run = make_run(
        ScriptedEngine(script),
        plain(max_tokens=200),
        problem=problem,
        verifiers={VERIFIER: Planned(Plan())},
        budget=Budget(policy_tokens=450),
    )
    solution = asyncio.run(asyncio.wait_for(run.solve(), 20))
    assert solution.stopped_by == "policy_tokens"
    assert solution.answer == "7"


@pytest.mark.parametrize(("above", "second"), [(-0.01, "a.x"), (0.01, "b")])
@pytest.mark.parametrize("rule", ["p_uct", "var_p_uct"])
def test_selection(make_run: MakeRun, rule: Any, above: float, second: str) -> None:
    """a was evaluated: 0.9 * 0.5 + c 0.6 sqrt(ln 2) / 2, b was not: c 0.4 sqrt(ln 2). They are equal where
    c 0.1 sqrt(ln 2) = 0.45. With var_p_uct c is ln((2 + 10 + 1) / 10) more than the constant."""
    edge = 4.5 / ROOT_LN - (math.log(1.3) if rule == "var_p_uct" else 0)
    played = play(make_run, TWO, plain(rollouts=2, rule=rule, ucb_constant=edge + above))
    assert played.programs == ["a", second]


def test_selection_without_priors(make_run: MakeRun) -> None:
    """0.45 + c sqrt(ln 2) / 2 against c sqrt(ln 2)."""
    edge = 0.9 / ROOT_LN
    for above, second in ((-0.01, "a.x"), (0.01, "b")):
        assert play(make_run, TWO, plain(rollouts=2, rule="uct", ucb_constant=edge + above)).programs == ["a", second]


def test_the_best_value_below_is_backed_up(make_run: MakeRun) -> None:
    """Without exploration: a (0.5), below it x (0.8), below that y (0.1), as x was thought already: each value is
    discounted once for its thought and once for every thought above."""
    plan = Plan(lists=TWO.lists, scores={"a": 0.5, "a.x": 0.8, "a.x.y": 0.1, "b": 0.4, "a.y": 0.9})
    played = play(make_run, plan, plain(rollouts=3, ucb_constant=0.0, rule="p_uct"))
    assert played.programs == ["a", "a.x", "a.x.y"]
    statistics = [(played.program(path).notes["visits"], played.program(path).notes["q"]) for path in played.programs]
    assert statistics == [
        (3, pytest.approx(0.81 * 0.8)),
        (2, pytest.approx(0.9 * 0.8)),
        (1, pytest.approx(0.9 * 0.1)),
    ]
    assert played.tree[ROOT].notes["visits"] == 3
    mean = play(make_run, plan, plain(rollouts=3, ucb_constant=0.0, rule="p_uct", backup="mean"))
    assert mean.programs == ["a", "a.x", "a.x.y"]
    assert mean.program("a").notes["q"] == pytest.approx((0.9 * 0.5 + 0.81 * 0.8 + 0.729 * 0.1) / 3)


def test_a_list_is_asked_for_when_selection_comes_to_it(make_run: MakeRun) -> None:
    played = play(make_run, TWO, plain(rollouts=3))
    assert played.requests == ["list ", "program a", "list a", "program a.x", "program b"]


# -- rethinking ----------------------------------------------------------------------------------------------------


def test_one_rethink(make_run: MakeRun) -> None:
    plan = Plan(lists=TWO.lists, rethought={"a": "New thought: q"}, scores={"a": 0.5, "q": 0.2})
    played = play(make_run, plan, RethinkMCTS(rollouts=1, width=2))
    assert played.requests == ["list ", "program a", "rethink a", "program q"]
    first, second = played.program("a"), played.program("q")
    assert "value" not in first.notes  # the new state stands for the thought, though its program is worse
    assert (second.notes["value"], second.notes["q"], second.notes["visits"]) == (0.2, pytest.approx(0.18), 1)
    assert played.solution.answer == "def a"  # it was written, and is the best


def test_more_rethinks_if_asked_for(make_run: MakeRun) -> None:
    plan = Plan(lists=TWO.lists, rethought={"a": "q", "q": "aa", "aa": "never"}, scores={"aa": 0.4})
    played = play(make_run, plan, RethinkMCTS(rollouts=1, width=2, max_think_times=3))
    assert played.requests == ["list ", "program a", "rethink a", "program q", "rethink q", "program aa"]


def test_a_rethought_thought_has_a_prior_of_1(make_run: MakeRun) -> None:
    """0.18 + 4 * 1 * 0.83 / 2 = 1.85 against 4 * 0.4 * 0.83 = 1.33 of b; by its own prior of 0.6 it had 1.18."""
    plan = Plan(lists=TWO.lists, rethought={"a": "q"}, scores={"q": 0.2})
    strategy = RethinkMCTS(rollouts=2, width=2, rule="p_uct")
    assert play(make_run, plan, strategy).programs[:3] == ["a", "q", "q.x"]
    unchanged = Plan(lists=TWO.lists, rethought={"a": "a"}, scores={"a": 0.2})
    assert play(make_run, unchanged, strategy).programs[:2] == ["a", "b"]


def test_what_the_model_is_told(make_run: MakeRun) -> None:
    plan = Plan(lists=TWO.lists, rethought={"a": "q"}, scores={"q": 0.5, "q.x": 1.0})
    played = play(make_run, plan, RethinkMCTS(rollouts=3, width=2, ucb_constant=0.0))
    assert played.requests[:6] == ["list ", "program a", "rethink a", "program q", "list q", "program q.x"]
    asked = dict(zip(played.requests, played.prompts, strict=True))
    for request, program in (("rethink a", "a"), ("list q", "q")):
        turn = asked[request].rpartition("<user>")[2]
        shown = f"```python\ndef {program}\n```"
        for part in ("Write f.", f"Thoughts so far:\n1. {program}\n", shown, f"feedback on def {program}"):
            assert part in turn
    assert "feedback" not in asked["program q"]
    assert asked["program q"].count("<user>") == 1
    assert "Write f, in a block.\n\nFollow these thoughts:\n1. q<" in asked["program q"]
    after = asked["list q.x"].rpartition("<user>")[2]
    assert "passes the tests that are known" in after


def test_asides_end_where_code_begins() -> None:
    tree = Tree(PROBLEM, [Node(id=ROOT, parent=None, finish_reason="step")])
    (asked,) = RethinkMCTS().ask(tree, Room(4))
    assert isinstance(asked, Expand)
    assert (asked.stop, asked.aside, asked.sampling.temperature) == (("\n```",), True, 0.0)
    thinking = Tree(PROBLEM, tree.nodes, thinking=Thinking(start="<think>", end="</think>", end_token=7))
    (asked,) = RethinkMCTS().ask(thinking, Room(4))
    assert isinstance(asked, Expand)
    assert asked.stop == ()  # it may write code while it thinks


def test_the_example_is_asked_in_the_same_form(make_run: MakeRun) -> None:
    played = play(make_run, TWO, RethinkMCTS(rollouts=2, width=2))
    for request, prompt in zip(played.requests, played.prompts, strict=True):
        if request.startswith(("list", "rethink")):
            example, answer, _ = re.split("<assistant>", prompt.removesuffix("<assistant>") + "<assistant>")[:3]
            asked = prompt.rpartition("<user>")[2].removesuffix("<assistant>")
            assert example.rpartition("\n\n")[2] == asked.rpartition("\n\n")[2]
            assert answer.partition("<user>")[0].count("\n") == (1 if request.startswith("list") else 0)


# -- values --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "value"),
    [("Fine. Score: 1", 1.0), ("Score: -0.5", 0.7), ("Score: 85", 0.8), ("I am not sure.", 0.8), ("Score: 0.25", 0.85)],
)
def test_a_program_that_passes_is_evaluated(make_run: MakeRun, said: str, value: float) -> None:
    """0.8 * 1 + 0.2 e."""
    plan = Plan(lists=TWO.lists, scores={"a": 1.0}, evaluations={"a": said})
    played = play(make_run, plan, RethinkMCTS(rollouts=1, width=2))
    assert played.requests == ["list ", "program a", "evaluate a"]
    assert played.program("a").notes["value"] == played.program("a").notes["score"] == pytest.approx(value)


def test_an_evaluation_weighs_nothing_if_told_so(make_run: MakeRun) -> None:
    played = play(make_run, Plan(lists=TWO.lists, scores={"a": 1.0}), RethinkMCTS(rollouts=1, evaluation_weight=0.0))
    assert played.requests == ["list ", "program a"]
    assert played.program("a").notes["value"] == 1.0


def test_a_solution_without_a_program_is_worth_nothing(make_run: MakeRun) -> None:
    class Prose(Plan):
        def says(self, prefix: str) -> list[str]:
            return ["No idea."] if request_of(prefix) == "program a" else super().says(prefix)

    plan = Prose(lists=TWO.lists, scores={"No idea.": 1.0})
    played = play(make_run, plan, plain(rollouts=1))
    assert played.tree[2].notes["value"] == 0.0
    assert played.solution.answer is None


def test_the_best_program_is_the_answer_and_of_equals_the_first(make_run: MakeRun) -> None:
    plan = Plan(
        lists={"": "1. a [0.4]\n2. b [0.3]\n3. c [0.3]"},
        scores={"a": 0.3, "b": 1.0, "c": 1.0},
        evaluations={"b": "Score: 0.5", "c": "Score: 0.5"},
    )
    same = RethinkMCTS(rollouts=3, max_think_times=1, ucb_constant=50.0)
    played = play(make_run, plan, same)
    assert played.programs == ["a", "b", "c"]
    assert (played.solution.answer, played.solution.text) == ("def b", "def b")
    assert played.solution.confidence == pytest.approx(1 / 3)
    better = Plan(lists=plan.lists, scores=plan.scores, evaluations={"b": "Score: 0.5", "c": "Score: 0.6"})
    assert play(make_run, better, same).solution.answer == "def c"


# -- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.2, 0.3, 0.0])
def test_it_ends_where_nothing_can_be_better(make_run: MakeRun, weight: float) -> None:
    plan = Plan(lists=TWO.lists, scores={"a": 1.0, "b": 1.0, "a.x": 1.0}, evaluations={"a": "Score: 1"})
    fields: dict[str, Any] = {"rollouts": 4, "max_think_times": 1, "evaluation_weight": weight}
    stopped = play(make_run, plan, RethinkMCTS(**fields))
    assert (stopped.programs, stopped.solution.stopped_by) == (["a"], "done")
    on = play(make_run, plan, RethinkMCTS(**fields, stop_value=0.0))
    assert len(on.programs) == 4
    assert on.solution.answer == stopped.solution.answer == "def a"


def test_it_ends_before_if_told_to(make_run: MakeRun) -> None:
    plan = Plan(lists=TWO.lists, scores={"a": 1.0}, evaluations={"a": "Score: 0.5"})
    for stop_value, programs in ((1.0, 4), (0.95, 4), (0.9, 1), (0.0, 4)):
        strategy = RethinkMCTS(rollouts=4, max_think_times=1, stop_value=stop_value)
        assert len(play(make_run, plan, strategy).programs) == programs


def test_what_is_under_way_is_dropped_at_an_early_stop(make_run: MakeRun) -> None:
    plan = Plan(lists=TWO.lists, scores={"a": 1.0})
    tree = play(make_run, plan, plain(rollouts=1)).tree
    tree.note(ROOT, stopped=True)
    tree.add(Node(id=len(tree), parent=1))
    assert plain().ask(tree, Room(4)) == [Cancel(nodes=(len(tree) - 1,))]


@pytest.mark.parametrize(("calls", "answer"), [(1, None), (2, "def a"), (3, "def a"), (4, "def q"), (6, "def q")])
def test_a_budget_ends_it_with_the_best_program_so_far(make_run: MakeRun, calls: int, answer: str | None) -> None:
    """One call is kept back as long as there is no answer; there is nothing to close, so it stays unused."""
    plan = Plan(lists=TWO.lists, rethought={"a": "q"}, scores={"a": 0.5, "q": 0.7, "q.x": 0.6})
    budget = Budget(calls=calls + (calls < 3))
    played = play(make_run, plan, RethinkMCTS(rollouts=9, width=2), budget=budget)
    assert played.solution.stopped_by == "calls"
    assert played.solution.answer == answer
    assert played.solution.usage.calls <= budget.calls  # type: ignore[operator]


def test_a_pass_counts_before_it_is_evaluated(make_run: MakeRun) -> None:
    plan = Plan(lists=TWO.lists, rethought={"a": "q"}, scores={"a": 0.75, "q": 1.0})
    played = play(make_run, plan, RethinkMCTS(rollouts=9, width=2), budget=Budget(calls=4))
    assert played.requests[-1] == "program q"
    assert played.solution.answer == "def q"


def test_problems_without_public_tests_are_refused(make_run: MakeRun) -> None:
    with pytest.raises(UsageError, match="led by public tests, and problem 'p' has none"):
        play(make_run, TWO, RethinkMCTS(), problem=Problem(content="Write f.", id="p"))


# -- what weak models and broken engines do --------------------------------------------------------------------------


def test_a_list_without_thoughts_is_gone_on_from_all_the_same(make_run: MakeRun) -> None:
    """Its program is written from the thoughts so far."""
    plan = Plan(lists={"": "```python\n\n```", "x": "12"}, rethought={"": "New thought: x"})
    played = play(make_run, plan, RethinkMCTS(rollouts=2, width=2))
    assert played.requests[:4] == ["list ", "program ", "rethink ", "program x"]
    assert played.requests[4:] == ["list x", "program x", "rethink x", "program x.Rather x again."]


@pytest.mark.parametrize(
    ("failing", "requests"),
    [
        ("list ", ["list ", "program ", "rethink ", "program q"]),
        ("program a", ["list ", "program a", "program b", "rethink b", "program q"]),
        ("rethink a", ["list ", "program a", "rethink a", "program b"]),
        ("program q", ["list ", "program a", "rethink a", "program q", "program b"]),
        ("evaluate b", ["list ", "program a", "rethink a", "program q", "program b", "evaluate b"]),
    ],
)
def test_failures_are_no_dead_ends(make_run: MakeRun, failing: str, requests: list[str]) -> None:
    plan = Plan(
        lists=TWO.lists,
        rethought={"a": "q", "": "q", "b": "q"},
        scores={"b": float(failing == "evaluate b"), "a": 0.0},
        failing=[failing],
    )
    played = play(make_run, plan, Checked(RethinkMCTS(rollouts=2, width=2, rule="uct")))
    assert played.requests[: len(requests)] == requests
    assert played.solution.stopped_by == "done"
    assert played.tree[ROOT].notes["visits"] == 2


def test_a_search_whose_programs_all_fail_ends(make_run: MakeRun) -> None:
    plan = Plan(lists={"": "1. a\n2. b"}, failing=["program a", "program b"])
    played = play(make_run, plan, RethinkMCTS(rollouts=9, width=2))
    assert played.requests == ["list ", "program a", "program b"]
    assert (played.solution.answer, played.solution.stopped_by) == (None, "done")


# -- many at once, again ---------------------------------------------------------------------------------------------

RICH = Plan(
    lists={"": "1. a [0.5]\n2. b [0.3]\n3. c [0.2]", "q": "1. d [0.9]\n2. e [0.1]"},
    rethought={"a": "q", "c": "c", "q.d": "r"},
    scores={"a": 0.2, "q": 0.5, "b": 1.0, "c": 0.5, "q.d": 0.6, "q.r": 1.0},
    evaluations={"b": "Score: -0.5", "q.r": "Score: 0.5"},
)


def test_several_rollouts_at_once(make_run: MakeRun) -> None:
    """Those under way count as visits: the three thoughts come first, by their priors."""
    played = play(make_run, RICH, RethinkMCTS(rollouts=6, in_flight=3))
    assert sorted(played.requests[1:4]) == ["program a", "program b", "program c"]
    assert played.tree[ROOT].notes["visits"] == 6
    alone = play(make_run, RICH, RethinkMCTS(rollouts=6))
    assert alone.tree[ROOT].notes["visits"] == 6
    assert alone.solution.answer == played.solution.answer == "def q.r"


@pytest.mark.parametrize("in_flight", [1, 3])
def test_it_is_pure_and_resumes_at_any_event(make_run: MakeRun, tmp_path: Path, in_flight: int) -> None:
    strategy = RethinkMCTS(rollouts=5, in_flight=in_flight)
    whole = tmp_path / "whole.jsonl"
    played = play(make_run, RICH, strategy, journal=whole)
    assert shape(play(make_run, RICH, Checked(strategy)).tree) == shape(played.tree)
    lines = whole.read_bytes().splitlines(keepends=True)
    told = [event for event in read_journal(whole) if event["type"] == "tell"]
    for count in range(len(lines)):
        torn = tmp_path / f"{count}.jsonl"
        torn.write_bytes(b"".join(lines[:count]) + lines[count][: len(lines[count]) // 2])
        again = play(make_run, RICH, strategy, journal=torn)
        assert shape(again.tree) == shape(played.tree)
        assert [node.feedback for node in again.tree.nodes] == [node.feedback for node in played.tree.nodes]
        assert again.solution.answer == played.solution.answer
        recorded = sum(json.loads(line)["type"] == "node" for line in lines[:count])
        assert len(again.prompts) == len(played.prompts) - recorded
        assert [event for event in read_journal(torn) if event["type"] == "tell"] == told


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rollouts": 0}, "rollouts must be at least 1, got 0"),
        ({"max_think_times": 0}, "max_think_times must be at least 1, got 0"),
        ({"ucb_base": 0.0}, "ucb_base must be more than 0, got 0.0"),
        ({"discount": 0.0}, r"discount must be in \(0, 1\], got 0.0"),
        ({"evaluation_weight": 1.0}, r"evaluation_weight must be in \[0, 1\), got 1.0"),
        ({"rule": "puct"}, "rule"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        RethinkMCTS(**fields)

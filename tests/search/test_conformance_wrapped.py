"""What every registered strategy promises inside every wrapper: the core of ``test_conformance``, in one setting each.

A wrapper refuses what it cannot wrap: merging, strategies that do not write step by step; early stopping, strategies
whose answer is not voted on.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reason.errors import UsageError
from reason.search.journal import read_journal
from reason.search.strategies import STRATEGIES, make_strategy
from reason.search.strategies.beam import Beam
from reason.search.strategies.early_stopping import AdaptiveConsistency, UnanimousWindow
from reason.search.strategies.merge import Merge
from reason.search.tree import Strategy
from reason.types import Budget
from reason.verifiers.embeddings import AUTO_EMBEDDING
from tests.search.test_auto import table
from tests.search.test_conformance import LIMITED, SETTINGS, Checked, PathEngine, shape, solve

WRAPPERS: dict[str, type[Any]] = {"merge": Merge, "esc": UnanimousWindow, "adaptive-consistency": AdaptiveConsistency}
OWN: dict[str, dict[str, Any]] = {
    "merge": {"distance": 0.3},
    "esc": {"window": 2, "in_flight": 3},
    "adaptive-consistency": {"confidence": 0.9},
}
NO_STEPS = ["best-of-n", "adaptive-consistency", "esc", "deepconf", "budget-forcing", "tot", "ats", "mctsr", "ab-mcts"]
NO_STEPS += ["probtree", "rethink-mcts", "tool-agent"]
NO_VOTE = ["tot", "probtree", "rethink-mcts"]
LAST = {"best-first", "astar", "budget-forcing", "particle", "rest-mcts"}  # that vote only if told to


def inner(name: str) -> Strategy:
    return make_strategy(name, **SETTINGS[name][0], **LIMITED)


def voting(name: str) -> Strategy:
    strategy: Any = inner(name)
    return replace(strategy, select="majority") if name in LAST else strategy  # type: ignore[no-any-return]


def wrapped() -> dict[str, Strategy]:
    """Every strategy in every wrapper that takes it, and wrappers in each other."""
    found = {f"merge({name})": inner(name) for name in STRATEGIES if name not in (*NO_STEPS, "merge", "auto")}
    found = {label: Merge(inner=strategy, **OWN["merge"]) for label, strategy in found.items()}
    for wrapper in ("esc", "adaptive-consistency"):
        for name in STRATEGIES:
            if name not in NO_VOTE:
                found[f"{wrapper}({name})"] = WRAPPERS[wrapper](inner=voting(name), **OWN[wrapper])
    stepwise = make_strategy("dvts", width=8, beam_width=4, max_step_tokens=20, **LIMITED)
    found["merge(esc(dvts))"] = Merge(inner=UnanimousWindow(inner=stepwise, **OWN["esc"]), **OWN["merge"])
    return found


WRAPPED = wrapped()
CASES = pytest.mark.parametrize("strategy", [pytest.param(each, id=label) for label, each in WRAPPED.items()])


@pytest.mark.parametrize("name", NO_STEPS)
def test_what_does_not_write_step_by_step_is_not_merged(name: str) -> None:
    message = "does not write step by step, so there is nothing to merge; merge wraps beam, dvts, "
    with pytest.raises(UsageError, match=message):
        Merge(inner=inner(name))
    with pytest.raises(UsageError, match=message):
        make_strategy("merge", inner=name)


def test_auto_is_merged_if_what_it_chose_is(tmp_path: Path) -> None:
    """Its table has best-of-n for few tokens, and a beam for many."""
    with pytest.raises(UsageError, match="BestOfN does not write step by step"):
        make_strategy("merge", inner="auto", budget_tokens=1000, table=table(tmp_path))
    merged = make_strategy("merge", inner="auto", budget_tokens=3000, table=table(tmp_path))
    assert merged.measures == ("auto", AUTO_EMBEDDING)


def test_what_merges_is_not_merged_again() -> None:
    with pytest.raises(UsageError, match="merges already; one merge is enough"):
        Merge(inner=UnanimousWindow(inner=Merge()))


@pytest.mark.parametrize("wrapper", ["esc", "adaptive-consistency"])
@pytest.mark.parametrize("name", [*NO_VOTE, *sorted(LAST)])
def test_what_is_not_voted_on_is_not_stopped_early(wrapper: str, name: str) -> None:
    remedy = "it has no other way to answer" if name in NO_VOTE else "use select=majority"
    with pytest.raises(UsageError, match=f"early stopping ends votes, and .* answers by select=.*{remedy}"):
        make_strategy(wrapper, inner=name)
    with pytest.raises(UsageError, match="early stopping ends votes"):
        WRAPPERS[wrapper](inner=Merge(inner=Beam(select="best")))


@CASES
def test_it_is_pure_and_the_same_in_any_order_of_arrival(strategy: Strategy) -> None:
    first, run = solve(PathEngine(), strategy)
    for jitter in (2, 5):
        again, other = solve(PathEngine(jitter=jitter), Checked(strategy))
        assert shape(other.tree) == shape(run.tree)
        assert again.answer == first.answer is not None
        assert again.stopped_by == first.stopped_by == "done"
    assert not any(node.pending for node in run.tree.nodes)
    assert run.tree.measuring == set()
    assert not any(node.scores or node.embeddings for node in run.tree.nodes if node.finish_reason == "cancelled")


@CASES
def test_it_resumes_after_a_torn_line(strategy: Strategy, tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    solution, run = solve(PathEngine(), strategy, journal=whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    told = [event for event in read_journal(whole) if event["type"] == "tell"]
    for count in (*range(0, len(lines) - 1, max(1, len(lines) // 5)), len(lines) - 1):
        torn.write_bytes(b"".join(lines[:count]) + lines[count][: len(lines[count]) // 2])
        resumed, other = solve(PathEngine(jitter=count), strategy, journal=torn)
        assert shape(other.tree) == shape(run.tree)
        assert (resumed.answer, resumed.candidates) == (solution.answer, solution.candidates)
        assert [event for event in read_journal(torn) if event["type"] == "tell"] == told


@CASES
@pytest.mark.parametrize("limit", ["policy_tokens", "calls", "kv_tokens"])
def test_budgets_are_kept(strategy: Strategy, limit: str) -> None:
    for amount in (2, 9, 40, 130):
        engine = PathEngine(jitter=amount)
        solution, run = solve(engine, strategy, budget=Budget(**{limit: amount}))
        if limit == "kv_tokens":
            assert all(len(request.prefix) + request.max_tokens <= amount for request in engine.generated)
        else:
            assert getattr(solution.usage, limit) <= amount
        assert solution.stopped_by in ("done", limit)
        assert not any(node.pending for node in run.tree.nodes)


@CASES
@pytest.mark.parametrize("room", [1, 3])
def test_a_narrow_room_gives_the_whole_search(strategy: Strategy, room: int) -> None:
    solution, run = solve(PathEngine(jitter=room), strategy, max_in_flight=room)
    assert solution.answer is not None
    assert solution.stopped_by == "done"
    assert not any(node.pending for node in run.tree.nodes)

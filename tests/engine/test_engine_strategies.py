"""Every registered strategy over the local engine, in float32: nothing stays locked, resuming changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason.api import Solver
from reason.search.strategies import STRATEGIES
from reason.types import Budget, Problem, Solution

if TYPE_CHECKING:
    from tests.engine.conftest import MakeEngine

SETTINGS: dict[str, dict[str, Any]] = {
    "best-of-n": {"num_samples": 5, "select": "weighted"},
    "beam": {"width": 6, "beam_width": 2, "max_steps": 4},
    "dvts": {"width": 6, "beam_width": 3, "max_steps": 4},
    "rebase": {"width": 6, "max_steps": 4, "max_step_tokens": 15},
    "ets": {"width": 6, "max_steps": 4, "max_step_tokens": 15, "kv_weight": 2.0, "diversity_weight": 0.0},
    "best-first": {"num_children": 3, "iterations": 4, "max_step_tokens": 12},
    "merge": {"width": 6, "beam_width": 2, "max_step_tokens": 12, "max_steps": 4},
    "auto": {"budget_tokens": 1200},
    "adaptive-consistency": {"num_samples": 6, "select": "weighted"},
    "esc": {"num_samples": 6, "window": 3},
    "deepconf": {"num_samples": 6, "warmup": 2, "chunk": 12, "verifier": "confidence:window=8"},
    "mcts": {"iterations": 3, "max_steps": 4},
    "rest-mcts": {"iterations": 2, "num_children": 2, "max_steps": 4},
    "rstar-math": {"iterations": 2, "num_children": 2, "max_steps": 3},
    "mctsr": {"iterations": 2},
    "rethink-mcts": {"rollouts": 2, "verifier": "judge"},
    "tool-agent": {"num_samples": 2, "turn_tokens": 15, "max_calls": 2, "temperature": 0.8, "few_shot": 0},
    "ab-mcts": {"num_samples": 6},
    "astar": {"num_children": 3, "max_expansions": 5, "weight": 1.5},
    "budget-forcing": {"num_waits": 2},
    "particle": {"num_particles": 5, "num_iterations": 2, "max_steps": 4},
    "tot": {"steps": 2, "keep": 2, "num_proposals": 2, "num_values": 2},
    "ats": {"num_samples": 4, "few_shot": 0},
    "probtree": {"max_lists": 2, "few_shot": 0},
}
PROBLEM = Problem(
    content="what is the price of one ticket?",
    extract=lambda text: text[-1:] or None,
    equivalent=lambda a, b: a == b,
    step_delimiter="e",
)


def close(a: object, b: object) -> bool:
    """Equal, but for the last digits of float32 scores: forwards of other shapes round differently."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(close, a, b))
    return a == pytest.approx(b, rel=1e-4) if isinstance(a, float) else a == b


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_stays_locked(make_engine: MakeEngine, name: str) -> None:
    engine = make_engine(kv_tokens=600)
    solver = Solver(engine=engine)
    for budget in (Budget(), Budget(policy_tokens=90), Budget(calls=4), Budget(kv_tokens=120), Budget(seconds=0.05)):
        solution = solver.solve(PROBLEM, name, max_tokens=60, budget=budget, **SETTINGS[name])
        assert solution.usage.policy_tokens <= (budget.policy_tokens or 10_000)
        assert solution.usage.calls <= (budget.calls or 10_000)
        assert solution.usage.unique_kv_tokens_peak <= (budget.kv_tokens or 600)
        engine.check_integrity()


@pytest.mark.parametrize("name", STRATEGIES)
def test_resuming_gives_what_an_uninterrupted_run_gives(make_engine: MakeEngine, name: str, tmp_path: Path) -> None:
    engine = make_engine()
    solver = Solver(engine=engine)

    def run(journal: Path) -> Solution:
        from reason.sync import run_sync

        return run_sync(solver.start(PROBLEM, name, max_tokens=60, journal=journal, **SETTINGS[name]).solve())

    def told(journal: Path) -> list[Any]:
        return [event for event in map(json.loads, journal.read_bytes().splitlines()) if event["type"] == "tell"]

    whole = run(tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(0, len(lines), max(1, len(lines) // 6)):
        torn = tmp_path / f"{count}.jsonl"
        torn.write_bytes(b"".join(lines[:count]) + lines[count][:7])
        engine.drop_cache()
        resumed = run(torn)
        assert close(resumed.as_dict() | {"usage": 0}, whole.as_dict() | {"usage": 0})
        assert close(told(torn), told(tmp_path / "whole.jsonl"))
    assert json.loads(lines[-1])["type"] == "end"
    engine.check_integrity()


@pytest.mark.parametrize("name", STRATEGIES)
def test_problems_in_one_batch_are_solved_as_alone(make_engine: MakeEngine, name: str) -> None:
    solver = Solver(engine=make_engine(kv_tokens=900))
    problems = [
        Problem(
            content=f"what is {i} plus {i}?",
            id=f"p{i}",
            extract=PROBLEM.extract,
            equivalent=PROBLEM.equivalent,
            step_delimiter="e",
        )
        for i in range(5)
    ]
    together = solver.solve_all(problems, name, max_tokens=60, **SETTINGS[name])
    alone = [solver.solve(problem, name, max_tokens=60, **SETTINGS[name]) for problem in problems]
    assert close(*([s.as_dict() | {"usage": 0} for s in solved] for solved in (together, alone)))

"""Two evaluations side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reason.errors import UsageError
from reason.report.compare import compare_runs
from tests.report.conftest import CountingEngine, make_task, without_references

if TYPE_CHECKING:
    from tests.report.conftest import Evaluate


def always_right(prefix: str) -> list[str]:
    return [f"so \\boxed{{{int(prefix.partition('problem ')[2].split()[0])}}}"]


def test_better_and_cheaper(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(9), CountingEngine(always_right), out=tmp_path / "a", num_samples=2)
    run(make_task(9), out=tmp_path / "b")
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (comparison.n, comparison.accuracy_a, comparison.accuracy_b) == (9, 1.0, 6 / 9)
    assert comparison.accuracy.difference == pytest.approx(3 / 9)
    assert (comparison.a_only, comparison.b_only, comparison.unpaired) == (3, 0, 0)
    tokens = comparison.costs["policy_tokens"]
    assert tokens.ratio == pytest.approx(tokens.a / tokens.b)
    assert tokens.interval is not None
    assert tokens.interval.low <= tokens.a / tokens.b <= tokens.interval.high
    assert comparison.costs["verifier_tokens"].ratio is None
    assert comparison.differing == {"strategy.fields.num_samples": (2, 4), "concurrency": (32, 16)}
    assert json.loads(json.dumps(comparison.as_dict()))["accuracy"]["interval"].keys() == {"low", "high"}
    back = compare_runs(tmp_path / "b", tmp_path / "a")
    assert back.accuracy.interval == pytest.approx(
        (-comparison.accuracy.interval.high, -comparison.accuracy.interval.low)
    )


def test_seconds_are_wall_time_over_the_problems(run: Evaluate, tmp_path: Path) -> None:
    """What each run took beside the others depends on how many there were."""
    summaries = [
        run(make_task(4), CountingEngine(delay=0.01), out=tmp_path / name, concurrency=concurrency)
        for name, concurrency in (("a", 1), ("b", 4))
    ]
    seconds = compare_runs(tmp_path / "a", tmp_path / "b").costs["seconds"]
    assert (seconds.a, seconds.b) == pytest.approx([summary.wall_seconds / 4 for summary in summaries])
    assert [summary.seconds_per_problem for summary in summaries] == pytest.approx([seconds.a, seconds.b])
    assert seconds.interval is None


def test_only_pairs_count(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(3), out=tmp_path / "a")
    run(make_task(5), out=tmp_path / "b")
    comparison = compare_runs(tmp_path / "a", tmp_path / "b")
    assert (comparison.n, comparison.unpaired) == (3, 2)
    assert comparison.accuracy.difference == 0.0


def test_what_cannot_be_compared(run: Evaluate, tmp_path: Path) -> None:
    run(make_task(2), out=tmp_path / "a")
    run(make_task(2, name="other"), out=tmp_path / "b")
    run(without_references(make_task(2)), out=tmp_path / "c")
    with pytest.raises(UsageError, match="no problem in common"):
        compare_runs(tmp_path / "a", tmp_path / "b")
    with pytest.raises(UsageError, match="of different tasks"):
        compare_runs(tmp_path / "a", tmp_path / "c")
    with pytest.raises(UsageError, match="holds no evaluation"):
        compare_runs(tmp_path / "a", tmp_path / "nowhere")

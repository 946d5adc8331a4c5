"""Several strategies over one task: which settings, what is dropped between them, what is reported."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from reason.api import Solver
from reason.errors import UnknownName, UsageError
from reason.report.evaluate import Evaluation
from reason.report.summary import Summary
from reason.report.sweep import Setting, Sweep, make_settings, parse_strategies, parse_sweep
from reason.report.sweep_report import sweep_dict, sweep_tables, write_report
from reason.search.calibration import read_calibration
from tests.report.conftest import CountingEngine, make_task, mostly_right


def settings_of(text: str, **options: Any) -> list[Setting]:
    return make_settings(parse_strategies(text), **options)


def labels(text: str, **options: Any) -> list[str]:
    return [setting.label for setting in settings_of(text, **options)]


def test_strategies_are_written_with_their_fields() -> None:
    assert parse_strategies(" best-of-n, Beam(width=8, beam-width=2),dvts() ") == [
        ("best-of-n", {}),
        ("beam", {"width": "8", "beam_width": "2"}),
        ("dvts", {}),
    ]
    for wrong in ("", "beam(width=8", "beam width", "beam(width)", "beam(width=8)dvts", ",beam"):
        with pytest.raises(UsageError):
            parse_strategies(wrong)


def test_sweeps_are_written_with_their_values() -> None:
    assert parse_sweep("beam-width=2, 4") == {"beam_width": ["2", "4"]}
    for wrong in ("width", "width=", "=4", "4,16"):
        with pytest.raises(UsageError):
            parse_sweep(wrong)


def test_width_is_what_a_strategy_calls_its_breadth() -> None:
    assert labels("best-of-n,beam", sweep={"width": ["4", "16"]}) == [
        "best-of-n(num_samples=4)",
        "best-of-n(num_samples=16)",
        "beam(width=4)",
        "beam(width=16)",
    ]
    assert [each.group for each in settings_of("beam", sweep={"width": ["4", "16"]})] == ["width=4", "width=16"]
    assert labels("esc(inner=dvts)", sweep={"width": ["8"]}) == ["esc(inner=dvts,width=8)"]
    with pytest.raises(UsageError, match="no field beam_width"):
        settings_of("best-of-n", sweep={"beam_width": ["2"]})


def test_a_budget_decides_how_many_where_nobody_says() -> None:
    text = "best-of-n,beam,beam(width=4),esc"
    assert labels(text, budgets=[1000, 4000], solution_tokens=250) == [
        "best-of-n(num_samples=4)",
        "best-of-n(num_samples=16)",
        "beam(width=4)",
        "beam(width=16)",
        "beam(width=4)",
        "beam(width=4)",
        "esc(num_samples=4)",
        "esc(num_samples=16)",
    ]
    # the nearest that the strategy takes: below where there is one
    assert labels("beam(beam_width=8)", budgets=[2600, 100]) == [
        "beam(beam_width=8,width=8)",
        "beam(beam_width=8,width=8)",
    ]


def test_common_fields_go_to_those_that_have_them() -> None:
    first, second = settings_of("best-of-n,beam(max_tokens=9)", common={"max_tokens": "40", "max_steps": "3"})
    assert (dict(first.fields), dict(first.common)) == ({}, {"max_tokens": 40})
    assert (dict(second.fields), dict(second.common)) == ({"max_tokens": 9}, {"max_steps": 3})
    with pytest.raises(UnknownName):
        settings_of("best-of-m")
    with pytest.raises(UsageError):
        settings_of("beam(width=6,beam_width=4)")


class ForgetfulEngine(CountingEngine):
    """Notes what it is told to drop."""

    def __init__(self) -> None:
        super().__init__(mostly_right)
        self.forgot: list[tuple[str, int]] = []

    def drop_cache(self) -> None:
        self.forgot.append(("cache", self.count))

    def reset_drafts(self) -> None:
        self.forgot.append(("drafts", self.count))

    @property
    def count(self) -> int:
        return self.requests


@pytest.fixture
def engine() -> ForgetfulEngine:
    return ForgetfulEngine()


def run_sweep(
    engine: ForgetfulEngine, out: Path, text: str = "best-of-n(num_samples=2),best-of-n(num_samples=4)"
) -> Sweep:
    sweep = Sweep(make_task(7), settings_of(text), out=out, seed=0, concurrency=3)
    sweep.check_folders()
    asyncio.run(sweep.run(Solver(engine=engine)))
    return sweep


def test_every_setting_is_an_evaluation_that_nobody_helped(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path)
    assert sweep.complete
    assert [(entry.summary.done, entry.summary.means["calls"]) for entry in sweep.entries] == [(7, 2), (7, 4)]
    assert engine.forgot == [("cache", 0), ("drafts", 0), ("cache", 14), ("drafts", 14)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-of-n-num_samples=2", "best-of-n-num_samples=4"]


def test_it_goes_on_where_it_ended(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = Sweep(make_task(7), settings_of("best-of-n(num_samples=2),best-of-n(num_samples=4)"), out=tmp_path)

    async def stopped(evaluation: Evaluation, solver: Solver) -> Summary:
        evaluation.interrupt()
        return await evaluation.run(solver)

    asyncio.run(sweep.run(Solver(engine=engine), stopped))
    assert len(sweep.entries) == 1
    assert not sweep.complete
    assert run_sweep(engine, tmp_path).complete
    before = engine.count
    again = run_sweep(engine, tmp_path)
    assert again.complete
    assert engine.count == before


def test_the_same_setting_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same"):
        Sweep(make_task(2), settings_of("best-of-n,best-of-n"), out=tmp_path)


def test_the_table_has_paired_differences_in_points(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path, "best-of-n(num_samples=1),best-of-n(num_samples=4)")
    (table,) = sweep_tables(sweep.entries)
    assert table.title == "sums, scripted, 7 problems"
    first, second = (dict(zip(table.headings, row, strict=True)) for row in table.rows)
    accuracies = [entry.summary.accuracy for entry in sweep.entries]
    assert None not in accuracies
    assert first["difference"] == ""
    wanted = 100 * (accuracies[1] - accuracies[0])  # type: ignore[operator]
    assert second["difference"].startswith(f"{wanted:+.1f} [")
    assert second["accuracy"].startswith(f"{accuracies[1]:.1%} [")
    assert float(second["tokens"]) == round(sweep.entries[1].summary.means["policy_tokens"])


def test_settings_are_compared_within_their_group_and_budget(engine: ForgetfulEngine, tmp_path: Path) -> None:
    settings = settings_of("best-of-n,esc", sweep={"width": ["2", "4"]}, budgets=[400, 800])
    sweep = Sweep(make_task(2), settings, out=tmp_path)
    asyncio.run(sweep.run(Solver(engine=engine)))
    tables = sweep_tables(sweep.entries)
    assert len(tables) == 4
    assert all([row[0].partition("(")[0] for row in table.rows] == ["best-of-n", "esc"] for table in tables)
    assert len({table.title for table in tables}) == 4


def test_the_report_is_written_whole(engine: ForgetfulEngine, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot extra is not installed")
    sweep = run_sweep(engine, tmp_path)
    written = write_report(sweep.entries, tmp_path)
    assert [file.name for file in written] == ["comparison.json", "comparison.md", "calibration.json", "comparison.png"]
    figures = json.loads(written[0].read_text())
    assert figures == json.loads(json.dumps(sweep_dict(sweep.entries)))
    assert [each["summary"]["done"] for each in figures["settings"]] == [7, 7]
    assert "comparison.png" in written[1].read_text()
    rows = read_calibration(str(written[2]))
    assert [(row.strategy, dict(row.fields)) for row in rows] == [
        ("best-of-n", {"num_samples": 2}),
        ("best-of-n", {"num_samples": 4}),
    ]
    assert [row.accuracy for row in rows] == pytest.approx(
        [entry.summary.accuracy for entry in sweep.entries], abs=1e-4
    )
    assert written[-1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_matplotlib_there_is_no_plot(
    engine: ForgetfulEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason.report.sweep_report.can_plot", lambda: False)
    sweep = run_sweep(engine, tmp_path)
    assert [file.suffix for file in write_report(sweep.entries, tmp_path)] == [".json", ".md", ".json"]
    assert "png" not in (tmp_path / "comparison.md").read_text()

"""Several strategies over one task: which settings, what is dropped between them, what is reported."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from reason.api import Solver
from reason.errors import ReasonError, UnknownName, UsageError
from reason.report.compare import accuracy_difference
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
    assert labels("mcts,best-first,astar", sweep={"width": ["8"]}) == [
        "mcts(iterations=8)",
        "best-first(iterations=8)",
        "astar(num_solutions=8)",
    ]
    with pytest.raises(UsageError, match="no field beam_width"):
        settings_of("best-of-n", sweep={"beam_width": ["2"]})
    with pytest.raises(UsageError, match="budget-forcing has no breadth to sweep"):
        settings_of("budget-forcing", sweep={"width": ["2"]})


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
    assert labels("mcts,auto,probtree", budgets=[640]) == ["mcts(iterations=2)", "auto", "probtree"]
    # the nearest that the strategy takes: below where there is one
    assert labels("beam(beam_width=8)", budgets=[2600, 100]) == [
        "beam(beam_width=8,width=8)",
        "beam(beam_width=8,width=8)",
    ]


def test_common_fields_go_to_those_that_have_them() -> None:
    first, second = settings_of("best-of-n,beam(max_tokens=9)", common={"max_tokens": "40", "max_steps": "3"})
    assert (dict(first.fields), dict(first.common)) == ({}, {"max_tokens": 40})
    assert (dict(second.fields), dict(second.common)) == ({"max_tokens": 9}, {"max_steps": 3})
    wrapped = settings_of("esc", common={"inner": "dvts", "width": "4"})[0]
    assert dict(wrapped.common) == {"inner": "dvts", "width": 4}
    with pytest.raises(UnknownName, match=r"unknown field of best-of-n, beam 'temprature'. Did you mean 'temperature'"):
        settings_of("best-of-n,beam", common={"temprature": "0.2"})
    with pytest.raises(UnknownName):
        settings_of("best-of-m")
    with pytest.raises(UsageError):
        settings_of("beam(width=6,beam_width=4)")


def test_auto_takes_its_own_fields_alone() -> None:
    """What it chose has others."""
    first, second = settings_of("auto,best-of-n", budgets=[1000], common={"select": "weighted", "temperature": "0.5"})
    assert (first.label, dict(first.common)) == ("auto", {"temperature": 0.5})
    assert dict(second.common) == {"select": "weighted", "temperature": 0.5}


def test_commas_in_a_verifiers_settings_are_semicolons() -> None:
    text = "beam(width=8,verifier=confidence:variant=tail;window=512),dvts"
    assert parse_strategies(text) == [
        ("beam", {"width": "8", "verifier": "confidence:variant=tail,window=512"}),
        ("dvts", {}),
    ]
    assert parse_sweep("verifier=confidence:variant=tail;window=512,self-certainty") == {
        "verifier": ["confidence:variant=tail,window=512", "self-certainty"]
    }
    assert ",".join(labels(text)) == text
    with pytest.raises(UsageError, match="is 'temperature=0' a setting of 'verifier=value-prompt:num_values=2'"):
        parse_strategies("beam(width=8,verifier=value-prompt:num_values=2,temperature=0)")
    with pytest.raises(UsageError, match="is 'window=512' a setting"):
        parse_sweep("verifier=confidence:variant=tail,window=512")


def test_nothing_is_given_twice() -> None:
    with pytest.raises(UsageError, match="width is set twice"):
        parse_strategies("beam(width=4,width=8)")


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
    engine: ForgetfulEngine,
    out: Path,
    text: str = "best-of-n(num_samples=2),best-of-n(num_samples=4)",
    *,
    overwrite: bool = False,
    problems: int = 7,
    **options: Any,
) -> Sweep:
    settings = settings_of(text, **options)
    sweep = Sweep(make_task(problems), settings, out=out, seed=0, concurrency=3, overwrite=overwrite)
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
    asyncio.run(sweep.run(Solver(engine=engine), interrupted))
    assert len(sweep.entries) == 1
    assert not sweep.complete
    assert run_sweep(engine, tmp_path).complete
    before = engine.count
    again = run_sweep(engine, tmp_path)
    assert again.complete
    assert engine.count == before


async def interrupted(evaluation: Evaluation, solver: Solver) -> Summary:
    evaluation.interrupt()
    return await evaluation.run(solver)


def test_an_interrupt_takes_nothing_from_the_report(engine: ForgetfulEngine, tmp_path: Path) -> None:
    run_sweep(engine, tmp_path)
    sweep = Sweep(make_task(7), settings_of("best-of-n(num_samples=2),best-of-n(num_samples=4)"), out=tmp_path)
    seen: list[list[str]] = []
    solver = Solver(engine=engine)
    asyncio.run(sweep.run(solver, interrupted, on_entries=lambda all_: seen.append([e.path.name for e in all_])))
    assert seen == [["best-of-n-num_samples=2", "best-of-n-num_samples=4"]]
    assert sweep.complete


def test_what_earlier_sweeps_of_these_problems_left_stays_in_the_report(
    engine: ForgetfulEngine, tmp_path: Path
) -> None:
    write_report(run_sweep(engine, tmp_path, "best-of-n", sweep={"width": ["2", "4"]}).entries, tmp_path)
    later = run_sweep(engine, tmp_path, "esc", sweep={"width": ["4"]})
    assert [(entry.setting.label, entry.setting.group) for entry in later.entries] == [
        ("esc(num_samples=4)", "width=4"),
        ("best-of-n(num_samples=2)", "width=2"),
        ("best-of-n(num_samples=4)", "width=4"),
    ]
    assert [len(table.rows) for table in sweep_tables(later.entries)] == [2, 1]
    config = tmp_path / "best-of-n-num_samples=2" / "config.json"
    config.write_text(config.read_text().replace('"temperature": 0.8', '"temperature": 0.7'))
    again = run_sweep(engine, tmp_path, "esc", sweep={"width": ["4"]})
    assert len(again.entries) == 2  # its name would now stand for other fields
    other = run_sweep(engine, tmp_path, "dvts", problems=3)
    assert [entry.setting.label for entry in other.entries] == ["dvts"]
    anew = run_sweep(engine, tmp_path, "best-of-n", problems=3, sweep={"width": ["4"]}, overwrite=True)
    assert [(entry.path.name, entry.summary.done) for entry in anew.entries] == [("best-of-n-num_samples=4", 3)]


def test_a_folder_from_before_a_setting_was_recorded_goes_on(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path)
    for entry in sweep.entries:
        config = json.loads((entry.path / "config.json").read_text())
        del config["environment"]["concurrency"]
        (entry.path / "config.json").write_text(json.dumps(config))
    before = engine.count
    assert run_sweep(engine, tmp_path).complete
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


def test_runs_without_a_problem_in_common_have_no_difference(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path, problems=2)
    for place, entry in enumerate(sweep.entries):  # as after interrupts
        file = entry.path / "results.jsonl"
        file.write_text(sorted(file.read_text().splitlines())[place] + "\n")
    (table,) = sweep_tables(sweep.entries)
    assert [row[table.headings.index("difference")] for row in table.rows] == ["", ""]


def test_what_all_have_and_what_some_have(engine: ForgetfulEngine, tmp_path: Path) -> None:
    common = {"max_tokens": "512", "max_steps": "9", "temperature": "0.5"}
    sweep = run_sweep(engine, tmp_path, "best-of-n,beam(max_tokens=300)", problems=2, common=common)
    (table,) = sweep_tables(sweep.entries)
    for text in ("All: temperature 0.5. ", "max_tokens 512: best-of-n. ", "max_steps 9: beam(max_tokens=300)."):
        assert text in table.note + " "


def test_the_note_under_a_budget(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path, "best-of-n,probtree,auto", problems=2, budgets=[400])
    (table,) = sweep_tables(sweep.entries)
    assert "The same under every budget, which may cut them off: probtree." in table.note
    assert "Note: auto chose best-of-n(" in table.note
    assert "reserves its token limit" in table.note
    assert "went over" not in table.note
    assert "ended" not in table.note
    (free,) = sweep_tables(run_sweep(engine, tmp_path / "free", "best-of-n,probtree", problems=2).entries)
    assert "budget" not in free.note


def test_verifier_tokens_and_spending_over_a_cap_are_shown(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path, "best-of-n,best-of-n(top_k=3)", problems=3, budgets=[400])
    (table,) = sweep_tables(sweep.entries)
    assert "verifier tokens" not in table.headings
    results = sweep.entries[1].path / "results.jsonl"
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    for line in lines[:2]:
        line["usage"] |= {"policy_tokens": 401, "verifier_tokens": 60}
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (table,) = sweep_tables(
        run_sweep(engine, tmp_path, "best-of-n,best-of-n(top_k=3)", problems=3, budgets=[400]).entries
    )
    assert [row[table.headings.index("verifier tokens")] for row in table.rows] == ["0", "40"]
    assert "best-of-n(top_k=3,num_samples=1) went over its budget on 2 of 3 problems" in table.note


def test_who_was_ended_by_the_budget(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path, "best-of-n,best-of-n(top_k=3)", problems=3, budgets=[400])
    results = sweep.entries[1].path / "results.jsonl"
    first, *others = results.read_text().splitlines()
    cut = json.dumps(json.loads(first) | {"stopped_by": "policy_tokens"})
    results.write_text("".join(f"{line}\n" for line in (cut, *others)))
    (table,) = sweep_tables(sweep.entries)
    counts = "best-of-n(num_samples=1) 0 of 3, best-of-n(top_k=3,num_samples=1) 1 of 3"
    assert f"Problems that the budget ended: {counts}." in table.note


def test_settings_that_are_not_done_are_named_and_calibrate_nothing(
    engine: ForgetfulEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of their problems may be the easy ones."""
    monkeypatch.setattr("reason.report.sweep_report.can_plot", lambda: False)
    sweep = run_sweep(engine, tmp_path)
    done, part = sweep.entries
    summary = replace(part.summary, done=3, notes=["4 of 7 problems are not done"])
    entries = [done, replace(part, summary=summary)]
    (table,) = sweep_tables(entries)
    assert "Note: best-of-n(num_samples=4): 4 of 7 problems are not done." in table.note
    write_report(entries, tmp_path)
    (row,) = read_calibration(str(tmp_path / "calibration.json"))
    assert row.fields == {"num_samples": 2}


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
    first, second = figures["settings"]
    assert (first["difference"], first["group"]) == (None, "")
    paired = accuracy_difference(sweep.entries[1].path, sweep.entries[0].path)
    assert second["difference"] == {**asdict(paired), "interval": paired.interval._asdict()}
    rows = read_calibration(str(written[2]))
    assert [(row.strategy, dict(row.fields)) for row in rows] == [
        ("best-of-n", {"num_samples": 2}),
        ("best-of-n", {"num_samples": 4}),
    ]
    assert [row.accuracy for row in rows] == pytest.approx(
        [entry.summary.accuracy for entry in sweep.entries], abs=1e-4
    )
    assert all(row.most_policy_tokens >= row.policy_tokens and row.budget_tokens is None for row in rows)
    assert written[-1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_calibration_rows_have_all_that_was_measured(engine: ForgetfulEngine, tmp_path: Path) -> None:
    sweep = run_sweep(engine, tmp_path, "auto,best-of-n", problems=2, budgets=[640], common={"max_tokens": "512"})
    write_report(sweep.entries, tmp_path)
    (row,) = read_calibration(str(tmp_path / "calibration.json"))
    assert (row.fields, row.budget_tokens) == ({"max_tokens": 512, "num_samples": 2}, 640)


def test_a_report_is_replaced_whole(engine: ForgetfulEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads calibration.json meanwhile reads the one or the other."""
    monkeypatch.setattr("reason.report.sweep_report.can_plot", lambda: False)
    sweep = run_sweep(engine, tmp_path)
    write_report(sweep.entries, tmp_path)
    before = (tmp_path / "calibration.json").read_bytes()

    def killed(source: Any, target: Any) -> None:
        raise OSError("killed")

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(ReasonError, match=r"cannot write comparison\.json"):
        write_report(sweep.entries[:1], tmp_path)
    assert (tmp_path / "calibration.json").read_bytes() == before


def test_without_matplotlib_there_is_no_plot(
    engine: ForgetfulEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason.report.sweep_report.can_plot", lambda: False)
    sweep = run_sweep(engine, tmp_path)
    assert [file.suffix for file in write_report(sweep.entries, tmp_path)] == [".json", ".md", ".json"]
    assert "png" not in (tmp_path / "comparison.md").read_text()

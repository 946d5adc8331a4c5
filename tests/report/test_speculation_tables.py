"""The figures of `reason bench` over hand-made recordings and made-up speeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reason.engine.ledger import LoopStats
from reason.engine.scripted import ScriptedEngine
from reason.errors import ReasonError, UnknownName, UsageError
from reason.report.recording_run import check_out, load_tasks, make_recording, save_recording
from reason.report.replay_tables import (
    after_history,
    check_replay,
    load_streams,
    measure_replay,
    measure_template,
    replay_table,
    select,
)
from reason.report.speculation import SpeculationReport, compared_sources, measure_sources, num_replays
from reason.report.speed import FULL, QUICK, Speed, num_speeds, overhead_table, speed_table
from reason.report.tables import Table, quotient, span
from reason.speculate.recording import RecordedProblem, RecordedSample, Recording
from reason.speculate.sources import AUTO, SOURCES

PERIODIC = [1, 2, 3, 4, 5, 6, 7] * 10


def make_sample(key: int, tokens: Sequence[int], rows: bool) -> RecordedSample:
    """With ``rows``, each is sure of its token."""
    ids = np.array(tokens, dtype=np.int64)
    if not rows:
        return RecordedSample(key=key, tokens=ids)
    tops = np.stack([ids, *(100 + ids + i for i in range(9))], axis=1).astype(np.int32)
    logprobs = np.tile([0.0] + [-30.0] * 9, (len(ids), 1)).astype(np.float16)
    return RecordedSample(key=key, tokens=ids, top_tokens=tops, top_logprobs=logprobs)


def make_streams(count: int = 3, samples: int = 4, *, rows: bool = True) -> Recording:
    """Problems whose samples are all alike, each problem a permutation of its own."""
    problems = []
    for i in range(count):
        tokens = np.random.default_rng(i).permutation(60).tolist()
        made = tuple(make_sample(key, tokens, rows) for key in range(samples))
        problems.append(RecordedProblem(id=f"p{i}", seed=i, prompt=(90, 91), samples=made))
    return Recording(model="tiny", temperature=0.0, problems=tuple(problems))


# -- tables --------------------------------------------------------------------------------------------------------


def test_quotients() -> None:
    found = quotient([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (found.value, found.interval) == (2.0, (2.0, 2.0))
    assert (found.text(), found.percent()) == ("2.00 [2.00, 2.00]", "200.0% [200.0, 200.0]")
    spread = quotient([1.0, 9.0, 2.0, 8.0], [1.0] * 4)
    assert spread.interval is not None
    assert spread.interval.low < spread.value == 5.0 < spread.interval.high
    nothing = quotient([0.0, 0.0], [0.0, 0.0])
    assert (nothing.text(1), nothing.percent()) == ("0.0", "0.0%")
    assert quotient([1.0, 0.0], [1.0, 0.0]).interval is None  # some resamples have nothing to divide by


def test_spans() -> None:
    assert span([1.5]) == "1.50"
    assert span([3.0, 1.0, 2.0], 1) == "2.0 (1.0-3.0)"
    assert span([1.0, 2.0, 4.0, 3.0], 1) == "2.5 (1.0-4.0)"


def test_markdown() -> None:
    table = Table(title="T", headings=["a", "b", "c"], rows=[["x", "y", "1"]], names=2, note="so.")
    assert table.markdown() == "## T\n\n| a | b | c |\n| --- | --- | ---: |\n| x | y | 1 |\n\nso.\n"


# -- replays -------------------------------------------------------------------------------------------------------


def test_parts_of_a_recording() -> None:
    streams = make_streams(5)
    assert [p.id for p in select(streams, problems=2).problems] == ["p0", "p2"]
    assert [p.id for p in select(streams, problems=9).problems] == ["p0", "p1", "p2", "p3", "p4"]
    assert [len(p.samples) for p in select(streams, samples=3).problems] == [3] * 5
    behind = after_history(streams, 1, 3)
    assert [[s.key for s in p.samples] for p in behind.problems] == [[0, 3]] * 5
    uneven = replace(streams, problems=(streams.problems[0], replace(streams.problems[1], samples=())))
    assert [p.id for p in after_history(uneven, 0, 3).problems] == ["p0"]
    with pytest.raises(UsageError, match="no problem has 4 samples and one more to measure after them; the most is 4"):
        after_history(streams, 2, 4)


def test_a_replay_is_measured_by_problem() -> None:
    row = measure_replay(make_streams(), "suffix", nodes=8)
    assert (row.source, row.rule, row.nodes, row.order) == ("suffix", "coupled", 8, "in turn")
    assert (row.problems, row.samples, row.history) == (3, 12, None)
    assert row.tokens_per_step.value == pytest.approx(3 * 4 * 59 / row.steps)
    assert row.tokens_per_step.interval is not None
    assert json.loads(json.dumps(row.as_dict()))["tokens_per_step"][0] == row.tokens_per_step.value


def test_history_and_order_and_keeping() -> None:
    streams = make_streams()
    speeds = [
        measure_replay(after_history(streams, count, 3), "suffix", nodes=8, history=count).tokens_per_step.value
        for count in (0, 1, 3)
    ]
    assert speeds[0] == 1.0
    assert speeds[1] > 4  # the samples are alike
    assert speeds[2] >= speeds[1]
    row = measure_replay(after_history(streams, 3, 3), "suffix", nodes=8, history=3)
    assert (row.samples, row.history) == (3, 3)
    together = measure_replay(streams, "suffix", nodes=8, side_by_side=True)
    assert (together.order, together.tokens_per_step.value) == ("side by side", 1.0)
    twice = replace(streams, problems=streams.problems * 2)
    fresh = measure_replay(select(twice, samples=1), "suffix", nodes=8)
    kept = measure_replay(select(twice, samples=1), "suffix", nodes=8, fresh=False)
    assert fresh.tokens_per_step.value == 1.0 < kept.tokens_per_step.value


def test_rejection_has_a_tree_of_all_its_nodes() -> None:
    row = measure_replay(make_streams(), "stand", nodes=8, rule="without-replacement")
    assert (row.rule, row.nodes_per_step.value) == ("without-replacement", 8.0)
    assert row.tokens_per_step.value > 1.5


@pytest.mark.parametrize(
    ("sources", "rule", "plain", "rows", "message"),
    [
        (["stamd"], "coupled", True, True, "unknown draft source 'stamd'"),
        (["suffix"], "kupled", True, True, "unknown verification rule 'kupled'"),
        (["suffix"], "traversal", True, True, "rule 'traversal' is not replayed; coupled, match, iid"),
        (["lookup", "goose+stand"], "coupled", True, False, "stand learns from the model's rows"),
        (["token-recycling"], "match", True, False, "token-recycling learns from the model's rows"),
        (["goose"], "iid", True, True, "rule 'iid' is replayed for the source 'stand' alone, got 'goose'"),
        (["stand"], "iid", False, True, "rule 'iid' is replayed with fresh problems and no history"),
    ],
)
def test_what_cannot_be_replayed(sources: list[str], rule: str, plain: bool, rows: bool, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_replay(make_streams(rows=rows), sources, rule=rule, plain=plain)


def test_what_can_be_replayed() -> None:
    check_replay(make_streams(), [*SOURCES, "goose+stand"], rule="match", plain=False)
    check_replay(make_streams(rows=False), ["suffix+lookup", "goose", "retrieval"], rule="Coupled")
    check_replay(make_streams(), ["stand"], rule="k-seq")


def test_streams_are_found_by_their_ending(tmp_path: Path) -> None:
    make_streams().save(tmp_path / "r.npz")
    assert load_streams(tmp_path / "r.npz").has_rows
    (tmp_path / "t.jsonl").write_text('{"token_ids": [1, 2]}\n')
    assert not load_streams(tmp_path / "t.jsonl").has_rows
    (tmp_path / "r.npz").write_bytes((tmp_path / "r.npz").read_bytes()[:-30])
    with pytest.raises(UsageError, match="is not a recording made by `reason bench record`"):
        load_streams(tmp_path / "r.npz")


def test_a_measured_template_has_what_was_accepted() -> None:
    told: list[str] = []
    template = measure_template(make_streams(), "stand", nodes=5, on_problem=told.append)
    assert template == tuple((0,) * depth for depth in range(1, 6))  # rows are sure of their first token
    assert told == ["p0", "p1", "p2"]


def test_tables_of_replays() -> None:
    row = measure_replay(make_streams(), "suffix", nodes=8)
    table = replay_table("T", [row, replace(row, nodes=30)], "note")
    assert table.headings == ["source", "nodes", "tokens/step", "nodes/step", "utilisation"]
    assert [cells[:2] for cells in table.rows] == [["suffix", "8"], ["suffix", "30"]]
    assert table.rows[0][2] == row.tokens_per_step.text()
    with_history = replay_table("T", [replace(row, history=3)])
    assert with_history.headings[2] == "history"
    assert with_history.rows[0][2] == "3"


# -- the report ----------------------------------------------------------------------------------------------------


def test_sources_are_compared_in_every_setting() -> None:
    streams = make_streams(3, 3)
    told: list[Any] = []
    found = measure_sources(streams, quick=True, on_row=told.append)
    assert len(told) == num_replays(streams, quick=True) == sum(map(len, found.values()))
    alone, kept, in_turn, together = found.values()
    assert {row.samples for row in (*alone, *kept)} == {2}
    assert [(row.order, row.samples) for row in (in_turn[0], together[0])] == [("in turn", 6), ("side by side", 6)]
    assert in_turn[0].tokens_per_step.value > alone[0].tokens_per_step.value
    assert {*SOURCES, AUTO} <= set(compared_sources(streams))
    assert len(set(compared_sources(streams))) == len(compared_sources(streams))
    tokens_only = compared_sources(make_streams(rows=False))
    assert "suffix" in tokens_only
    assert not any("stand" in name or "token-recycling" in name for name in tokens_only)


def speeds() -> list[Speed]:
    """Two rounds in which drafting doubles, then triples the speed of one workload."""
    found = []
    for number, factor in enumerate((2.0, 3.0)):
        for draft in ("none", "auto"):
            quick = factor if draft == "auto" else 1.0
            loop = LoopStats(
                iterations=50, seconds=4.0, forward_seconds=3.0, draft_seconds=0.4, drafted=80, accepted=20
            )
            loop = loop if draft == "auto" else replace(loop, draft_seconds=0.0, drafted=0, accepted=0)
            for work in ("one sample", "beam of 4"):
                found.append(
                    Speed(workload=work, draft=draft, round=number, tokens=100, seconds=10.0 / quick, loop=loop)
                )
    return found


def test_speeds() -> None:
    table = speed_table(speeds(), "auto")
    assert table.headings == ["work", "none, tokens/s", "auto, tokens/s", "auto / none", "utilisation"]
    ratio = "2.50 (2.00-3.00)"
    assert table.rows[0] == ["one sample", "10.0 (10.0-10.0)", "25.0 (20.0-30.0)", ratio, "25.0%"]
    assert [row[0] for row in table.rows] == ["one sample", "beam of 4"]
    overhead = overhead_table(speeds(), "auto")
    assert overhead.rows[0] == ["none", "25.0% (25.0-25.0)", "0.0% (0.0-0.0)", "80.0 (80.0-80.0)"]
    assert overhead.rows[1][2] == "10.0% (10.0-10.0)"


def test_sizes() -> None:
    assert (num_speeds(QUICK), num_speeds(FULL)) == (10, 30)
    assert FULL.problems == 3 * 13
    assert QUICK.samples % 4 == FULL.samples % 4 == 0  # widths of a beam


def test_the_report_is_written(tmp_path: Path) -> None:
    report = SpeculationReport(model="tiny", draft="auto", options={"threads": 2})
    report.write(tmp_path / "new" / "folder")  # before anything is measured
    report.replays = measure_sources(make_streams(2, 2), quick=True)
    report.speeds = speeds()
    report.write(tmp_path / "new" / "folder")
    content = json.loads((tmp_path / "new" / "folder" / "speculation.json").read_text())
    assert (content["model"], content["options"], len(content["speeds"])) == ("tiny", {"threads": 2}, 8)
    assert content["speeds"][0]["loop"]["iterations"] == 50
    assert content["environment"]["python"]
    text = (tmp_path / "new" / "folder" / "speculation.md").read_text()
    for table in report.tables():
        assert table.markdown() in text
    assert [table.title for table in report.tables()][-2:] == ["Speed", "Overhead, one sample"]
    (tmp_path / "file").touch()
    with pytest.raises(ReasonError, match=r"cannot write to .*; use another --out"):
        report.write(tmp_path / "file")


# -- making recordings ---------------------------------------------------------------------------------------------


def test_tasks_share_the_problems(fixtures_dir: Path) -> None:
    data = fixtures_dir / "tasks"
    tasks = load_tasks(["gsm8k", "math500"], data=data, problems=3)
    assert [(task.name, len(task)) for task in tasks] == [("gsm8k", 2), ("math500", 1)]
    with pytest.raises(UsageError, match="gsm8k has 3 problems, and its share is 4"):
        load_tasks(["gsm8k", "math500"], data=data, problems=7)
    with pytest.raises(UsageError, match="1 problems cannot be split over the tasks gsm8k, math500"):
        load_tasks(["gsm8k", "math500"], data=data, problems=1)
    with pytest.raises(UsageError, match="cannot be split"):
        load_tasks(["gsm8k", "gsm8k"], data=data, problems=2)
    with pytest.raises(UnknownName, match="unknown task 'gsm9k'"):
        load_tasks(["gsm9k"], data=data, problems=2)


async def test_a_failed_sample_is_no_recording(fixtures_dir: Path) -> None:
    tasks = load_tasks(["gsm8k"], data=fixtures_dir / "tasks", problems=2)
    with pytest.raises(ReasonError, match="the script has no continuation"):
        await make_recording(ScriptedEngine([]), tasks, num_samples=2)


def test_where_files_may_go(tmp_path: Path) -> None:
    check_out(tmp_path / "r.npz", ending=".npz")
    with pytest.raises(UsageError, match=r"must end in \.npz"):
        check_out(tmp_path / "r.json", ending=".npz")
    with pytest.raises(UsageError, match="is not a folder that can be written to"):
        check_out(tmp_path / "none" / "r.npz", ending=".npz")
    (tmp_path / "r.npz").touch()
    with pytest.raises(UsageError, match="is there already"):
        check_out(tmp_path / "r.npz", ending=".npz")


def test_a_recording_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Recording, file: Path) -> None:
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Recording, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save_recording(make_streams(), tmp_path / "r.npz")
    assert list(tmp_path.iterdir()) == []
    save_recording(make_streams(), tmp_path / "r.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]
    assert load_streams(tmp_path / "r.npz").has_rows
    with pytest.raises(ReasonError, match="cannot write"):
        save_recording(make_streams(), tmp_path / "none" / "r.npz")

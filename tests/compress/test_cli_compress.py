"""`reason compress`: what it reads, what it writes, how it goes on, and Ctrl-C."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from reason import api
from reason.cli.main import app
from reason.compress.attention import AttentionScorer
from reason.compress.traces import TraceFields, read_traces
from reason.engine.scripted import ScriptedEngine
from reason.errors import DataNotFound, UsageError
from tests.compress.conftest import PROBLEM, STEPS, TRACE, FixedScorer

if TYPE_CHECKING:
    from typer.testing import Result

ROOT = Path(__file__).parents[2]
Loads = list[tuple[str | None, dict[str, Any]]]


@pytest.fixture
def reason() -> Callable[..., Result]:
    """Runs ``reason compress`` in this process."""

    def run(*arguments: str | Path, **options: Any) -> Result:
        return CliRunner().invoke(app, ["compress", *map(str, arguments)], **options)

    return run


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, scorer: FixedScorer) -> Loads:
    """What the command loaded. The scripted model answers 42 once step N stands before."""
    calls: Loads = []

    def script(prefix: str) -> Sequence[str]:
        return ["so \\boxed{42}"] if "Step N." in prefix else ["so \\boxed{41}"]

    def load(model: str | None, **options: Any) -> ScriptedEngine:
        calls.append((model, options))
        return ScriptedEngine(script)

    def load_scorer(model: str | None, **options: Any) -> FixedScorer:
        calls.append((model, {"scorer": True, **options}))
        return scorer

    monkeypatch.setattr(api, "_load", load)
    monkeypatch.setattr(AttentionScorer, "load", load_scorer)
    return calls


def write(file: Path, rows: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Three traces; the answer of the second is never reached."""
    answers = (42, 7, "42")
    rows = [
        {"id": f"t{place}", "problem": PROBLEM, "trace": "\n\n".join(STEPS), "answer": answer}
        for place, answer in enumerate(answers)
    ]
    return write(tmp_path / "traces.jsonl", rows)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def refused(result: Result, code: int = 2) -> str:
    """The message of a command that failed without printing anything else."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("error: ").strip()


def test_what_it_writes(reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out.jsonl"
    result = reason(traces, "--out", out, "--k-min", 1, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    rows = rows_of(out)
    assert {row["id"]: row["ended"] for row in rows} == {"t0": "validated", "t1": "exhausted", "t2": "validated"}
    first = next(row for row in rows if row["id"] == "t0")
    assert first["text"] == "\n\n".join(STEPS[place] for place in first["kept"])
    assert first["kept"] == [0, 1, 2, 6, 7, 8, 12, 13, 14]
    assert (first["question"], first["solution"]) == (PROBLEM, "The final answer is \\boxed{42}.")
    assert first["settings"]["k_min"] == 1
    for text in ("scripted, scorer fixed", "traces", "mean steps  ", "16.0 -> 11.3", "432 -> 306", "70.8%", "66.7%"):
        assert text in result.stdout
    assert "t0: 16 -> 9 steps, 144 -> 81 tokens, validated" in result.stderr
    assert "3/3" in result.stderr
    assert "\x1b" not in result.output


def test_json_and_options(reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path) -> None:
    machine = "--device cpu --dtype float32 --kv-tokens 99 --threads 1 -m mine --scorer small"
    search = "--alpha 0.25 --beta 0.5 --k-min 1 --k-max 3 --branching 3 --seed 7 --validator-tokens 99 --limit 1 --sink"
    out = tmp_path / "out.jsonl"
    result = reason(traces, "--out", out, "--json", *machine.split(), *search.split())
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["traces"], summary["total"], summary["accepted"], summary["mean_kept"]) == (1, 1, 1, 9.0)
    assert summary["ended"] == {"validated": 1}
    engine, scorer = loads
    assert engine[0] == "mine"
    assert {"device": "cpu", "dtype": "float32", "kv_tokens": 99, "threads": 1}.items() <= engine[1].items()
    assert scorer == ("small", {"scorer": True, "device": "cpu", "dtype": "float32", "sink": True})
    settings = rows_of(out)[0]["settings"]
    assert {"alpha": 0.25, "beta": 0.5, "k_min": 1, "k_max": 3, "branching": 3, "seed": 7}.items() <= settings.items()
    assert (settings["model"], settings["scorer"], settings["validator_tokens"]) == ("mine", "small", 99)


def test_without_validation(reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert reason(traces, "--out", out, "--no-validate", "--k-min", "0").exit_code == 0
    assert [(row["ended"], row["kept"], row["usage"]["calls"]) for row in rows_of(out)] == [
        ("unchecked", [0, 1, 2], 0)
    ] * 3


def test_it_goes_on(reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path) -> None:
    """Whole rows are passed over; half a last line is cut off, whatever it is half of."""
    out = tmp_path / "out.jsonl"
    arguments = (traces, "--out", out, "--k-min", "1")
    assert reason(*arguments).exit_code == 0
    whole = rows_of(out)
    lines = out.read_bytes().splitlines(keepends=True)
    for left in (b"", lines[0][: len(lines[0]) // 2], lines[0], lines[0] + lines[1][:-1], lines[0] + b'{"id"'):
        out.write_bytes(left)
        loads.clear()
        result = reason(*arguments, "--concurrency", "1")
        assert result.exit_code == 0, result.output
        done = left.count(b"\n")
        assert (f"{done} of 3 traces were done before" in result.stderr) == (done > 0)
        assert sorted(row["id"] for row in rows_of(out)) == ["t0", "t1", "t2"]
        for row in rows_of(out):
            [same] = [each for each in whole if each["id"] == row["id"]]
            assert (row["text"], row["record"]) == (same["text"], same["record"])
    loads.clear()
    again = reason(*arguments)
    assert (again.exit_code, loads) == (0, [])  # nothing is left, so nothing is loaded
    assert "70.8%" in again.stdout


def test_other_settings(reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert reason(traces, "--out", out, "--limit", "1").exit_code == 0
    loads.clear()
    message = refused(reason(traces, "--out", out, "--beta", "0.2", "--seed", "1"))
    assert message == (
        f"{out} was begun with other settings: beta 0.1, now 0.2; seed 0, now 1. "
        "Use another --out, or --overwrite to start anew."
    )
    assert loads == []
    assert reason(traces, "--out", out, "--beta", "0.2", "--limit", "2", "--overwrite").exit_code == 0
    assert [row["settings"]["beta"] for row in rows_of(out)] == [0.2, 0.2]


def test_another_trace_of_the_same_name(
    reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert reason(traces, "--out", out, "--limit", "1").exit_code == 0
    before = out.read_bytes()
    loads.clear()
    rows = rows_of(traces)
    rows[0]["problem"] += " Really?"
    traces.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "has another trace under the id" in refused(reason(traces, "--out", out))
    assert (loads, out.read_bytes()) == ([], before)


def test_somebody_elses_file(reason: Callable[..., Result], loads: Loads, traces: Path) -> None:
    before = traces.read_bytes()
    assert "line 1: this is no compressed trace; use another --out" in refused(reason(traces, "--out", traces))
    assert traces.read_bytes() == before


def test_a_folder_for_a_file(reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path) -> None:
    assert "cannot use" in refused(reason(traces, "--out", tmp_path), code=1)
    assert loads == []


def test_one_that_fails(
    reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go on; the next run tries it again."""
    from reason.compress.compressor import Compressor
    from reason.errors import OutOfKV

    search: Any = Compressor.search

    async def failing(self: Any, scored: Any, options: Any) -> Any:
        if scored.job.problem.id == "t1":
            raise OutOfKV("too long")
        return await search(self, scored, options)

    out = tmp_path / "out.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(Compressor, "search", failing)
        result = reason(traces, "--out", out)
    assert result.exit_code == 1
    assert "t1: failed: too long" in result.stderr
    assert "error: 1 of 3 traces failed; the same command tries them again" in result.stderr
    assert sorted(row["id"] for row in rows_of(out)) == ["t0", "t2"]
    assert reason(traces, "--out", out).exit_code == 0
    assert len(rows_of(out)) == 3


# -- reading -----------------------------------------------------------------------------------------------------------


def test_nested_fields(tmp_path: Path) -> None:
    """As recordings with several samples of a problem have them."""
    rows = [
        {"id": n, "question": PROBLEM, "answer": 42, "samples": [{"text": "x"}, {"text": TRACE, "correct": n != 1}]}
        for n in range(3)
    ]
    file = tmp_path / "nested.jsonl.gz"
    file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    jobs = read_traces(file, TraceFields(trace="samples.1.text"), only="samples.1.correct")
    assert list(jobs) == ["0", "2"]
    assert jobs["0"].steps == STEPS
    assert jobs["0"].solution == "So it is \\boxed{42}."
    assert list(read_traces(file, TraceFields(trace="samples.1.text"), limit=1)) == ["0"]


@pytest.mark.parametrize(
    ("row", "solution"),
    [
        ({"trace": TRACE}, "So it is \\boxed{42}."),
        ({"trace": TRACE, "answer": "42.0"}, "So it is \\boxed{42}."),
        ({"trace": TRACE, "answer": 43}, "The final answer is \\boxed{43}."),  # what the trace says is not right
        ({"trace": "a", "answer": 43}, "The final answer is \\boxed{43}."),
        ({"trace": "a</think>It is 43.", "answer": 43}, "It is 43.\n\nThe final answer is \\boxed{43}."),
        ({"trace": TRACE, "solution": "Six sevens: \\boxed{42}"}, "Six sevens: \\boxed{42}"),
        ({"trace": TRACE, "solution": "Six sevens."}, "Six sevens."),
        ({"trace": "a", "answer": "6 * 7 = 42\n#### 42"}, "The final answer is \\boxed{42}."),
        ({"trace": "a", "solution": "42", "answer": None}, "42"),
    ],
)
def test_the_reference_solution(tmp_path: Path, row: dict[str, Any], solution: str) -> None:
    [job] = read_traces(write(tmp_path / "t.jsonl", [{"problem": PROBLEM, **row}]), TraceFields()).values()
    assert job.solution == solution


def test_ids(tmp_path: Path) -> None:
    row = {"problem": PROBLEM, "text": TRACE}
    file = write(tmp_path / "mine.jsonl", [row, row | {"id": "x"}, row | {"id": "x"}, row | {"id": 5}])
    assert list(read_traces(file, TraceFields())) == ["mine-1", "x", "x-3", "5"]


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        ({"trace": TRACE}, {}, r"no field problem or question; name it with --problem-field. The row has trace"),
        (
            {"problem": PROBLEM, "x": 1},
            {},
            r"no field trace or text; name it with --trace-field. The row has problem, x",
        ),
        (
            {"problem": PROBLEM, "samples": [{"t": "a"}]},
            {"trace": "samples.0.text"},
            r"no field samples.0.text; name it with --trace-field. samples.0 has t\.",
        ),
        (
            {"problem": PROBLEM, "samples": [{"t": "a"}]},
            {"trace": "samples.3.text"},
            r"no field samples.3.text.* samples is a list of 1\.",
        ),
        ({"problem": 5, "trace": TRACE}, {}, "problem or question is no text; name another field"),
        ({"problem": PROBLEM, "trace": " "}, {}, "trace or text is empty"),
        ({"problem": PROBLEM, "trace": "<think>\n\n</think>x"}, {}, "the trace has no steps"),
        ({"problem": PROBLEM, "trace": "a"}, {}, "there is no reference solution"),
        ({"problem": PROBLEM, "trace": "a", "answer": [1]}, {}, "answer is neither text nor a number"),
        (
            {"problem": PROBLEM, "trace": "a", "answer": 1},
            {"solution": "s"},
            "no field s; name it with --solution-field",
        ),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, row: Any, fields: dict[str, str], message: str) -> None:
    file = write(tmp_path / "t.jsonl", [row])
    with pytest.raises(UsageError, match=f"line 1: .*{message}"):
        read_traces(file, TraceFields(**fields))


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(DataNotFound, match=r"no file .*none\.jsonl"):
        read_traces(tmp_path / "none.jsonl", TraceFields())
    file = write(tmp_path / "t.jsonl", [{"problem": PROBLEM, "trace": TRACE, "correct": False}])
    with pytest.raises(UsageError, match="in none of 1 rows is correct true"):
        read_traces(file, TraceFields(), only="correct")
    with pytest.raises(UsageError, match="no field right; name it with --only"):
        read_traces(file, TraceFields(), only="right")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k-max", "5"], "k_max must be more than k_min (5)"),
        (["--alpha", "2"], "alpha must be in [0, 1]"),
        (["--trace-field", "no"], ""),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    reason: Callable[..., Result], loads: Loads, traces: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert refused(reason(traces, "--out", tmp_path / "out.jsonl", *arguments)).startswith(message)
    assert loads == []
    assert not (tmp_path / "out.jsonl").exists()


def test_recorded_traces(data_dir: Path) -> None:
    """The recordings that come with the evaluation data can be read as they are."""
    from reason.compress.costs import boxed_answer

    flat = read_traces(data_dir / "traces" / "r1_distill_math_base_traces.jsonl.gz", TraceFields(), only="correct")
    nested = read_traces(
        data_dir / "traces" / "aime24_long_traces.jsonl.gz",
        TraceFields(trace="samples.1.text"),
        only="samples.1.correct",
    )
    assert (len(flat), len(nested)) == (16, 4)
    assert all(len(job.steps) > 5 and boxed_answer(job.solution) for job in (*flat.values(), *nested.values()))


# -- Ctrl-C --------------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from reason import api
from reason.cli.main import app
from reason.compress.attention import AttentionScorer
from reason.engine.scripted import ScriptedEngine
from tests.compress.conftest import FixedScorer

api._load = lambda model, **options: ScriptedEngine(["so \\\\boxed{1}" * 4], delay=DELAY)
AttentionScorer.load = lambda model, **options: FixedScorer()
app(["compress", *sys.argv[1:]])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_and_going_on(traces: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}
    script, out = tmp_path / "driver.py", tmp_path / "out.jsonl"

    def start(delay: float) -> subprocess.Popen[str]:
        script.write_text(f"DELAY = {delay}\n{DRIVER}", encoding="utf-8")
        arguments = [str(traces), "--out", str(out), "--k-min", "2", "--k-max", "4", "--concurrency", "1"]
        return subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # the signal is for this process alone
        )

    with start(0.01) as process:
        try:
            assert process.stderr is not None
            assert any("1/3" in line for line in process.stderr)
            process.send_signal(signal.SIGINT)
            text, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "of 3 traces are done; the same command goes on from there" in errors
    assert "mean steps" in text
    done = len(rows_of(out))
    assert 1 <= done < 3
    with start(0.0) as process:
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert f"{done} of 3 traces were done before" in errors
    assert len(rows_of(out)) == 3

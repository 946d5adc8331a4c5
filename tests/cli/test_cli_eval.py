"""`reason eval`: what it takes, what it prints, what it leaves, and Ctrl-C."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from reason import api
from reason.engine.scripted import ScriptedEngine

if TYPE_CHECKING:
    from typer.testing import Result

    from tests.cli.conftest import Reason

Loads = list[tuple[str | None, dict[str, Any]]]


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """A file of problems; the scripted model gets the first right."""
    rows = [{"question": f"What is {i} × 7?", "answer": str(i * 7)} for i in (6, 1, 2, 3, 4)]
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def refused(result: Result, code: int = 2) -> str:
    """The message of a command that failed without printing anything else."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("error: ").strip()


def test_what_people_read(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    result = reason("eval", sums, "-S", "num_samples=4", "--out", out, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for text in ("sums  best-of-n  scripted  seed 0", "accuracy  20.0% ± 20.0", "[3.6%, 62.4%]", "1 of 5"):
        assert text in result.stdout
    for text in ("maj@k", "pass@k", "generated tokens", "unique KV tokens, peak", "tokens/s", f"results in {out}"):
        assert text in result.stdout
    assert "5/5  20.0% ± 20.0" in result.stderr
    assert "\x1b" not in result.output
    again = reason("eval", sums, "-S", "num_samples=4", "--out", out)
    assert "5 of 5 problems were done before" in again.stderr
    assert "accuracy  20.0%" in again.stdout


def test_json(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = reason("eval", sums, "--limit", "2", "--offset", "1", "--json", "--out", str(out), "--log-samples")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    table = json.loads(result.stdout)
    assert table == json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert (table["task"], table["done"], table["total"], table["complete"]) == ("sums", 2, 2, True)
    assert (out / "samples.jsonl").is_file()


def test_samples_that_were_not_logged_are_counted(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    assert "--log-samples" not in reason("eval", sums, *out, "--log-samples").stderr
    assert "--log-samples" not in reason("eval", sums, *out, "--overwrite").stderr
    again = reason("eval", sums, *out, "--log-samples")
    assert "note: 5 problems were done without --log-samples: samples.jsonl lacks them" in again.stderr


def test_the_ledgers_seconds_multiply(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    """They are of wall time, however many problems ran at once."""
    assert reason("eval", sums, "--out", str(tmp_path / "out"), "--concurrency", "5").exit_code == 0
    file = tmp_path / "out" / "sittings.json"
    (sitting,) = json.loads(file.read_text())
    file.write_text(json.dumps([{**sitting, "seconds": 60.0}]))
    shown = reason("eval", sums, "--out", str(tmp_path / "out"), env={"COLUMNS": "200"}).stdout
    assert re.search(r"seconds of wall time +12\.0 +60\.0 ", shown)


def test_options_go_where_they_belong(
    reason: Reason, loads: Loads, sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    start: Callable[..., Any] = api.Solver.start

    def watched(self: api.Solver, *arguments: Any, **options: Any) -> Any:
        seen.append(options)
        return start(self, *arguments, **options)

    monkeypatch.setattr(api.Solver, "start", watched)
    model = "-m mine --device cpu --dtype float32 --quantize int8 --kv-tokens 99 --threads 2 --seed 7 --draft stand"
    budget = "--max-policy-tokens 500 --max-seconds 50 --max-kv-tokens 5000 --max-calls 2 --max-thinking-tokens 64"
    fields = "-S temperature=0.5 -S num_samples=2 --concurrency 3 --few-shot 1"
    data = "--question-field question --answer-field answer"
    options = f"{model} {budget} {fields} {data}".split()
    assert reason("eval", sums, *options, "--out", str(tmp_path / "out")).exit_code == 0
    machine = {"device": "cpu", "dtype": "float32", "quantize": "int8", "kv_tokens": 99, "threads": 2}
    assert loads == [("mine", {**machine, "draft": "stand"})]
    limits = seen[0]["budget"]
    assert (limits.policy_tokens, limits.seconds, limits.kv_tokens, limits.calls) == (500, 50.0, 5000, 2)
    assert (seen[0]["seed"], seen[0]["temperature"], seen[0]["max_thinking_tokens"]) == (7, 0.5, 64)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"] == {"name": "scripted", "device": "cpu", "dtype": "float32", "quantize": "int8"}
    assert config["task"]["few_shot"] == 1
    assert config["environment"]["draft"] == "stand"


def test_the_default_folder(reason: Reason, loads: Loads, sums: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(sums).parent)
    for model, name in (
        ("SmolLM2-135M-Instruct", "smollm2-135m-instruct"),
        ("owner/Some-Model", "Some-Model"),
        ("folder/my model.gguf", "my-model"),
    ):
        assert reason("eval", sums, "-m", model, "--seed", "3", "--limit", "1").exit_code == 0
        assert (Path("runs") / f"sums-{name}-best-of-n-seed3" / "summary.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a task: gsm8k"),
        (["gsm9k"], "unknown task 'gsm9k'. Did you mean 'gsm8k'?"),
        (["SUMS", "-s", "beem"], "unknown strategy 'beem'"),
        (["SUMS", "-S", "width=2"], "unknown field of best-of-n 'width'"),
        (["SUMS", "-S", "num_samples=0"], "num_samples must be at least 1"),
        (["SUMS", "--max-calls", "0"], "budget calls must be more than 0"),
        (["SUMS", "--concurrency", "0"], "concurrency must be at least 1"),
        (["SUMS", "--draft", "gose"], "unknown draft source 'gose'. Did you mean 'goose'?"),
        (["SUMS", "--limit", "0"], "limit 0"),
        (["SUMS", "--question-field", "nothing"], ""),
        (["SUMS", "--out", "sums.jsonl"], "sums.jsonl is not a folder"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    reason: Reason, loads: Loads, sums: str, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(Path(sums).parent)
    given = [sums if argument == "SUMS" else argument for argument in arguments]
    assert refused(reason("eval", *given)).startswith(message)
    assert loads == []


def test_other_settings_are_refused_before_the_model_is_loaded(
    reason: Reason, loads: Loads, sums: str, tmp_path: Path
) -> None:
    out = ["--out", str(tmp_path / "out")]
    assert reason("eval", sums, *out).exit_code == 0
    loads.clear()
    message = refused(reason("eval", sums, *out, "--seed", "1", "--dtype", "float32"))
    assert 'model.dtype "auto", now "float32"; seed 0, now 1' in message
    assert loads == []
    assert reason("eval", sums, *out, "--seed", "1", "--overwrite").exit_code == 0
    assert len(loads) == 1


def test_an_evaluation_goes_on_with_other_drafts(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    """They decide how fast it goes, not what it comes to."""
    out = tmp_path / "out"
    assert reason("eval", sums, "--out", str(out), "--draft", "none").exit_code == 0
    again = reason("eval", sums, "--out", str(out), "--draft", "goose+stand")
    assert again.exit_code == 0, again.output
    assert "5 of 5 problems were done before" in again.stderr
    assert [options["draft"] for _, options in loads] == ["none", "goose+stand"]
    assert json.loads((out / "config.json").read_text())["environment"]["draft"] == "none"


def test_list(reason: Reason, loads: Loads) -> None:
    result = reason("eval", "--list", env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "gsm8k" in result.stdout
    assert "1319" in result.stdout
    table = json.loads(reason("eval", "--list", "--json").stdout)
    assert {"name", "summary", "rows", "licence"} == set(table[0])
    assert loads == []


def test_everything_fails(reason: Reason, sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_load", lambda model, **options: ScriptedEngine([]))
    result = reason("eval", sums, "--out", str(tmp_path / "out"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1].startswith("error: every expansion failed")


def test_answers_do_not_steer_the_terminal(
    reason: Reason, sums: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The progress bar shows answers."""
    import rich.console

    out = io.StringIO()
    terminal = Console(file=out, width=160, force_terminal=True, color_system=None)
    monkeypatch.setattr(rich.console, "Console", lambda **options: terminal)
    answers = ["so \\boxed{[/bold] \x1b[2J\x07 red}"]
    monkeypatch.setattr(api, "_load", lambda model, **options: ScriptedEngine(answers, delay=0.002))
    result = reason("eval", sums, "-S", "num_samples=2", "--out", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    assert "[/bold]" in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()
    assert "\x07" not in out.getvalue()


# -- Ctrl-C --------------------------------------------------------------------------------------------------------

DRIVER = """
import sys
from reason import api
from reason.cli.main import app
from reason.engine.scripted import ScriptedEngine
from reason.report.sitting import Sitting

add = Sitting._add

def told(self, result):
    add(self, result)
    print("a problem is done", file=sys.stderr, flush=True)

Sitting._add = told
api._load = lambda model, **options: ScriptedEngine(["so \\\\boxed{42}"], delay=DELAY)
app(["eval", *sys.argv[1:]])
"""

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts `reason eval` over a slow scripted engine, and waits until a problem is done."""
    processes: list[subprocess.Popen[str]] = []

    def run(*arguments: str, delay: float) -> subprocess.Popen[str]:
        script = tmp_path / "driver.py"
        script.write_text(f"DELAY = {delay}\n{DRIVER}", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, str(script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # the signal is for this process alone
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_and_going_on(start: Start, sums: str, tmp_path: Path) -> None:
    arguments = (sums, "--out", str(tmp_path / "out"), "-S", "num_samples=1", "--concurrency", "1")
    process = start(*arguments, delay=0.02)
    assert process.stderr is not None
    assert any("a problem is done" in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    assert "of 5 problems are done; the same command goes on from there" in errors
    assert "accuracy" in out
    done = len((tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert 1 <= done < 5
    process = start(*arguments, delay=0.0)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert f"{done} of 5 problems were done before" in errors
    assert "1 of 5" in out


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_kill_and_going_on(start: Start, sums: str, tmp_path: Path) -> None:
    arguments = (sums, "--out", str(tmp_path / "out"), "-S", "num_samples=1", "--concurrency", "1", "--json")
    process = start(*arguments, delay=0.02)
    assert process.stderr is not None
    assert any("a problem is done" in line for line in process.stderr)
    process.kill()
    process.communicate(timeout=20)
    assert not (tmp_path / "out" / "summary.json").exists()
    out, errors = start(*arguments, delay=0.0).communicate(timeout=20)
    assert json.loads(out)["correct"] == 1, errors
    assert json.loads(out)["complete"]

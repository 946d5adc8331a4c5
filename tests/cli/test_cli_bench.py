"""`reason bench` over a tiny random model: recordings, replays, trees, speeds, mistakes, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.local import LocalEngine
from reason.report import speed
from reason.speculate.policy import load_template
from reason.speculate.recording import Recording
from reason.speculate.sources import AUTO

if TYPE_CHECKING:
    from typer.testing import Result

    from tests.cli.conftest import Reason

WIDE = {"COLUMNS": "200"}


def refused(result: Result, code: int = 2) -> str:
    """The message of a command that failed without printing anything else."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    return result.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def recorded(tiny_model: Path, fixtures_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording of four problems of two tasks, three samples each."""
    from typer.testing import CliRunner

    from reason.cli.main import app

    file = tmp_path_factory.mktemp("recorded") / "r.npz"
    arguments = ["bench", "record", "gsm8k", "math500", "-m", str(tiny_model), "--data", str(fixtures_dir / "tasks")]
    sizes = ["--problems", "4", "--samples", "3", "--max-tokens", "20", "--temperature", "0.5"]
    result = CliRunner().invoke(app, [*arguments, *sizes, "--threads", "1", "--dtype", "float32", "--out", str(file)])
    assert result.exit_code == 0, result.output
    tokens = sum(len(sample.tokens) for _, sample in Recording.load(file).samples())
    assert result.stdout == f"4 problems, 12 samples, {tokens} tokens in {file}\n"
    lines = result.stderr.splitlines()
    assert [line.split()[0] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert f"{tokens} tokens" in lines[-1]
    return file


def test_help(reason: Reason) -> None:
    result = reason("bench", "--help")
    assert result.exit_code == 0
    for command in ("record", "replay", "tree", "speculate"):
        assert command in result.stdout
        assert reason("bench", command, "--help").exit_code == 0


# -- record --------------------------------------------------------------------------------------------------------


def test_a_recording_holds_what_the_engine_says(recorded: Path, tiny_model: Path) -> None:
    loaded = Recording.load(recorded)
    assert (loaded.model, loaded.temperature, loaded.has_rows) == (str(tiny_model), 0.5, True)
    assert [p.id.split("/")[0] for p in loaded.problems] == ["gsm8k", "gsm8k", "math500", "math500"]
    assert [p.seed for p in loaded.problems] == [0, 1, 2, 3]
    assert [[s.key for s in p.samples] for p in loaded.problems] == [[0, 1, 2]] * 4
    prompts = {p.prompt for p in loaded.problems}
    assert len(prompts) == 4
    for _, sample in loaded.samples():
        assert sample.top_tokens is not None
        assert sample.top_logprobs is not None
        assert sample.top_tokens.shape == sample.top_logprobs.shape == (len(sample.tokens), 64)
        assert (sample.top_logprobs[:, 0] >= sample.top_logprobs[:, -1]).all()
        in_top = (sample.top_tokens == sample.tokens[:, None]).any(axis=1)
        assert in_top.mean() > 0.8
    assert [path.name for path in recorded.parent.iterdir()] == ["r.npz"]


def test_what_is_not_recorded(reason: Reason, tiny_model: Path, fixtures_dir: Path, tmp_path: Path) -> None:
    model = ["-m", str(tiny_model), "--data", str(fixtures_dir / "tasks")]
    out = ["--out", str(tmp_path / "r.npz")]
    assert "unknown task 'gsm9k'" in refused(reason("bench", "record", "gsm9k", *model, *out))
    assert "its share is 40" in refused(reason("bench", "record", "gsm8k", *model, *out))
    assert "must end in .npz" in refused(reason("bench", "record", "gsm8k", *model, "--out", str(tmp_path / "r")))
    (tmp_path / "r.npz").touch()
    assert "is there already" in refused(reason("bench", "record", "gsm8k", *model, *out))


DRIVER = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background have it ignored
from reason.cli.main import app
from reason.report import recording_run

sample = recording_run._sample

def told(completion):
    print("a sample is done", file=sys.stderr, flush=True)
    return sample(completion)

recording_run._sample = told
app(["bench", "record", *sys.argv[1:]])
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_leaves_nothing(
    tiny_model: Path, fixtures_dir: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "driver.py").write_text(DRIVER, encoding="utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    options = f"--problems 3 --samples 400 --max-tokens 400 --threads 1 --out {folder / 'r.npz'}".split()
    arguments = ["gsm8k", "-m", str(tiny_model), "--data", str(fixtures_dir / "tasks"), *options]
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,  # the signal is for this process alone
    )
    try:
        assert process.stderr is not None
        assert any("a sample is done" in line for line in process.stderr)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out) == (130, "")
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert list(folder.iterdir()) == []


# -- replay --------------------------------------------------------------------------------------------------------


def test_a_table_of_replays(reason: Reason, recorded: Path) -> None:
    options = ["--source", "stand", "--source", "suffix+goose", "--nodes", "4", "--nodes", "12", "--problems", "2"]
    result = reason("bench", "replay", str(recorded), *options, env=WIDE)
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert [line[:2] for line in lines[2:6]] == [
        ["stand", "4"],
        ["stand", "12"],
        ["suffix+goose", "4"],
        ["suffix+goose", "12"],
    ]
    assert "2 problems, 6 samples in turn, rule coupled" in result.stdout
    assert result.stderr.splitlines()[-1] == "4/4  suffix+goose, 12 nodes"
    assert "\x1b" not in result.output


def test_replays_as_json(reason: Reason, recorded: Path) -> None:
    def run(*options: str) -> list[dict[str, Any]]:
        result = reason("bench", "replay", str(recorded), "--json", *options)
        assert result.exit_code == 0, result.output
        rows: list[dict[str, Any]] = json.loads(result.stdout)
        return rows

    (row,) = run("--side-by-side", "--keep", "--samples", "2", "--rule", "match")
    assert (row["source"], row["nodes"], row["order"], row["rule"]) == (AUTO, 8, "side by side", "match")
    assert (row["problems"], row["samples"], row["history"]) == (4, 8, None)
    assert 1.0 <= row["tokens_per_step"][0] <= 9.0
    rows = run("--history", "0,1,2", "--source", "stand")
    assert [(r["history"], r["samples"]) for r in rows] == [(0, 4), (1, 4), (2, 4)]
    (row,) = run("--rule", "without-replacement", "--source", "stand", "--nodes", "6")
    assert row["nodes_per_step"][0] == 6.0


def test_traces_are_replayed(reason: Reason, tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    row = {"model": "some [bold]model", "samples": [{"token_ids": [1, 2, 3, 4] * 20}] * 2}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    result = reason("bench", "replay", str(file), "--source", "suffix", env=WIDE)
    assert result.exit_code == 0, result.output
    assert "some [bold]model" in result.stdout
    message = refused(reason("bench", "replay", str(file), "--source", "goose+stand"))
    assert message.startswith("stand learns from the model's rows")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.npz"], "none.npz is not a recording made by `reason bench record`"),
        (["none.jsonl"], "none.jsonl is not a file of JSON lines"),
        (["RECORDED", "--source", "stamd"], "unknown draft source 'stamd'. Did you mean 'stand'?"),
        (["RECORDED", "--rule", "kupled"], "unknown verification rule 'kupled'. Did you mean 'coupled'?"),
        (["RECORDED", "--rule", "iid", "--source", "goose"], "rule 'iid' is replayed for the source 'stand' alone"),
        (["RECORDED", "--rule", "iid", "--source", "stand", "--keep"], "rule 'iid' is replayed with fresh problems"),
        (["RECORDED", "--history", "0,x"], "--history takes numbers with commas between them (0,1,3,7,15), got '0,x'"),
        (["RECORDED", "--history", "3"], "no problem has 3 samples and one more to measure after them"),
        (["RECORDED", "--history", "1", "--side-by-side"], "--history measures one sample at a time"),
    ],
)
def test_what_is_not_replayed(reason: Reason, recorded: Path, arguments: list[str], message: str) -> None:
    given = [str(recorded) if argument == "RECORDED" else argument for argument in arguments]
    assert refused(reason("bench", "replay", *given)).startswith(message)


# -- tree ----------------------------------------------------------------------------------------------------------


def test_a_measured_tree(reason: Reason, recorded: Path, tiny_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "tree.json"
    result = reason("bench", "tree", str(recorded), "--nodes", "6", "--problems", "2", "--out", str(file))
    assert result.exit_code == 0, result.output
    template = load_template(file)
    assert 1 <= len(template) <= 6
    assert template[0] == (0,)
    assert result.stdout == f"{len(template)} nodes, {max(map(len, template))} deep, in {file}\n"
    assert json.loads(file.read_text())["made_from"] == f"stand on 6 samples of 2 problems by {tiny_model}"
    assert "is there already" in refused(reason("bench", "tree", str(recorded), "--out", str(file)))
    unknown = ["--source", "stamd", "--out", str(tmp_path / "other.json")]
    assert "unknown draft source" in refused(reason("bench", "tree", str(recorded), *unknown))


# -- speculate -----------------------------------------------------------------------------------------------------


def test_everything_at_once(
    reason: Reason,
    recorded: Path,
    tiny_model: Path,
    fixtures_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drafts: list[str] = []
    load = LocalEngine.load

    def watched(folder: Any, **options: Any) -> LocalEngine:
        assert all(engine._closing for engine in engines), "one engine at a time"
        drafts.append(options["draft"])
        engines.append(load(folder, **options))
        return engines[-1]

    engines: list[LocalEngine] = []
    monkeypatch.setattr(LocalEngine, "load", watched)
    monkeypatch.setattr(speed, "QUICK", speed.Sizes(rounds=2, prompts=2, samples=4, max_tokens=12))
    options = ["-m", str(tiny_model), "--data", str(fixtures_dir / "tasks"), "--recording", str(recorded), "--quick"]
    more = ["--draft", "goose+stand", "--threads", "1", "--dtype", "float32", "--out", str(tmp_path / "out")]
    result = reason("bench", "speculate", *options, *more, env=WIDE)
    assert result.exit_code == 0, result.output
    assert drafts == ["none", "goose+stand"] * 2
    assert all(engine._closing for engine in engines)
    for text in ("Samples of one problem, side by side", "goose+stand / none", "best of 4", "beam of 4", "Overhead"):
        assert text in result.stdout
    content = json.loads((tmp_path / "out" / "speculation.json").read_text())
    assert content["options"]["threads"] == 1
    speeds = content["speeds"]
    assert len(speeds) == 2 * 2 * 5
    by_draft = [[s["tokens"] for s in speeds if s["draft"] == draft] for draft in ("none", "goose+stand")]
    assert by_draft[0] == by_draft[1]  # float32: drafts change no token
    for measured in speeds:
        loop = measured["loop"]
        assert 0 < loop["forward_seconds"] <= loop["seconds"]
        assert loop["seconds"] <= 2 * measured["seconds"]  # the last iteration ends after its tokens are told
        assert (loop["draft_seconds"] == 0) == (measured["draft"] == "none")
    assert "## Speed" in (tmp_path / "out" / "speculation.md").read_text()


def test_what_is_not_measured(reason: Reason, tiny_model: Path, fixtures_dir: Path, tmp_path: Path) -> None:
    options = ["-m", str(tiny_model), "--data", str(fixtures_dir / "tasks"), "--out", str(tmp_path / "out")]
    assert "name a draft source" in refused(reason("bench", "speculate", *options, "--draft", "none"))
    assert "unknown draft source 'stamd'" in refused(reason("bench", "speculate", *options, "--draft", "stamd"))
    missing = ["--recording", str(tmp_path / "none.npz")]
    assert "is not a recording" in refused(reason("bench", "speculate", *options, *missing))
    assert not (tmp_path / "out").exists()

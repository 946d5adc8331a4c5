"""`reason solve` in a process of its own: Ctrl-C, other encodings, and a real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

DRIVER = """
import asyncio, sys, time
from reason import api
from reason.cli.main import app
from reason.engine.scripted import ScriptedEngine
from reason.search.effects import Effects

generate = Effects._generate

async def told(self, *arguments):
    done = await generate(self, *arguments)
    sys.stderr.write("a sample is done\\n")
    sys.stderr.flush()
    return done

Effects._generate = told

class Engine(ScriptedEngine):
    def usage(self, owner):
        if STUBBORN:
            print("asked for the ledger", file=sys.stderr, flush=True)
            time.sleep(2)
        return super().usage(owner)

def load(model, **options):
    if LOADING:
        print("loading", file=sys.stderr, flush=True)
        time.sleep(30)
    return Engine(["数 → " + "x" * 5000, "so \\\\boxed{42}"], delay=0.004)

api._load = load
app(["solve", "What is 6 x 7?", *sys.argv[1:]])
"""

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Iterator[Start]:
    """Starts `reason solve` over a slow scripted engine, and waits until it says something."""
    processes: list[subprocess.Popen[str]] = []

    def run(
        *arguments: str, say: str, stubborn: bool = False, loading: bool = False, max_tokens: int = 6000
    ) -> subprocess.Popen[str]:
        script = tmp_path / "driver.py"
        script.write_text(f"STUBBORN = {stubborn}\nLOADING = {loading}\n{DRIVER}", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, str(script), "-S", f"max_tokens={max_tokens}", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=environment,
            start_new_session=True,  # the signal is for this process alone
        )
        processes.append(process)
        await_line(process, say)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def await_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return
    raise AssertionError(f"it ended before it said {text!r}")


@pytest.mark.parametrize("live", [[], ["--live"]])
def test_ctrl_c_prints_the_best_answer_so_far(start: Start, live: list[str]) -> None:
    process = start(*live, say="a sample is done")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert "answer  42" in out
    assert "stopped by interrupt" in out
    assert "Traceback" not in errors


def test_ctrl_c_with_json(start: Start) -> None:
    process = start("--json", say="a sample is done")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, errors.replace("a sample is done\n", "")) == (0, "")
    table = json.loads(out)
    assert (table["answer"], table["stopped_by"]) == ("42", "interrupt")
    assert 0 < table["usage"]["policy_tokens"] < 6000


def test_a_second_ctrl_c_ends_the_process(start: Start) -> None:
    process = start(say="a sample is done", stubborn=True)
    process.send_signal(signal.SIGINT)
    await_line(process, "asked for the ledger")
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert errors == "interrupted\n"


def test_ctrl_c_while_the_model_is_loaded(start: Start) -> None:
    process = start(say="loading", loading=True)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=20)
    assert (process.returncode, out, errors) == (130, "", "interrupted\n")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_terminals_that_cannot_show_everything(
    start: Start, environment: dict[str, str], encoding: str, arguments: list[str]
) -> None:
    environment["PYTHONIOENCODING"] = encoding
    process = start("-S", "num_samples=2", *arguments, say="a sample is done", max_tokens=12)
    out, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    if arguments:
        assert [c["text"][:1] for c in json.loads(out)["candidates"]] == ["s", "数"]


# -- with weights --------------------------------------------------------------------------------------------------


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_real_model_on_a_real_problem(environment: dict[str, str], fixtures_dir: Path) -> None:
    from reason.models import default_model

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reason", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)

    model = default_model()
    if run("models", "where", model).returncode != 0:
        pytest.skip(f"{model} is not in the cache; `reason models pull {model}` gets it")
    with (fixtures_dir / "gsm8k_20.jsonl").open(encoding="utf-8") as lines:
        problem: dict[str, Any] = json.loads(next(iter(lines)))
    done = run("solve", problem["question"], "--json", "-S", "num_samples=4", "-S", "max_tokens=200")
    assert done.returncode == 0, done.stderr
    solution = json.loads(done.stdout)
    assert (solution["model"], solution["strategy"], solution["stopped_by"]) == (model, "best-of-n", "done")
    assert len(solution["candidates"]) == 4
    assert solution["answer"] is not None
    assert solution["text"]
    usage = solution["usage"]
    assert usage["calls"] == 4
    assert 4 < usage["policy_tokens"] <= 800
    assert usage["forwards"] < usage["policy_tokens"]  # samples share forwards
    prompt = usage["prompt_tokens"]
    assert prompt < usage["unique_kv_tokens_mean"] <= usage["unique_kv_tokens_peak"] <= prompt + usage["policy_tokens"]

"""`reason solve`: where the problem comes from, what is refused and how, what is printed."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import Result

from reason import api
from reason.cli import solve
from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, ModelNotFound, UnsupportedModel, UsageError
from reason.types import Usage

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

Loads = list[tuple[str | None, dict[str, Any]]]


def refused(result: Result, code: int = 2) -> str:
    """The message of a command that ended with an error, in one line and without a traceback."""
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert isinstance(result.exception, SystemExit)
    return result.stderr.removeprefix("error: ").rstrip("\n")


# -- the problem ---------------------------------------------------------------------------------------------------


def test_from_an_argument_a_file_or_standard_input(reason: Reason, loads: Loads, tmp_path: Path) -> None:
    file = tmp_path / "problem.txt"
    file.write_text("What is 6 × 7?\n", encoding="utf-8")
    for arguments, text in ((["What is 6 × 7?"], None), (["-"], "What is 6 × 7?"), (["--file", str(file)], None)):
        result = reason("solve", *arguments, input=text)
        assert result.exit_code == 0, result.output
        assert "42" in result.stdout
        assert result.stderr == ""
    assert len(loads) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the problem is empty"),
        (b" \n\t ", "the problem is empty"),
        (b"\xff\xfe\x00binary\x80", "is not UTF-8 text"),
        (b"x" * ((1 << 20) + 1), "longer than 1 MiB"),
        ("é".encode() * (1 << 20), "longer than 1 MiB"),
        ("a" + "é" * (1 << 20), "longer than 1 MiB"),  # cut in the middle of a character
    ],
)
def test_files_that_are_no_problem(
    reason: Reason, loads: Loads, tmp_path: Path, content: bytes | str, message: str
) -> None:
    file = tmp_path / "problem"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert message in refused(reason("solve", "--file", str(file)))
    assert message in refused(reason("solve", "-", input=file.read_bytes()))
    assert loads == []


def test_a_file_of_just_the_limit(reason: Reason, loads: Loads, tmp_path: Path) -> None:
    file = tmp_path / "problem"
    file.write_bytes(b"x" * (1 << 20))
    assert reason("solve", "--file", str(file)).exit_code == 0


def test_files_that_cannot_be_read(reason: Reason, loads: Loads, tmp_path: Path) -> None:
    missing = tmp_path / "missing.txt"
    assert refused(reason("solve", "--file", str(missing))) == f"cannot read {missing}: No such file or directory"
    assert "Is a directory" in refused(reason("solve", "--file", str(tmp_path)))
    assert "cannot read" in refused(reason("solve", "-f", ""))
    assert loads == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(reason: Reason, loads: Loads, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("x")
    file.chmod(0)
    assert "Permission denied" in refused(reason("solve", "--file", str(file)))


def test_none_or_two_problems(reason: Reason, loads: Loads, tmp_path: Path) -> None:
    assert "only one of them" in refused(reason("solve"))
    assert "only one of them" in refused(reason("solve", "text", "--file", str(tmp_path)))
    assert "the problem is empty" in refused(reason("solve", ""))
    assert "the problem is empty" in refused(reason("solve", "   "))
    assert "the problem is empty" in refused(reason("solve", "-", input=""))
    assert loads == []


def test_standard_input_that_cannot_be_read(reason: Reason, loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def read(self, size: int) -> bytes:
            raise IsADirectoryError(21, "Is a directory")

    monkeypatch.setattr(solve, "sys", SimpleNamespace(stdin=SimpleNamespace(buffer=Broken())))
    with pytest.raises(UsageError, match="cannot read standard input: Is a directory"):
        solve.read_problem("-", None)


def test_no_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solve, "sys", SimpleNamespace(stdin=None))
    with pytest.raises(UsageError, match="the problem is empty"):
        solve.read_problem("-", None)


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-s", "beem"], "unknown strategy 'beem'. Did you mean 'beam'? Known: "),
        (["-S", "num_samples"], "a strategy setting is written field=value, got 'num_samples'"),
        (["-S", "num_samples=x"], "num_samples must be a whole number, got 'x'"),
        (["-S", "num_samples=0"], "num_samples must be at least 1, got 0"),
        (["-S", "samples=3"], "unknown field of best-of-n 'samples'. Did you mean 'num_samples'?"),
        (["-S", "temperature=nan"], "temperature must be at least 0, got nan"),
        (["--max-policy-tokens", "0"], "budget policy_tokens must be more than 0, got 0"),
        (["--max-seconds", "-1"], "budget seconds must be more than 0, got -1.0"),
        (["--max-kv-tokens", "0"], "budget kv_tokens must be more than 0, got 0"),
        (["--max-calls", "-5"], "budget calls must be more than 0, got -5"),
        (["--draft", "stamd"], "unknown draft source 'stamd'. Did you mean 'stand'?"),
        (["--draft", "stand+stand"], "a draft source is named twice in 'stand+stand'"),
    ],
)
def test_mistakes_are_found_before_the_model_is_loaded(
    reason: Reason, loads: Loads, arguments: list[str], message: str
) -> None:
    assert refused(reason("solve", "1 + 1?", *arguments)).startswith(message)
    assert loads == []


def test_models_that_cannot_be_had(reason: Reason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASON_CACHE", str(tmp_path / "cache"))
    message = refused(reason("solve", "1 + 1?", "--model", "qwen2.5-coder-0.5b"))
    assert message.startswith("unknown model 'qwen2.5-coder-0.5b'. Did you mean 'qwen2.5-coder-0.5b-instruct'?")
    message = refused(reason("solve", "1 + 1?", "-m", str(tmp_path / "none.gguf")), code=1)
    assert message.startswith("there is no file")


@pytest.mark.parametrize(
    ("error", "code"), [(ModelNotFound("no weights"), 1), (UnsupportedModel("too odd"), 2), (EngineError("broken"), 1)]
)
def test_errors_of_loading(reason: Reason, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int) -> None:
    def load(model: str | None, **options: Any) -> ScriptedEngine:
        raise error

    monkeypatch.setattr(api, "_load", load)
    assert refused(reason("solve", "1 + 1?"), code) == str(error)


def test_a_run_that_fails(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_load", lambda model, **options: ScriptedEngine([]))
    for more in ([], ["--live"], ["--json"]):
        message = refused_at_last(reason("solve", "1 + 1?", *more))
        assert message.startswith("error: every expansion failed; the first: the script has no continuation")


def refused_at_last(result: Result) -> str:
    """As ``refused``, but frames of the live view may come before the message."""
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def test_a_bug_keeps_its_traceback(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(model: str | None, **options: Any) -> ScriptedEngine:
        raise ZeroDivisionError

    monkeypatch.setattr(api, "_load", load)
    assert isinstance(reason("solve", "1 + 1?").exception, ZeroDivisionError)


# -- what is printed -----------------------------------------------------------------------------------------------


def test_what_people_read(reason: Reason, loads: Loads) -> None:
    result = reason("solve", "What is 6 × 7?", "-S", "num_samples=4")
    assert result.exit_code == 0
    assert result.stderr == ""
    for text in ("so \\boxed{42}", "answer  42", "(confidence 50%)", "best-of-n", "scripted", "generated tokens"):
        assert text in result.stdout
    assert "stopped by" not in result.stdout


@pytest.mark.parametrize("options", [["-S", "num_samples=1"], ["-s", "ats"], ["-s", "budget-forcing"]])
def test_a_vote_of_one_says_nothing_of_confidence(reason: Reason, loads: Loads, options: list[str]) -> None:
    result = reason("solve", "What is 6 × 7?", *options)
    assert re.search(r"answer  (42|1)\n", result.stdout)
    assert "confidence" not in result.stdout


def test_what_auto_chose_is_shown(reason: Reason, loads: Loads) -> None:
    result = reason(
        "solve", "6 × 7?", "-s", "esc", "-S", "inner=auto", "--max-policy-tokens", "300", env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output
    assert "esc, best-of-n(select=weighted,num_samples=1)" in result.stdout


def test_no_answer(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_load", lambda model, **options: ScriptedEngine(["[/bold] no [red]idea"]))
    result = reason("solve", "?", "--max-calls", "2")
    assert result.exit_code == 0
    assert "none found" in result.stdout
    assert "[/bold] no [red]idea" in result.stdout
    assert "stopped by calls" in result.stdout


@pytest.mark.parametrize("live", [[], ["--live"]])
def test_json(reason: Reason, loads: Loads, live: list[str]) -> None:
    result = reason("solve", "What is 6 × 7?", "--json", "-S", "num_samples=4", "--max-calls", "3", *live)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 1
    table = json.loads(result.stdout)
    assert list(table) == [
        *("answer", "text", "confidence", "strategy", "chosen", "model", "stopped_by", "usage", "candidates"),
    ]
    assert (table["answer"], table["text"]) == ("42", "thus \\boxed{42}")
    assert (table["strategy"], table["model"], table["stopped_by"]) == ("best-of-n", "scripted", "calls")
    usage = table["usage"]
    assert set(usage) == {f.name for f in fields(Usage)}
    assert all(isinstance(value, int | float) for value in usage.values())
    assert usage["calls"] == 3
    assert usage["policy_tokens"] > 0
    assert table["candidates"][2] == {
        "answer": None,
        "text": "数学 → no idea",
        "num_tokens": 18,
        "finish_reason": "eos",
        "score": None,
        "answer_class": None,
    }


def test_options_go_where_they_belong(reason: Reason, loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}
    start: Callable[..., Any] = api.Solver.start

    def watched(self: api.Solver, *arguments: Any, **options: Any) -> Any:
        seen.update(options)
        return start(self, *arguments, **options)

    monkeypatch.setattr(api.Solver, "start", watched)
    options = "-m mine --device cpu --dtype float32 --quantize int8 --kv-tokens 99 --threads 2 --seed 7 --draft none"
    budget = "--max-policy-tokens 500 --max-seconds 50 --max-kv-tokens 5000 --max-calls 2"
    assert reason("solve", "?", "--json", *options.split(), *budget.split(), "-S", "temperature=0.5").exit_code == 0
    model = {"device": "cpu", "dtype": "float32", "quantize": "int8", "kv_tokens": 99, "threads": 2}
    assert loads == [("mine", {**model, "draft": "none"})]
    limits = seen["budget"]
    assert (limits.policy_tokens, limits.seconds, limits.kv_tokens, limits.calls) == (500, 50.0, 5000, 2)
    assert (seen["seed"], seen["temperature"]) == (7, 0.5)


def test_a_system_without_signal_handlers(reason: Reason, loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' event loops have none."""

    def none(*arguments: object) -> bool:
        raise NotImplementedError

    for method in ("add_signal_handler", "remove_signal_handler"):
        monkeypatch.setattr(asyncio.SelectorEventLoop, method, none)
    result = reason("solve", "What is 6 × 7?", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["answer"] == "42"

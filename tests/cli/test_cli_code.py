"""Evaluations whose answers are programs, from the command line: what is run, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason import api
from reason.engine.scripted import ScriptedEngine
from reason.errors import SandboxUnavailable
from reason.sandbox import backends, service
from reason.types import Problem

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

MOD = "```python\ndef truncate_number(number):\n    return number % 1.0\n```"
REST = "```python\ndef truncate_number(number):\n    return number - int(number)\n```"
HALF = "```python\ndef truncate_number(number):\n    return 0.5\n```"  # right about the example
WHOLE = "```python\ndef truncate_number(number):\n    return int(number)\n```"


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes the model write some texts."""

    def writes(*texts: str) -> None:
        def load(model: str | None, **options: Any) -> ScriptedEngine:
            return ScriptedEngine(list(texts))

        monkeypatch.setattr(api, "_load", load)

    return writes


@pytest.fixture
def not_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> backends.Backend:
        raise SandboxUnavailable("programs cannot be isolated here: install bubblewrap, or use --unsafe-exec")

    monkeypatch.setattr(backends, "find", nowhere)
    monkeypatch.setattr(service, "_shared", None)
    monkeypatch.setattr(service, "_unsafe_allowed", False)


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def evaluate(reason: Reason, fixtures_dir: Path, tmp_path: Path) -> Callable[..., Any]:
    def evaluate(*arguments: str) -> Any:
        given = ("eval", "humaneval", "--limit", "1", "--data", str(fixtures_dir / "tasks"), "--out", str(tmp_path))
        return reason(*given, *arguments)

    return evaluate


def test_selects_by_public_tests(
    evaluate: Callable[..., Any], writes: Callable[..., None], isolation: None, tmp_path: Path
) -> None:
    writes(WHOLE, WHOLE, MOD, "I cannot.")  # the first comes last
    done = evaluate("-S", "num_samples=4", "-S", "select=best", "-S", "verifier=public-tests")
    assert done.exit_code == 0, done.output
    (result,) = results(tmp_path)
    assert result["correct"]
    assert "number % 1.0" in result["answer"]
    assert [each["score"] for each in result["candidates"]] == [0, 1, 0, 0]
    assert [each["answer_class"] for each in result["candidates"]] == [0, 1, None, 0]
    trace = (tmp_path / "traces" / f"{result['id']}.jsonl").read_text(encoding="utf-8")
    header, *events = map(json.loads, trace.splitlines())
    assert header["tests"] == ["assert truncate_number(3.5) == 0.5"]
    (measured,) = (event for event in events if event["type"] == "measure")
    assert measured["feedback"][0].startswith("0 of 1 tests passed.\n\nTest: assert truncate_number(3.5) == 0.5")
    assert "check(candidate)" not in trace  # the hidden tests
    assert "1.33" not in trace


def test_votes_by_behaviour(
    evaluate: Callable[..., Any], writes: Callable[..., None], isolation: None, tmp_path: Path
) -> None:
    writes(HALF, MOD, WHOLE, REST)
    done = evaluate("-S", "num_samples=4")
    assert done.exit_code == 0, done.output
    (result,) = results(tmp_path)
    assert [each["answer_class"] for each in result["candidates"]] == [0, 1, 0, 2]
    assert result["correct"]
    assert [each["correct"] for each in result["candidates"]] == [True, False, True, False]


@pytest.mark.usefixtures("not_isolated")
def test_refuses_before_a_model_is_loaded(evaluate: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "_load", lambda *_, **__: pytest.fail("a model was loaded"))
    done = evaluate()
    assert (done.exit_code, done.stdout) == (1, "")
    assert "install bubblewrap, or use --unsafe-exec" in done.stderr


@pytest.mark.usefixtures("not_isolated")
def test_runs_unsafe_where_that_is_allowed(
    evaluate: Callable[..., Any], writes: Callable[..., None], tmp_path: Path
) -> None:
    writes(MOD, WHOLE)
    done = evaluate("--unsafe-exec", "-S", "num_samples=2", "-S", "select=best", "-S", "verifier=public-tests")
    assert done.exit_code == 0, done.output
    (result,) = results(tmp_path)
    assert result["correct"]
    assert service.shared_sandbox().backend == "unsafe"
    service.shared_sandbox().close()


@pytest.mark.usefixtures("not_isolated")
def test_unsafe_exec_of_the_api() -> None:
    from reason.tasks.code import code_problem

    problem = code_problem("Write f, which doubles.", ["assert f(2) == 4"])
    engine = ScriptedEngine(["def f(x):\n    return x * 2\n", "def f(x):\n    return x\n"])
    fields: dict[str, Any] = {"num_samples": 2, "select": "best", "verifier": "public-tests"}
    with pytest.raises(SandboxUnavailable):
        api.solve(problem, model=engine, **fields)
    solution = api.solve(problem, model=engine, unsafe_exec=True, **fields)
    assert solution.answer == "def f(x):\n    return x * 2\n"
    service.shared_sandbox().close()


def test_solves_with_tests_of_ones_own(reason: Reason, writes: Callable[..., None], isolation: None) -> None:
    writes("```python\ndef f(x):\n    return x\n```", "```python\ndef f(x):\n    return x * 2\n```")
    settings = ("-S", "num_samples=2", "-S", "select=best", "-S", "verifier=public-tests")
    done = reason("solve", "Write f, which doubles.", "--test", "assert f(2) == 4", *settings, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["answer"] == "def f(x):\n    return x * 2\n"
    refused = reason("solve", "Write f.", "--test", "f(2) ==")
    assert (refused.exit_code, refused.stderr) == (2, "error: the test 'f(2) ==' is no Python\n")
    refused = reason("solve", "Write f.", *settings, "--json")
    assert "has no public tests" in refused.stderr


def test_every_command_that_runs_programs_takes_it(reason: Reason) -> None:
    for command in ("solve", "eval", "compare"):
        assert (
            "--unsafe-exec" in reason(command, "--help", env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}).output
        )


def test_a_problem_of_ones_own() -> None:
    from reason.errors import UsageError
    from reason.tasks.code import code_problem

    made = code_problem("Write f.", ["assert f(len('ab')) == 4", "assert f(3) == 6"], setup="import math")
    assert isinstance(made, Problem)
    assert (made.entry_point, made.closing, made.setup) == ("f", "", "import math")
    assert not isinstance(made.content, str)
    (turn,) = made.content
    assert "Your code should pass these tests:\nassert f(len('ab')) == 4\nassert f(3) == 6" in turn["content"]
    for tests, message in (
        ([], "needs at least one test"),
        (["assert f("], "is no Python"),
        (["assert len([1]) == 1"], "does not say which function"),
    ):
        with pytest.raises(UsageError, match=message):
            code_problem("Write f.", tests)

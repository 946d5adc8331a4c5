"""`reason compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

Loads = list[tuple[str | None, dict[str, Any]]]


@pytest.fixture
def sums(tmp_path: Path) -> str:
    """A file of three problems."""
    rows = [{"question": f"What is {i} × 7?", "answer": str(i * 7)} for i in (6, 1, 2)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(tmp_path / "sums.jsonl")


@pytest.fixture
def runs(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> list[str]:
    """Two evaluations of the same three problems."""
    for name, samples in (("a", 2), ("b", 4)):
        task = ("eval", sums, "-S", f"num_samples={samples}", "--out", str(tmp_path / name))
        assert reason(*task).exit_code == 0
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_what_people_read(reason: Reason, runs: list[str]) -> None:
    result = reason("compare", *runs, env={"COLUMNS": "200"})
    assert (result.exit_code, result.stderr) == (0, "")
    for text in (
        "accuracy A - B",
        "points",
        "p = ",
        "3 problems",
        "generated tokens",
        "strategy.fields.num_samples: 2 | 4",
    ):
        assert text in result.stdout


def test_json(reason: Reason, runs: list[str]) -> None:
    result = reason("compare", *runs, "--json")
    table = json.loads(result.stdout)
    assert (table["n"], table["unpaired"]) == (3, 0)
    assert table["costs"]["policy_tokens"]["ratio"] < 1


def test_what_is_no_evaluation(reason: Reason, tmp_path: Path) -> None:
    result = reason("compare", str(tmp_path), str(tmp_path))
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds no evaluation" in result.stderr


def test_two_folders_take_no_options_of_a_sweep(reason: Reason, runs: list[str]) -> None:
    for option, value in (("--seed", "0"), ("--budget-tokens", "100"), ("--limit", "3"), ("--set", "top_k=3")):
        result = reason("compare", *runs, option, value)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{option} is for a comparison on a task" in result.stderr


def test_auto_beside_others_under_a_budget(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    command = ("compare", sums, "--strategies", "auto,best-of-n", "--budget-tokens", "1000", "-S", "select=weighted")
    result = reason(*command, "--out", str(tmp_path / "out"), "--json")
    assert result.exit_code == 0, result.output
    assert [each["label"] for each in json.loads(result.stdout)["settings"]] == ["auto", "best-of-n(num_samples=3)"]


def test_options_of_the_data_and_the_weights(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    data = ("--few-shot", "1", "--question-field", "question", "--answer-field", "answer", "--quantize", "int8")
    result = reason("compare", sums, "--strategies", "best-of-n", *data, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    config = json.loads((tmp_path / "out" / "best-of-n" / "config.json").read_text())
    assert (config["task"]["few_shot"], config["model"]["quantize"]) == (1, "int8")
    assert loads[0][1]["quantize"] == "int8"


def test_what_the_error_advises_is_there(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    command = ("compare", sums, "--strategies", "best-of-n", "--out", str(tmp_path / "out"))
    assert reason(*command, "--limit", "2").exit_code == 0
    refused = reason(*command, "--limit", "3")
    assert refused.exit_code == 2
    assert "--overwrite to start anew" in refused.stderr
    assert reason(*command, "--limit", "3", "--overwrite").exit_code == 0


def test_strategies_on_a_task(reason: Reason, loads: Loads, sums: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = (
        "compare",
        sums,
        "--strategies",
        "best-of-n,beam(beam_width=2)",
        "--sweep",
        "width=2",
    )
    result = reason(*command, "-S", "max_tokens=30", "--out", str(out), env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert "1/2  best-of-n(num_samples=2)" in result.stderr
    for text in ("3 problems, width=2", "best-of-n(num_samples=2)", "beam(beam_width=2,width=2)", "max_tokens 30"):
        assert text in result.stdout
    assert (out / "comparison.md").exists()
    assert len(loads) == 1
    again = reason(*command, "-S", "max_tokens=30", "--out", str(out), "--json")
    assert again.exit_code == 0
    assert [each["label"] for each in json.loads(again.stdout)["settings"]] == [
        "best-of-n(num_samples=2)",
        "beam(beam_width=2,width=2)",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("one",), "two folders"),
        (("one", "two", "--strategies", "beam"), "one task"),
        (("gsm8k", "--strategies", "beam(width=3)"), "multiple of beam_width"),
        (("gsm8k", "--strategies", "beam", "--budget-tokens", "1k"), "numbers with commas"),
        (("gsm8k", "--strategies", "beam", "--budget-tokens", "²"), "numbers with commas"),
        (("gsm8k", "--strategies", "best-of-n,beam", "-S", "temprature=0.2"), "Did you mean 'temperature'"),
        (("gsm8k", "--strategies", "beam", "-S", "width=4", "-S", "width=8"), "width is set twice"),
        (("gsm8k", "--strategies", "bean"), "unknown strategy"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(
    reason: Reason, loads: Loads, arguments: tuple[str, ...], says: str
) -> None:
    result = reason("compare", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert loads == []

"""`reason eval TASK --verifier NAME`: what it takes, what it prints, what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.test_cli_eval import refused

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

Loads = list[tuple[str | None, dict[str, Any]]]


@pytest.fixture
def data(fixtures_dir: Path) -> str:
    return str(fixtures_dir / "tasks")


@pytest.fixture
def samples(tmp_path: Path) -> str:
    """Two problems with two recorded samples each."""
    rows = [
        {
            "question": f"What is {i} * 7?",
            "answer": str(i * 7),
            "samples": [
                {"text": f"It is \\boxed{{{i * 7 + 1}}}.", "correct": False, "rm_score": -1.0},
                {"text": f"It is \\boxed{{{i * 7}}}.", "correct": True, "rm_score": 2.0},
            ],
        }
        for i in (2, 3)
    ]
    file = tmp_path / "recorded.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def test_steps(reason: Reason, loads: Loads, data: str, tmp_path: Path) -> None:
    # The scripted judge finds P(Yes) = 0.475 for every step, so that the first is wrong: right for one row of three.
    out = tmp_path / "out"
    result = reason(
        "eval", "processbench-gsm8k", "--verifier", "judge", "--data", data, "--out", str(out), "-m", "small"
    )
    assert result.exit_code == 0, result.output
    for text in (
        "processbench-gsm8k  judge  scripted",
        "a step is wrong below 0.5",
        "F1  0.0%",
        "rows with an error  50.0% ± 50.0  [9.5%, 90.5%]  2 rows",
        "rows without an error  0.0%",
        "AUC of steps  0.500",
        "3 of 3 rows",
        "verifier tokens",
        f"results in {out}",
    ):
        assert text in result.stdout
    assert "3/3" in result.stderr
    assert [name for name, _ in loads] == ["small"]
    assert len((out / "results.jsonl").read_text().splitlines()) == 3


def test_json_and_another_threshold(reason: Reason, loads: Loads, data: str, tmp_path: Path) -> None:
    command = (
        "eval",
        "processbench-gsm8k",
        "--verifier",
        "judge",
        "--data",
        data,
        "--out",
        str(tmp_path / "out"),
        "--json",
    )
    first = json.loads(reason(*command).stdout)
    assert first == json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (first["sound"]["mean"], first["flawed"]["mean"], first["f1"]["mean"]) == (0.0, 0.5, 0.0)
    second = json.loads(reason(*command, "--threshold", "0.4").stdout)
    assert (second["sound"]["mean"], second["flawed"]["mean"], second["threshold"]) == (1.0, 0.0, 0.4)


def test_several_tasks_by_one_name(reason: Reason, loads: Loads, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = reason("eval", "processbench", "--verifier", "judge", "--data", data, "--out", str(out), "--json")
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["task"] for line in result.stdout.splitlines()] == [
        "processbench-gsm8k",
        "processbench-math",
    ]
    assert sorted(folder.name for folder in out.iterdir()) == ["processbench-gsm8k", "processbench-math"]
    assert len(loads) == 1


def test_a_threshold_is_chosen_on_the_first_task(reason: Reason, loads: Loads, data: str, tmp_path: Path) -> None:
    arguments = ("--tune", "2", "--seed", "0", "--data", data, "--out", str(tmp_path / "out"), "--json")
    result = reason("eval", "processbench", "--verifier", "judge", *arguments)
    assert result.exit_code == 0, result.output
    first, second = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["tuned_on"], second["tuned_on"]) == (2, 0)
    assert first["threshold"] == second["threshold"]
    assert sum(part["n"] for part in (second["sound"], second["flawed"])) == 3


def test_recorded_samples(reason: Reason, loads: Loads, samples: str, tmp_path: Path) -> None:
    result = reason("eval", samples, "--verifier", "recorded", "--out", str(tmp_path / "a"), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert loads == []
    assert "recorded  recorded  none" in result.stdout
    assert "best - majority, N = 2  +100.0 points" in result.stdout
    result = reason("eval", samples, "--verifier", "judge", "--out", str(tmp_path / "b"), env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    assert len(loads) == 1
    for text in ("recorded best", "best - recorded best, N = 2  -100.0 points", "2 of 2 rows"):
        assert text in result.stdout


def test_the_model_as_the_critic(reason: Reason, loads: Loads, data: str, tmp_path: Path) -> None:
    result = reason("eval", "processbench-gsm8k", "--data", data, "--out", str(tmp_path / "out"), "-S", "num_samples=2")
    assert result.exit_code == 0, result.output
    for text in ("rows with an error  0.0%", "rows without an error  0.0%", "harmonic mean of both  0.0%"):
        assert text in result.stdout


def test_the_default_folder(
    reason: Reason, loads: Loads, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reason("eval", "processbench-gsm8k", "--verifier", "value-prompt:num_values=1", "--data", data, "-m", "Small")
    assert [folder.name for folder in (tmp_path / "runs").iterdir()] == [
        "processbench-gsm8k-Small-value-prompt-num_values=1"
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--verifier", "entropy"], "recorded while a solution is generated"),
        (["--verifier", "juge"], "unknown verifier 'juge'"),
        (["--verifier", "judge", "-S", "num_samples=2"], "it takes no strategy, budget or samples"),
        (["--verifier", "judge", "-s", "beam"], "it takes no strategy, budget or samples"),
        (["--verifier", "judge", "--max-calls", "2"], "it takes no strategy, budget or samples"),
        (["--verifier", "judge", "--tune", "3"], "2 to 2 of 3 rows, not 3"),
        (["--verifier", "judge", "--tune", "2", "--threshold", "0.5"], "given or chosen, not both"),
        (["--verifier", "judge", "--aggregation", "min"], "aggregation is for samples"),
        (["--verifier", "recorded"], "without a recorded reward"),
        (["--threshold", "0.5"], "go with --verifier"),
    ],
)
def test_refusals(arguments: list[str], message: str, reason: Reason, loads: Loads, data: str, tmp_path: Path) -> None:
    result = reason("eval", "processbench-gsm8k", "--data", data, "--out", str(tmp_path / "out"), *arguments)
    assert message in refused(result)
    assert loads == []
    assert not (tmp_path / "out" / "results.jsonl").exists()

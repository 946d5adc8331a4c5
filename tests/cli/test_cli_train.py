"""`reason train value` on a tiny model: from solutions to a head that a search uses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason.report import rollouts
from reason.report.rollouts import read_rollouts

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(40)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model is never right: those solutions are that begin with a letter of odd number."""

    def graded(folder: Path) -> Any:
        return [replace(each, correct=each.tokens[0] % 2 == 1, answer_class=0) for each in read_rollouts(folder)]

    monkeypatch.setattr(rollouts, "read_rollouts", graded)


@pytest.mark.usefixtures("graded")
def test_from_problems_to_a_head_and_on(reason: Reason, tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["train", "value", str(problems), "-m", str(tiny_model), "--out", str(out), "--threads", "1"]
    command += [
        "--max-tokens",
        "8",
        "--samples",
        "3",
        "--units",
        "8",
        "--members",
        "2",
        "--epochs",
        "2",
        "--every",
        "4",
    ]
    command += ["--layers", "0,-1", "--dtype", "float32", "--kv-tokens", "4096"]
    first = reason(*command, "--json")
    assert first.exit_code == 0, first.output
    said = json.loads(first.stdout)
    assert said["layer"] in (0, -1)
    assert said["rollouts"] == 120
    assert sum(said["problems"].values()) == 40
    assert {"step AUC", "majority", "weighted vote"} <= set(said["figures"])
    card = (out / "card.md").read_text(encoding="utf-8")
    assert card.count("Monte Carlo |") + card.count("TD(0.8) |") + card.count("(chosen) |") == 4
    states = sorted((out / "states").glob("*.safetensors"))
    assert len(states) == 40
    assert list((out / "states" / "parts").iterdir()) == []
    # The same command makes only the head again.
    before = {file: file.stat().st_mtime_ns for file in states}
    head = (out / "head.safetensors").read_bytes()
    again = reason(*command)
    assert again.exit_code == 0, again.output
    assert {file: file.stat().st_mtime_ns for file in states} == before
    assert (out / "head.safetensors").read_bytes() == head
    assert "use it: -S verifier=head:" in again.stdout
    head_file = out / "head.safetensors"
    solved = reason(
        "solve", "What is 1 + 1?", "-m", str(tiny_model), "-s", "beam", "-S", f"verifier=head:{head_file}",
        "-S", "width=2", "-S", "beam_width=2", "-S", "max_steps=2", "-S", "max_step_tokens=4", "--threads", "1",
        "--dtype", "float32", "--kv-tokens", "4096", "--json",
    )  # fmt: skip
    assert solved.exit_code == 0, solved.output
    assert json.loads(solved.stdout)["usage"]["verifier_tokens"] == 0
    # An evaluation with another head is another evaluation.
    evaluate = ["eval", str(problems), "-m", str(tiny_model), "--limit", "2", "--out", str(tmp_path / "eval"), "-s"]
    evaluate += ["best-of-n", "-S", "num_samples=2", "-S", "max_tokens=4", "-S", "select=weighted", "--threads", "1"]
    evaluate += ["-S", f"verifier=head:{head_file}", "--dtype", "float32", "--kv-tokens", "4096"]
    assert reason(*evaluate).exit_code == 0
    assert reason(*command, "--seed", "1", "--out", str(tmp_path / "other")).exit_code == 0
    head_file.write_bytes((tmp_path / "other" / "head.safetensors").read_bytes())
    refused = reason(*evaluate)
    assert refused.exit_code == 2
    assert "was begun with other settings: heads.head:" in " ".join(refused.stderr.split())


def test_nothing_to_learn(reason: Reason, tiny_model: Path, problems: Path, tmp_path: Path) -> None:
    command = ["train", "value", str(problems), "-m", str(tiny_model), "--out", str(tmp_path / "out"), "--threads", "1"]
    ended = reason(*command, "--max-tokens", "4", "--samples", "1", "--dtype", "float32", "--kv-tokens", "4096")
    assert ended.exit_code == 2
    assert "0 of them right: a value head learns from both kinds" in " ".join(ended.stderr.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "a,b"], "--layers takes whole numbers"),
        (["--targets", "mc,x"], "targets"),
        (["--units", "-1"], "units must be at least 0"),
    ],
)
def test_options(reason: Reason, problems: Path, options: list[str], message: str) -> None:
    ended = reason("train", "value", str(problems), *options)
    assert ended.exit_code != 0
    assert message in " ".join(ended.stderr.split())


@pytest.mark.parametrize("what", ["value", "gate", "router"])
def test_a_test_set_is_not_learnt_from(reason: Reason, what: str) -> None:
    ended = reason("train", what, "gsm8k")
    assert ended.exit_code == 2
    assert "gsm8k is a test set" in ended.stderr
    assert "take gsm8k-train" in " ".join(ended.stderr.split())

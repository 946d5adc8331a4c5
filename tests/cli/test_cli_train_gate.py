"""`reason train gate`: thresholds from a model's own answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    file = tmp_path / "sums.jsonl"
    rows = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(12)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def test_thresholds(
    reason: Reason, tiny_model: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reason.report.results import ResultsFolder

    read = ResultsFolder.results

    def graded(self: ResultsFolder) -> Any:
        """A random model is never right: every other answer is."""
        found = read(self)
        return {
            name: replace(each, answer="1", correct=i % 2 == 0) for i, (name, each) in enumerate(sorted(found.items()))
        }

    monkeypatch.setattr(ResultsFolder, "results", graded)
    command = ["train", "gate", str(problems), "-m", str(tiny_model), "--out", str(tmp_path / "out"), "--threads", "1"]
    command += ["--max-tokens", "8", "--samples", "2", "--precision", "0.4", "--dtype", "float32"]
    command += ["--kv-tokens", "4096", "--gates", "logprob,separability:variant=mean"]
    result = reason(*command, "--json")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["problems"] == 12
    assert {one["gate"] for one in said["gates"]} == {"logprob", "separability:variant=mean", "agreement of 2"}
    scores = sorted((tmp_path / "out" / "scores").iterdir())
    assert len(scores) == 12
    again = reason(*command)
    assert again.exit_code == 0, again.output
    assert "12 answers, 50% right; thresholds for a precision of 40%" in again.stdout
    assert "use it: --plan speceyes:gate=" in again.stdout
    assert "direct" not in again.stdout
    other = reason(*command, "--direct")
    assert other.exit_code == 2, "these are answers to another question"
    assert "was begun with other settings" in other.stderr
    command[command.index(str(tmp_path / "out"))] = str(tmp_path / "direct")
    at_once = reason(*command, "--direct")
    assert at_once.exit_code == 0, at_once.output
    assert ",direct=true,threshold=" in at_once.stdout


def test_the_model_s_own_head_is_tried(
    reason: Reason, tiny_model: Path, problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reason.models import catalogue
    from reason.verifiers.value_head import shipped
    from tests.engine.test_engine_value_head import random_head

    command = ["train", "gate", str(problems), "-m", str(tiny_model), "--threads", "1", "--max-tokens", "4", "--json"]
    command += ["--limit", "4", "--samples", "1", "--dtype", "float32", "--kv-tokens", "4096"]

    def recorded(out: str) -> set[str]:
        result = reason(*command, "--out", str(tmp_path / out))
        assert result.exit_code in (0, 2), result.output  # 2: a random model may give no answer to calibrate on
        return {name for file in (tmp_path / out / "scores").iterdir() for name in json.loads(file.read_bytes())}

    without = recorded("without")
    assert "judge" in without
    monkeypatch.setattr(catalogue, "known_name", lambda name: "tiny")
    monkeypatch.setitem(shipped.SHIPPED, "tiny", "tiny.safetensors")
    monkeypatch.setattr(shipped, "_load", lambda file: random_head(0))
    assert recorded("with") == without | {"head"}


def test_mistakes(reason: Reason, problems: Path) -> None:
    result = reason("train", "gate", str(problems), "--gates", "logprob,seperability")
    assert result.exit_code == 2
    assert "unknown verifier 'seperability'" in result.stderr

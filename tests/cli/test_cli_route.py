"""--route on the command line: two models, one answer, one ledger."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Reason = Callable[..., Any]


@pytest.fixture
def command(tiny_model: Path) -> list[str]:
    models = ["-m", str(tiny_model), "--small-model", str(tiny_model)]
    return [*models, "--threads", "1", "--dtype", "float32", "--kv-tokens", "2048", "-S", "max_tokens=24"]


def test_solve(reason: Reason, command: list[str]) -> None:
    asked = ["solve", "What is 1 + 1?", *command, "-S", "num_samples=1", "--route"]
    told = {}
    for route in ("judge:threshold=0", "judge:threshold=9,rating=mean", "never", "always"):
        result = reason(*asked, route, "--json")
        assert result.exit_code == 0, result.output
        told[route] = json.loads(result.stdout)
    assert len({each["text"] for each in told.values()}) == 1, "the same model writes the same, whoever is asked"
    kept, rewritten, never, always = (each["usage"] for each in told.values())
    assert kept["routed_steps"] == rewritten["routed_steps"] == rewritten["escalated_steps"] > kept["escalated_steps"]
    assert (never["draft_model_tokens"], always["draft_model_tokens"]) == (never["policy_tokens"], 0)
    shown = reason(*asked, "judge:threshold=0")
    assert re.search(rf"steps +{kept['routed_steps']} +{kept['routed_steps']} \(100%\)", shown.stdout)
    assert "the large model wrote 0 of" in " ".join(shown.stdout.split())
    searched = reason(*asked, "never", "-S", "select=weighted")
    assert re.search(r"verifier +self-certainty \(auto\)", searched.stdout), searched.output


def test_an_evaluation_knows_its_route(reason: Reason, command: list[str], fixtures_dir: Path, tmp_path: Path) -> None:
    asked = ["eval", "gsm8k", "--data", str(fixtures_dir / "tasks"), *command, "--out", str(tmp_path / "out")]
    assert reason(*asked, "--route", "judge:threshold=0").exit_code == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model"]["route"] == "judge:threshold=0"
    refused = reason(*asked, "--route", "judge:threshold=1")
    assert refused.exit_code == 2
    assert "was begun with other settings: model.route" in " ".join(refused.stderr.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--route", "juge"], "unknown router 'juge'"),
        (["--small-model", "x"], "a route or a plan"),
        (["-m", "smollm2-135m-instruct", "--route", "judge"], "no smaller model is known"),
    ],
)
def test_mistakes(reason: Reason, options: list[str], message: str) -> None:
    result = reason("solve", "What is 1 + 1?", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())

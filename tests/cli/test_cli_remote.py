"""--base-url on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engine.remote_servers import FakeServer, running

Reason = Callable[..., Any]
KEY = "sk-secret-of-the-user"


def test_solve(reason: Reason, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with running(FakeServer(["so \\boxed{42}"], key=KEY).app) as address:
        asked = ["solve", "What is 6 times 7?", "--base-url", address, "-S", "num_samples=2"]
        result = reason(*asked, "--api-key-env", "MY_KEY", "--json")
        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert (told["answer"], told["model"]) == ("42", "served")
        assert told["usage"]["calls"] == 2
        refused = reason(*asked, "--api-key-env", "NO_SUCH_KEY")
        assert refused.exit_code == 1
        assert "NO_SUCH_KEY is not set" in " ".join(refused.stderr.split())


def test_an_evaluation_knows_its_server(
    reason: Reason, monkeypatch: pytest.MonkeyPatch, fixtures_dir: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running(FakeServer(["so \\boxed{42}"], key=KEY).app) as address:
        out = tmp_path / "out"
        asked = ["eval", "gsm8k", "--data", str(fixtures_dir / "tasks"), "--out", str(out), "-S", "num_samples=2"]
        result = reason(*asked, "--base-url", address)
        assert result.exit_code == 0, result.output
        config = json.loads((out / "config.json").read_text())
        assert config["model"]["name"] == "served"
        assert config["model"]["base_url"] == address
        assert all(KEY.encode() not in file.read_bytes() for file in out.rglob("*") if file.is_file())
        again = reason(*asked, "--base-url", address)
        assert again.exit_code == 0, again.output
        other = reason(*asked)
        assert other.exit_code == 2
        assert "model.base_url" in " ".join(other.stderr.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokenizer", "x/y"], "give its base_url"),
        (["--base-url", "nowhere"], "an address like"),
        (["--base-url", "http://h/v1", "--draft", "stand"], "a server drafts by itself"),
        (["--base-url", "http://h/v1", "--threads", "2"], "threads=2 is for models that run here"),
        (["--base-url", "http://h/v1", "--server", "vlm"], "unknown kind of server 'vlm'"),
    ],
)
def test_mistakes(reason: Reason, options: list[str], message: str) -> None:
    result = reason("solve", "What is 1 + 1?", *options)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())

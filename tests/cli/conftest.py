"""The command line over scripted engines."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from reason import api
from reason.cli.main import app
from reason.engine.scripted import ScriptedEngine

Reason = Callable[..., Result]


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, dict[str, Any]]]:
    """What the command line loaded. Models are scripted: half of the samples say 42, the others 1 and nothing."""
    calls: list[tuple[str | None, dict[str, Any]]] = []

    def load(model: str | None, **options: Any) -> ScriptedEngine:
        calls.append((model, options))
        return ScriptedEngine(["so \\boxed{42}", "thus \\boxed{42}", "it is \\boxed{1}", "数学 → no idea"])

    monkeypatch.setattr(api, "_load", load)
    return calls


@pytest.fixture
def reason() -> Reason:
    """Runs ``reason`` with arguments in this process."""
    runner = CliRunner()

    def run(*arguments: str, **options: Any) -> Result:
        return runner.invoke(app, arguments, **options)

    return run


@pytest.fixture
def environment() -> dict[str, str]:
    """For processes that import the package from this checkout."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", "COLUMNS": "100"}

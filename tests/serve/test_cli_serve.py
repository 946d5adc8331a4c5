"""`reason serve` from the command line: what it refuses, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from reason.cli.main import app
from tests.serve.conftest import chat

SCRIPT = """
from reason import api
from reason.engine.scripted import ScriptedEngine
from reason.cli.main import app

api._load = lambda model, **options: ScriptedEngine(["so \\\\boxed{42}"])
app(["serve", "--port", "0", "--grace", "3"])
"""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--api-key-file"),
        (["--api-key-file", "/nowhere/keys"], "cannot read the keys"),
        (["--port", "0", "--strategy", "beem"], "Did you mean 'beam'"),
        (["--max-running", "0"], "max_running must be more than 0"),
        (["--grace", "0"], "greater than or equal to 0.1"),
        (["--port", "70000"], "cannot serve on 127.0.0.1 port 70000"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["serve", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_ends_it() -> None:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            url = next(word for word in server.stdout.readline().split() if word.startswith("http"))
            reply = httpx.post(f"{url}/chat/completions", json=chat(), timeout=60)
            assert reply.json()["choices"][0]["message"]["content"] == "so \\boxed{42}"
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()

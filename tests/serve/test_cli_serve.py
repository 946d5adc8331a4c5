"""`reason serve` from the command line: what it refuses, and its end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from reason.cli.main import app
from tests.serve.conftest import chat, until

SCRIPT = """
from reason import api
from reason.engine.scripted import ScriptedEngine
from reason.cli.main import app

api._load = lambda model, **options: ScriptedEngine(["so \\\\boxed{42}"], delay=DELAY)
app(["serve", "--port", "0", "--grace", "100", "--verbose", "--alias", "gpt-4o"])
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


@contextlib.contextmanager
def serving(delay: float) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`reason serve` as a process whose tokens take so many seconds, and its base URL."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT.replace("DELAY", str(delay))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            yield next(word for word in server.stdout.readline().split() if word.startswith("http")), server
        finally:
            server.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
def test_sigterm_ends_it() -> None:
    with serving(delay=0.0) as (url, server):
        reply = httpx.post(f"{url}/chat/completions", json=chat(model="gpt-4o"), timeout=60)
        assert reply.json()["choices"][0]["message"]["content"] == "so \\boxed{42}"
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
        assert server.stderr is not None
        (line,) = server.stderr.readlines()
        assert "POST /v1/chat/completions gpt-4o 200" in line


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for one process")
@pytest.mark.parametrize("body", [chat(), chat(stream=True), chat(model="reason/best-of-n:2")])
def test_a_second_interrupt_ends_it_at_once(body: dict[str, Any]) -> None:
    with serving(delay=30.0) as (url, server), concurrent.futures.ThreadPoolExecutor() as threads:
        asked = threads.submit(httpx.post, f"{url}/chat/completions", json=body, timeout=100)
        running = f"{url.removesuffix('/v1')}/metrics"
        until(lambda: "reason_running 1" in httpx.get(running).text)
        server.send_signal(signal.SIGINT)
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        assert next(line for line in lines if "GET /metrics" not in line) == (
            "waiting up to 100 s for 1 request; Ctrl-C again ends now\n"
        )
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
        assert isinstance(asked.exception(60), httpx.HTTPError)
        left = "".join(lines)
        assert "POST /v1/chat/completions" in left
        assert len(left.splitlines()) == 1, left

"""Servers for the examples to talk to: one that plays a script, and `reason serve` with a small model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from reason.engine.scripted import ScriptedEngine
from tests.serve.conftest import make_service, running

ROOT = Path(__file__).parents[2]
SOLUTIONS = ["It is \\boxed{400}.", "So \\boxed{400}.", "Perhaps \\boxed{399}."]
FIELDS = "[[ ## answer ## ]]\n400\n\n[[ ## completed ## ]]"  # DSPy's way of writing
MODEL = "qwen2.5-coder-0.5b-instruct"  # the smallest of the catalogue that was trained with tools


class Scripted(NamedTuple):
    """A server that plays a script, and the prompts that it was sent."""

    url: str
    prompts: list[str]


def play(prompt: str) -> list[str]:
    """Solutions where there are no tools; where there are, a call, and then what the call brought."""
    if not prompt.startswith("<tools>"):
        return [FIELDS] if "[[ ## answer" in prompt else SOLUTIONS
    if "Observation:\n17" in prompt:  # smolagents ends by a call, too
        return [call("final_answer", answer="17 bolts")]
    if "<tool>17" in prompt:
        return ["There are 17 bolts."]
    return [call("stock", item="bolts")]


def call(name: str, **arguments: str) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    prompts: list[str] = []

    def script(prompt: str) -> list[str]:
        prompts.append(prompt)
        return play(prompt)

    with running(make_service(ScriptedEngine(script, delay=0.001))) as (url, _):
        yield Scripted(f"{url}/v1", prompts)


@pytest.fixture(scope="session")
def environment() -> dict[str, str]:
    """Of a command that runs this working tree's package, and asks nobody else for anything."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "OMP_NUM_THREADS": "1",
        "REASON_API_KEY": "none",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="session")
def served(environment: dict[str, str]) -> Iterator[str]:
    """The address of a real server with a real model. Skips where the weights are not in the cache."""
    from reason.models import Cache

    if Cache.default().find(MODEL) is None:
        pytest.skip(f"{MODEL} is not cached; `reason models pull {MODEL}` gets it")
    limits = ["--max-policy-tokens", "2000", "--grace", "3"]
    command = [sys.executable, "-m", "reason", "serve", "--model", MODEL, "--port", "0", *limits]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            yield next(word for word in server.stdout.readline().split() if word.startswith("http"))
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        finally:
            server.kill()

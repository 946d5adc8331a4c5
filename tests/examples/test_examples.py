"""Every example runs as its user would run it, with the real library, against a real server.

A library is looked for in REASON_EXAMPLES/NAME, an environment of the example's own (`scripts/examples` makes them),
then beside this package; an example whose library is in neither place is skipped.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from tests.examples.conftest import MODEL, ROOT, Scripted

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

MODULES = {
    "dspy_program": ["dspy"],
    "inspect_task": ["inspect_ai", "openai"],
    "langgraph_agent": ["langchain", "langchain_openai", "langgraph"],
    "litellm_completion": ["litellm"],
    "llama_index_agent": ["llama_index.core", "llama_index.llms.openai_like"],
    "mcp_client": ["mcp.client.client"],
    "openai_agents_sdk": ["agents.models"],
    "openai_sdk": ["openai"],
    "smolagents_agent": ["smolagents", "openai"],
}

SAYS = {
    "dspy_program": ["answer: 400"],
    "inspect_task": ["reason/best-of-n:8 success accuracy: 0.33"],
    "langgraph_agent": ["\\boxed{400}", "tools: 17", "model: There are 17 bolts."],
    "litellm_completion": ["\\boxed{400}", "tokens of the whole search:", "so far 400"],
    "llama_index_agent": ["\\boxed{400}", "called: stock {'item': 'bolts'} -> 17", "agent: There are 17 bolts."],
    "openai_agents_sdk": ["\\boxed{400}", "tool_called", "tool_output", "There are 17 bolts."],
    "openai_sdk": ["answer: 400", "so far 400", 'called: stock {"item": "bolts"}', "There are 17 bolts."],
    "smolagents_agent": ["\\boxed{400}", "agent: 17 bolts"],
}
"""What each prints when the script is played."""

RETURNS = {
    "langgraph_agent": "<tool>17",
    "llama_index_agent": "<tool>17",
    "openai_agents_sdk": "<tool>17",
    "openai_sdk": "<tool>17",
    "smolagents_agent": "Observation:\n17",
}
"""How the server sees what a tool that was called has returned."""

ALWAYS = {
    "dspy_program": ["answer: "],
    "inspect_task": ["reason/best-of-n:1 success", "reason/best-of-n:8 success"],
    "langgraph_agent": ["model: "],
    "litellm_completion": ["tokens of the whole search: "],
    "llama_index_agent": ["agent: "],
    "openai_agents_sdk": ["message_output_created"],
    "openai_sdk": ["answer: ", "called: stock "],
    "smolagents_agent": ["agent: "],
}
"""What each prints whatever a model says."""


def python_with(name: str) -> str:
    """The interpreter that has an example's libraries."""
    folder = os.environ.get("REASON_EXAMPLES")
    own = None if folder is None else Path(folder) / name / "bin" / "python"
    python = sys.executable if own is None or not own.exists() else str(own)
    missing = (
        "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(each) is None for each in sys.argv[1:]))"
    )
    if subprocess.run([python, "-c", missing, *MODULES[name]], capture_output=True).returncode:
        pytest.skip(f"needs {', '.join(MODULES[name])}: scripts/examples {name}")
    return python


def run(
    name: str, environment: Mapping[str, str], folder: Path, arguments: Sequence[str] = (), seconds: float = 100
) -> str:
    """What an example prints, run in a folder."""
    command = [python_with(name), str(ROOT / "examples" / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def without_package(environment: Mapping[str, str], **more: str) -> dict[str, str]:
    """An environment in which only the example's own libraries are found."""
    return {name: value for name, value in environment.items() if name != "PYTHONPATH"} | more


@pytest.mark.parametrize("name", SAYS)
def test_on_a_script(name: str, scripted: Scripted, environment: dict[str, str], tmp_path: Path) -> None:
    asked = without_package(environment, REASON_BASE_URL=scripted.url, REASON_MODEL="scripted")
    printed = run(name, asked, tmp_path)
    for line in SAYS[name]:
        assert line in printed
    if name in RETURNS:
        assert any(RETURNS[name] in prompt for prompt in scripted.prompts)


SERVER = """
from reason import api
from reason.cli.main import app
from reason.engine.scripted import ScriptedEngine
from tests.examples.conftest import play

api._load = lambda model, **options: ScriptedEngine(play)
app()
"""


def answered(printed: str) -> bool:
    """Whether the tools of a scripted MCP server were listed and called."""
    lines = ("tools: solve, verify, compare_answers", "... ", "answer: 400", "400 is 20^2")
    return all(line in printed for line in lines)


def test_mcp_client_on_a_script(environment: dict[str, str], tmp_path: Path) -> None:
    command = tmp_path / "reason"
    command.write_text(f"#!{sys.executable}\n{SERVER}")
    command.chmod(0o755)
    path = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    assert answered(run("mcp_client", environment | path, tmp_path))


def test_mcp_client_over_http(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVER, "mcp", "--transport", "http", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            url = next(word for line in lines for word in line.split() if word.startswith("http"))
            printed = run("mcp_client", without_package(environment), tmp_path, [url])
        finally:
            server.kill()
    assert answered(printed)


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SAYS)
def test_on_a_model(name: str, served: str, environment: dict[str, str], tmp_path: Path) -> None:
    printed = run(name, without_package(environment, REASON_BASE_URL=served, REASON_MODEL=MODEL), tmp_path, seconds=800)
    print(printed)
    for line in ALWAYS[name]:
        assert line in printed


# -- what an example is ------------------------------------------------------------------------------------------------


def test_all_are_tested() -> None:
    assert [path.stem for path in EXAMPLES] == sorted(MODULES) == sorted([*SAYS, "mcp_client"])
    assert SAYS.keys() == ALWAYS.keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_each_says_how_to_run_it(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    told = ast.get_docstring(ast.parse(code)) or ""
    assert re.search(r"^    pip install ", told, re.MULTILINE)
    assert f"    python examples/{path.name}" in told
    assert code.count("\n") < 60
    page = (ROOT / "docs" / "agents.md").read_text(encoding="utf-8")
    assert f"](../examples/{path.name})" in page

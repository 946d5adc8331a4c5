"""The server of the Model Context Protocol, with the SDK's own client: in this process and over standard streams."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from reason.engine.scripted import ScriptedEngine
from tests.serve.conftest import make_service

pytest.importorskip("mcp")


def open_client(service: Any) -> Any:
    from mcp.client.client import Client

    from reason.serve.mcp_server import make_mcp_server

    return Client(make_mcp_server(service))


async def test_the_tools() -> None:
    service = make_service()
    async with open_client(service) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"solve", "verify", "compare_answers"}
        assert "context" not in tools["solve"].input_schema["properties"]
        lines: list[str | None] = []

        async def on_progress(progress: float, total: float | None, message: str | None) -> None:
            lines.append(message)

        asked = {"problem": "6 * 7?", "strategy": "best-of-n", "fields": {"num_samples": 4}, "seed": 1}
        found = (await client.call_tool("solve", asked, progress_callback=on_progress)).structured_content
        assert (found["answer"], found["stopped_by"], len(found["candidates"])) == ("42", "done", 4)
        assert lines
        verdict = (
            await client.call_tool("verify", {"problem": "6 * 7?", "solution": "\\boxed{42}"})
        ).structured_content
        assert 0 <= verdict["score"] <= 1
        assert verdict["answer"] == "42"
        for a, b, same in (("0.5", "\\frac{1}{2}", True), ("1", "2", False)):
            compared = await client.call_tool("compare_answers", {"a": a, "b": b})
            assert compared.structured_content == {"equivalent": same}
    assert service.admission.running == 0


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("solve", {"problem": "x", "strategy": "beem"}, "Did you mean 'beam'"),
        ("solve", {"problem": "x", "fields": {"width": 3}}, "unknown field"),
        ("solve", {"problem": " "}, "empty"),
        ("verify", {"problem": "x", "solution": "y", "verifier": "prm:/etc"}, "must be allowed"),
        ("verify", {"problem": "x", "solution": "y", "verifier": "entropy"}, "recorded while a solution is generated"),
    ],
)
async def test_mistakes(tool: str, arguments: dict[str, Any], message: str) -> None:
    service = make_service()
    async with open_client(service) as client:
        result = await client.call_tool(tool, arguments)
    assert result.is_error
    assert message in result.content[0].text
    assert service.admission.running == 0


async def test_a_cancelled_call_ends_its_search() -> None:
    service = make_service(ScriptedEngine(["a" * 5000], delay=0.01))
    async with open_client(service) as client:
        call = asyncio.ensure_future(client.call_tool("solve", {"problem": "x"}))
        while service.admission.running == 0:
            await asyncio.sleep(0.001)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

        async def ended() -> None:
            while service.admission.running:
                await asyncio.sleep(0.001)

        await asyncio.wait_for(ended(), 60)


SCRIPT = """
from reason import api
from reason.engine.scripted import ScriptedEngine
from reason.cli.main import app

def load(model, **options):
    print("this must not reach the client")
    return ScriptedEngine(["so \\\\boxed{42}"])

api._load = load
app(["mcp"])
"""


async def test_over_standard_streams() -> None:
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters

    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    server = StdioServerParameters(command=sys.executable, args=["-c", SCRIPT], env=environment)
    async with Client(server) as client:
        found = await client.call_tool("solve", {"problem": "6 * 7?"})
    assert found.structured_content["answer"] == "42"

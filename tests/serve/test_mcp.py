"""The server of the Model Context Protocol with the SDK's client: in this process, over standard streams, over HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from reason.cli.main import app
from reason.engine.scripted import ScriptedEngine
from reason.serve.security import Security
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
        assert [type(found["usage"][name]) for name in ("prompt_tokens", "seconds")] == [int, float]
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
import sys
from reason import api
from reason.engine.scripted import ScriptedEngine
from reason.cli.main import app

def load(model, **options):
    print("this must not reach the client")
    return ScriptedEngine(["so \\\\boxed{42}"])

api._load = load
app(["mcp", *sys.argv[1:]])
"""


def environment() -> dict[str, str]:
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}


async def test_over_standard_streams() -> None:
    from mcp.client.client import Client
    from mcp.client.stdio import StdioServerParameters

    server = StdioServerParameters(command=sys.executable, args=["-c", SCRIPT], env=environment())
    async with Client(server) as client:
        found = await client.call_tool("solve", {"problem": "6 * 7?"})
    assert found.structured_content["answer"] == "42"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT for one process")
def test_an_interrupt_ends_it_though_its_input_is_open() -> None:
    command = [sys.executable, "-c", SCRIPT]
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "0"}}
    line = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}) + "\n"
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, **pipes, text=True, env=environment()) as server:
        try:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(line)
            server.stdin.flush()
            assert '"id":1' in server.stdout.readline()
            server.send_signal(signal.SIGINT)
            assert server.wait(60) == -signal.SIGINT
        finally:
            server.kill()


@contextlib.contextmanager
def over_http(*options: str) -> Iterator[str]:
    """`reason mcp --transport http` in a process of its own, which SIGTERM ends, and its address."""
    command = [sys.executable, "-c", SCRIPT, "--transport", "http", "--port", "0", "--grace", "2", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as server:
        try:
            assert server.stderr is not None
            lines = iter(server.stderr.readline, "")
            yield next(word for line in lines for word in line.split() if word.startswith("http"))
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
async def test_over_http() -> None:
    from mcp.client.client import Client

    with over_http() as url:
        async with Client(url) as client:
            lines: list[str | None] = []

            async def on_progress(progress: float, total: float | None, message: str | None) -> None:
                lines.append(message)

            found = await client.call_tool("solve", {"problem": "6 * 7?"}, progress_callback=on_progress)
        assert found.structured_content["answer"] == "42"
        assert lines
        for headers, status in (({"host": "evil.example"}, 421), ({"origin": "https://evil.example"}, 403)):
            assert httpx.post(url, json={}, headers=headers, timeout=60).status_code == status


async def test_bodies_that_are_too_large_or_too_slow() -> None:
    from reason.serve.mcp_server import make_mcp_app

    async def slowly() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    service = make_service(max_body_bytes=300, stall_seconds=0.2)
    transport = httpx.ASGITransport(make_mcp_app(service, Security()))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        headers = {"content-type": "application/json"}
        assert (await client.post("/mcp", content=b"x" * 301, headers=headers)).status_code == 413
        assert (await client.post("/mcp", content=slowly(), headers=headers)).status_code == 408


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM")
async def test_over_http_with_a_key(tmp_path: Path) -> None:
    import httpx2
    from mcp.client.client import Client
    from mcp.client.streamable_http import streamable_http_client

    keys = tmp_path / "keys"
    keys.write_text("0123456789abcdef0123\n")
    with over_http("--host", "0.0.0.0", "--api-key-file", str(keys)) as url:
        url = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(url, json={}, timeout=60).status_code == 401
        async with (
            httpx2.AsyncClient(headers={"authorization": "Bearer 0123456789abcdef0123"}, timeout=60) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            found = await client.call_tool("compare_answers", {"a": "1", "b": "1.0"})
        assert found.structured_content == {"equivalent": True}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--transport", "http", "--host", "0.0.0.0"], "--api-key-file"),
        (["--host", "0.0.0.0"], "go with --transport http"),
        (["--transport", "http", "--port", "70000"], "ports are numbers"),
    ],
)
def test_what_is_refused_before_a_model_is_loaded(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["mcp", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(("origin", "allowed"), [("https://good.example", True), ("https://evil.example", False)])
async def test_what_a_browser_asks_before_a_page_may(origin: str, allowed: bool) -> None:
    from reason.serve.mcp_server import make_mcp_app

    app = make_mcp_app(make_service(), Security(keys=(b"0123456789abcdef",), origins=("https://good.example",)))
    wanted = {"access-control-request-method": "DELETE", "access-control-request-headers": "mcp-session-id"}
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8011") as client:
        reply = await client.options("/mcp", headers={"origin": origin, **wanted})
    assert reply.status_code == (200 if allowed else 400)
    assert reply.headers.get("access-control-allow-origin") == (origin if allowed else None)

"""Our server in front of somebody else's: searches over a model that runs there, for OpenAI's clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from reason.engine.remote import RemoteEngine
from reason.engine.scripted import ScriptedEngine
from reason.serve.app import make_app
from reason.serve.security import Security
from tests.engine.remote_servers import FakeServer, running
from tests.serve.conftest import chat, client_of, make_service

if TYPE_CHECKING:
    from reason.engine.local import LocalEngine
    from reason.types import Engine

TEXTS = ["so \\boxed{42}", "it is \\boxed{1}", "thus \\boxed{42}"]
CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def server() -> FakeServer:
    """A chat API."""
    return FakeServer(TEXTS, kind="openai", completions=False)


@pytest.fixture
def engine(server: FakeServer) -> Iterator[RemoteEngine]:
    """Over that, without the model's tokenizer."""
    with running(server.app) as address:
        engine = RemoteEngine(address, backoff=0.01)
        yield engine
        engine.close()


@contextmanager
def over(engine: Engine, **options: Any) -> Iterator[RemoteEngine]:
    """An engine over our own server over another engine; its name is found out."""
    service = make_service(engine)
    service.add_alias("gpt-4o")
    with running(make_app(service, Security())) as address:
        remote = RemoteEngine(address, backoff=0.01, **options)
        yield remote
        remote.close()


async def test_a_search(engine: RemoteEngine) -> None:
    async with client_of(make_service(engine)) as client:
        asked = chat(model="reason/best-of-n:3", seed=2)  # the server picks its texts by it
        reply = (await client.post("/v1/chat/completions", json=asked)).json()
        assert reply["reason"]["answer"] == "42", reply
        assert len(reply["reason"]["candidates"]) == 3
        assert reply["usage"]["completion_tokens"] > 0
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_the_model_itself(engine: RemoteEngine) -> None:
    async with client_of(make_service(engine)) as client:
        reply = (await client.post("/v1/chat/completions", json=chat(model=engine.name))).json()
        assert reply["choices"][0]["message"]["content"] in TEXTS
        reply = (await client.post("/v1/chat/completions", json=chat(model=engine.name, stop=["boxed"]))).json()
        assert reply["choices"][0]["message"]["content"].endswith("\\")


async def test_what_the_other_server_cannot_do_is_refused(engine: RemoteEngine) -> None:
    """With 400 and a reason, not as an error of ours."""
    async with client_of(make_service(engine)) as client:
        asked = chat(model="reason/best-of-n:2", reason={"select": "weighted", "verifier": "self-certainty"})
        reply = await client.post("/v1/chat/completions", json=asked)
        assert reply.status_code == 400, reply.text
        assert "self-certainty" in reply.json()["error"]["message"]


@pytest.mark.parametrize("model", ["served", "reason/best-of-n:2"])
@pytest.mark.parametrize(
    ("refusal", "status", "message"),
    [
        (JSONResponse({"error": {"message": "no such format"}}, 400), 400, "answered HTTP 400: no such format"),
        (JSONResponse({"error": {"message": "bad key sk-1"}}, 403), 502, "this server's log says how"),
        (JSONResponse({"detail": "down"}, 500), 502, "this server's log says how"),
    ],
    ids=["400", "403", "500"],
)
async def test_the_other_servers_failures(
    engine: RemoteEngine,
    server: FakeServer,
    caplog: pytest.LogCaptureFixture,
    model: str,
    refusal: Response,
    status: int,
    message: str,
) -> None:
    server.failures = [refusal] * 20
    async with client_of(make_service(engine)) as client:
        reply = await client.post(CHAT, json=chat(model=model))
    assert reply.status_code == status, reply.text
    assert message in reply.json()["error"]["message"]
    assert "sk-1" not in reply.text
    (record,) = caplog.records
    assert f"answered HTTP {refusal.status_code}" in record.getMessage() or "(HTTP 403)" in record.getMessage()
    assert record.exc_info is None


async def test_likely_tokens_are_told_as_text(engine: RemoteEngine) -> None:
    async with client_of(make_service(engine)) as client:
        reply = (await client.post(CHAT, json=chat(model=engine.name, logprobs=True, top_logprobs=2))).json()
    rows = reply["choices"][0]["logprobs"]["content"]
    assert "".join(row["token"] for row in rows) == reply["choices"][0]["message"]["content"]
    assert [[top["token"] for top in row["top_logprobs"]] for row in rows] == [[row["token"], "other"] for row in rows]


async def test_log_probabilities_of_another_text_are_refused(engine: RemoteEngine, server: FakeServer) -> None:
    """As where a server tells those of thoughts that it keeps to itself."""
    row = server._row
    server._row = lambda piece: row(piece) | {"token": "?", "bytes": None}  # type: ignore[method-assign]
    async with client_of(make_service(engine)) as client:
        reply = await client.post(CHAT, json=chat(model=engine.name, logprobs=True))
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "logprobs")


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_pass_through(stream: bool) -> None:
    """To a chat API and back, with earlier calls and their results; the model's tokenizer is not here."""
    seen: list[str] = []

    def script(prefix: str) -> list[str]:
        seen.append(prefix)
        call = '<tool_call>{"name": "find", "arguments": {"text": "é"}}</tool_call>'
        return [f"Let me look.{call}{call}"] if "<tools>" in prefix else ["nothing"]

    called = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]
    with over(ScriptedEngine(script)) as engine:
        async with client_of(make_service(engine)) as client:
            body = {"model": engine.name, "messages": messages, "tools": [TOOL], "stream": stream}
            reply = await client.post(CHAT, json=body)
            assert reply.status_code == 200, reply.text
    assert seen[-1].startswith('<tools>[{"type": "function", "function": {"name": "find"')
    assert '<tool_call>{"name": "find", "arguments": {"a": 1}}<tool>nothing' in seen[-1]
    if stream:
        parts = [json.loads(part[6:]) for part in reply.text.split("\n\n") if part.startswith("data: {")]
        choices = [choice for part in parts for choice in part["choices"]]
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == "Let me look."
        calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
        end = choices[-1]["finish_reason"]
    else:
        (choice,) = reply.json()["choices"]
        assert choice["message"]["content"] == "Let me look."
        calls, end = choice["message"]["tool_calls"], choice["finish_reason"]
    assert [call["function"] for call in calls] == [{"name": "find", "arguments": '{"text": "é"}'}] * 2
    assert end == "tool_calls"


async def test_tools_and_a_server_without_a_chat_api() -> None:
    with running(FakeServer(TEXTS, kind="openai", chat=False).app) as address:
        engine = RemoteEngine(address, backoff=0.01)
        async with client_of(make_service(engine)) as client:
            reply = await client.post(CHAT, json=chat(model=engine.name, tools=[TOOL]))
        engine.close()
    assert reply.status_code == 400
    assert "give its tokenizer" in reply.json()["error"]["message"]


async def test_a_format_in_front_of_our_own_server(tiny: LocalEngine) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    with over(tiny, codec=tiny.codec) as engine:
        assert engine.name == "tiny"
        async with client_of(make_service(engine)) as client:
            body = chat(model="tiny", response_format=asked, max_tokens=200, temperature=0)
            reply: httpx.Response = await client.post(CHAT, json=body)
    assert reply.status_code == 200, reply.text
    assert json.loads(reply.json()["choices"][0]["message"]["content"])["a"] in (1, 2)

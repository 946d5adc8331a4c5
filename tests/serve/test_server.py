"""The server over HTTP: limits, keys, names, malformed bodies, clients that go away, the end; OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.serve.running import bind
from reason.serve.security import Security, check_exposure, read_keys
from tests.serve.conftest import SOLUTIONS, chat, client_of, make_service, running, until

if TYPE_CHECKING:
    from reason.engine.local import LocalEngine

CHAT = "/v1/chat/completions"
KEY = "0123456789abcdef0123"
SLOW = "a" * 400


async def test_health_and_metrics() -> None:
    service = make_service()
    async with client_of(service) as client:
        assert (await client.get("/health")).json() == {"status": "ok"}
        await client.post(CHAT, json=chat())
        await client.post(CHAT, json=chat(model="reason/best-of-n:2"))
        await client.post(CHAT, json={})
        assert (await client.get("/nowhere")).json()["error"]["message"].startswith("there is nothing at /nowhere")
        without = await client.post("/chat/completions", json=chat())
        assert "did you mean /v1/chat/completions?" in without.json()["error"]["message"]
        assert (await client.get(CHAT)).status_code == 405
        text = (await client.get("/metrics")).text
    assert f'reason_requests_total{{method="POST",route="{CHAT}",status="200"}} 2' in text
    assert f'reason_requests_total{{method="POST",route="{CHAT}",status="400"}} 1' in text
    assert 'route="other",status="404"} 1' in text
    assert 'reason_searches_total{strategy="best-of-n",stopped_by="done"} 1' in text
    assert "reason_running 0\n" in text
    tokens = sum(map(len, SOLUTIONS[:3]))  # the sample has key 0, the search's two have keys 1 and 2
    assert f'reason_tokens_total{{kind="policy"}} {tokens}\n' in text


async def test_a_body_that_is_too_large_or_of_another_type() -> None:
    async with client_of(make_service(max_body_bytes=300)) as client:
        assert (await client.post(CHAT, json=chat("x" * 300))).status_code == 413

        async def parts() -> Any:
            for _ in range(10):
                yield b" " * 100

        headers = {"content-type": "application/json"}
        assert (await client.post(CHAT, content=parts(), headers=headers)).status_code == 413
        plain = {"content-type": "text/plain"}
        assert (await client.post(CHAT, content=b"{}", headers=plain)).status_code == 415


async def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# mine\n\n{KEY}\n{KEY}2\n")
    security = Security(keys=read_keys(file))
    async with client_of(make_service(), security) as client:
        for given in (None, "Bearer", f"Bearer {KEY[:-1]}", f"Basic {KEY}", "Bearer é"):
            headers = [] if given is None else [(b"authorization", given.encode())]
            reply = await client.get("/v1/models", headers=headers)
            assert (reply.status_code, reply.json()["error"]["code"]) == (401, "invalid_api_key")
        for key in (KEY, f"{KEY}2"):
            assert (await client.get("/v1/models", headers={"authorization": f"Bearer {key}"})).status_code == 200
        assert (await client.get("/health")).status_code == 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# none\n", "no key"),
        ("short\n", "16 letters"),
        ("é" * 20, "of ASCII"),
        (None, "cannot read"),
        ("\udcff", "UTF-8"),
    ],
)
def test_files_of_keys(tmp_path: Path, text: str | None, message: str) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UsageError, match=message):
        read_keys(file)


def test_other_machines_need_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(UsageError, match="--api-key-file"):
            check_exposure(host, ())
        check_exposure(host, (b"key",))
    for host in ("127.0.0.1", "localhost", "::1"):
        check_exposure(host, ())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"host": "localhost:8010"}, 200),
        ({"host": "[::1]:8010"}, 200),
        ({"host": "evil.example:8010"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "[::1"}, 421),
        ({"host": ""}, 421),
        ({"origin": "http://127.0.0.1:8010"}, 200),
        ({"origin": "http://localhost:3000"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "https://good.example"}, 200),
    ],
)
async def test_pages_of_other_sites(headers: dict[str, str], status: int) -> None:
    async with client_of(make_service(), Security(origins=("https://good.example",))) as client:
        reply = await client.get("/v1/models", headers=headers)
    assert reply.status_code == status
    if status == 421:
        assert "--host 0.0.0.0 and --api-key-file" in reply.json()["error"]["message"]


async def test_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "reason.serve.access")
    async with client_of(make_service(), Security(keys=(KEY.encode(),))) as client:
        headers = {"authorization": f"Bearer {KEY}"}
        for body in (chat(seed=1), chat(seed=1, stream=True), chat(model="reason/best-of-n:1"), chat(model="a\nb")):
            await client.post(CHAT, json=body, headers=headers)
        await client.get("/v1/models%0A")
    lines = [re.sub(r"\d+\.\d\d s", "S", record.getMessage()) for record in caplog.records]
    tokens = len(SOLUTIONS[0])
    assert lines == [
        f"POST {CHAT} scripted 200 S {tokens} tokens",
        f"POST {CHAT} scripted 200 S {tokens} tokens",
        f"POST {CHAT} reason/best-of-n:1 200 S {len(SOLUTIONS[1])} tokens",
        f"POST {CHAT} a?b 404 S - tokens",
        "GET /v1/models? - 401 S - tokens",
    ]


async def test_what_a_browser_asks_before_a_page_may() -> None:
    """Whatever headers its client has: OpenAI's for JavaScript says with what it runs."""
    asked = {"origin": "https://good.example", "access-control-request-method": "POST"}
    asked |= {"access-control-request-headers": "authorization,content-type,x-stainless-lang"}
    security = Security(keys=(b"0123456789abcdef",), origins=("https://good.example",))
    async with client_of(make_service(), security) as client:
        reply = await client.options(CHAT, headers=asked)
        assert reply.status_code == 200, reply.text
        assert "x-stainless-lang" in reply.headers["access-control-allow-headers"]
        assert (await client.options(CHAT, headers=asked | {"origin": "https://evil.example"})).status_code == 400


async def test_a_full_queue() -> None:
    service = make_service(ScriptedEngine([SLOW], delay=0.002), max_running=1, max_queued=1)
    async with client_of(service) as client:
        first = asyncio.ensure_future(client.post(CHAT, json=chat()))
        while service.admission.running < 1:
            await asyncio.sleep(0.001)
        second = asyncio.ensure_future(client.post(CHAT, json=chat(model="reason/best-of-n:1")))
        while service.admission.queued < 1:
            await asyncio.sleep(0.001)
        third = await client.post(CHAT, json=chat(stream=True))
        assert third.status_code == 429
        assert int(third.headers["retry-after"]) >= 1
        assert [(await each).status_code for each in (first, second)] == [200, 200]
    assert (service.admission.running, service.admission.queued) == (0, 0)


async def test_time_runs_out() -> None:
    service = make_service(ScriptedEngine([SLOW, "\\boxed{7}"], delay=0.05), max_seconds=2.5)
    async with client_of(service) as client:
        reply = await client.post(CHAT, json=chat())
        assert (reply.status_code, reply.json()["error"]["code"]) == (504, "timeout")
        found = (await client.post(CHAT, json=chat(model="reason/best-of-n:2"))).json()
        # the first sample has node 1, which says 7
        assert found["reason"]["stopped_by"] == "seconds"
        assert found["reason"]["answer"] == "7"
    assert service.admission.running == 0


async def test_a_search_that_runs_out_tells_what_it_has_begun() -> None:
    async with client_of(make_service(ScriptedEngine([SLOW], delay=0.05))) as client:
        asked = chat(model="reason/best-of-n:2", reason={"budget": {"seconds": 1.0}})
        found = (await client.post(CHAT, json=asked)).json()
    (choice,) = found["choices"]
    assert choice["message"]["content"]
    assert SLOW.startswith(choice["message"]["content"])
    assert choice["finish_reason"] == "length"
    assert (found["reason"]["answer"], found["reason"]["candidates"]) == (None, [])


async def test_a_heartbeat_while_nothing_happens() -> None:
    service = make_service(ScriptedEngine([SLOW], delay=0.001), heartbeat_seconds=0.05)
    async with client_of(service) as client:
        reply = await client.post(CHAT, json=chat(model="reason/best-of-n:1", stream=True))
    assert "\n\n: still at work\n\n" in reply.text


# -- malformed bodies --------------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**400, -0.0]),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=8), inside, max_size=3),
    max_leaves=6,
)
NAMES = [
    *("model", "messages", "prompt", "input", "n", "stop", "seed", "max_tokens", "temperature", "top_p", "logprobs"),
    *("top_logprobs", "tools", "tool_choice", "stream", "stream_options", "response_format", "reason", "logit_bias"),
    *("presence_penalty", "user", "metadata", "text", "instructions", "echo", "parallel_tool_calls", "best_of"),
]
GOOD: dict[str, Any] = {"model": "scripted", "messages": chat()["messages"], "prompt": "a", "input": "a"}
OF_PATH = {CHAT: ("model", "messages"), "/v1/completions": ("model", "prompt"), "/v1/responses": ("model", "input")}


@settings(max_examples=200)
@given(
    path=st.sampled_from(list(OF_PATH)),
    fields=st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=2),
    search=st.none() | st.dictionaries(st.sampled_from(["strategy", "budget", "inner", "width", "verifier"]), VALUES),
)
def test_no_body_is_an_internal_error(path: str, fields: dict[str, Any], search: dict[str, Any] | None) -> None:
    body = {name: GOOD[name] for name in OF_PATH[path]} | fields | ({} if search is None else {"reason": search})

    async def ask() -> httpx.Response:
        async with client_of(SHARED) as client:
            content = json.dumps(body).encode("utf-8", "surrogatepass")
            return await client.post(path, content=content, headers={"content-type": "application/json"})

    reply = asyncio.run(ask())
    assert reply.status_code in (200, 400, 404), reply.text
    if reply.status_code != 200:
        assert reply.json()["error"]["message"]


SHARED = make_service()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b"\xff{}", "not UTF-8"),
        (b'{"model": NaN}', "NaN is not a JSON number"),
        (b'{"temperature": 1e999}', "too large"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"model": "a", "model": "b"}', "'model' is given twice"),
        (b'{"model": "\\ud800"}', "half of a surrogate pair"),
        (b'{"a": ' + b"[" * 80 + b"]" * 80 + b"}", "nested more than 64 deep"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested more than 64 deep"),
        (b'{"a": ' * 50_000, "nested more than 64 deep"),
    ],
)
async def test_malformed_bodies(client: httpx.AsyncClient, content: bytes, message: str) -> None:
    reply = await client.post(CHAT, content=content, headers={"content-type": "application/json; charset=utf-8"})
    assert reply.status_code == 400
    assert message in reply.json()["error"]["message"]


async def test_the_description(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()
    assert described["openapi"].startswith("3.1")
    for path, methods in described["paths"].items():
        assert (await client.request(next(iter(methods)).upper(), path, json={})).status_code in (200, 400, 404)


# -- over a socket -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["tiny", "reason/best-of-n:4"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away(tiny: LocalEngine, model: str, stream: bool) -> None:
    service = make_service(tiny)
    body = json.dumps(chat(model=model, max_tokens=1900, stream=stream, temperature=1.5)).encode()
    with running(service) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            until(lambda: tiny.kv_tokens_in_use > 0)
        until(lambda: service.admission.running == 0)
        until(lambda: tiny.kv_tokens_in_use == 0)
    tiny.check_integrity()


def test_a_body_that_does_not_come() -> None:
    with running(make_service(stall_seconds=0.2)) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"the body was not sent within 0.2 seconds" in answer


def test_a_head_that_does_not_come() -> None:
    with running(make_service(stall_seconds=1.0)) as (url, _):
        host, _, port = url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            assert connection.recv(1) == b"", "who says nothing is not waited for"
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            assert sent_slowly(connection, b"GET /health HTTP/1.1\r\nHost: here\r\nX-Slow: " + b"a" * 10_000)
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            for _ in range(2):  # the second time is after a reply
                connection.sendall(f"GET /health HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                reply = b""
                while not reply.endswith(b'{"status":"ok"}'):
                    reply += connection.recv(65536)
            assert sent_slowly(connection, b"GET /health HTTP/1.1\r\nHost: here\r\nX-Slow: " + b"a" * 10_000)


def sent_slowly(connection: socket.socket, data: bytes) -> bool:
    """Whether the other end closes the connection before all is sent, a byte every 10 ms."""
    for place in range(len(data)):
        try:
            connection.sendall(data[place : place + 1])
            connection.settimeout(0.01)
            if connection.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except ConnectionError:
            return True
    return False


def test_a_reply_may_take_longer_than_a_head() -> None:
    with running(make_service(ScriptedEngine([SLOW], delay=0.005), stall_seconds=0.3)) as (url, _):
        began = time.monotonic()
        assert httpx.post(f"{url}{CHAT}", json=chat(), timeout=60).status_code == 200
        assert time.monotonic() - began > 0.6


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has it")
def test_connections_to_nobody_are_given_up() -> None:
    with bind("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000


def test_the_end_has_a_deadline() -> None:
    service = make_service(ScriptedEngine(["\\boxed{7}", SLOW], delay=0.02))
    results: dict[str, httpx.Response | Exception] = {}

    def ask(url: str, name: str, body: dict[str, Any]) -> None:
        try:
            results[name] = httpx.post(url + CHAT, json=body, timeout=60)
        except httpx.HTTPError as error:
            results[name] = error

    # node 1 says the slow text, node 2 says 7
    asked = {"search": chat(model="reason/best-of-n:2"), "sample": chat(n=2)}
    with running(service, grace=6.0) as (url, server):
        threads = [threading.Thread(target=ask, args=(url, *each)) for each in asked.items()]
        for thread in threads:
            thread.start()
        until(lambda: service.admission.running == 2)
        server.should_exit = True
        for thread in threads:
            thread.join(60)
        until(lambda: service.admission.running == 0)
    found = results["search"]
    assert isinstance(found, httpx.Response)
    assert found.json()["reason"]["stopped_by"] == "interrupt"
    assert found.json()["reason"]["answer"] == "7"
    assert service.admission.closing


def test_openais_client() -> None:
    openai = pytest.importorskip("openai")
    call = '<tool_call>{"name": "find", "arguments": {"x": 1}}</tool_call>'
    engine = ScriptedEngine(
        lambda prefix: [f"ok {call}"] if "<tools>" in prefix else ["so \\boxed{42}", "so \\boxed{1}"], delay=0.02
    )
    tool: Any = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    turns: Any = [{"role": "user", "content": "6 * 7?"}]
    with running(make_service(engine)) as (url, _), openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        assert client.models.list().data[0].id == "scripted"
        assert client.models.retrieve("reason/ets").id == "reason/ets"
        plain = client.chat.completions.create(model="scripted", messages=turns)
        assert plain.choices[0].message.content == "so \\boxed{42}"
        searched = client.chat.completions.create(
            model="scripted", messages=turns, extra_body={"reason": {"strategy": "best-of-n", "num_samples": 2}}
        )
        assert searched.reason["answer"] is not None
        called = client.chat.completions.create(model="scripted", messages=turns, tools=[tool])
        assert called.choices[0].message.tool_calls[0].function.arguments == '{"x": 1}'
        chunks = list(client.chat.completions.create(model="scripted", messages=turns, tools=[tool], stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "ok"
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
        response = client.responses.create(model="scripted", input="6 * 7?", instructions="Be brief.")
        assert (response.output_text, response.status) == ("so \\boxed{42}", "completed")
        with client.responses.stream(model="scripted", input=turns) as stream:
            kinds = [event.type for event in stream]
            assert stream.get_final_response().output_text == "so \\boxed{42}"
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert kinds.count("response.output_text.delta") > 1
        with client.responses.stream(model="reason/best-of-n:2", input=turns) as stream:
            kinds = [event.type for event in stream]
            thought, message = stream.get_final_response().output
        assert kinds.index("response.reasoning_summary_text.delta") < kinds.index("response.output_text.done")
        assert (thought.type, message.type) == ("reasoning", "message")
        assert "2 solutions" in thought.summary[0].text
        assert "boxed" in message.content[0].text
        flat: Any = {"type": "function", "name": "find", "parameters": {"type": "object"}}
        past: Any = [
            *turns,
            {"type": "function_call", "call_id": "c", "name": "find", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "none"},
        ]
        events = list(client.responses.create(model="scripted", input=past, tools=[flat], stream=True))
        assert [item.type for item in events[-1].response.output] == ["message", "function_call"]
        chosen: Any = {"type": "function", "name": "find"}
        strict: Any = flat | {"strict": True}
        told = client.responses.create(model="scripted", input=past, tools=[strict], tool_choice=chosen)
        assert told.model_dump()["tool_choice"] == chosen
        assert told.model_dump()["tools"][0]["strict"] is True
        with pytest.raises(openai.BadRequestError, match="nothing is stored"):
            client.responses.create(model="scripted", input="x", previous_response_id="r")
        with pytest.raises(openai.NotFoundError, match="there is no model"):
            client.chat.completions.create(model="gpt-9", messages=turns)

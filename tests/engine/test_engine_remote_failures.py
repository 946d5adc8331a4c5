"""What can go wrong with a server: what passes is tried again, what does not is said, and no key is ever told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from reason.engine.remote import Address, PieceCodec, RemoteEngine, check_servers
from reason.engine.remote.pieces import chat_of
from reason.engine.remote.reply import Reply
from reason.engine.remote.turnstile import Turnstile
from reason.errors import ServerError, UnknownName, UsageError
from reason.serve.chat_tools import parse_calls
from reason.types import Completion, Message, Request, Sampling
from tests.engine.remote_servers import FakeServer, running

KEY = "sk-very-secret-0123456789"
TEXT = "the answer is 12"
CHAT = PieceCodec().encode_chat([Message(role="user", content="what is 3 times 4?")])


async def ask(engine: RemoteEngine, **changes: Any) -> Completion:
    (done,) = [each async for each in engine.generate([Request(**{"prefix": CHAT, "owner": "p", **changes})])]
    return done


@pytest.mark.parametrize(
    "failure",
    [
        JSONResponse({"error": {"message": "busy"}}, status_code=429, headers={"retry-after": "0.2"}),
        JSONResponse({"error": {"message": "oops"}}, status_code=500),
        Response(status_code=503),
        "break",
    ],
    ids=["429", "500", "503", "dropped"],
)
async def test_what_may_pass_is_tried_again(failure: Any) -> None:
    server = FakeServer([TEXT])
    with running(server.app) as address:
        engine = RemoteEngine(address, backoff=0.01)
        server.failures = [failure, failure]
        began = time.perf_counter()
        done = await ask(engine)
        engine.close()
    assert (done.text, done.error) == (TEXT, None)
    assert engine.stats().retries == 2
    assert engine.usage("p").policy_tokens == len(done.token_ids), "what was lost is not counted twice"
    if isinstance(failure, Response) and failure.status_code == 429:
        assert time.perf_counter() - began > 0.4


async def test_what_does_not_pass_is_said() -> None:
    server = FakeServer([TEXT])
    with running(server.app) as address:
        engine = RemoteEngine(address, backoff=0.001, retries=2)
        server.failures = [JSONResponse({"error": {"message": "out of order"}}, status_code=500)] * 3
        with pytest.raises(ServerError, match=r"HTTP 500: out of order \(after 3 attempts\)"):
            raise cast(Exception, (await ask(engine)).error)
        server.failures = [JSONResponse({"error": {"message": "too long"}}, status_code=400)]
        with pytest.raises(ServerError, match=r"HTTP 400: too long$"):
            raise cast(Exception, (await ask(engine)).error)
        server.failures = [Response(status_code=429, headers={"retry-after": "3600"})]
        with pytest.raises(ServerError, match="asks to wait for 3600 s"):
            raise cast(Exception, (await ask(engine)).error)
        server.failures = [Response(status_code=307, headers={"location": "http://elsewhere/"})]
        with pytest.raises(ServerError, match="is not followed"):
            raise cast(Exception, (await ask(engine)).error)
        assert (await ask(engine)).text == TEXT, "and the engine lives"
        engine.close()


async def test_a_server_that_hangs() -> None:
    server = FakeServer([TEXT])
    with running(server.app) as address:
        engine = RemoteEngine(address, timeout=0.5)
        server.delay = 60.0
        done = await asyncio.wait_for(ask(engine), 30)
        engine.close()
    with pytest.raises(ServerError, match=r"silent for 0.5 s.*max_concurrent.*timeout"):
        raise cast(Exception, done.error)


def test_nobody_there() -> None:
    with pytest.raises(ServerError, match=r"cannot connect to http://127.0.0.1:9/v1 .*is the server running"):
        RemoteEngine("http://127.0.0.1:9/v1")


def test_the_key_is_sent_and_never_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server = FakeServer([TEXT], key=KEY)
    with running(server.app) as address:
        monkeypatch.setenv("MY_KEY", KEY)
        with RunningEngine(address, api_key_env="MY_KEY") as engine:
            done = asyncio.run(ask(engine))
            assert done.text == TEXT
            assert KEY not in repr(engine)
            assert KEY not in repr(engine.server)
            assert KEY not in repr(Address(base_url=address, api_key_env="MY_KEY"))
            server.key = "another"
            failed = asyncio.run(ask(engine))
        assert isinstance(failed.error, ServerError)
        assert "the key in MY_KEY" in str(failed.error)
        assert "Bearer ***" in str(failed.error), "the server repeated it"
        assert KEY not in str(failed.error)
        with pytest.raises(ServerError, match=r"without a key \(NO_KEY is not set\)"):
            RemoteEngine(address, api_key_env="NO_KEY")


class RunningEngine:
    def __init__(self, address: str, **options: Any) -> None:
        self.engine = RemoteEngine(address, **options)

    def __enter__(self) -> RemoteEngine:
        return self.engine

    def __exit__(self, *error: object) -> None:
        self.engine.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000", "is an address like"),
        ("ftp://host/v1", "is an address like"),
        (f"http://me:{KEY}@host/v1", "must not hold a user"),
        (f"https://host/v1?key={KEY}", "must not hold a user"),
        ("http://[::1:8000/v1", "is an address like"),
        ("http://host:abc/v1", "is an address like"),
        ("http://host:99999/v1", "is an address like"),
        ("http://host/v1\x00", "is an address like"),
    ],
)
def test_addresses(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        Address(base_url=url)
    assert KEY not in str(raised.value)


def test_servers_of_a_solver() -> None:
    assert check_servers({"base_url": None, "tokenizer": None}) is None
    both = check_servers({"base_url": "http://a/v1/", "tokenizer": "t", "small_base_url": "http://b/v1"})
    assert both is not None
    assert both.recorded() == {"base_url": "http://a/v1", "tokenizer": "t", "small_base_url": "http://b/v1"}
    for given, options, message in (
        ({"tokenizer": "t"}, {}, "give its base_url"),
        ({"base_url": "http://a/v1"}, {"draft": "stand"}, "a server drafts by itself"),
        (
            {"base_url": "http://a/v1"},
            {"machine": {"threads": 2, "device": "auto"}},
            "threads=2 is for models that run",
        ),
    ):
        with pytest.raises(UsageError, match=message):
            check_servers(given, **cast(Any, options))
    with pytest.raises(UnknownName, match="kind of server"):
        check_servers({"base_url": "http://a/v1", "server": "vlllm"})


def answering(chat: Callable[[dict[str, Any]], httpx.Response], models: Any = None) -> httpx.MockTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return httpx.Response(200, json=models or {"data": [{"id": "m"}]})
        if request.url.path == "/v1/chat/completions":
            return chat(json.loads(request.content))
        return httpx.Response(404, json={"error": {"message": "Not Found"}})

    return httpx.MockTransport(handle)


def chat_only(body: dict[str, Any]) -> httpx.Response:
    """A provider of reasoning models: another name for the limit, no log-probabilities, one piece."""
    if "max_tokens" in body:
        told = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return httpx.Response(400, json={"error": {"message": told}})
    if "logprobs" in body:
        return httpx.Response(400, json={"error": {"message": "logprobs are not supported with this model"}})
    if "continue_final_message" in body:
        return httpx.Response(400, json={"error": {"message": "Unrecognized request argument"}})
    message = {"role": "assistant", "content": TEXT, "reasoning_content": "hm"}
    choices = [{"message": message, "finish_reason": "stop"}]
    return httpx.Response(200, json={"choices": choices, "usage": {"completion_tokens": 30, "prompt_tokens": 9}})


def test_a_provider_without_log_probabilities() -> None:
    with RunningEngine("https://api.example.com/v1", transport=answering(chat_only)) as engine:
        server = engine.server
        assert (server.family.name, server.api, server.limit_field) == ("openai", "chat", "max_completion_tokens")
        assert (server.logprobs, server.continuing) == (False, "none")
        done = asyncio.run(ask(engine))
        assert (done.text, len(done.token_ids)) == (TEXT, 30), "thinking that is kept from us is paid for"
        assert engine.usage("p").prompt_tokens == 9
        failed = asyncio.run(ask(engine, sampling=Sampling(logprobs=0)))
        assert "tells no log-probabilities" in str(failed.error)


def test_models_by_name() -> None:
    two = {"data": [{"id": "a"}, {"id": "b"}]}
    with pytest.raises(UsageError, match=r"name the model .*it has a, b"):
        RemoteEngine("http://host/v1", transport=answering(chat_only, two))
    with pytest.raises(UsageError, match="has no model 'c'; it has a, b"):
        RemoteEngine("http://host/v1", "c", transport=answering(chat_only, two))
    with RunningEngine("http://host/v1", model="b", transport=answering(chat_only, two)) as engine:
        assert engine.name == "b"


def test_a_list_of_models_that_fails() -> None:
    """As that of ``transformers serve`` does where the hub has left no cache; then it hangs up."""
    looks: list[httpx.Response | httpx.ReadError] = [
        httpx.Response(500, text="Internal Server Error"),
        httpx.ReadError(""),
    ]
    chat = answering(chat_only)

    def handle(request: httpx.Request) -> httpx.Response:
        if request.method == "GET" and looks:
            look = looks.pop(0)
            if isinstance(look, httpx.Response):
                return look
            raise look
        return chat.handle_request(request)

    with RunningEngine("http://host/v1", model="m", backoff=0.001, transport=httpx.MockTransport(handle)) as engine:
        assert (engine.name, engine.server.family.name) == ("m", "openai")
    assert not looks


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_is_not_ready_yet(status: int) -> None:
    """As llama.cpp's is while it loads the model."""
    looks = 0
    chat = answering(chat_only, {"data": [{"id": "m"}]})

    def handle(request: httpx.Request) -> httpx.Response:
        nonlocal looks
        looks += request.method == "GET"
        return httpx.Response(status, text="Loading model") if looks < 3 else chat.handle_request(request)

    with RunningEngine("http://host/v1", backoff=0.001, transport=httpx.MockTransport(handle)) as engine:
        assert engine.name == "m"
    looks = -100
    with pytest.raises(ServerError, match=rf"HTTP {status}: Loading model \(after 2 attempts\)"):
        RemoteEngine("http://host/v1", backoff=0.001, retries=1, transport=httpx.MockTransport(handle))


def test_a_gateway_that_has_nothing_else() -> None:
    chat = answering(chat_only, {"data": [{"id": "m"}]})

    def handle(request: httpx.Request) -> httpx.Response:
        return chat.handle_request(request) if request.url.path.startswith("/v1/") else httpx.Response(503)

    with RunningEngine("http://host/v1", transport=httpx.MockTransport(handle)) as engine:
        assert (engine.server.family.name, engine.stats().retries) == ("openai", 0)


@pytest.mark.parametrize("listed", [[{"id": "m"}], "m", ["m"], {"data": "m"}, {"data": {"id": "m"}}])
def test_other_lists_of_models(listed: Any) -> None:
    with RunningEngine("http://host/v1", model="m", transport=answering(chat_only, listed)) as engine:
        assert engine.name == "m"


@pytest.mark.parametrize("letter", ["\u2028", "\u2029", "\x85", "\x1c"])
def test_letters_that_end_lines_elsewhere(letter: str) -> None:
    """In a stream of events they are letters as any other."""

    def streamed(body: dict[str, Any]) -> httpx.Response:
        if not body.get("stream") or "max_tokens" in body or "logprobs" in body or "continue_final_message" in body:
            return chat_only(body)
        pieces: list[dict[str, Any]] = [
            {"delta": {"content": f"two{letter}lines"}},
            {"delta": {}, "finish_reason": "stop"},
        ]
        events = [json.dumps({"choices": [{"index": 0, **piece}]}, ensure_ascii=False) for piece in pieces]
        data = "".join(f"data: {event}\r\n\r\n" for event in [*events, "[DONE]"])
        return httpx.Response(200, content=data.encode(), headers={"content-type": "text/event-stream"})

    with RunningEngine("http://host/v1", model="m", transport=answering(streamed)) as engine:
        done = asyncio.run(ask(engine))
    assert (done.text, done.error) == (f"two{letter}lines", None)


@pytest.mark.parametrize("line", ["error: {}", 'data: {{"error": {}}}'])
async def test_an_error_within_a_stream(line: str) -> None:
    asked = 0

    def streamed(body: dict[str, Any]) -> httpx.Response:
        nonlocal asked
        if not body.get("stream") or "max_tokens" in body or "logprobs" in body or "continue_final_message" in body:
            return chat_only(body)
        asked += 1
        told = line.format('{"code": 400, "message": "too long", "type": "invalid_request_error"}')
        return httpx.Response(200, text=f"data:\n\n{told}\n\n", headers={"content-type": "text/event-stream"})

    engine = await asyncio.to_thread(RemoteEngine, "http://host/v1", "m", transport=answering(streamed))
    with pytest.raises(ServerError, match=r"HTTP 400\): too long$"):
        raise cast(Exception, (await ask(engine)).error)
    assert asked == 1
    engine.close()


def test_an_answer_that_is_no_json() -> None:
    transport = answering(lambda body: httpx.Response(200, text="<html>welcome</html>"))
    with pytest.raises(ServerError, match="no JSON"):
        RemoteEngine("http://host/v1", transport=transport)


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_pieces_spell_their_text() -> None:
    codec = PieceCodec()
    text = "Step 1: 3 × 4 = 12, so\n\n\\boxed{12} ünïcödé 🙂\tdef f(x):\n    return x"
    assert codec.decode(codec.encode(text)) == text
    assert len(codec.encode(text)) < len(text)
    assert codec.decode(CHAT) == "what is 3 times 4?"
    turn = codec.encode_turn([Message(role="user", content="Is it right?")])
    begun = codec.encode_chat([Message(role="assistant", content="so")], continue_final=True)
    assert begun + turn[:1] == codec.encode_chat([Message(role="assistant", content="so")])[: len(begun) + 1]


def test_pieces_keep_what_a_chat_says_beside_its_texts() -> None:
    tool = {"type": "function", "function": {"name": "find", "description": "é" * 300, "parameters": {}}}
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": {"a": 1}}}
    messages: list[Any] = [
        {"role": "user", "content": "look", "name": "me"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "ünïcödé", "tool_call_id": "c"},
    ]
    codec = PieceCodec()
    path = codec.encode_chat(messages, tools=[tool])
    assert chat_of(path) == ([*messages, {"role": "assistant", "content": ""}], [tool])
    assert codec.decode(path) == "lookünïcödé"
    assert json.loads(json.dumps(path)) == list(path)  # no number is too long to be written down


@pytest.mark.parametrize("streamed", [True, False])
def test_a_reply_that_calls_functions(streamed: bool) -> None:
    reply = Reply()
    calls = [{"function": {"name": "find", "arguments": '{"a": 1}'}}, {"function": {"name": "look", "arguments": ""}}]
    if streamed:
        for place, call in enumerate(calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            for told in ({"name": name, "arguments": ""}, {"arguments": arguments[:4]}, {"arguments": arguments[4:]}):
                reply.add({"choices": [{"delta": {"tool_calls": [{"index": place, "function": told}]}}]})
        reply.add({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    else:
        message = {"content": None, "tool_calls": calls}
        reply.add({"choices": [{"message": message, "finish_reason": "tool_calls"}]})
    first, second = parse_calls(reply.text, lambda name, arguments: True).calls
    assert (first.name, first.arguments, second.name, second.arguments) == ("find", '{"a": 1}', "look", "{}")


def test_a_reply_of_tokens_by_number() -> None:
    reply = Reply()
    columns = {"tokens": ["token_id:5"], "token_logprobs": [-0.5], "top_logprobs": [{"token_id:6": -1.0}]}
    reply.add({"choices": [{"text": "a", "logprobs": columns, "finish_reason": "stop", "stop_reason": 7}]})
    assert (reply.told[0].id, reply.told[0].top[0][1], reply.stopped_on) == (5, 6, 7)


async def test_the_turnstile() -> None:
    turnstile = Turnstile(3)
    entered: list[str] = []

    async def go(name: str, prefix: tuple[int, ...]) -> None:
        await turnstile.enter(prefix)
        entered.append(name)

    tasks = [asyncio.ensure_future(go(*each)) for each in (("a1", (1,)), ("a2", (1,)), ("b1", (2,)), ("a3", (1,)))]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert entered == ["a1", "b1"], "one of each prefix"
    tasks[1].cancel()
    await asyncio.sleep(0)
    turnstile.warm((1,))
    await asyncio.sleep(0)
    assert entered == ["a1", "b1", "a3"]
    late = asyncio.ensure_future(go("c", (3,)))
    await asyncio.sleep(0)
    assert not late.done(), "three are under way"
    turnstile.leave((2,))
    await asyncio.wait_for(late, 5)
    await asyncio.gather(*tasks, return_exceptions=True)

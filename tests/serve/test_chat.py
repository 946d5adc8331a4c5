"""/v1/chat/completions and /v1/completions, in one piece and streamed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from reason.engine.remote import RemoteEngine
from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.strategies import STRATEGIES
from tests.engine.remote_servers import FakeServer
from tests.engine.remote_servers import running as served_there
from tests.serve.conftest import chat, client_of, make_service

if TYPE_CHECKING:
    from reason.engine.local import LocalEngine

CHAT = "/v1/chat/completions"
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
CALL = '<tool_call>\n{"name": "find", "arguments": {"text": "é"}}\n</tool_call>'


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    """A stream's chunks, after checks of its form."""
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"].startswith("text/event-stream")
    parts = [part for part in reply.text.split("\n\n") if part and not part.startswith(":")]
    assert parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts]


def said(chunks: list[dict[str, Any]], index: int = 0, name: str = "content") -> str:
    deltas = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get(name) or "" for choice in deltas)


async def ok(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT) -> dict[str, Any]:
    reply = await client.post(path, json=body)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


async def refused(client: httpx.AsyncClient, body: dict[str, Any], path: str = CHAT, status: int = 400) -> str:
    reply = await client.post(path, json=body)
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["message"])


# -- the model without a search ----------------------------------------------------------------------------------------


async def test_samples_as_asked_for(client: httpx.AsyncClient) -> None:
    reply = await ok(client, chat(n=3, stop=["boxed"], seed=1))
    assert reply["object"] == "chat.completion"
    assert [choice["message"]["content"] for choice in reply["choices"]] == ["so \\", "thus \\", "it is \\"]
    assert [choice["finish_reason"] for choice in reply["choices"]] == ["stop"] * 3
    tokens = len("so \\boxed") + len("thus \\boxed") + len("it is \\boxed")
    assert reply["usage"]["completion_tokens"] == tokens == reply["reason"]["usage"]["policy_tokens"]
    assert reply["usage"]["prompt_tokens"] == len("<user>What is 6 * 7?<assistant>")
    assert reply["reason"]["usage"]["seconds"] > 0


async def test_a_limit_and_its_name(client: httpx.AsyncClient) -> None:
    for limit in (chat(max_tokens=5), chat(max_completion_tokens=5)):
        reply = await ok(client, limit)
        assert (reply["choices"][0]["message"]["content"], reply["choices"][0]["finish_reason"]) == ("so \\b", "length")


async def test_equal_seeds_equal_text(tiny: LocalEngine) -> None:
    async with client_of(make_service(tiny)) as client:
        texts = [
            (await ok(client, chat(model="tiny", max_tokens=12, seed=seed)))["choices"][0]["message"]["content"]
            for seed in (5, 5, 6)
        ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1.0},
        {"n": 3},
        {"temperature": 0.7, "top_p": 0.9, "presence_penalty": 1.5, "frequency_penalty": 0.5},
        {"stop": ["a", "the e"]},
    ],
)
async def test_a_stream_says_what_the_whole_reply_says(tiny: LocalEngine, fields: dict[str, Any]) -> None:
    body = chat(model="tiny", max_tokens=150, seed=3, **fields)
    async with client_of(make_service(tiny)) as client:
        whole = await ok(client, body)
        chunks = events(
            await client.post(CHAT, json=body | {"stream": True, "stream_options": {"include_usage": True}})
        )
    for choice in whole["choices"]:
        assert said(chunks, choice["index"]) == choice["message"]["content"]
    ends = {c["index"]: c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"]}
    assert ends == {choice["index"]: choice["finish_reason"] for choice in whole["choices"]}
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == whole["usage"]
    assert len({chunk["id"] for chunk in chunks}) == 1


async def test_tokens_come_while_they_are_drawn() -> None:
    text = "one two three four five"
    async with client_of(make_service(ScriptedEngine([text], delay=0.01))) as client:
        chunks = events(await client.post(CHAT, json=chat(stream=True, stop=["six"])))
    pieces = [c["delta"]["content"] for chunk in chunks for c in chunk["choices"] if c["delta"].get("content")]
    assert len(pieces) > 2
    assert "".join(pieces) == text
    assert all("reason" not in chunk for chunk in chunks[:-1])
    assert chunks[-1]["reason"]["usage"]["policy_tokens"] == len(text)


async def test_logprobs(client: httpx.AsyncClient) -> None:
    body = chat(logprobs=True, top_logprobs=2, stop="b")
    reply = await ok(client, body)
    rows = reply["choices"][0]["logprobs"]["content"]
    assert "".join(row["token"] for row in rows) == reply["choices"][0]["message"]["content"] == "so \\"
    assert rows[0] == {
        "token": "s",
        "logprob": -0.1,
        "bytes": [115],
        "top_logprobs": [{"token": "s", "logprob": -0.1, "bytes": [115]}, rows[0]["top_logprobs"][1]],
    }
    chunks = events(await client.post(CHAT, json=body | {"stream": True}))
    assert [c["logprobs"]["content"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]] == [rows]


@pytest.mark.parametrize("kind", ["chat", "completions"])
async def test_logprobs_of_a_long_text_hold_nobody_up(kind: str) -> None:
    """Of a text that a stop string cuts: in the time of a few decodings, not of one for each token."""
    engine = ScriptedEngine(["x" * 6_000 + "END"])
    decodings = 0
    decode = engine.codec.decode

    def counted(tokens: Sequence[int]) -> str:
        nonlocal decodings
        decodings += len(tokens) > 1_000
        return decode(tokens)

    engine.codec.decode = counted  # type: ignore[method-assign]
    async with client_of(make_service(engine)) as client:
        if kind == "chat":
            (choice,) = (await ok(client, chat(logprobs=True, stop="END", max_tokens=7_000)))["choices"]
            assert len(choice["logprobs"]["content"]) == 6_000
        else:
            body = {"model": "scripted", "prompt": "a", "max_tokens": 7_000, "logprobs": 1, "stop": "END"}
            (choice,) = (await ok(client, body, "/v1/completions"))["choices"]
            assert choice["logprobs"]["text_offset"] == [*range(6_000)]
    assert decodings < 20


async def test_logprobs_leave_out_the_end(tiny: LocalEngine) -> None:
    async with client_of(make_service(tiny)) as client:
        for seed in range(3):
            body = chat(model="tiny", seed=seed, max_tokens=300, logprobs=True)
            choice = (await ok(client, body))["choices"][0]
            count = len(choice["logprobs"]["content"])
            assert all(row["token"] != "<|end|>" for row in choice["logprobs"]["content"])
            assert (choice["finish_reason"] == "length") == (count == 300)


async def test_completions(client: httpx.AsyncClient) -> None:
    path = "/v1/completions"
    body = {"model": "scripted", "prompt": ["a", [98, 99]], "n": 2, "max_tokens": 4, "logprobs": 1}
    reply = await ok(client, body, path)
    assert reply["object"] == "text_completion"
    assert [choice["text"] for choice in reply["choices"]] == ["so \\", "thus", "it i", "数\ufffd"]
    assert reply["usage"]["prompt_tokens"] == 3
    logprobs = reply["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["s", "o", " ", "\\"]
    assert logprobs["text_offset"] == [0, 1, 2, 3]
    assert (await ok(client, {"model": "scripted", "prompt": "a"}, path))["usage"]["completion_tokens"] <= 16
    chunks = events(await client.post(path, json=body | {"stream": True}))
    for i, choice in enumerate(reply["choices"]):
        texts = [c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == i]
        assert "".join(texts) == choice["text"]


async def test_a_prompt_that_is_too_long(tiny: LocalEngine) -> None:
    async with client_of(make_service(tiny)) as client:
        for model in ("tiny", "reason/best-of-n"):
            assert "context of 2048" in await refused(client, chat("x" * 2100, model=model))


# -- tools -------------------------------------------------------------------------------------------------------------


async def test_tools_go_in_and_calls_come_out() -> None:
    seen: list[str] = []

    def script(prefix: str) -> list[str]:
        seen.append(prefix)
        return [f"Let me look.\n{CALL}"]

    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
    ]
    body = {"model": "scripted", "messages": messages, "tools": [TOOL]}
    async with client_of(make_service(ScriptedEngine(script))) as client:
        choice = (await ok(client, body))["choices"][0]
        await ok(client, body | {"tool_choice": "none"})
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] == "Let me look."
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "find", "arguments": '{"text": "é"}'}
    assert '"name": "find"' in seen[0].partition("<user>")[0]
    assert '<tool_call>{"name": "find", "arguments": {"a": 1}}<tool>nothing' in seen[0]
    assert seen[1].startswith("<user>look")


async def test_calls_are_streamed_whole() -> None:
    engine = ScriptedEngine([f"Look. {CALL}{CALL}"], delay=0.005)
    async with client_of(make_service(engine)) as client:
        chunks = events(await client.post(CHAT, json=chat(tools=[TOOL], stream=True)))
        one = await ok(client, chat(tools=[TOOL], parallel_tool_calls=False))
    assert said(chunks) == "Look."
    calls = [c for chunk in chunks for choice in chunk["choices"] for c in choice["delta"].get("tool_calls", ())]
    assert [(call["index"], call["function"]["name"]) for call in calls] == [(0, "find"), (1, "find")]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(one["choices"][0]["message"]["tool_calls"]) == 1


SUM = {
    "type": "object",
    "properties": {"a": {"enum": [3, 4]}, "b": {"$ref": "#/$defs/digit"}},
    "required": ["a", "b"],
    "additionalProperties": False,
    "$defs": {"digit": {"enum": [1, 2]}},
}


async def test_strict_functions_are_called_only_as_their_schema_says() -> None:
    function = {"name": "add", "parameters": SUM, "strict": True}
    for arguments, called in (({"a": 3, "b": 2}, True), ({"a": 3, "b": 5}, False), ({"a": 3}, False)):
        text = f"<tool_call>{json.dumps({'name': 'add', 'arguments': arguments})}</tool_call>"
        async with client_of(make_service(ScriptedEngine([text]))) as client:
            body = chat(tools=[{"type": "function", "function": function}])
            choice = (await ok(client, body))["choices"][0]
            streamed = said(events(await client.post(CHAT, json=body | {"stream": True})))
        assert ("tool_calls" in choice["message"]) == called
        assert choice["message"]["content"] == (None if called else text)
        assert streamed == ("" if called else text)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "add"}}])
async def test_a_call_is_forced(tiny: LocalEngine, choice: Any) -> None:
    pytest.importorskip("llguidance")
    add = {"type": "function", "function": {"name": "add", "parameters": SUM}}
    tools = [add] if choice == "required" else [TOOL, add]
    async with client_of(make_service(tiny)) as client:
        body = chat(model="tiny", tools=tools, tool_choice=choice, max_tokens=400, temperature=0)
        made = (await ok(client, body))["choices"][0]
    assert made["finish_reason"] == "tool_calls"
    (call,) = made["message"]["tool_calls"]
    assert call["function"]["name"] == "add"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["a"] in (3, 4)
    assert arguments["b"] in (1, 2)


# -- searches ----------------------------------------------------------------------------------------------------------


async def test_a_search_by_the_models_name(client: httpx.AsyncClient) -> None:
    reply = await ok(client, chat(model="reason/best-of-n:4"))
    assert reply["choices"][0]["message"]["content"] == "so \\boxed{42}"
    told = reply["reason"]
    assert (told["answer"], told["strategy"], told["stopped_by"]) == ("42", "best-of-n", "done")
    assert len(told["candidates"]) == 4
    assert reply["usage"]["completion_tokens"] == told["usage"]["policy_tokens"]


@pytest.mark.parametrize("model", ["reason", "scripted"])
async def test_a_search_by_the_body(model: str) -> None:
    async with client_of(make_service(strategy="best-of-n", fields={"num_samples": 2})) as client:
        asked = {"strategy": "best-of-n", "num_samples": 3, "budget": {"policy_tokens": 500}}
        if model == "reason":
            del asked["strategy"]
        reply = await ok(client, chat(model=model, reason=asked, temperature=0.5))
        assert len(reply["reason"]["candidates"]) == 3
        assert len((await ok(client, chat(model="reason")))["reason"]["candidates"]) == 2


async def test_a_budget_ends_a_search(client: httpx.AsyncClient) -> None:
    reply = await ok(
        client, chat(model="reason/best-of-n:64", reason={"budget": {"policy_tokens": 60}, "max_tokens": 20})
    )
    assert reply["reason"]["stopped_by"] == "policy_tokens"
    assert reply["usage"]["completion_tokens"] <= 60


async def test_a_search_whose_solution_is_cut_off_says_so() -> None:
    text = "so \\boxed{42} it is"
    async with client_of(make_service(ScriptedEngine([text]))) as client:
        for limit, end, answer in (
            (8, "length", None),
            (len("so \\boxed{42} "), "length", "42"),
            (len(text), "stop", "42"),
        ):
            asked = chat(model="reason/best-of-n:2", max_tokens=limit)
            reply = await ok(client, asked)
            (choice,) = reply["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (text[:limit], end)
            assert (reply["reason"]["answer"], reply["reason"]["stopped_by"]) == (answer, "done")
            last = events(await client.post(CHAT, json=asked | {"stream": True}))[-1]
            assert last["choices"][0]["finish_reason"] == end


async def test_a_solution_that_ended_is_not_cut_off_by_the_others() -> None:
    texts = ["so \\boxed{42}", "a long way round"]
    async with client_of(make_service(ScriptedEngine(texts))) as client:
        reply = await ok(client, chat(model="reason/best-of-n:2", max_tokens=len(texts[0])))
        assert reply["choices"][0]["finish_reason"] == "stop"


async def test_a_search_is_streamed_with_its_progress() -> None:
    async with client_of(make_service(ScriptedEngine(["so \\boxed{42}"], delay=0.002))) as client:
        chunks = events(await client.post(CHAT, json=chat(model="reason/best-of-n:6", stream=True)))
        alone = events(await client.post(CHAT, json=chat(model="reason/best-of-n:1", stream=True)))
    assert said(alone, name="reasoning_content") == "1 step, 1 solution, 13 tokens; so far 42 (1 of 1)\n"
    lines = said(chunks, name="reasoning_content").splitlines()
    assert lines
    assert lines[-1].endswith("of 6)")
    assert "so far 42" in lines[-1]
    assert said(chunks) == "so \\boxed{42}"
    assert chunks[-1]["reason"]["answer"] == "42"


async def test_the_instruction_is_added_once() -> None:
    seen: list[str] = []

    def script(prefix: str) -> list[str]:
        seen.append(prefix)
        return ["\\boxed{1}"]

    async with client_of(make_service(ScriptedEngine(script))) as client:
        await ok(client, chat("2 - 1?", model="reason/best-of-n:1"))
        await ok(client, chat("2 - 1?", model="reason/best-of-n:1", reason={"instruct": False}))
        turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "2 - 1? in \\boxed{}"}]
        await ok(client, {"model": "reason/best-of-n:1", "messages": turns})
    assert seen[0].endswith("within \\boxed{}.<assistant>")
    assert seen[1] == "<user>2 - 1?<assistant>"
    assert seen[2] == "<system>s<user>2 - 1? in \\boxed{}<assistant>"


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"logit_bias": {"5": 1}}, "logit_bias: is not supported"),
        ({"tool_choice": "required"}, "about functions that are among the tools"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, '"auto", "none", "required" or a function'),
        ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "only a function can be chosen"),
        ({"tools": [TOOL], "tool_choice": {"type": "function"}}, "tool_choice.function must be given"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "are among the tools"),
        ({"reasoning_effort": "high"}, "cannot be set here"),
        ({"made_up": 1}, "made_up: this server does not know"),
        ({"temperature": 3}, "from 0 to 2, got 3"),
        ({"temperature": "hot"}, "must be a number"),
        ({"n": True}, "must be a whole number"),
        ({"n": 10**30}, "a number with many digits"),
        ({"stop": ["a"] * 5}, "at most 4"),
        ({"stop": ""}, "1 to 1000 letters"),
        ({"top_logprobs": 3}, "logprobs is not true"),
        ({"seed": 1.5}, "whole number"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, r"messages[0].role must be one of"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no images"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}, "not the assistant's"),
        ({"max_tokens": 10**9}, "at most 65536"),
        ({"max_tokens": 0}, "max_tokens must be a whole number of at least 1, got 0"),
        ({"max_tokens": 1 << 70}, "from 1 to 9223372036854775808, got a number with many digits"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "left out where max_completion_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream is not true"),
        ({"tools": [TOOL, TOOL]}, "different names"),
        ({"tools": [TOOL], "response_format": {"type": "json_object"}}, "no room for tool calls"),
        ({"reason": {"num_samples": 3}}, "does not search"),
        ({"reason": {"strategy": "beem"}}, "Did you mean 'beam'"),
        ({"reason": {"strategy": "best-of-n", "width": 3}}, "unknown field of best-of-n 'width'"),
        ({"reason": {"strategy": "best-of-n", "num_samples": 10**7}}, "must be from"),
        ({"reason": {"strategy": "best-of-n", "num_samples": [1]}}, "must be text, a number"),
        ({"reason": {"strategy": "beam", "verifier": "prm:/etc/passwd"}}, "must be allowed by the server"),
        ({"reason": {"strategy": "auto", "table": "calibration"}}, "must be allowed by the server"),
        ({"reason": {"strategy": "beam", "budget": {"policy_tokens": 10**6}}}, "at most 65536"),
        ({"reason": {"budget": {"second": 3}}}, "(there are policy_tokens, kv_tokens, calls, seconds)"),
        ({"reason": {"strategy": "merge", "inner": 5}}, "must be a strategy's name"),
        ({"reason": {"strategy": "beam"}, "n": 2}, "n cannot be honoured"),
        ({"reason": {"strategy": "beam"}, "logprobs": True}, "logprobs cannot be honoured"),
        ({"reason": {"strategy": "beam"}, "tools": [TOOL]}, "tools cannot be honoured"),
        ({"reason": {"strategy": "beam"}, "stop": "x"}, "stop cannot be honoured"),
    ],
)
async def test_what_cannot_be_honoured(client: httpx.AsyncClient, fields: dict[str, Any], message: str) -> None:
    assert message in await refused(client, chat() | fields)


async def test_a_format_without_its_extra(tiny: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    async with client_of(make_service(tiny)) as client:
        for asked in ({"response_format": {"type": "json_object"}}, {"tools": [TOOL], "tool_choice": "required"}):
            message = await refused(client, chat(model="tiny", **asked))
            assert "pip install 'reason-toolkit[grammar]'" in message


async def test_another_server_holds_replies_to_a_format_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it takes is needed there, not here."""
    monkeypatch.setitem(sys.modules, "llguidance", None)
    there = FakeServer(["{}"], kind="openai", completions=False)
    with served_there(there.app) as address, contextlib.closing(RemoteEngine(address, backoff=0.01)) as engine:
        async with client_of(make_service(engine)) as client:
            reply = await ok(client, chat(model=engine.name, response_format={"type": "json_object"}))
    assert reply["choices"][0]["message"]["content"] == "{}"
    assert there.asked()[-1]["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_a_reply_in_a_format(tiny: LocalEngine) -> None:
    pytest.importorskip("llguidance")
    schema = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
    asked = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    async with client_of(make_service(tiny)) as client:
        reply = await ok(client, chat(model="tiny", response_format=asked, max_tokens=200, temperature=0))
        broken = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "wizard"}}}
        await refused(client, chat(model="tiny", response_format=broken))
    assert json.loads(reply["choices"][0]["message"]["content"])["a"] in (1, 2)


async def test_a_response_repeats_its_format(tiny: LocalEngine) -> None:
    pytest.importorskip("llguidance")
    asked = {"type": "json_schema", "name": "n", "schema": {"type": "object", "additionalProperties": False}}
    body = {"model": "tiny", "input": "x", "max_output_tokens": 40}
    async with client_of(make_service(tiny)) as client:
        for form in ({"type": "text"}, asked):
            reply = await ok(client, body | {"text": {"format": form}}, "/v1/responses")
            assert reply["text"]["format"] == form
        assert (await ok(client, body, "/v1/responses"))["text"]["format"] == {"type": "text"}


async def test_harmless_fields(client: httpx.AsyncClient) -> None:
    await ok(client, chat(user="me", store=True, metadata={"a": "b"}, logit_bias={}, n=None, service_tier="auto"))


async def test_the_field_that_is_wrong_is_named_in_full(client: httpx.AsyncClient) -> None:
    for budget in ({"seconds": 1e6}, {"seconds": -1}):
        reply = await client.post(CHAT, json=chat(model="reason", reason={"budget": budget}))
        assert reply.json()["error"]["param"] == "reason.budget.seconds"


@pytest.mark.parametrize("model", ["gpt-9", "reason/", "reason/beem", "reason/best-of-n:x", "reason/best-of-n:0", ""])
async def test_unknown_models(client: httpx.AsyncClient, model: str) -> None:
    await refused(client, chat(model=model), status=404)
    reply = await client.get(f"/v1/models/{model or 'none'}")
    assert reply.status_code == 404


async def test_models(client: httpx.AsyncClient) -> None:
    names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert names[:2] == ["scripted", "reason"]
    assert "reason/ets" in names
    assert (await client.get("/v1/models/reason/ets:32")).json()["id"] == "reason/ets:32"


async def test_aliases() -> None:
    service = make_service()
    service.add_alias("gpt-4o")
    service.add_alias("o3=reason/best-of-n:2")
    async with client_of(service) as client:
        plain = await ok(client, chat(model="gpt-4o"))
        assert (plain["model"], "strategy" in plain["reason"]) == ("gpt-4o", False)
        assert len((await ok(client, chat(model="o3")))["reason"]["candidates"]) == 2
        names = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
        assert names[:4] == ["scripted", "gpt-4o", "o3", "reason"]
        one = (await client.get("/v1/models/gpt-4o")).json()
        assert (one["id"], one["root"]) == ("gpt-4o", "scripted")
        await refused(client, chat(model="gpt-4"), status=404)


@pytest.mark.parametrize("alias", ["", "=scripted", "scripted", "reason/ets=scripted", "a=b", "a=reason/beem", "taken"])
def test_aliases_that_cannot_be(alias: str) -> None:
    service = make_service()
    service.add_alias("taken")
    with pytest.raises(UsageError, match="alias"):
        service.add_alias(alias)


async def test_auto_says_what_it_chose(client: httpx.AsyncClient) -> None:
    told = (await ok(client, chat(model="reason/auto", reason={"budget_tokens": 500})))["reason"]
    assert told["strategy"] == "auto"
    assert told["chosen"].partition("(")[0] in STRATEGIES
    assert (await ok(client, chat(model="reason/best-of-n:1")))["reason"]["chosen"] is None


async def test_an_engines_failure_has_no_trace() -> None:
    def script(prefix: str) -> list[str]:
        raise ZeroDivisionError("secret")

    async with client_of(make_service(ScriptedEngine(script))) as client:
        for model in ("scripted", "reason/best-of-n:2"):
            message = await refused(client, chat(model=model), status=500)
            assert "secret" not in message
            assert "log has it as" in message
        reply = await client.post(CHAT, json=chat(stream=True))
        assert reply.status_code == 200
        assert '"code":"internal_error"' in reply.text
        assert "[DONE]" not in reply.text

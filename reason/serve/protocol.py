"""What a request asks for, whichever route it came by: checked, with nothing left out.

What is not understood, or cannot be honoured exactly, is refused with a message that says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reason.serve.failures import bad_request
from reason.serve.functions import Offer, read_tools
from reason.serve.reading import LARGEST, Fields
from reason.types import Budget, Message, Path, Sampling, ToolMessage

__all__ = ["HARMLESS", "Ask", "SearchAsk", "read_chat", "read_completion", "read_format", "read_search"]

MAX_SAMPLES = 128
MAX_STOPS = 4
MAX_TOP_LOGPROBS = 20

HARMLESS = ("user", "store", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention")
"""Fields that say something about the request and nothing about the reply."""

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchAsk:
    """What ``extra_body={"reason": {...}}`` says.

    Args:
        strategy: its name; None is the one that the model's name says.
        fields: the strategy's.
        budget: as asked for; the server's limits come on top.
        instruct: whether the instruction to reason and to box the answer is added to the last message.
    """

    strategy: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    budget: Budget = field(default_factory=Budget)
    instruct: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request.

    Args:
        model: as the client wrote it.
        messages: a conversation; or ``prompts``.
        prompts: texts or token ids to go on from.
        n: samples of each.
        max_tokens: limit of a sample; None is what there is room for.
        sampling: with what was asked for; ``given`` names the fields that were.
        given: fields of the body that only the plain model can honour, or that a strategy has under the same name.
        offer: functions that may be called.
        search: None where the body says nothing of searching.
        stream: whether the reply comes in pieces; ``stream_usage`` has its cost at the end.
        text_format: what was said of the reply's format, for /v1/responses to repeat.
        top_logprobs: see OpenAI's; ``sampling.logprobs`` is the same.
    """

    model: str
    messages: tuple[Message, ...] = ()
    prompts: tuple[str | Path, ...] = ()
    n: int = 1
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    given: Mapping[str, Any] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    seed: int | None = None
    offer: Offer = field(default_factory=Offer)
    search: SearchAsk | None = None
    stream: bool = False
    stream_usage: bool = False
    text_format: Mapping[str, Any] = field(default_factory=dict)


def read_chat(body: Fields) -> Ask:
    """A body of /v1/chat/completions.

    Raises:
        ApiError: it is not one, or asks for what cannot be done.
    """
    given: dict[str, Any] = {}
    common = _common(body, given)
    wants_logprobs = body.flag("logprobs") or False
    top = body.integer("top_logprobs", 0, MAX_TOP_LOGPROBS)
    if top is not None and not wants_logprobs:
        body.wrong("top_logprobs", "left out where logprobs is not true")
    limits = [body.integer(name, 1) for name in ("max_completion_tokens", "max_tokens")]
    if None not in limits and limits[0] != limits[1]:
        body.wrong("max_tokens", "left out where max_completion_tokens is given")
    max_tokens = limits[0] if limits[0] is not None else limits[1]
    if max_tokens is not None:
        given["max_tokens"] = max_tokens
    if wants_logprobs:
        given["logprobs"] = True
    offer = read_tools(body)
    schema = read_format(body.object("response_format"))
    if schema is not None:
        given["response_format"] = True
        if offer.tools:
            body.unable("response_format", "a reply in a format has no room for tool calls; leave out the tools")
    if offer.tools:
        given["tools"] = True
    for name in ("functions", "function_call"):
        body.only(name, why="is of an older API; use tools and tool_choice")
    body.only("modalities", ["text"], why="only text comes out")
    body.only("logit_bias", {}, why="is not supported")
    body.only("reasoning_effort", why="cannot be set here; say how to search, or name a strategy as the model")
    body.only("service_tier", "auto", "default", why="there is one tier: auto")
    body.only("verbosity", "medium", why="cannot be set here; say so in a message")
    body.drop(*HARMLESS)
    messages = _messages(body)
    body.end()
    logprobs = (top or 0) if wants_logprobs else None
    sampling = Sampling(**common.pop("sampling"), logprobs=logprobs, json_schema=schema or offer.forced)
    return Ask(
        messages=messages,
        max_tokens=max_tokens,
        sampling=sampling,
        given=given,
        offer=offer,
        **common,
    )


def read_completion(body: Fields) -> Ask:
    """A body of /v1/completions.

    Raises:
        ApiError: it is not one, or asks for what cannot be done.
    """
    given: dict[str, Any] = {}
    common = _common(body, given)
    max_tokens = body.integer("max_tokens", 1)
    if max_tokens is not None:
        given["max_tokens"] = max_tokens
    logprobs = body.integer("logprobs", 0, MAX_TOP_LOGPROBS)
    if logprobs is not None:
        given["logprobs"] = True
    best_of = body.integer("best_of", 1, MAX_SAMPLES)
    if best_of not in (None, common["n"]):
        body.unable("best_of", "samples are not ranked here; use the model reason/best-of-n, or best_of equal to n")
    schema = read_format(body.object("response_format"))  # as vLLM has it, and we ask other servers
    if schema is not None:
        given["response_format"] = True
    body.only("echo", False, why="the prompt is not repeated here")
    body.only("suffix", "", why="text cannot be inserted before a suffix here")
    body.only("logit_bias", {}, why="is not supported")
    body.drop(*HARMLESS)
    prompts = _prompts(body)
    if len(prompts) * common["n"] > MAX_SAMPLES:
        body.wrong("n", f"such that prompts times n is at most {MAX_SAMPLES}", common["n"])
    body.end()
    sampling = Sampling(**common.pop("sampling"), logprobs=logprobs, json_schema=schema)
    return Ask(prompts=prompts, max_tokens=max_tokens, sampling=sampling, given=given, **common)


def _common(body: Fields, given: dict[str, Any]) -> dict[str, Any]:
    """What both have."""
    sampling: dict[str, Any] = {"temperature": 1.0}  # OpenAI's default
    ranges = {
        "temperature": (0.0, 2.0),
        "top_p": (0.0, 1.0),
        "presence_penalty": (-2.0, 2.0),
        "frequency_penalty": (-2.0, 2.0),
    }
    for name, (low, high) in ranges.items():
        value = body.number(name, low, high)
        if value is None:
            continue
        if name == "top_p" and value == 0.0:
            body.wrong(name, "more than 0", value)
        sampling[name] = value
        if name in ("temperature", "top_p") or value:
            given[name] = value
    n = body.integer("n", 1, MAX_SAMPLES)
    if n is not None and n > 1:
        given["n"] = n
    stop = _stop(body)
    if stop:
        given["stop"] = stop
    stream = body.flag("stream") or False
    usage = False
    options = body.object("stream_options")
    if options is not None:
        if not stream:
            body.wrong("stream_options", "left out where stream is not true")
        usage = options.flag("include_usage") or False
        options.only("include_obfuscation", False, True, why="must be true or false")
        options.end()
    return {
        "model": body.needed_text("model"),
        "n": n or 1,
        "stop": stop,
        "seed": body.integer("seed", -LARGEST, LARGEST - 1),
        "search": read_search(body.object("reason")),
        "stream": stream,
        "stream_usage": usage,
        "sampling": sampling,
    }


def _stop(body: Fields) -> tuple[str, ...]:
    value = body.any("stop")
    texts = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or len(texts) > MAX_STOPS:
        body.wrong("stop", f"a string or a list of at most {MAX_STOPS}", value)
    if any(not text or len(text) > 1000 for text in texts):
        body.wrong("stop", "made of strings of 1 to 1000 letters")
    return tuple(texts)


def read_search(asked: Fields | None) -> SearchAsk | None:
    """The ``reason`` field: ``strategy``, ``budget``, ``instruct``, and the strategy's own fields."""
    if asked is None:
        return None
    strategy = asked.text("strategy")
    instruct = asked.flag("instruct")
    limits = asked.object("budget")
    budget = Budget()
    if limits is not None:
        whole = {name: limits.integer(name, 1) for name in ("policy_tokens", "kv_tokens", "calls")}
        budget = Budget(seconds=limits.number("seconds", 1e-3, 1e9), **whole)
        limits.end()
    fields = asked.rest()
    for name, value in fields.items():
        if not isinstance(value, (str, int, float, bool)):
            bad_name = f"reason.{name[:100]}"
            raise bad_request(f"{bad_name} must be text, a number, true or false", param=bad_name)
    return SearchAsk(strategy=strategy, fields=fields, budget=budget, instruct=instruct)


# -- messages ----------------------------------------------------------------------------------------------------------


def _messages(body: Fields) -> tuple[Message, ...]:
    given = body.list("messages")
    if not given:
        body.wrong("messages", "a list of at least one message")
    return tuple(_message(each, f"messages[{i}]") for i, each in enumerate(given))


def _message(given: Any, where: str) -> Message:
    if not isinstance(given, dict):
        raise bad_request(f"{where} must be an object", param=where)
    fields = Fields(given, f"{where}.")
    role = fields.choice("role", _ROLES)
    if role is None:
        fields.wrong("role", f"given, one of {', '.join(_ROLES)}")
    calls = fields.list("tool_calls")
    content = read_content(fields, "content")
    if calls and role != "assistant":
        fields.wrong("tool_calls", "left out of messages that are not the assistant's")
    if content is None:
        if role != "assistant" or not calls:
            fields.wrong("content", "given, a string or a list of text parts")
        content = ""
    message = ToolMessage(role="system" if role == "developer" else role, content=content)
    if calls:
        message["tool_calls"] = [_past_call(each, f"{where}.tool_calls[{i}]") for i, each in enumerate(calls)]
    if role == "tool":
        message["tool_call_id"] = fields.needed_text("tool_call_id")
    name = fields.text("name")
    if name is not None:
        message["name"] = name
    for refused in ("audio", "function_call"):
        fields.only(refused, why="is not supported")
    fields.drop("refusal", "annotations", "reasoning_content", "reasoning", "reason")  # as replies have them
    fields.end()
    return message


def read_content(fields: Fields, name: str) -> str | None:
    """Text, or a list of parts that are text."""
    value = fields.any(name)
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        fields.wrong(name, "a string or a list of text parts", value)
    texts = []
    for part in value:
        if not isinstance(part, dict) or part.get("type") not in ("text", "input_text", "output_text", "refusal"):
            fields.unable(name, "only text parts are understood; no images, audio or files")
        text = part.get("refusal" if part["type"] == "refusal" else "text")
        if not isinstance(text, str):
            fields.wrong(name, "made of parts with a text")
        texts.append(text)
    return "".join(texts)


def _past_call(given: Any, where: str) -> dict[str, Any]:
    """A call that the assistant made before."""
    if not isinstance(given, dict):
        raise bad_request(f"{where} must be an object", param=where)
    fields = Fields(given, f"{where}.")
    called = fields.text("id") or ""
    fields.only("type", "function", why="only functions can be called")
    fields.drop("index")
    function = fields.object("function")
    if function is None:
        fields.wrong("function", "given, an object")
    name, arguments = function.needed_text("name"), function.text("arguments") or "{}"
    function.end()
    fields.end()
    return {"id": called, "type": "function", "function": {"name": name, "arguments": as_arguments(arguments)}}


def as_arguments(text: str) -> Any:
    """A call's arguments as templates want them: an object, or the text where it is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, dict) else text


# -- formats -----------------------------------------------------------------------------------------------------------


def read_format(asked: Fields | None, *, flat: bool = False) -> str | None:
    """The JSON schema that a reply must satisfy, or None.

    Args:
        flat: the schema stands beside its type, as in /v1/responses.
    """
    if asked is None:
        return None
    kind = asked.choice("type", ("text", "json_object", "json_schema"))
    schema: Mapping[str, Any] | None = None
    if kind == "json_object":
        schema = {"type": "object"}
    elif kind == "json_schema":
        told = asked if flat else asked.object("json_schema")
        if told is None:
            asked.wrong("json_schema", "given, an object")
        told.needed_text("name")
        told.text("description")
        told.flag("strict")  # replies always satisfy the schema
        schema = told.raw("schema")
        if schema is None:
            told.wrong("schema", "given, an object")
        told.end()
    elif kind is None:
        asked.wrong("type", "given: text, json_object or json_schema")
    asked.end()
    return None if schema is None else json.dumps(schema)


# -- prompts -----------------------------------------------------------------------------------------------------------


def _prompts(body: Fields) -> tuple[str | Path, ...]:
    given = body.any("prompt")
    if isinstance(given, str) or _is_path(given):
        given = [given]
    if not isinstance(given, list) or not given:
        body.wrong("prompt", "a string, a list of strings, of token ids, or of lists of these", given)
    if len(given) > MAX_SAMPLES:
        body.wrong("prompt", f"a list of at most {MAX_SAMPLES}")
    return tuple(_prompt(body, each) for each in given)


def _prompt(body: Fields, given: Any) -> str | Path:
    if isinstance(given, str) and given:
        return given
    if _is_path(given):
        return tuple(given)
    body.wrong("prompt", "made of texts that are not empty, or of lists of token ids")


def _is_path(given: Any) -> bool:
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and len(given) > 0
        and all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 1 << 31 for token in given)
    )

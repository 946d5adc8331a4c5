"""Calls of the client's functions, read from what the model wrote.

Two ways of writing them are known: Hermes' and Qwen's, each call as JSON between tags, and Llama's, where the whole
reply is JSON. A function that the client did not name, or not to be called in this way, is not called: what looks like
it stays text, and so does what is not quite JSON.

    <tool_call>{"name": "find", "arguments": {"text": "x"}}</tool_call>
    {"name": "find", "parameters": {"text": "x"}}
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Call", "Parsed", "parse_calls", "visible"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_TAGGED = re.compile(f"{_OPEN}(.*?)(?:{_CLOSE}|$)", re.DOTALL)
_PYTHON = "<|python_tag|>"
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)\n?```", re.DOTALL)
_THOUGHT_END = "</think>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call of a function; its arguments are JSON text, as OpenAI's clients expect them."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Parsed:
    """A reply's text without its calls, and those."""

    content: str
    calls: tuple[Call, ...] = ()


def parse_calls(text: str, allows: Callable[[str, Any], bool], *, most: int | None = None) -> Parsed:
    """A whole reply, taken apart.

    Args:
        allows: whether a function of this name may be called with these arguments, an object.
        most: calls after so many are dropped.
    """
    calls: list[Call] = []

    def take(match: re.Match[str]) -> str:
        call = _call(_json(match[1].strip()), allows)
        if call is None:
            return match[0]
        calls.append(call)
        return ""

    content = _TAGGED.sub(take, text)
    if not calls:
        thought, end, body = text.rpartition(_THOUGHT_END)
        calls = _bare(body, allows)
        content = thought + end if calls else text
    return Parsed(content=content.rstrip() if calls else content, calls=tuple(calls[:most]))


def visible(text: str) -> str:
    """How much of an unfinished reply is surely text: what may be the beginning of a call is kept back, and the space
    before it."""
    place = text.find(_OPEN)
    if place < 0:
        place = next((len(text) - k for k in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:k])), len(text))
    shown = text[:place]
    body = shown.rpartition(_THOUGHT_END)[2].lstrip()
    if body[:1] in ("{", "[") or _PYTHON.startswith(body[: len(_PYTHON)]) or "```".startswith(body[:3]):
        shown = shown[: len(shown) - len(body)]
    return shown.rstrip()


def _bare(body: str, allows: Callable[[str, Any], bool]) -> list[Call]:
    """The calls of a reply that is nothing else."""
    body = body.strip().removeprefix(_PYTHON).strip()
    if fenced := _FENCED.fullmatch(body):
        body = fenced[1].strip()
    decoder, calls, place = json.JSONDecoder(), [], 0
    while place < len(body):
        try:
            value, place = decoder.raw_decode(body, place)
        except (ValueError, RecursionError):
            return []
        for each in value if isinstance(value, list) else [value]:
            call = _call(each, allows)
            if call is None:
                return []
            calls.append(call)
        while place < len(body) and body[place] in " \t\r\n;":
            place += 1
    return calls


def _call(value: Any, allows: Callable[[str, Any], bool]) -> Call | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    told = value.get("arguments", value.get("parameters", {}))
    arguments = _json(told) if isinstance(told, str) else told
    if not isinstance(arguments, dict) or not allows(value["name"], arguments):
        return None
    return Call(name=value["name"], arguments=json.dumps(arguments, ensure_ascii=False))


def _json(text: str) -> Any:
    """None where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None

"""Requests that no client should make, as the bytes that go over the wire: the fuel of ``test_fuzz``."""

from __future__ import annotations

import copy
import gzip
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["BODIES", "requests"]

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
JSON = "application/json"

_SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
_FUNCTION = {"name": "find", "description": "Finds.", "parameters": _SCHEMA, "strict": False}
_CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": '{"text": "x"}'}}
_SEARCH = {"strategy": "best-of-n", "num_samples": 2, "instruct": True, "budget": {"policy_tokens": 100, "calls": 3}}
_SAMPLING = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "user": "me", "stream": False}

BODIES: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        {
            "model": "scripted",
            "messages": [
                {"role": "system", "content": "Be brief.", "name": "s"},
                {"role": "user", "content": [{"type": "text", "text": "look"}]},
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "nothing"},
            ],
            "tools": [{"type": "function", "function": _FUNCTION}],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "n": 2,
            "stop": ["x", "y"],
            "max_completion_tokens": 20,
            "logprobs": True,
            "top_logprobs": 2,
            "presence_penalty": 0.5,
            "frequency_penalty": -0.5,
            **_SAMPLING,
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        {
            "model": "scripted",
            "messages": [{"role": "user", "content": "a"}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA}},
            **_SAMPLING,
        },
        {"model": "reason", "messages": [{"role": "user", "content": "a"}], "reason": _SEARCH, "metadata": {"a": "b"}},
    ],
    COMPLETIONS: [
        {
            "model": "scripted",
            "prompt": ["a", [98, 99]],
            "n": 2,
            "best_of": 2,
            "max_tokens": 9,
            "logprobs": 2,
            "stop": "x",
            "echo": False,
            **_SAMPLING,
        },
        {"model": "reason/beam:4", "prompt": "a", "reason": {"budget": {"seconds": 2.5, "policy_tokens": 60}}},
    ],
    RESPONSES: [
        {
            "model": "scripted",
            "instructions": "Be brief.",
            "input": [
                {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "look"}]},
                {"type": "function_call", "call_id": "c", "name": "find", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "none"},
            ],
            "tools": [{"type": "function", **_FUNCTION}],
            "max_output_tokens": 20,
            "text": {"format": {"type": "text"}},
            **_SAMPLING,
        },
    ],
}
"""Bodies that are as they should be, with about every field that there is."""

_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2**31, -(2**63), 2**64, 10**60, 0.5, -0.0, 1e308, 5e-324),
    *("", " ", "x", "\0", "é\u202e\uffff", "../../etc/passwd", "{{ 7 * 7 }}", "null", "reason/", "𝄞" * 50, "ab" * 5000),
    *([], {}, [[]], [None], [1, "a"], {"": ""}, {"a": {"b": []}}, [{}] * 200, {"type": "text"}, {"type": 5}),
]
_LITERALS: tuple[str, ...] = (
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "9" * 3000,
    "9" * 6000,
    "0x10",
    "01",
    "1.",
    ".5",
    "'a'",
)
_LITERALS += ('"\\ud800"', '"\\udc00\\ud800"', '"\\u12"', '"\\x41"', '"a\nb"', "undefined", "{,}", "[1,]", "/* */ 1")


def requests(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """So many requests, each with the name of what is wrong with it. Equal seeds give equal requests."""
    draw = random.Random(seed)
    kinds = [kind for kind in _KINDS for _ in range(_KINDS[kind])]
    for _ in range(count):
        kind = draw.choice(kinds)
        yield kind.__name__.strip("_"), kind(draw)


def _good(draw: random.Random) -> tuple[str, Any]:
    path = draw.choice(list(BODIES))
    return path, copy.deepcopy(draw.choice(BODIES[path]))


def _request(path: str, body: bytes, *lines: str, kind: str = JSON, method: str = "POST") -> bytes:
    """One with a length that is true."""
    return _raw(path, body, f"Content-Type: {kind}", f"Content-Length: {len(body)}", *lines, method=method)


def _raw(path: str, body: bytes, *lines: str, method: str = "POST") -> bytes:
    head = (f"{method} {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *lines, "", "")
    return "\r\n".join(head).encode("utf-8", "surrogateescape") + body


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every field and item within, and the whole."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for name, each in inner for place in _places(each, (*path, name)))]


def _put(body: Any, place: tuple[Any, ...], value: Any) -> Any:
    if not place:
        return value
    inside = body
    for name in place[:-1]:
        inside = inside[name]
    inside[place[-1]] = value
    return body


_MARK = "\ue000"


def _with_text(draw: random.Random, text: str | bytes) -> bytes:
    """A body with a piece of text that is no value anywhere in it, as a request."""
    path, body = _good(draw)
    whole = json.dumps(_put(body, draw.choice(_places(body)), _MARK), ensure_ascii=False).encode()
    piece = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return _request(path, whole.replace(f'"{_MARK}"'.encode(), piece))


# -- what is wrong -----------------------------------------------------------------------------------------------------


def _wrong_value(draw: random.Random) -> bytes:
    path, body = _good(draw)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        body = _put(body, draw.choice(_places(body)), copy.deepcopy(draw.choice(_VALUES)))
    return _request(path, json.dumps(body).encode())


def _wrong_field(draw: random.Random) -> bytes:
    path, body = _good(draw)
    inside = [place for place in _places(body) if place and isinstance(place[-1], str)]
    *outer, name = draw.choice(inside)
    holder = body
    for step in outer:
        holder = holder[step]
    value = holder.pop(name) if draw.random() < 0.7 else draw.choice(_VALUES)
    if draw.random() < 0.6:
        holder[draw.choice((name.upper(), name + "\0", "", "__proto__", "x" * 3000, "тип", "logit_bias", "echo"))] = (
            value
        )
    return _request(path, json.dumps(body).encode())


def _wrong_literal(draw: random.Random) -> bytes:
    return _with_text(draw, draw.choice(_LITERALS))


def _deep(draw: random.Random) -> bytes:
    depth = draw.choice((40, 63, 64, 65, 1000, 50_000))
    opening, closing = draw.choice((("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")))
    return _with_text(draw, opening * depth + "1" + closing * draw.choice((depth, depth, 0)))


def _huge(draw: random.Random) -> bytes:
    length = draw.choice((10_000, 200_000, 900_000, 1_100_000, 2_000_000))
    return _with_text(draw, '"' + draw.choice("a\\é ").replace("\\", "\\u0041") * (length // 6) + '"')


def _not_utf8(draw: random.Random) -> bytes:
    return _with_text(
        draw, b'"' + draw.choice((b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf8\x88", b"\xe2\x82")) + b'"'
    )


def _recoded(draw: random.Random) -> bytes:
    path, body = _good(draw)
    code = draw.choice(("utf-16", "utf-32", "utf-8-sig", "utf-7", "cp500"))
    return _request(path, json.dumps(body).encode(code), kind=draw.choice((JSON, f"{JSON}; charset={code}")))


def _twice(draw: random.Random) -> bytes:
    path, body = _good(draw)
    name = draw.choice(list(body))
    text = json.dumps(body)
    return _request(path, f"{text[:-1]}, {json.dumps(name)}: {json.dumps(draw.choice(_VALUES))}}}".encode())


def _truncated(draw: random.Random) -> bytes:
    path, body = _good(draw)
    text = json.dumps(body).encode()
    return _request(path, text[: draw.randrange(len(text))])


def _flipped(draw: random.Random) -> bytes:
    path, body = _good(draw)
    text = bytearray(json.dumps(body).encode())
    for _ in range(draw.choice((1, 1, 3, 10))):
        text[draw.randrange(len(text))] = draw.randrange(256)
    return _request(path, bytes(text))


def _noise(draw: random.Random) -> bytes:
    return _request(draw.choice(list(BODIES)), draw.randbytes(draw.choice((1, 10, 1000, 30_000))))


def _wrong_type(draw: random.Random) -> bytes:
    path, body = _good(draw)
    kind = draw.choice(
        ("text/plain", "", "application/x-www-form-urlencoded", "multipart/form-data", "*/*", "x" * 5000)
    )
    return _request(path, json.dumps(body).encode(), kind=kind)


def _compressed(draw: random.Random) -> bytes:
    path, body = _good(draw)
    text = json.dumps(body).encode()
    return _request(path, draw.choice((gzip.compress(text), text)), f"Content-Encoding: {draw.choice(('gzip', 'br'))}")


def _wrong_length(draw: random.Random) -> bytes:
    path, body = _good(draw)
    text = json.dumps(body).encode()
    length = draw.choice(("-1", "0", "+5", "1e3", "0x10", "", "9" * 30, str(len(text) + 9), str(len(text) - 9), "٣"))
    lines = [f"Content-Type: {JSON}", f"Content-Length: {length}"]
    if draw.random() < 0.3:
        lines.append(f"Content-Length: {len(text)}")
    return _raw(path, text, *lines)


def _wrong_chunks(draw: random.Random) -> bytes:
    path, body = _good(draw)
    text = json.dumps(body).encode()
    size = f"{len(text):x}".encode()
    body_of_chunks = draw.choice(
        (
            size + b"\r\n" + text + b"\r\n0\r\n\r\n",
            size + b"\r\n" + text,
            b"-5\r\n" + text + b"\r\n0\r\n\r\n",
            b"f" * 40 + b"\r\n" + text,
            b"zz\r\n" + text,
            b"5\r\n" + text,
            size + b";" + b"x" * 20_000 + b"\r\n" + text + b"\r\n0\r\n\r\n",
            b"1\r\n{\r\n" * 3000 + b"0\r\n\r\n",
            b"0\r\nA: b\r\n\r\n",
            b"\r\n\r\n\r\n",
        )
    )
    lines = [f"Content-Type: {JSON}", f"Transfer-Encoding: {draw.choice(('chunked', 'chunked', 'gzip, chunked', 'x'))}"]
    if draw.random() < 0.3:
        lines.append(f"Content-Length: {len(text)}")
    return _raw(path, body_of_chunks, *lines)


def _wrong_head(draw: random.Random) -> bytes:
    path, body = _good(draw)
    text = json.dumps(body).encode()
    method = draw.choice(("GET", "PUT", "post", "POST", "POST\t", "X" * 500, "OPTIONS", "HEAD", "CONNECT"))
    path = draw.choice(
        (path, path + "/", "//", "/v1/../health", "/%00", "/v1/models/%ff%fe", "*", "http://[", "/" * 9000)
    )
    line = draw.choice(
        ("Host: 127.0.0.1", "Accept: \xff", "A" * 40_000 + ": b", "no colon", " folded", "Expect: 100-continue")
    )
    return _request(path, text, line, method=method)


_KINDS: dict[Callable[[random.Random], bytes], int] = {
    _wrong_value: 30,
    _wrong_field: 12,
    _wrong_literal: 10,
    _deep: 4,
    _huge: 2,
    _not_utf8: 4,
    _recoded: 3,
    _twice: 4,
    _truncated: 8,
    _flipped: 8,
    _noise: 3,
    _wrong_type: 3,
    _compressed: 2,
    _wrong_length: 4,
    _wrong_chunks: 6,
    _wrong_head: 5,
}
"""How often each comes."""

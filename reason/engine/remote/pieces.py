"""A codec for models whose tokenizer is not here: a token is a piece of text, and its number spells it.

The number of a piece is its UTF-8 bytes behind a byte 1, read as an integer. So a path is its text whoever wrote it,
in a trace, in another process and for another model, and pieces that end inside a character join again. Roles, ends of
turns, and what a chat says beside its texts (tools, calls of them) have numbers of their own that no text can spell.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from reason.types import Message, Path, Thinking, ToolMessage

__all__ = ["END_OF_TURN", "PieceCodec", "chat_of", "piece", "spelled", "split_evenly"]

_TEXT, _ROLE, _END, _FIELDS = b"\x01", b"\x02", b"\x03", b"\x04"
_FIELDS_BYTES = 256  # in a piece, so that its number can be written down
_PIECES = re.compile(r" ?[^\W\d_]{1,12}|\d{1,3}|\s+|.", re.DOTALL)

END_OF_TURN = int.from_bytes(_END, "big")


class PieceCodec:
    """A ``TextCodec`` of text pieces: words, short numbers, signs. How many there are is near what a tokenizer would
    make of the text, and no more."""

    eos_token_ids: frozenset[int] = frozenset({END_OF_TURN})

    @property
    def thinking(self) -> Thinking | None:
        """None: where a server marks thinking, it takes it out of the text."""
        return None

    def encode(self, text: str) -> Path:
        return tuple(piece(part.encode("utf-8", "surrogatepass")) for part in _PIECES.findall(text))

    def encode_chat(
        self, messages: Sequence[Message], *, continue_final: bool = False, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Path:
        turns = (*_fields({"tools": list(tools)} if tools else {}), *self._turns(messages))
        return turns[:-1] if continue_final and messages else (*turns, _role("assistant"))

    def encode_turn(self, messages: Sequence[Message]) -> Path:
        return (END_OF_TURN, *self._turns(messages), _role("assistant"))

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(spelled, tokens)).decode("utf-8", "replace")

    def _turns(self, messages: Sequence[Message]) -> Path:
        turns: list[int] = []
        for message in messages:
            beside = {name: value for name, value in message.items() if name not in ("role", "content")}
            turns += (_role(message["role"]), *_fields(beside), *self.encode(message["content"]), END_OF_TURN)
        return tuple(turns)


def piece(text: bytes) -> int:
    """The token that spells some UTF-8 bytes, perhaps of half a character."""
    return int.from_bytes(_TEXT + text, "big")


def spelled(token: int) -> bytes:
    """What a token spells; nothing, for a role or the end of a turn."""
    kind, text = _parts(token)
    return text if kind == _TEXT else b""


class Chat(NamedTuple):
    """What a path is to a chat API: messages, and the functions that may be called."""

    messages: list[ToolMessage]
    tools: list[dict[str, Any]]


def chat_of(path: Sequence[int]) -> Chat:
    """The chat that a path is; the last message is the one to be gone on with, and is empty if it is yet to begin. Text
    before any role is the user's."""
    turns: list[tuple[str, bytearray, bytearray]] = [("", bytearray(), bytearray())]  # role, fields, content
    for token in path:
        kind, data = _parts(token)
        if kind == _ROLE:
            turns.append((data.decode("utf-8", "replace"), bytearray(), bytearray()))
        elif kind == _FIELDS:
            turns[-1][1].extend(data)
        elif kind == _TEXT:
            if len(turns) == 1:
                turns.append(("user", bytearray(), bytearray()))
            turns[-1][2].extend(data)
    messages: list[Any] = [
        {"role": role, "content": content.decode("utf-8", "replace"), **json.loads(fields or b"{}")}
        for role, fields, content in turns[1:]
    ]
    return Chat(messages, json.loads(turns[0][1] or b"{}").get("tools", []))


def split_evenly(text: bytes, count: int) -> list[bytes]:
    """A text in so many pieces of nearly equal length; empty ones at the end if there are not so many bytes."""
    edges = [round(len(text) * i / count) for i in range(count + 1)] if len(text) >= count else None
    if edges is None:
        return [text[i : i + 1] for i in range(count)]
    return [text[first:last] for first, last in itertools.pairwise(edges)]


def _role(name: str) -> int:
    return int.from_bytes(_ROLE + name.encode(), "big")


def _fields(beside: Mapping[str, Any]) -> Path:
    """What stands beside a message's text, or before all messages."""
    data = json.dumps(beside).encode() if beside else b""
    parts = (data[i : i + _FIELDS_BYTES] for i in range(0, len(data), _FIELDS_BYTES))
    return tuple(int.from_bytes(_FIELDS + part, "big") for part in parts)


def _parts(token: int) -> tuple[bytes, bytes]:
    data = token.to_bytes((token.bit_length() + 7) // 8, "big")
    return data[:1], data[1:]

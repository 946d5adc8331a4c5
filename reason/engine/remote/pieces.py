"""A codec for models whose tokenizer is not here: a token is a piece of text, and its number spells it.

The number of a piece is its UTF-8 bytes behind a byte 1, read as an integer. So a path is its text whoever wrote it,
in a trace, in another process and for another model, and pieces that end inside a character join again. Roles, and
ends of turns, have numbers of their own that no text can spell.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from reason.errors import UsageError
from reason.types import Message, Path, Thinking

__all__ = ["END_OF_TURN", "PieceCodec", "messages_of", "piece", "spelled", "split_evenly"]

_TEXT, _ROLE, _END = b"\x01", b"\x02", b"\x03"
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
        """See ``TextCodec``.

        Raises:
            UsageError: there are tools or tool calls, which only the model's chat template knows how to write down.
        """
        if tools or any("tool_calls" in message for message in messages):
            raise UsageError(
                "tools stand in the model's own chat template: give its tokenizer (tokenizer, --tokenizer)"
            )
        turns = self._turns(messages)
        return turns[:-1] if continue_final and messages else (*turns, _role("assistant"))

    def encode_turn(self, messages: Sequence[Message]) -> Path:
        return (END_OF_TURN, *self._turns(messages), _role("assistant"))

    def decode(self, tokens: Sequence[int]) -> str:
        return b"".join(map(spelled, tokens)).decode("utf-8", "replace")

    def _turns(self, messages: Sequence[Message]) -> Path:
        turns: list[int] = []
        for message in messages:
            turns += (_role(message["role"]), *self.encode(message["content"]), END_OF_TURN)
        return tuple(turns)


def piece(text: bytes) -> int:
    """The token that spells some UTF-8 bytes, perhaps of half a character."""
    return int.from_bytes(_TEXT + text, "big")


def spelled(token: int) -> bytes:
    """What a token spells; nothing, for a role or the end of a turn."""
    kind, text = _parts(token)
    return text if kind == _TEXT else b""


def messages_of(path: Sequence[int]) -> list[Message]:
    """The chat that a path is; the last message is the one to be gone on with, and is empty if it is yet to begin. Text
    before any role is the user's."""
    turns: list[tuple[str, list[int]]] = []
    for token in path:
        kind, text = _parts(token)
        if kind == _ROLE:
            turns.append((text.decode("utf-8", "replace"), []))
        elif kind == _TEXT:
            if not turns:
                turns.append(("user", []))
            turns[-1][1].append(token)
    decode = PieceCodec().decode
    return [Message(role=role, content=decode(tokens)) for role, tokens in turns]


def split_evenly(text: bytes, count: int) -> list[bytes]:
    """A text in so many pieces of nearly equal length; empty ones at the end if there are not so many bytes."""
    edges = [round(len(text) * i / count) for i in range(count + 1)] if len(text) >= count else None
    if edges is None:
        return [text[i : i + 1] for i in range(count)]
    return [text[first:last] for first, last in itertools.pairwise(edges)]


def _role(name: str) -> int:
    return int.from_bytes(_ROLE + name.encode(), "big")


def _parts(token: int) -> tuple[bytes, bytes]:
    data = token.to_bytes((token.bit_length() + 7) // 8, "big")
    return data[:1], data[1:]

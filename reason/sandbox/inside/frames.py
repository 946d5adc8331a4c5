"""Messages over a pipe or a socket: four bytes of length, then JSON. Nothing that is received is ever executed."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

__all__ = ["FrameError", "decode", "encode", "header_length", "receive", "send"]

header_length = 4


class FrameError(Exception):
    """What came is no message: too long, cut off, or not JSON."""


def encode(message: Any) -> bytes:
    """A message as bytes."""
    body = json.dumps(message, separators=(",", ":")).encode("ascii")
    return struct.pack(">I", len(body)) + body


def decode(header: bytes, *, limit: int) -> int:
    """The length of the body that follows a header, at most ``limit`` bytes."""
    (length,) = struct.unpack(">I", header)
    if length > limit:
        raise FrameError(f"a message of {length} bytes; at most {limit} are allowed")
    return int(length)


def send(fd: int, message: Any) -> None:
    """Writes one message, blocking."""
    rest = memoryview(encode(message))
    while rest:
        rest = rest[os.write(fd, rest) :]


def receive(fd: int, *, limit: int) -> Any:
    """Reads one message, blocking; None where the other side has closed."""
    header = _read(fd, header_length)
    if header is None:
        return None
    body = _read(fd, decode(header, limit=limit))
    if body is None:
        raise FrameError("cut off")
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        raise FrameError(f"not JSON: {error}") from None


def _read(fd: int, length: int) -> bytes | None:
    parts: list[bytes] = []
    while length:
        part = os.read(fd, min(length, 1 << 20))
        if not part:
            if parts:
                raise FrameError("cut off")
            return None
        parts.append(part)
        length -= len(part)
    return b"".join(parts)

"""Values as plain data, and plain data as values of exactly the built-in types.

The player encodes what the program returned; whatever it sends, the judge decodes to values of built-in types, whose
``==`` nobody has overridden. A subclass of a built-in type (a Counter, a named tuple, a numpy float) becomes that type.
What is no plain data stays in the player, and the judge gets a handle of it.
"""

from __future__ import annotations

import collections
import decimal
import fractions
import math
from collections.abc import Callable
from typing import Any

__all__ = ["NotPlain", "decode", "encode"]

_SMALL = 1 << 53


class NotPlain(Exception):
    """A value that is no plain data, or data that is no value."""


def encode(value: Any, handle: Callable[[Any], Any]) -> Any:
    """A value as JSON; ``handle`` gives the JSON of what is no plain data, or raises NotPlain."""
    if value is None or value is True or value is False:
        return value
    if isinstance(value, int):
        value = int.__int__(value)  # what it is, whatever a subclass says
        return value if -_SMALL < value < _SMALL else ["i", hex(value)]  # linear in the digits, unlike decimal
    if isinstance(value, float):
        value = float.__float__(value)
        return value if math.isfinite(value) else ["f", str(value)]
    if isinstance(value, str):
        return str.__str__(value)
    for tag, kind in _CONTAINERS.items():
        if isinstance(value, kind):
            return [tag, *[encode(item, handle) for item in kind.__iter__(value)]]
    if isinstance(value, dict):
        return ["d", *[[encode(key, handle), encode(item, handle)] for key, item in dict.items(value)]]
    if isinstance(value, (bytes, bytearray)):
        return ["b", bytes(value).hex()]
    if isinstance(value, complex):
        return ["c", value.real.hex(), value.imag.hex()]
    if isinstance(value, range):
        return ["r", *[encode(part, handle) for part in (value.start, value.stop, value.step)]]
    if isinstance(value, fractions.Fraction):
        return ["F", encode(value.numerator, handle), encode(value.denominator, handle)]
    if isinstance(value, decimal.Decimal):
        return ["D", str(value)]
    return handle(value)


def decode(data: Any, handle: Callable[[Any], Any]) -> Any:
    """The value; ``handle`` gives what stands for a handle.

    Raises:
        NotPlain: ``data`` is not what ``encode`` makes.
    """
    try:
        return _decode(data, handle)
    except NotPlain:
        raise
    except Exception as error:
        raise NotPlain(f"{type(error).__name__} in what the program returned") from None


def _decode(data: Any, handle: Callable[[Any], Any]) -> Any:
    if not isinstance(data, list):
        if isinstance(data, dict):
            raise NotPlain("an object of JSON")
        return data
    tag, rest = data[0], data[1:]
    if tag in _CONTAINERS:
        return _CONTAINERS[tag](_decode(item, handle) for item in rest)
    if tag == "d":
        return {_decode(key, handle): _decode(item, handle) for key, item in rest}
    if tag == "i":
        return int(rest[0], 16)
    if tag == "f":
        return float(rest[0])
    if tag == "b":
        return bytes.fromhex(rest[0])
    if tag == "c":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if tag == "r":
        return range(*[_decode(part, handle) for part in rest])
    if tag == "F":
        return fractions.Fraction(_decode(rest[0], handle), _decode(rest[1], handle))
    if tag == "D":
        return decimal.Decimal(rest[0])
    if tag == "o":
        return handle(rest)
    raise NotPlain(f"no value is tagged {tag!r:.20}")


_CONTAINERS: dict[str, Any] = {
    "l": list,
    "t": tuple,
    "s": set,
    "z": frozenset,
    "q": collections.deque,
}

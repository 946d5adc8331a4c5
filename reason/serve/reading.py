"""JSON bodies, read strictly: what two readers could take for two things is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from reason.serve.failures import bad_request

__all__ = ["LARGEST", "MAX_DEPTH", "Fields", "read_object"]

LARGEST = 1 << 63
"""A number that has no other limit."""

MAX_DEPTH = 64
"""Objects and lists may be nested so deep."""


def read_object(body: bytes) -> dict[str, Any]:
    """A request's body.

    Raises:
        ApiError: it is not UTF-8, not JSON, not an object, nested too deeply, names a field twice, or has a number or a
            letter in it that there is not.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise bad_request("the body is not UTF-8 text") from None
    try:
        content = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except RecursionError:
        raise bad_request(f"the body is nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:  # of the parser's, or of int: too many digits
        raise bad_request(f"the body is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise bad_request("the body must be a JSON object")
    _check(content)
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise bad_request(f"{next(name for name in names if names.count(name) > 1)[:100]!r} is given twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise bad_request(f"{constant} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise bad_request(f"the number {text[:40]} is too large")
    return value


def _check(content: Any) -> None:
    """Depth, and letters that are halves of others; without recursion."""
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH):
        inside: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inside += [*value, *value.values()]
            elif isinstance(value, list):
                inside += value
            elif isinstance(value, str) and not _is_text(value):
                raise bad_request("a text has half of a surrogate pair in it")
        if not inside:
            return
        level = inside
    raise bad_request(f"the body is nested more than {MAX_DEPTH} deep")


def _is_text(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Fields:
    """An object whose fields are taken one by one; what nobody took is refused in the end. A null is no value.

    Args:
        content: the object.
        where: its name with a dot behind, for messages; "" for the body.
    """

    def __init__(self, content: Mapping[str, Any], where: str = "") -> None:
        self._left = {name: value for name, value in content.items() if value is not None}
        self._where = where
        self._known: list[str] = []

    def wrong(self, name: str, wanted: str, given: Any = None) -> NoReturn:
        shown = "" if given is None else f", got {_shown(given)}"
        raise bad_request(f"{self._where}{name} must be {wanted}{shown}", param=self._where + name)

    def unable(self, name: str, why: str) -> NoReturn:
        """Refuses what is well-formed and cannot be done."""
        raise bad_request(f"{self._where}{name}: {why}", param=self._where + name)

    def any(self, name: str) -> Any:
        self._known.append(name)
        return self._left.pop(name, None)

    def text(self, name: str) -> str | None:
        value = self.any(name)
        if value is not None and not isinstance(value, str):
            self.wrong(name, "a string", value)
        return value

    def needed_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            self.wrong(name, "given, a string")
        return value

    def flag(self, name: str) -> bool | None:
        value = self.any(name)
        if value is not None and not isinstance(value, bool):
            self.wrong(name, "true or false", value)
        return value

    def integer(self, name: str, low: int, high: int = LARGEST) -> int | None:
        value = self.any(name)
        if value is None:
            return None
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not low <= value <= high:
            too_large = whole and value > high
            span = f"of at least {low}" if high == LARGEST and not too_large else f"from {low} to {high}"
            self.wrong(name, f"a whole number {span}", value)
        return int(value)

    def number(self, name: str, low: float, high: float) -> float | None:
        value = self.any(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            self.wrong(name, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def choice(self, name: str, allowed: tuple[str, ...]) -> str | None:
        value = self.any(name)
        if value is not None and value not in allowed:
            self.wrong(name, f"one of {', '.join(allowed)}", value)
        return None if value is None else str(value)

    def list(self, name: str) -> list[Any] | None:
        value = self.any(name)
        if value is not None and not isinstance(value, list):
            self.wrong(name, "a list", value)
        return value

    def object(self, name: str) -> Fields | None:
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, dict):
            self.wrong(name, "an object", value)
        return Fields(value, f"{self._where}{name}.")

    def raw(self, name: str) -> dict[str, Any] | None:
        """An object as it is."""
        value = self.any(name)
        if value is not None and not isinstance(value, dict):
            self.wrong(name, "an object", value)
        return value

    def drop(self, *names: str) -> None:
        """Takes fields that change nothing here."""
        for name in names:
            self._left.pop(name, None)

    def only(self, name: str, *allowed: Any, why: str) -> None:
        """Takes a field that is honoured by doing nothing, or refuses it."""
        value = self._left.pop(name, None)
        if value is not None and not any(value == each and type(value) is type(each) for each in allowed):
            self.unable(name, why)

    def rest(self) -> dict[str, Any]:
        """Everything that was not taken yet."""
        left, self._left = self._left, {}
        return left

    def end(self) -> None:
        """Refuses what was not taken."""
        if self._left:
            name = next(iter(self._left))
            known = f" (there are {', '.join(self._known)})" if self._where else ""
            self.unable(name[:100], f"this server does not know the field{known}, so it cannot honour it; leave it out")


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 64:
        return "a number with many digits"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

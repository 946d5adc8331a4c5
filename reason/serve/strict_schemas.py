"""Schemas of functions that are strict: a call of one satisfies its schema, or it is not a call.

Known is the part of JSON Schema that OpenAI has for strict functions, without patterns and formats. The rest is refused
when the function is offered, so that nothing is promised and not checked. A check takes a bounded number of steps,
because both the schema and the value are somebody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from reason.serve.failures import bad_request

__all__ = ["check_strict", "satisfies"]

MAX_STEPS = 100_000
"""What takes more steps to check does not satisfy its schema."""

_REST = ("title", "description", "default", "examples", "deprecated", "$comment", "$schema", "$id")  # say nothing
_PLACES = ("properties", "$defs", "definitions")  # hold schemas by name


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and (isinstance(value, int) or value.is_integer())


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "number": _is_number,
    "integer": _is_whole,
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


def _is_type(value: Any) -> bool:
    return all(isinstance(each, str) and each in _TYPES for each in (value if isinstance(value, list) else [value]))


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_reference(value: Any) -> bool:
    return value == "#" or (isinstance(value, str) and value.startswith(("#/$defs/", "#/definitions/")))


_KEYWORDS: Mapping[str, Callable[[Any], bool]] = {
    "type": _is_type,
    "enum": lambda value: isinstance(value, list),
    "const": lambda value: True,
    "anyOf": lambda value: isinstance(value, list),
    "items": lambda value: isinstance(value, dict),
    "required": _is_names,
    "additionalProperties": lambda value: isinstance(value, (bool, dict)),
    "$ref": _is_reference,
    **dict.fromkeys(_PLACES, lambda value: isinstance(value, dict)),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _is_number),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems"), _is_count),
}


def check_strict(schema: Mapping[str, Any], where: str) -> None:
    """Raises ApiError if calls could not be checked against this schema.

    Args:
        where: the schema's name in the request, for the message.
    """
    left = [(where, schema)]
    while left:
        where, place = left.pop()
        if not isinstance(place, dict):
            raise bad_request(f"{where} must be an object", param=where)
        for name, value in place.items():
            if name in _REST:
                continue
            if name not in _KEYWORDS:
                why = "strict calls cannot be held to it here; leave it out, or strict"
                raise bad_request(f"{where}.{name[:100]}: {why}", param=where)
            if not _KEYWORDS[name](value):
                raise bad_request(f"{where}.{name} is not what it must be in a strict schema", param=where)
            if name == "$ref" and _resolve(schema, value) is None:
                raise bad_request(f"{where}.$ref: there is no {value[:100]}", param=where)
        left += [(f"{where}.{name}", part) for name, part in _parts(place)]


def _parts(schema: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas directly within one."""
    for kind in _PLACES:
        yield from ((f"{kind}.{name[:100]}", part) for name, part in schema.get(kind, {}).items())
    yield from (("anyOf", each) for each in schema.get("anyOf", ()))
    for name in ("items", "additionalProperties"):
        if not isinstance(schema.get(name, True), bool):
            yield name, schema[name]


def _resolve(root: Mapping[str, Any], reference: str) -> Mapping[str, Any] | None:
    if reference == "#":
        return root
    _, kind, name = reference.split("/", 2)
    found = root.get(kind, {})
    name = name.replace("~1", "/").replace("~0", "~")
    return found.get(name) if isinstance(found, dict) else None


def satisfies(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value is what a schema that ``check_strict`` has passed asks for."""
    try:
        return _Check(schema).fits(value, schema)
    except (_TooLong, RecursionError):
        return False


class _TooLong(Exception):
    """The check took too many steps."""


class _Check:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._steps = 0

    def fits(self, value: Any, schema: Mapping[str, Any]) -> bool:
        self._steps += 1 + len(schema.get("enum", ())) + len(schema.get("required", ()))
        if self._steps > MAX_STEPS:
            raise _TooLong
        if "$ref" in schema:
            target = _resolve(self._root, schema["$ref"])
            assert target is not None, "references are checked before"
            if not self.fits(value, target):
                return False
        if "anyOf" in schema and not any(self.fits(value, each) for each in schema["anyOf"]):
            return False
        if "enum" in schema and not any(_same(value, each) for each in schema["enum"]):
            return False
        if "const" in schema and not _same(value, schema["const"]):
            return False
        kinds = schema.get("type", list(_TYPES))
        if not any(_TYPES[kind](value) for kind in (kinds if isinstance(kinds, list) else [kinds])):
            return False
        if isinstance(value, dict):
            return self._object_fits(value, schema)
        if isinstance(value, list):
            return _within(len(value), schema, "Items") and all(
                self.fits(each, schema.get("items", {})) for each in value
            )
        if isinstance(value, str):
            return _within(len(value), schema, "Length")
        return not _is_number(value) or _in_range(value, schema)

    def _object_fits(self, value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
        if any(name not in value for name in schema.get("required", ())):
            return False
        known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, each in value.items():
            if name not in known and rest is False:
                return False
            if not self.fits(each, known.get(name, {} if rest is True else rest)):
                return False
        return True


def _same(a: Any, b: Any) -> bool:
    """Equality as JSON has it: true is not 1."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(value, b[name]) for name, value in a.items())
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _within(size: int, schema: Mapping[str, Any], of: str) -> bool:
    return bool(schema.get(f"min{of}", 0) <= size <= schema.get(f"max{of}", size))


def _in_range(value: float, schema: Mapping[str, Any]) -> bool:
    return bool(
        schema.get("minimum", value) <= value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
    )

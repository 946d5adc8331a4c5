"""Strict functions' schemas: what satisfies them, what is refused, and that a check ends."""

from __future__ import annotations

import time
from typing import Any

import pytest

from reason.serve.failures import ApiError
from reason.serve.strict_schemas import check_strict, satisfies

PERSON = {
    "type": "object",
    "title": "Person",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 5},
        "age": {"anyOf": [{"type": "integer", "minimum": 0, "exclusiveMaximum": 150}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"enum": ["a", "b", 1]}, "maxItems": 2},
        "friend": {"$ref": "#/$defs/friend"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"friend": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
}


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({"name": "Ada", "age": 36}, True),
        ({"name": "Ada", "age": 36.0}, True),
        ({"name": "Ada", "age": None, "tags": ["a", 1]}, True),
        ({"name": "Ada", "age": 1, "friend": {"name": "Bob", "age": 2, "friend": None}}, True),
        ({"name": "Ada", "age": 1, "friend": {"name": "Bob"}}, False),
        ({"name": "Ada"}, False),
        ({"name": "", "age": 1}, False),
        ({"name": "Ada", "age": 150}, False),
        ({"name": "Ada", "age": -1}, False),
        ({"name": "Ada", "age": 1.5}, False),
        ({"name": "Ada", "age": True}, False),
        ({"name": "Ada", "age": 1, "tags": ["a", "b", "a"]}, False),
        ({"name": "Ada", "age": 1, "tags": [True]}, False),
        ({"name": "Ada", "age": 1, "height": 2}, False),
        ([], False),
    ],
)
def test_what_satisfies_a_schema(value: Any, fits: bool) -> None:
    check_strict(PERSON, "tools[0].parameters")
    assert satisfies(value, PERSON) == fits


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ([1, {"a": 0}], True),
        ([1.0, {"a": 0}], True),
        ([True, {"a": 0}], False),
        ([1, {"a": False}], False),
        ([1], False),
    ],
)
def test_equality_within_lists_and_objects(value: Any, fits: bool) -> None:
    for schema in ({"const": [1, {"a": 0}]}, {"enum": ["x", [1, {"a": 0}]]}):
        check_strict(schema, "parameters")
        assert satisfies(value, schema) == fits


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"properties": {"a": {"pattern": "(a+)+"}}}, "properties.a.pattern: strict calls cannot be held to it"),
        ({"anyOf": [{"allOf": []}]}, "anyOf.allOf: strict calls"),
        ({"items": {"type": "wizard"}}, "items.type is not what it must be"),
        ({"required": "a"}, "required is not"),
        ({"minLength": -1}, "minLength is not"),
        ({"$ref": "https://example.org/schema"}, r"\$ref is not"),
        ({"$ref": "#/$defs/lost"}, "there is no #/"),
        ({"properties": {"a": 5}}, "properties.a must be an object"),
    ],
)
def test_what_cannot_be_promised(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(ApiError, match=message):
        check_strict(schema, "tools[0].parameters")


def test_a_check_ends() -> None:
    """Schemas that refer to themselves, or double at each step, satisfy nothing instead of never ending."""
    twice = [{"$ref": "#/$defs/d0"}, {"$ref": "#/$defs/d0"}]
    doubling: dict[str, Any] = {"$defs": {"d60": {"type": "null"}}, "anyOf": twice}
    for i in range(60):
        doubling["$defs"][f"d{i}"] = {"anyOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2}
    began = time.monotonic()
    for schema in (doubling, {"$ref": "#"}):
        check_strict(schema, "parameters")
        assert not satisfies({}, schema)
    assert time.monotonic() - began < 10

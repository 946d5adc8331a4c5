"""The functions that a client offers the model: which there are, which may be called, and how they are forced.

A forced call is a reply held to a JSON schema, which says of each function that may be called

    {"name": NAME, "arguments": what its parameters' schema says}

so that it can only be a call, in a manner of writing that ``chat_tools`` reads from every model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reason.serve.failures import bad_request
from reason.serve.reading import Fields
from reason.serve.strict_schemas import check_strict, satisfies

__all__ = ["Offer", "read_tools"]

_NAME = re.compile(r"[a-zA-Z0-9_.-]{1,64}")

_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Told to llguidance: one way to write a call, because a small model can go on with white space for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Functions that the model may call.

    Args:
        tools: as chat templates want them; none where the client wants no calls.
        names: those that may be called.
        strict: by name, the schemas that calls must satisfy to be calls.
        one_call: at most one call at a time.
        choice: what the client said of calling: "auto", "none", "required", or one function.
        forced: the JSON schema of a call, where the reply must be one.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    names: frozenset[str] = frozenset()
    strict: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    one_call: bool = False
    choice: str | Mapping[str, Any] = "auto"
    forced: str | None = None

    def allows(self, name: str, arguments: Any) -> bool:
        """Whether what the model wrote is a call."""
        return name in self.names and (name not in self.strict or satisfies(arguments, self.strict[name]))

    def flat(self) -> list[dict[str, Any]]:
        """The functions as /v1/responses has them."""
        return [
            {"type": "function", "strict": tool["function"]["name"] in self.strict, **tool["function"]}
            for tool in self.tools
        ]


def read_tools(body: Fields, *, flat: bool = False) -> Offer:
    """The fields ``tools``, ``tool_choice`` and ``parallel_tool_calls``.

    Args:
        flat: a function's name stands beside its type, as in /v1/responses.

    Raises:
        ApiError: they are not what they must be, or ask for what cannot be done.
    """
    strict: dict[str, Mapping[str, Any]] = {}
    tools = tuple(_tool(each, f"tools[{i}]", flat, strict) for i, each in enumerate(body.list("tools") or ()))
    names = frozenset(tool["function"]["name"] for tool in tools)
    if len(names) < len(tools):
        body.wrong("tools", "functions of different names")
    one_call = body.flag("parallel_tool_calls") is False
    choice = body.any("tool_choice")
    if choice == "none":
        return Offer(choice="none")
    if choice in (None, "auto"):
        return Offer(tools=tools, names=names, strict=strict, one_call=one_call)
    if choice != "required":
        names &= {_chosen(body, choice, flat)}
    if not names:
        body.wrong("tool_choice", "about functions that are among the tools")
    forced = _forced([tool["function"] for tool in tools if tool["function"]["name"] in names])
    return Offer(tools=tools, names=names, strict=strict, one_call=one_call, choice=choice, forced=forced)


def _tool(given: Any, where: str, flat: bool, strict: dict[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    """A function; if it is strict, its schema goes there too."""
    if not isinstance(given, dict):
        raise bad_request(f"{where} must be an object", param=where)
    fields = Fields(given, f"{where}.")
    if fields.text("type") != "function":
        fields.unable("type", "only functions can be tools here")
    function = fields if flat else fields.object("function")
    if function is None:
        fields.wrong("function", "given, an object")
    name = function.needed_text("name")
    if not _NAME.fullmatch(name):
        function.wrong("name", "1 to 64 letters, digits, dots, hyphens and underscores", name)
    told: dict[str, Any] = {"name": name}
    if (description := function.text("description")) is not None:
        told["description"] = description
    told["parameters"] = function.raw("parameters") or {"type": "object", "properties": {}}
    if function.flag("strict"):
        check_strict(told["parameters"], f"{where}.parameters")
        strict[name] = told["parameters"]
    function.end()
    fields.end()
    return {"type": "function", "function": told}


def _chosen(body: Fields, choice: Any, flat: bool) -> str:
    """The one function that a choice names."""
    if not isinstance(choice, dict):
        body.wrong("tool_choice", '"auto", "none", "required" or a function')
    fields = Fields(choice, "tool_choice.")
    if fields.text("type") != "function":
        fields.unable("type", "only a function can be chosen here")
    function = fields if flat else fields.object("function")
    if function is None:
        fields.wrong("function", "given, an object")
    name = function.needed_text("name")
    function.end()
    fields.end()
    return name


def _forced(functions: Sequence[Mapping[str, Any]]) -> str:
    """The schema of a call of one of these functions."""
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": function["name"]},
                "arguments": _moved(function["parameters"], f"#/anyOf/{i}/properties/arguments"),
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for i, function in enumerate(functions)
    ]
    return json.dumps({"anyOf": calls, "x-guidance": _COMPACT})


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references still lead there when it is a part of another, at a place in it."""
    if isinstance(schema, list):
        return [_moved(each, place) for each in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: place + value[1:]
        if name == "$ref" and isinstance(value, str) and value.startswith("#")
        else _moved(value, place)
        for name, value in schema.items()
    }

"""Hyper-parameters as data: the fields of a frozen dataclass, from text, checked, and to JSON."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reason.errors import UnknownName, UsageError

__all__ = [
    "check_choices",
    "check_object",
    "check_types",
    "describe",
    "hints",
    "label",
    "make",
    "parse",
    "parse_settings",
]


def hints(kind: type[Any]) -> Mapping[str, Any]:
    """The types of the fields by name that a dataclass may be given."""
    resolved = get_type_hints(kind)
    return {field.name: resolved[field.name] for field in fields(kind) if field.init}


def describe(thing: Any) -> dict[str, Any]:
    """The fields of a strategy or verifier, JSON-able; those of one inside it under its field's name."""
    if not is_dataclass(thing):
        return {"type": type(thing).__name__}
    shown: dict[str, Any] = {}
    for field in fields(thing):
        if field.name.startswith("_"):
            continue
        value = getattr(thing, field.name)
        if is_dataclass(value) and not isinstance(value, type):
            value = {"type": type(value).__name__, **describe(value)}
        shown[field.name] = value if isinstance(value, (str, int, float, bool, dict, type(None))) else repr(value)
    return shown


def label(name: str, settings: Mapping[str, Any]) -> str:
    """A name with its settings, "beam(width=8,beam_width=2)"; commas within one are semicolons."""
    shown = ",".join(f"{key}={_shown(value)}" for key, value in settings.items())
    return f"{name}({shown})" if shown else name


def parse_settings(settings: Iterable[str]) -> dict[str, str]:
    """``["num-samples=8"]`` as texts by field.

    Raises:
        UsageError: one has no "=", or sets what another sets.
    """
    texts: dict[str, str] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        key = name.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"a strategy setting is written field=value, got {setting!r}")
        if key in texts:
            raise UsageError(f"{key} is set twice, to {texts[key]!r} and {text.strip()!r}")
        texts[key] = text.strip()
    return texts


def parse(key: str, text: str, kind: Any) -> Any:
    """A field's value from a command line.

    Raises:
        UsageError: the text is no value of that type.
    """
    kind, _ = _wanted(kind)
    if get_origin(kind) is Literal:
        _check_choice(key, text, kind)
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{key} must be true or false, got {text!r}")
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise UsageError(f"{key} cannot be written as text")
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{key} must be {_article(kind.__name__)}, got {text!r}") from None


def check_object(what: str, given: Any, protocol: type[Any], method: str, fields: Mapping[str, Any]) -> None:
    """Whether what is given in the place of a name is an object of its kind, without fields.

    Args:
        what: the kind with its article, for messages.
        protocol: what it must be.
        method: what such objects have, for messages.

    Raises:
        UsageError: it is not.
    """
    if isinstance(given, type) or not isinstance(given, protocol):
        raise UsageError(f"{what} is a name or an object with {_article_of(method)} {method} method, got {given!r}")
    if fields:
        raise UsageError(f"give fields with {what}'s name, not with an object: {', '.join(fields)}")


def make(
    what: str,
    kinds: Mapping[str, type[Any]],
    text: str,
    fields: Mapping[str, Any],
    *,
    parsers: Mapping[str, Callable[[str], Any]] | None = None,
) -> Any:
    """A dataclass by name, with fields: its own, and those written into the name, ``"name:field=value,field=value"``. A
    kind with an ``argument`` takes that field's value first, without its name.

    Args:
        what: what the kinds are, for messages.
        kinds: by name.
        parsers: of fields that a type alone does not tell how to read.

    Raises:
        UnknownName: no kind, or no field, of that name.
        UsageError: a field has a value that it does not take, is given twice, or must be given.
    """
    name, colon, settings = text.partition(":")
    name, given = name.strip().lower(), dict(fields)
    kind = kinds.get(name)
    if kind is None:
        raise UnknownName(what, name, kinds)
    argument = getattr(kind, "argument", "")
    for place, setting in enumerate(settings.split(",") if colon else ()):
        field, equals, value = (part.strip() for part in setting.partition("="))
        if argument and place == 0 and field not in hints(kind) and setting.strip():
            field, equals, value = argument, "=", setting.strip()
        if not equals:
            raise UsageError(f"{what} settings are written field=value, got {setting!r}")
        if field in given:
            raise UsageError(f"{field} is given twice")
        wanted = _known(kind, name, field)
        given[field] = parsers[field](value) if parsers and field in parsers else parse(field, value, wanted)
    for field in given:
        _known(kind, name, field)
    if argument and argument not in given and not hasattr(kind, argument):
        raise UsageError(f"{name} needs its {argument}: {name}:{argument.upper()}")
    check_types(kind, given)
    return kind(**given)


def check_types(kind: type[Any], values: Mapping[str, Any]) -> None:
    """Whether values given as objects are of their fields' types; whole numbers are numbers.

    Raises:
        UsageError: one is not.
    """
    for key, value in values.items():
        wanted, optional = _wanted(hints(kind)[key])
        if optional and value is None:
            continue
        if get_origin(wanted) is Literal:
            _check_choice(key, value, wanted)
        accepted = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}.get(wanted)
        if accepted is not None and (
            not isinstance(value, accepted) or (isinstance(value, bool) and wanted is not bool)
        ):
            raise UsageError(f"{key} must be {_article(wanted.__name__)}, got {value!r}")


def check_choices(thing: Any) -> None:
    """Raises UsageError if a field that names one of several choices names none of them."""
    for key, kind in hints(type(thing)).items():
        if get_origin(kind) is Literal:
            _check_choice(key, getattr(thing, key), kind)


def _known(kind: type[Any], name: str, field: str) -> Any:
    """The type of a field."""
    if field not in hints(kind):
        raise UnknownName(f"field of {name}", field, hints(kind))
    return hints(kind)[field]


def _wanted(kind: Any) -> tuple[Any, bool]:
    """A type without its None, and whether it had one."""
    parts = get_args(kind)
    rest = [part for part in parts if part is not NoneType]
    return (rest[0], True) if NoneType in parts and len(rest) == 1 else (kind, False)


def _check_choice(key: str, value: Any, kind: Any) -> None:
    if value not in get_args(kind):
        raise UsageError(f"{key} must be one of {', '.join(map(str, get_args(kind)))}, got {value!r}")


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(",", ";")


def _article_of(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}.get(kind, kind)

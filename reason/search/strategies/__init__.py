"""The strategies by name. A new one is a file here, a line below, and it is in ``solve``, the CLI and the docs."""

from __future__ import annotations

import numbers
from typing import Any, Literal, get_args, get_origin, get_type_hints

from reason.errors import UnknownName, UsageError
from reason.search.strategies.best_of_n import BestOfN
from reason.search.tree import Strategy

__all__ = ["STRATEGIES", "make_strategy", "parse_fields"]

STRATEGIES: dict[str, type[Any]] = {
    "best-of-n": BestOfN,
}


def make_strategy(name: str | Strategy, **fields: Any) -> Strategy:
    """A strategy by name, with its fields; a strategy object is passed through.

    Raises:
        UnknownName: no strategy, or no field, of that name.
        UsageError: a field has a value that it does not take.
    """
    if not isinstance(name, str):
        if isinstance(name, type) or not isinstance(name, Strategy):
            raise UsageError(f"a strategy is a name or an object with ask and answer, got {name!r}")
        if fields:
            raise UsageError(f"give fields with a strategy's name, not with an object: {', '.join(fields)}")
        return name
    kind = STRATEGIES.get(name.lower())
    if kind is None:
        raise UnknownName("strategy", name, STRATEGIES)
    hints = get_type_hints(kind)
    for field, value in fields.items():
        if field not in hints:
            raise UnknownName(f"field of {name}", field, hints)
        _check_type(field, value, hints[field])
    strategy: Strategy = kind(**fields)
    return strategy


def parse_fields(name: str, settings: list[str]) -> dict[str, Any]:
    """``["num_samples=8"]`` as fields of the right types, for the command line.

    Raises:
        UnknownName, UsageError: as ``make_strategy``; also a setting without "=".
    """
    kind = STRATEGIES.get(name.lower())
    if kind is None:
        raise UnknownName("strategy", name, STRATEGIES)
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"a strategy setting is written field=value, got {setting!r}")
        if key not in hints:
            raise UnknownName(f"field of {name}", key, hints)
        fields[key] = _parse(key, text.strip(), hints[key])
    return fields


def _parse(key: str, text: str, kind: Any) -> Any:
    if get_origin(kind) is Literal:
        if text not in get_args(kind):
            raise UsageError(f"{key} must be one of {', '.join(map(str, get_args(kind)))}, got {text!r}")
        return text
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UsageError(f"{key} must be true or false, got {text!r}")
        return text.lower() == "true"
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{key} must be {_article(kind.__name__)}, got {text!r}") from None


def _check_type(key: str, value: Any, kind: Any) -> None:
    """Whether a value that was given as an object is of its field's type; whole numbers are numbers."""
    accepted = {bool: bool, int: numbers.Integral, float: numbers.Real, str: str}.get(kind)
    if accepted is None:
        return
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{key} must be {_article(kind.__name__)}, got {value!r}")


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}.get(kind, kind)

"""Inputs to tell programs apart by: those of the tests, and others made from them by small changes.

A change keeps types, and signs, for programs may be meant for some numbers only: a number grows or shrinks, a text
loses, doubles or swaps letters, a list loses, doubles or reorders elements, or one of them changes or becomes like
another. One to four changes make an input. Numbers and lengths stay small, for a program's time may grow with them.
What is made depends on the tests alone.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Sequence
from typing import Any

from reason.tasks.code.programs import parsed
from reason.tasks.syntax import parse_literal

__all__ = ["changed", "given_inputs", "made_inputs"]

_LONGEST = 40  # of a list or text that is made longer
_TRIES = 20
_MOST_CHANGES = 4


def given_inputs(tests: Sequence[str], entry_point: str) -> tuple[str, ...]:
    """The arguments of each call that tests make, as Python: "2, [3]"; none twice."""
    found: list[str] = []
    for test in tests:
        tree = parsed(test)
        for node in ast.walk(tree) if tree else ():
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in (entry_point, "candidate")
            ):
                named = [ast.unparse(keyword) for keyword in node.keywords]
                found.append(", ".join([*map(ast.unparse, node.args), *named]))
    return tuple(dict.fromkeys(found))


def made_inputs(inputs: Sequence[str], count: int) -> tuple[str, ...]:
    """Up to ``count`` others, made from those inputs that are plain values; none is among ``inputs``."""
    coins = random.Random(repr(tuple(inputs)))
    values = [value for text in inputs if (value := _values(text)) is not None and value]
    made: dict[str, None] = {}
    for _ in range(count * _TRIES if values else 0):
        if len(made) == count:
            break
        arguments = list(coins.choice(values))
        for _ in range(coins.randint(1, _MOST_CHANGES)):
            place = coins.randrange(len(arguments))
            arguments[place] = changed(arguments[place], coins)
        text = ", ".join(map(repr, arguments))
        if text not in inputs:
            made[text] = None
    return tuple(made)


def _values(text: str) -> tuple[Any, ...] | None:
    try:
        value = parse_literal(f"({text},)") if text else ()
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    assert isinstance(value, tuple)
    return value


def changed(value: Any, coins: random.Random) -> Any:
    """A value of the same type that is a little different, or, where there is no such, the value."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        sign, size = (-1 if value < 0 else 1), abs(value)
        return sign * coins.choice((size + 1, max(size - 1, 0), size + 2, size // 2, 0, 1, size + 7))
    if isinstance(value, float):
        return math.copysign(coins.choice((abs(value) + 1.0, max(abs(value) - 0.5, 0.0), value / 2, 0.0)), value)
    if isinstance(value, str):
        return "".join(_changed_items(list(value), coins, _other_letter))
    if isinstance(value, bytes):
        return bytes(_changed_items(list(value), coins, lambda byte, _: (byte + 1) % 256))
    if isinstance(value, (list, tuple)):
        return type(value)(_changed_items(list(value), coins, changed))
    if isinstance(value, (set, frozenset)):
        items = _changed_items(sorted(value, key=repr), coins, changed)
        return type(value)(items)
    if isinstance(value, dict) and value:
        key = coins.choice(list(value))
        if coins.random() < 0.3:
            return {other: held for other, held in value.items() if other != key}
        return {**value, key: changed(value[key], coins)}
    return value


def _other_letter(letter: str, coins: random.Random) -> str:
    if letter.isalpha():
        return letter.swapcase() if coins.random() < 0.3 else coins.choice("abcxyz" if letter.islower() else "ABCXYZ")
    return coins.choice("0123456789" if letter.isdigit() else " ,.()")


def _changed_items(items: list[Any], coins: random.Random, change: Any) -> list[Any]:
    if not items:
        return items
    place = coins.randrange(len(items))
    how = coins.choice(("drop", "double", "swap", "shuffle", "change", "change", "near", "reverse", "half"))
    if how == "drop":
        del items[place]
    elif how == "double" and len(items) < _LONGEST:
        items.insert(place, items[place])
    elif how == "swap":
        other = coins.randrange(len(items))
        items[place], items[other] = items[other], items[place]
    elif how == "shuffle":
        coins.shuffle(items)
    elif how == "near":
        other = coins.choice(items)
        items[place] = change(other, coins) if type(other) is type(items[place]) else items[place]
    elif how == "reverse":
        items.reverse()
    elif how == "half":
        items = items[: len(items) // 2]
    else:
        items[place] = change(items[place], coins)
    return items

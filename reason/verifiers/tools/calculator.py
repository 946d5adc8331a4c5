"""A calculator, as a program for the sandbox: what a model writes is never evaluated in this process."""

from __future__ import annotations

import re

__all__ = ["calculation"]

_PROGRAM = """
from math import *

for _text in {spellings}:
    try:
        _value = eval(_text)
    except SyntaxError:
        continue
    if isinstance(_value, (int, float, complex)):
        print(_value if isinstance(_value, int) else format(_value, ".15g"))
        break
else:
    raise SystemExit("no arithmetic expression")
"""
_SIGNS = {"^": "**", "×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "π": "pi"}


def calculation(expression: str) -> str:
    """A program that prints the value of an expression; thousands may have commas where they can be nothing else."""
    text = expression.strip()
    for sign, spelling in _SIGNS.items():
        text = text.replace(sign, spelling)
    bare = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)
    return _PROGRAM.replace("{spellings}", repr([text, bare]))

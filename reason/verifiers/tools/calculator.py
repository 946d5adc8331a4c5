"""A calculator: arithmetic in the notation of Python, exact where it can be."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from reason.tasks.syntax import parse_expression

__all__ = ["calculate"]

_Number = int | float | Fraction

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "ceil": math.ceil,
    "cos": math.cos,
    "exp": math.exp,
    "factorial": lambda n: math.factorial(_small(n, 500)),
    "floor": math.floor,
    "gcd": lambda *n: math.gcd(*map(_whole, n)),
    "lcm": lambda *n: math.lcm(*map(_whole, n)),
    "log": math.log,
    "log10": math.log10,
    "log2": math.log2,
    "max": max,
    "min": min,
    "round": round,
    "sin": math.sin,
    "sqrt": math.sqrt,
    "tan": math.tan,
}
_CONSTANTS = {"pi": math.pi, "e": math.e}
_MOST_BITS = 4096


def calculate(expression: str) -> str:
    """The value of an expression, or what is wrong with it; nothing else is ever evaluated."""
    text = expression.replace("^", "**").replace("×", "*").replace("÷", "/").replace("−", "-")
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text).strip()
    try:
        value = _value(parse_expression(text))
    except (SyntaxError, RecursionError, MemoryError):
        return f"error: {expression.strip()!r} is no arithmetic expression"
    except (ValueError, TypeError, ZeroDivisionError, OverflowError) as error:
        return f"error: {error}"
    if isinstance(value, Fraction):
        value = value.numerator if value.denominator == 1 else float(value)
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _value(node: ast.expr) -> _Number:
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value  # type: ignore[return-value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.UAdd | ast.USub):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        return _bounded(_combine(node.op, _value(node.left), _value(node.right)))
    if isinstance(node, ast.Name) and node.id in _CONSTANTS:
        return _CONSTANTS[node.id]
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in _FUNCTIONS:
            raise ValueError(f"there is no function {node.func.id}; there are {', '.join(_FUNCTIONS)}")
        return _bounded(_FUNCTIONS[node.func.id](*map(_value, node.args)))
    raise ValueError("an expression has numbers, + - * / // % **, brackets and functions, and nothing else")


def _combine(op: ast.operator, left: _Number, right: _Number) -> _Number:
    if isinstance(op, ast.Div):
        exact = not isinstance(left, float) and not isinstance(right, float)
        return Fraction(left) / Fraction(right) if exact else left / right
    if isinstance(op, ast.Pow):
        size = abs(float(right)) * max(1.0, math.log2(abs(float(left))) if left else 1.0)
        if size > _MOST_BITS:
            raise ValueError("the power is too large")
        powered: Any = left**right
        if isinstance(powered, complex):
            raise ValueError("the power is no real number")
        return powered  # type: ignore[no-any-return]
    if type(op) not in _BINARY:
        raise ValueError("the operators are + - * / // % **")
    return _BINARY[type(op)](left, right)  # type: ignore[no-any-return]


def _bounded(value: Any) -> _Number:
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise ValueError("the number is too large")
    return value  # type: ignore[no-any-return]


def _whole(value: Any) -> int:
    if value != int(value):
        raise ValueError(f"{value} is no whole number")
    return int(value)


def _small(value: Any, most: int) -> int:
    if not 0 <= _whole(value) <= most:
        raise ValueError(f"{value} is not between 0 and {most}")
    return _whole(value)

"""The game of 24: make 24 from four numbers, each used exactly once, with +, -, *, / and parentheses.

The testbed of Tree of Thoughts (Yao et al., https://arxiv.org/abs/2305.10601), whose results are over puzzles 900-999.

    right(e) = (the numbers of e, sorted, are the puzzle's) and (the value of e, in exact fractions, is 24)

We depart from the paper's grader in reading LaTeX too, and in taking the expression out of the last box.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from reason.tasks.answer_kinds import AnswerKind, BadRow, Fields, Question, Row, value_of
from reason.tasks.answers import after_thinking, boxed
from reason.tasks.prompts import GAME24 as GAME24_PROMPT
from reason.tasks.syntax import parse_expression
from reason.tasks.task import Example

__all__ = ["GAME24", "Arithmetic", "SameExpression", "evaluate", "extract_expression", "plain_expression", "solves"]

TARGET = 24
MAX_EXPRESSION = 300
"""Characters. Four numbers and three signs need far fewer."""

# --- reading --------------------------------------------------------------------------------------------------------

_CHARACTERS = str.maketrans({"×": "*", "⋅": "*", "·": "*", "∗": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|(\d))"
_FRACTION = re.compile(r"\\[dtc]?frac(?![A-Za-z])" + _ARGUMENT + _ARGUMENT)
_REWRITES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|[bB]igg?[lr]?|displaystyle)(?![A-Za-z])", ""),
        (r"\\[()\[\]]|\\[,;:!> ]|\\q?quad(?![A-Za-z])|[$~`]", " "),  # delimiters of a formula, spacing
        (r"\\(?:times|cdot|ast)(?![A-Za-z])", "*"),
        (r"\\div(?![A-Za-z])", "/"),
        (r"\\[lr]brack(?![A-Za-z])", ""),
        (r"(?<=[\d)\s])[xX](?=[\d(\s])", "*"),
    )
)
_PRODUCT = re.compile(r"(?<=\d)\s*(?=\()|(?<=\))\s*(?=[\d(])")  # 4(7 - 1) and (1 + 2)(3 + 5)


def plain_expression(answer: str) -> str:
    r"""An expression in digits, ``+-*/()`` and nothing else, as far as it can be: without LaTeX, "= ..." and blanks."""
    if len(answer) > MAX_EXPRESSION:
        return " ".join(answer.split())
    for pattern, replacement in _REWRITES:
        answer = pattern.sub(replacement, answer)
    previous = None
    while previous != answer:  # from the innermost fraction outwards; each turn removes one \frac at least
        previous, answer = answer, _FRACTION.sub(_quotient, answer)
    answer = answer.replace("{", "(").replace("}", ")").translate(_CHARACTERS).strip().rstrip(".")
    # As in the paper's grader, what the model says that it comes to does not count.
    sides = [side.strip() for side in answer.split("=") if side.strip()]
    answer = next((side for side in sides if side != str(TARGET)), sides[0] if sides else "")
    if re.search(r"\d\s+\d", answer):
        return " ".join(answer.split())  # joining those would make another number
    return re.sub(r"\s+", "", _PRODUCT.sub("*", answer))


def _quotient(fraction: re.Match[str]) -> str:
    top, top_digit, bottom, bottom_digit = fraction.groups()
    return f"(({top or top_digit})/({bottom or bottom_digit}))"


_BEFORE_TARGET = re.compile(r"((?:\\[a-z]+(?![a-z])|[\d\s()+\-*/×⋅·÷−xX{}\[\]$]){3,300})=\s*24(?!\d)")
_STATED = re.compile(r"\banswer\b[^\d\n(\[\\]{0,40}(.{3,300})", re.IGNORECASE)


def extract_expression(text: str) -> str | None:
    """The expression a text ends in: the last box that holds one, the last "answer: ...", the last "... = 24"."""
    for part in after_thinking(text):
        for candidate in _candidates(part):
            expression = plain_expression(candidate)
            if evaluate(expression) is not None and re.search(r"[-+*/]", expression):
                return expression
    return None


def _candidates(text: str) -> Iterator[str]:
    yield from boxed(text)
    lines = [line.replace("**", " ")[:1000] for line in text.splitlines()[-20:]]
    for pattern in (_STATED, _BEFORE_TARGET):
        for line in reversed(lines):
            if found := pattern.findall(line):
                yield found[-1]


# --- evaluating -----------------------------------------------------------------------------------------------------

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class Arithmetic(NamedTuple):
    """What an expression comes to."""

    value: Fraction
    numbers: tuple[int, ...]  # in ascending order


def evaluate(expression: str) -> Arithmetic | None:
    """The exact value and the numbers of a plain expression; None if it is none, or divides by zero."""
    if not re.fullmatch(rf"[\d+\-*/() ]{{1,{MAX_EXPRESSION}}}", expression, re.ASCII):
        return None
    try:
        value, numbers = _evaluate(parse_expression(expression.strip()))
    except (SyntaxError, ValueError, ZeroDivisionError, MemoryError, RecursionError):
        return None
    return Arithmetic(value, tuple(sorted(numbers)))


def _evaluate(node: ast.expr) -> tuple[Fraction, list[int]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return Fraction(node.value), [node.value]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value, numbers = _evaluate(node.operand)
        return (-value if isinstance(node.op, ast.USub) else value), numbers
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        (left, left_numbers), (right, right_numbers) = _evaluate(node.left), _evaluate(node.right)
        return _OPERATORS[type(node.op)](left, right), left_numbers + right_numbers
    raise ValueError(f"not arithmetic: {ast.dump(node)}")


def solves(answer: str, numbers: tuple[int, ...]) -> bool:
    """Whether an answer makes 24 and uses exactly ``numbers``."""
    return evaluate(plain_expression(answer)) == Arithmetic(Fraction(TARGET), tuple(sorted(numbers)))


@dataclass(frozen=True, slots=True)
class SameExpression:
    """The comparison for votes on one puzzle: the same expression, up to the order of sums and products. Which are
    right does not matter: a vote that put all right ones together would know the answer."""

    numbers: tuple[int, ...]

    def __call__(self, a: str, b: str) -> bool:
        return canonical(plain_expression(a)) == canonical(plain_expression(b))


def canonical(expression: str) -> str:
    """An expression as sums and products of sorted parts; what cannot be read is left as it is."""
    if evaluate(expression) is None:
        return expression
    return _canonical(parse_expression(expression.strip()))


def _canonical(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp):
        sums = isinstance(node.op, (ast.Add, ast.Sub))
        parts = sorted(sign + _canonical(part) for sign, part in _parts(node, sums=sums, inverse=False))
        return "(" + "".join(parts) + ")"
    if isinstance(node, ast.UnaryOp):
        return ("~" if isinstance(node.op, ast.USub) else "") + _canonical(node.operand)
    assert isinstance(node, ast.Constant)
    return str(node.value)


def _parts(node: ast.expr, *, sums: bool, inverse: bool) -> Iterator[tuple[str, ast.expr]]:
    """The terms of a sum, or the factors of a product, each with its sign."""
    kinds = (ast.Add, ast.Sub) if sums else (ast.Mult, ast.Div)
    if isinstance(node, ast.BinOp) and isinstance(node.op, kinds):
        yield from _parts(node.left, sums=sums, inverse=inverse)
        yield from _parts(node.right, sums=sums, inverse=inverse ^ isinstance(node.op, (ast.Sub, ast.Div)))
    else:
        yield ("-" if inverse else "+") if sums else ("/" if inverse else "*"), node


# --- the task -------------------------------------------------------------------------------------------------------


def _read(row: Row, fields: Fields) -> Question:
    given = value_of(row, fields.question)
    if isinstance(given, str):
        given = [int(word) if word.isdecimal() else word for word in given.split()]
    if not isinstance(given, list) or len(given) != 4 or not all(type(n) is int and n >= 0 for n in given):
        raise BadRow(f"the field {fields.question[0]!r} has to be four whole numbers, it is {given!r:.60}")
    numbers = tuple(given)
    # Any of many expressions is right; the reference is what they all come to.
    return Question(", ".join(map(str, numbers)), str(TARGET), extract_expression, SameExpression(numbers))


def _check(example: Example, answer: str) -> bool:
    same = example.problem.equivalent
    assert isinstance(same, SameExpression)
    return solves(answer, same.numbers)


def _solvable(row: Row) -> bool:
    return row.get("solvable") is not False


GAME24 = AnswerKind(
    name=f"an expression with the value {TARGET}", prompt=GAME24_PROMPT, read=_read, check=_check, keep=_solvable
)

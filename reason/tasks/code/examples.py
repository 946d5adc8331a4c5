"""The examples in a function's docstring, as tests.

    >>> f(2)                 f(2) == 3           For x = 2, the output should be 3
    3                        f(2) -> 3           Input: 2
                             f(2) returns 3      Output: 3

become ``assert f(2) == 3``. What is not read with certainty is no example: arguments and results have to be values, not
names. An example may be wrong; it is a test all the same, for nothing but the text says what the function should do.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator

from reason.tasks.code.programs import function_of
from reason.tasks.syntax import parse, parse_expression

__all__ = ["docstring_tests"]

_LONGEST = 1500  # characters of a value
_ARROW = re.compile(
    r"""\s*(?:,\s*it\s)?\s*(?:\#\s*)?
    (?:=+>|-+>|➞|→|⇒|==?|(?:should\s+|must\s+|would\s+)?(?:return|give|be|output|equal)s?\b|outputs?:)
    \s*:?\s*(?=\S)""",
    re.VERBOSE,
)
_GIVEN = re.compile(r"\b(?:[Ff]or|[Ii]f|Input\s*\d*\s*:)\s*(?=[\w'\"(\[{-])")
_GIVES = re.compile(
    r"\s*,?\s*(?:(?:the|your)\s+)?(?:function\s+)?(?:(?:output|result|answer)\s+(?:should\s+be|is|will\s+be|must\s+be)|"
    r"(?:should\s+)?returns?|Output\s*\d*\s*:)\s*:?\s*(?=\S)"
)
_BETWEEN = re.compile(r"[^\n.]{0,80}?(?=,?\s*the\s+(?:output|result)\s+should)")
_NAMES = {"true": "True", "false": "False", "null": "None", "none": "None", "nil": "None"}


def docstring_tests(code: str, entry_point: str) -> tuple[str, ...]:
    """The examples that the docstring of ``entry_point`` has, in its order, none twice.

    Args:
        code: Python that defines the function; a docstring is enough of a body.
        entry_point: the function's name.
    """
    function = function_of(code, entry_point)
    text = (ast.get_docstring(function) if function is not None else None) or ""
    known = {
        entry_point,
        *dir(builtins),
        *(n.name for n in ast.walk(parse(code)) if isinstance(n, ast.FunctionDef)),
    }
    names = [arg.arg for arg in function.args.args] if function is not None else []
    found = [*_doctests(text), *_calls(text, entry_point), *_described(text, entry_point, names)]
    tests = (f"assert {call} == {expected}" for _, call, expected in sorted(found, key=lambda each: each[0]))
    return tuple(dict.fromkeys(test for test in tests if _is_test(test, entry_point, known)))


_Example = tuple[int, str, str]  # where it stands, what is called, what it returns


def _doctests(text: str) -> Iterator[_Example]:
    lines = text.splitlines(keepends=True)
    starts = [sum(map(len, lines[:n])) for n in range(len(lines))]
    for number, line in enumerate(lines):
        prompt, _, call = line.strip().partition(">>>")
        if prompt or not call.strip():
            continue
        below = number + 1
        while below < len(lines) and lines[below].lstrip().startswith("..."):
            call += "\n" + lines[below].strip()[3:]
            below += 1
        asked = _value(call.strip(), strict=False)
        node = _parsed(asked) if asked is not None else None
        if asked is None or isinstance(node, ast.Subscript):  # "f(2) [3]" is an example without its sign
            continue
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            yield starts[number], ast.unparse(node.left), ast.unparse(node.comparators[0])
            continue
        if arrow := _ARROW.match(rest := call.strip()[len(asked) :]):
            expected = _value(rest[arrow.end() :])
        else:
            expected = _value("".join(_until_blank(lines[below:])).strip())
        if expected is not None:
            yield starts[number], asked, expected


def _until_blank(lines: list[str]) -> Iterator[str]:
    for line in lines:
        if not line.strip() or line.lstrip().startswith(">>>"):
            return
        yield line


def _calls(text: str, entry_point: str) -> Iterator[_Example]:
    """ "f(2) == 3" and its like. A single "=" may be a definition, if it stands before a heading "Examples"."""
    headings = [found.start() for found in re.finditer(r"^\s*(?:for )?examples?\b", text, re.IGNORECASE | re.MULTILINE)]
    for found in re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\s*\(", text):
        line = text[text.rfind("\n", 0, found.start()) + 1 : found.start()]
        if ">>>" in line:
            continue
        call = _call(text[found.start() :])
        if call is None or not (arrow := _ARROW.match(text, found.start() + len(call))):
            continue
        if arrow[0].strip() == "=" and headings and found.start() < headings[-1]:
            continue
        expected = _value(text[arrow.end() :])
        if expected is not None:
            yield found.start(), call, expected


def _call(text: str) -> str | None:
    """The call that a text begins with."""
    for end in (found.end() for found in re.finditer(r"\)", text[:_LONGEST])):
        if (node := _parsed(text[:end])) is not None:
            return text[:end] if isinstance(node, ast.Call) else None
    return None


def _described(text: str, entry_point: str, names: list[str]) -> Iterator[_Example]:
    for given in _GIVEN.finditer(text):
        values, place = _arguments(text, given.end(), names)
        if values is None or len(values) != len(names):
            continue
        if between := _BETWEEN.match(text, place):
            place = between.end()
        gives = _GIVES.match(text, place)
        expected = _value(text[gives.end() :]) if gives else None
        if expected is not None:
            yield given.start(), f"{entry_point}({', '.join(values)})", expected


def _arguments(text: str, place: int, names: list[str]) -> tuple[list[str] | None, int]:
    """The values of "x = 2, y = [3]" or "2, [3]", and where they end."""
    values: list[str] = []
    while len(values) < len(names):
        named = re.compile(r"\s*(\w+)\s*(?:==?|:)\s*").match(text, place)
        if named and named[1].lower() == names[len(values)].lower():
            place = named.end()
        elif named:
            return None, place
        value = _value(text[place:])
        if value is None:
            return None, place
        values.append(value)
        place += len(text[place:]) - len(text[place:].lstrip()) + len(value)
        if len(values) < len(names):
            comma = re.compile(r"\s*(?:,|;|\band\b|\n)\s*").match(text, place)
            if not comma:
                return None, place
            place = comma.end()
    return values, place


def _value(text: str, *, strict: bool = True) -> str | None:
    """The longest beginning of a text that is one value; with ``strict=False`` one expression."""
    text = text.lstrip()[:_LONGEST]
    word = re.match(r"[A-Za-z]+\b", text)
    if word and (name := _NAMES.get(word[0].lower())):
        return name
    text = text[: found.start()] if (found := re.search(r"\n\s*\n", text)) else text
    for end in range(len(text), 0, -1):
        if text[end - 1].isspace() or text[end - 1] in ",.":
            continue
        if "#" in text[:end] and _parsed(text[:end].rpartition("#")[0]) is not None:
            continue  # the end is a comment
        node = _parsed(text[:end])
        if node is None or (isinstance(node, ast.Tuple) and not text.startswith("(")):
            continue
        if not strict:
            return text[:end]
        return text[:end] if _is_value(node) else None
    return None


def _parsed(text: str) -> ast.expr | None:
    try:
        return parse_expression(text)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


_VALUES = (ast.Constant, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.UnaryOp, ast.BinOp, ast.operator, ast.unaryop)


def _is_value(node: ast.expr) -> bool:
    return all(isinstance(part, (*_VALUES, ast.expr_context)) for part in ast.walk(node))


def _is_test(test: str, entry_point: str, known: set[str]) -> bool:
    """Whether it can be run, calls the function and reads no name that nobody defines."""
    try:
        nodes = list(ast.walk(parse(test)))
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return entry_point in names and names - own <= known

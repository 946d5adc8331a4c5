"""MBPP+ (Liu et al. 2023, https://arxiv.org/abs/2305.01210): MBPP with more inputs and mended solutions.

    right(program) = program(x) is solution(x), for each base and plus input x

The row's own tests ("base") are public, as MBPP's prompt shows them; the further inputs are hidden. What is expected of
them is what the row's solution gives, which runs beside the tests in the sandbox, where the program cannot reach it.

Inputs are JSON, which knows no tuples: those of a row get the types that the row's tests have. Results are compared as
the row's tests do it: as sets, by truth, or with a tolerance, where those do so; as in EvalPlus, order does not count
in three problems whose order is an accident. Rows of the hub have finished tests instead, which are run as they are.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any, NamedTuple

from reason.tasks.answer_kinds import AnswerKind, BadRow, Fields, Question, Row
from reason.tasks.code.kinds import (
    MBPP,
    check_mbpp,
    passes,
    question,
    read_mbpp,
    text_field,
    with_tests,
)
from reason.tasks.code.programs import parsed
from reason.tasks.code.prompts import WRITE
from reason.tasks.task import Example

__all__ = ["MBPP_PLUS"]

_UNORDERED = ("similar_elements", "find_dissimilar", "Diff")
_CLOSE = 1e-6  # where nothing else is said, as in EvalPlus
_BROKEN = ("Mbpp/164", "Mbpp/295", "Mbpp/599")  # their own solution fails: against the tests; too slow

_SETUP = """
import copy as _copy
inf, nan = float("inf"), float("nan")  # as inputs are written
_reference = {"__name__": "reference"}
exec(compile(SOLUTION, "<reference>", "exec"), _reference)
_reference = _reference[NAME]

def _same(got, expected):
    if HOW == "truth":
        return bool(got) == bool(expected)
    if HOW == "set":
        got, expected = _unordered(got), _unordered(expected)
    return _alike(got, expected)

def _unordered(value):
    try:
        return set(value)
    except TypeError:
        return sorted(value, key=repr) if isinstance(value, (list, tuple)) else value

def _alike(got, expected):
    if isinstance(got, (list, tuple)) and isinstance(expected, (list, tuple)):
        return len(got) == len(expected) and all(map(_alike, got, expected))
    if isinstance(got, dict) and isinstance(expected, dict):
        return got.keys() == expected.keys() and all(_alike(got[key], expected[key]) for key in expected)
    if isinstance(expected, (float, complex)) and isinstance(got, (int, float, complex)):
        if expected != expected:
            return got != got
        close = abs(expected) != inf and abs(got - expected) <= max(ABSOLUTE, RELATIVE * abs(expected))
        return got == expected or close
    return got == expected
"""

_TEST = """
for _given in INPUTS:
    _expected = _reference(*_copy.deepcopy(_given))
    _got = candidate(*_given)
    assert _same(_got, _expected), f"{_got!r:.300} instead of {_expected!r:.300}"
"""


class _Base(NamedTuple):
    """The row's own tests."""

    imports: str
    tests: tuple[str, ...]
    calls: tuple[tuple[Any, ...], ...]  # their arguments
    how: str  # "set", "truth" or "equal"
    relative: float  # tolerance


def _read(row: Row, fields: Fields) -> Question:
    if "test_list" in row:
        return _read_hub(row, fields)
    text, name = text_field(row, "prompt").strip().strip("'\"").strip(), text_field(row, "entry_point")
    solution, base = text_field(row, "canonical_solution"), _base(row)
    if not isinstance(row.get("base_input"), list):
        raise BadRow(f"the field 'base_input' has to be a list, it is {row.get('base_input')!r:.60}")
    return question(
        with_tests(text, base.tests),
        solution.strip("\n") + "\n",
        entry_point=name,
        tests=base.tests,
        setup=base.imports,
    )


def _check(example: Example, answer: str) -> bool:
    if "test_list" in example.row:
        return _check_hub(example, answer)
    row, problem = example.row, example.problem
    base = _base(row)
    if not passes(answer, "\n".join(base.tests), entry_point=problem.entry_point, setup=problem.setup):
        return False
    given = row["plus_input"] if isinstance(row.get("plus_input"), list) else []
    types = base.calls[0] if base.calls else ()
    if any(isinstance(one, complex) for one in types):
        types = tuple(complex(one) for one in types)
    inputs = [_typed(arguments, types) for arguments in given if isinstance(arguments, list)]
    constants = {
        "SOLUTION": row["canonical_solution"],
        "NAME": row["entry_point"],
        "HOW": base.how,
        "ABSOLUTE": float(row.get("atol") or 0) or _CLOSE,
        "RELATIVE": base.relative,
    }
    setup = "".join(f"{name} = {value!r}\n" for name, value in constants.items()) + _SETUP
    return passes(answer, f"INPUTS = {inputs!r}\n{_TEST}", entry_point=problem.entry_point, setup=setup)


def _base(row: Mapping[str, Any]) -> _Base:
    """Raises BadRow where there is none, or it is no Python."""
    source, name = text_field(row, "assertion"), text_field(row, "entry_point")
    tree = parsed(source)
    if tree is None:
        raise BadRow(f"the field 'assertion' has to be Python, it is {source!r:.60}")
    tests = [node for node in tree.body if isinstance(node, ast.Assert)]
    if not tests:
        raise BadRow("the field 'assertion' has no assertion")
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    called = [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id != name
    ]
    calls = [call for test in tests if (call := _arguments(test, name)) is not None]
    truth = all(isinstance(test.test, (ast.Call, ast.UnaryOp)) for test in tests) and "isclose" not in source
    how = "set" if "set" in called or name in _UNORDERED else "truth" if truth else "equal"
    if "math." in source and "import math" not in imports:
        imports.append("import math")
    relative = 1e-3 if "isclose" in source else 1e-7
    return _Base("\n".join(imports), tuple(map(ast.unparse, tests)), tuple(calls), how, relative)


def _arguments(test: ast.Assert, name: str) -> tuple[Any, ...] | None:
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name:
            try:
                return tuple(ast.literal_eval(argument) for argument in node.args)
            except ValueError:
                return None
    return None


def _typed(value: Any, like: Any) -> Any:
    """A JSON value with tuples and sets where another has them."""
    if isinstance(value, list) and isinstance(like, (list, tuple, set)):
        kinds = list(like) or [None]
        whole = len(kinds) == len(value)
        likes = [kinds[i] if whole else kinds[0] for i in range(len(value))]
        deep = type(like)()  # of lists where the row's tests have something else
        parts = [
            _typed(part, deep if isinstance(part, list) and not isinstance(one, (list, tuple, set, dict)) else one)
            for part, one in zip(value, likes, strict=True)
        ]
        try:
            return type(like)(parts)
        except TypeError:  # no set of lists
            return parts
    if isinstance(value, dict) and isinstance(like, dict) and like:
        key, other = next(iter(like.items()))
        return {_key(k, key): _typed(v, like.get(k, other)) for k, v in value.items()}
    if isinstance(value, str) and isinstance(like, complex):  # JSON has no such numbers
        return complex(value)
    return value


def _key(key: Any, like: Any) -> Any:
    return int(key) if isinstance(like, int) and isinstance(key, str) and key.lstrip("-").isdigit() else key


# --- the hub's rows -------------------------------------------------------------------------------------------------


def _read_hub(row: Row, fields: Fields) -> Question:
    text_field(row, "test")
    first = read_mbpp(row, fields)
    tests = tuple(str(test) for test in row["test_list"])
    assert first.entry_point is not None
    return question(
        with_tests(text_field(row, "prompt"), tests),
        first.reference,
        entry_point=first.entry_point,
        tests=tests,
        setup=first.setup,
    )


def _check_hub(example: Example, answer: str) -> bool:
    problem = example.problem
    return check_mbpp(example, answer) and passes(
        answer, str(example.row["test"]), entry_point=problem.entry_point, setup=problem.setup
    )


def _sound(row: Row) -> bool:
    return row.get("task_id") not in _BROKEN


MBPP_PLUS = AnswerKind(
    name=MBPP.name, prompt=WRITE, read=_read, check=_check, keep=_sound, closing="", runs_programs=True
)

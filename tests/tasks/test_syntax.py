"""Trees are built in many threads at once: graders run in threads."""

from __future__ import annotations

import ast
from concurrent.futures import ThreadPoolExecutor

import pytest

from reason.tasks.syntax import parse, parse_expression, parse_literal


def test_threads_do_not_disturb_each_other() -> None:
    nested = [f"f({'[' * depth}{', '.join(map(str, range(300)))}{']' * depth})" for depth in range(1, 25)] * 8
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(parse_expression, nested))
    assert all(isinstance(tree, ast.Call) for tree in found)


def test_it_is_pythons_own() -> None:
    assert ast.dump(parse("x = 1\n")) == ast.dump(ast.parse("x = 1\n"))
    assert parse_literal(" (1, 'a')") == (1, "a")
    with pytest.raises(SyntaxError):
        parse("x =")
    with pytest.raises(ValueError, match="malformed"):
        parse_literal("f()")

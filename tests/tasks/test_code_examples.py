"""The examples in docstrings, as tests."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path

import pytest

from reason.tasks.code import docstring_tests


def read(docstring: str, signature: str = "f(x)") -> list[str]:
    lines = "\n".join(f"    {line}" for line in docstring.splitlines())
    return list(docstring_tests(f'def {signature}:\n    """\n{lines}\n    """\n', signature.partition("(")[0]))


@pytest.mark.parametrize(
    ("docstring", "tests"),
    [
        (">>> f(2)\n3", ["assert f(2) == 3"]),
        (">>> f(2)\n3\n>>> f('a')\n'b'\n", ["assert f(2) == 3", "assert f('a') == 'b'"]),
        (">>>f([1,\n...    2])\n[1,\n 2]\n\nText.", ["assert f([1,\n    2]) == [1,\n 2]"]),
        (">>> f(2) == 3", ["assert f(2) == 3"]),
        (">>> f(2) == 3\nTrue", ["assert f(2) == 3"]),
        (">>> f(2) # two\n3", ["assert f(2) == 3"]),
        (">>> round(f(2), 2) # about 3\n3.0", ["assert round(f(2), 2) == 3.0"]),
        (">>> f(2) ➞ 3", ["assert f(2) == 3"]),
        ("f(2) == 3", ["assert f(2) == 3"]),
        ("f(2) => 3\nf(3)==>4\nf(4) -> 5", ["assert f(2) == 3", "assert f(3) == 4", "assert f(4) == 5"]),
        ("f([2, 'a)']) should return True.", ["assert f([2, 'a)']) == True"]),
        ("f(2) returns 'x'", ["assert f(2) == 'x'"]),
        ("f(2)   # returns 'x'", ["assert f(2) == 'x'"]),
        ("f(2) -> 5 - 2 = 3", ["assert f(2) == 5 - 2"]),
        ("f(2) => true", ["assert f(2) == True"]),
        ("f(2) = 3", ["assert f(2) == 3"]),
        ("f(1) = 7\n\nExamples:\nf(2) = 3", ["assert f(2) == 3"]),  # the first is a definition
        ("For x = 2, the output should be 3", ["assert f(2) == 3"]),
        ("For x = 2, the sum is 1 the output should be '1'.", ["assert f(2) == '1'"]),
        ("Example 1:\n\n    Input: [2, 3]\n    Output: (4, 6)\n    Explanation:", ["assert f([2, 3]) == (4, 6)"]),
        ("f(a) => True", []),  # a is no value
        ("f(2) is odd", []),
        ("f(2)", []),
        (">>> f(2)\nTraceback (most recent call last):\nValueError", []),
        (">>> f(2) [3]", []),
        ("g(2) == 3", []),
        ("f(2", []),
        ("", []),
    ],
)
def test_reads(docstring: str, tests: list[str]) -> None:
    assert read(docstring) == tests


def test_reads_several_arguments_by_name() -> None:
    said = 'For s = "ab", c = "b", the result should be ("a", True)'
    assert read(said, "f(s, c)") == ['assert f("ab", "b") == ("a", True)']
    assert read(said, "f(s, d)") == []
    assert read("Input: 1, 2\nOutput: 3", "f(a, b)") == ["assert f(1, 2) == 3"]


def test_of_humaneval(data_dir: Path) -> None:
    """How many there are: the figures that docs/code.md gives."""
    with gzip.open(data_dir / "code" / "humaneval.jsonl.gz", "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    tests = [docstring_tests(row["prompt"], row["entry_point"]) for row in rows]
    assert (len(rows), sum(map(bool, tests)), sum(map(len, tests))) == (131, 123, 351)
    for test in (test for each in tests for test in each):
        ast.parse(test)

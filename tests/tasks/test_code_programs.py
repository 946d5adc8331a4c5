"""Programs out of what models write."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.tasks.code import ExtractProgram
from reason.tasks.code.programs import without_trials

PROMPT = '''from typing import List


def helper(x):
    return x + 1


def add(numbers: List[int]) -> int:
    """ Adds numbers.
    >>> add([1, 2])
    3
    """
'''
BEFORE = "from typing import List\n\n\ndef helper(x):\n    return x + 1\n\n\n"
WHOLE = "def add(numbers):\n    return sum(numbers)\n"
extract = ExtractProgram("add", PROMPT)
alone = ExtractProgram("add")


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```\n"


@pytest.mark.parametrize(
    ("text", "program"),
    [
        (fenced(WHOLE), BEFORE + WHOLE),
        (f"Sure!\n\n{fenced(WHOLE)}\nIt adds them.", BEFORE + WHOLE),
        (fenced(WHOLE, ""), BEFORE + WHOLE),
        (fenced(WHOLE, "Python"), BEFORE + WHOLE),
        (fenced("x = 1\n") + fenced(WHOLE) + fenced("print(add([1]))\n"), BEFORE + WHOLE),
        (fenced("def add(numbers):\n    return 0\n") + "Better:\n" + fenced(WHOLE), BEFORE + WHOLE),
        (fenced(WHOLE, "javascript") + fenced("def add(n):\n    pass\n"), BEFORE + "def add(n):\n    pass\n"),
        ("1. So:\n   ```python\n   def add(numbers):\n       return sum(numbers)\n   ```\n", BEFORE + WHOLE),
        (f"```python\n{WHOLE}", BEFORE + WHOLE),  # the fence was not closed
        (f"~~~python\n{WHOLE}~~~", BEFORE + WHOLE),
        (fenced(BEFORE + WHOLE), BEFORE + WHOLE),  # nothing is put before it twice
        (f"<think>{fenced('def add(n): return 0')}</think>{fenced(WHOLE)}", BEFORE + WHOLE),
        (f"{WHOLE}\nThis adds them.", BEFORE + WHOLE),
        ("    return sum(numbers)\n", PROMPT + "    return sum(numbers)\n"),
        ("    return sum(numbers)\n\nIt adds.\n", PROMPT + "    return sum(numbers)\n"),
        ("\n    return sum(numbers)\n\n\nprint(add([1]))\n", PROMPT + "    return sum(numbers)\n"),
        (fenced("    return sum(numbers)\n"), PROMPT + "    return sum(numbers)\n"),
        (fenced("return sum(numbers)\n"), PROMPT + "    return sum(numbers)\n"),
        (
            "    return inner(numbers)\n\n\ndef inner(n):\n    return sum(n)\n",
            PROMPT + "    return inner(numbers)\n\n\ndef inner(n):\n    return sum(n)\n",
        ),
    ],
)
def test_finds_the_program(text: str, program: str) -> None:
    assert extract(text) == program


@pytest.mark.parametrize(
    "text", ["", "I cannot do that.", "The function adds.", fenced("x = 1\n", "bash"), PROMPT, fenced("1 +\n")]
)
def test_finds_none(text: str) -> None:
    assert extract(text) is None or text == PROMPT
    assert alone(text) is None or text == PROMPT


def test_gives_a_broken_program_as_it_stands() -> None:
    assert extract("```python\ndef add(numbers):\n    return (sum(") == "def add(numbers):\n    return (sum(\n"
    assert alone("def add(numbers):\n    return (sum(") == "def add(numbers):\n    return (sum(\n"


def test_leaves_out_what_only_tries_the_program_out() -> None:
    kept = (
        '"""A sum."""\nimport math\n\nLIMIT = 3\n\n\ndef add(numbers):\n    assert numbers\n    return sum(numbers)\n'
    )
    trials = "\n# Examples\nassert add([1]) == 1\nprint(add(\n    [2]\n))\n"
    trials += "\nif __name__ == '__main__':\n    print(add([3]))\n"
    assert without_trials(kept + trials, "add") == kept
    assert without_trials("x = 1; print(x)\n", "add") == "x = 1; print(x)\n"
    assert without_trials("def (", "add") == "def ("
    assert alone(fenced(kept + trials)) == kept


@given(st.text(max_size=200))
def test_never_raises(text: str) -> None:
    extract(text)
    alone(fenced(text))


def test_what_sets_something_up_stays() -> None:
    kept = "import sys\nsys.setrecursionlimit(10**5)\nmemo = {}\nmemo.update({0: 0})\ndef add(n):\n    return n\n"
    assert without_trials(kept + "add(3)\n", "add") == kept


def test_lines_are_pythons() -> None:
    kept = "SEP = 'a\x0cb\u2028'\ndef add(n):\n    return n\n"
    assert without_trials(kept + "print(add(2))\n", "add") == kept


def test_a_long_text_with_a_mistake_takes_no_time() -> None:
    lines = [f"x{number} = {number}" for number in range(900)]
    code = "\n".join(["def add(n):", "    return n", *lines[:450], "this is no Python", *lines[450:]])
    began = time.perf_counter()
    program = alone(code)
    assert program is not None
    assert "x449 = 449" in program
    assert "x450" not in program
    assert time.perf_counter() - began < 2

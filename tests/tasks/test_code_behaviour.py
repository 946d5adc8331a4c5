"""Programs that do the same are the same answer."""

from __future__ import annotations

import ast
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.tasks import group
from reason.tasks.code import SameBehaviour, behaviour
from reason.tasks.code.inputs import changed, given_inputs, made_inputs

TESTS = ("assert f([3, 1, 2]) == [1, 2, 3]", "assert f([]) == []")
same = SameBehaviour(TESTS, "f")

SORTED = "def f(x):\n    return sorted(x)\n"
LOOP = '''
def f(items):
    """By hand."""
    out = []
    for item in items:
        place = 0
        while place < len(out) and out[place] < item:
            place += 1
        out.insert(place, item)
    return out
'''
SET = "def f(x):\n    return sorted(set(x))\n"  # not the same where a number stands twice
BROKEN = "def f(x:\n    return x\n"
RAISES = "def f(x):\n    return y\n"
ENDLESS = "def f(x):\n    while True:\n        pass\n"


def test_inputs_of_tests() -> None:
    tests = ["assert set(f(1, [2])) == {1}", "assert f(1, [2]) is None", "assert candidate(x=3) == g(4)", "no Python ("]
    assert given_inputs(tests, "f") == ("1, [2]", "x=3")


def test_made_inputs_depend_on_the_tests_alone() -> None:
    inputs = ("[1, 2, 3], 'ab'", "[], ''")
    made = made_inputs(inputs, 20)
    assert made == made_inputs(inputs, 20) != made_inputs(inputs[:1], 20)
    assert len(set(made)) == len(made) == 20
    assert not set(made) & set(inputs)
    for text in made:
        numbers, letters = ast.literal_eval(f"({text},)")
        assert type(numbers) is list
        assert type(letters) is str
    assert made_inputs(("open('x')",), 5) == made_inputs((), 5) == made_inputs(("",), 5) == ()
    assert made_inputs(("True",), 5) == ("False",)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=8,
)


@given(values, st.integers(0, 1000))
def test_a_change_keeps_the_type(value: Any, seed: int) -> None:
    other = changed(value, random.Random(seed))
    assert type(other) is type(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        assert (other < 0) <= (value < 0)


@pytest.mark.usefixtures("isolation")
class TestInTheSandbox:
    def test_same(self) -> None:
        assert same(SORTED, LOOP)
        assert same(LOOP, SORTED)
        assert not same(SORTED, SET)
        assert not same(SORTED, "def f(x):\n    return x\n")

    def test_failing_alike_is_no_agreement(self) -> None:
        for program in (BROKEN, RAISES):
            assert same(program, program)
            assert same(program, program + "# the same\n") == (program == RAISES)
            assert not same(program, SORTED)
        assert not same(RAISES, "def f(x):\n    return z\n")
        assert not same(BROKEN, "def f(x:\n    return y\n")

    def test_raising_on_some_inputs_is_behaviour(self) -> None:
        picky = "def f(x):\n    if not x:\n        raise ValueError\n    return sorted(x)\n"
        other = "def f(x):\n    assert x\n    return sorted(x)\n"
        assert same(picky, picky.replace("not x", "len(x) == 0"))
        assert not same(picky, SORTED)
        assert not same(picky, other)

    def test_equal_values_of_other_types_are_the_same(self) -> None:
        compare = SameBehaviour(("assert f(2) == 4", "assert f(0) == 0"), "f")
        assert compare("def f(x): return x * 2", "def f(x): return x * 2.0")
        assert not compare("def f(x): return [x]", "def f(x): return (x,)")
        assert compare("def f(x): return {1: x, 2: {x}}", "def f(x): return {2: {x}, 1: x}")

    def test_a_program_cannot_choose_its_signature(self) -> None:
        forger = SORTED + "import hashlib\nhashlib.sha256 = None\nprint('AssertionError: behaviour 00 3')\n"
        assert same(forger, SORTED)

    def test_what_does_not_end_on_made_inputs_is_compared_on_the_given_ones(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(behaviour, "TEST_SECONDS", 1)
        slow = "def f(x):\n    while x not in ([3, 1, 2], []):\n        pass\n    return sorted(x)\n"
        sure = SameBehaviour((*TESTS, "assert f([7]) == [7]"), "f")
        assert same.signature(slow).startswith("2 inputs ")
        assert sure.signature(ENDLESS).startswith("text ")

    def test_a_vote_runs_each_program_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[str] = []
        from reason.tasks.code.running import run

        def counted(program: str, tests: Any, **options: Any) -> Any:
            asked.append(program)
            return run(program, tests, **options)

        monkeypatch.setattr(behaviour, "run", counted)
        behaviour.signature.cache_clear()
        programs = [SORTED, LOOP, SET, SORTED, LOOP + "\n", BROKEN, RAISES]
        assert group(programs, same) == [[0, 1, 3, 4], [2], [5], [6]]
        assert sorted(set(asked)) == sorted(asked)

    def test_without_inputs_syntax_trees_are_compared(self) -> None:
        compare = SameBehaviour((), "f")
        assert compare("def f(x): return x", 'def f(x):\n    """Gives x."""\n    return x  # as it is\n')
        assert not compare(SORTED, LOOP)

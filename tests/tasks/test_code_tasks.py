"""HumanEval and MBPP: what a solver sees, what decides, and rows that are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reason.errors import UsageError
from reason.tasks import Task, load_task

Row = dict[str, Any]
FILES = {"humaneval": "humaneval", "mbpp": "mbpp_sanitized", "mbpp-plus": "mbpp_plus"}

# What is hidden of each, and another value of it.
HIDDEN: dict[str, Row] = {
    "humaneval": {"test": "def check(candidate):\n    assert False\n", "canonical_solution": "    return None\n"},
    "mbpp": {"code": "def square_nums(nums):\n    return None\n"},
    "mbpp-plus": {"plus_input": [[[1], [2]]], "canonical_solution": "def similar_elements(a, b):\n    return None\n"},
}


@pytest.fixture
def first(fixtures_dir: Path) -> Callable[[str], Row]:
    """The first row of a task's data."""

    def first(name: str) -> Row:
        lines = (fixtures_dir / "tasks" / f"{FILES[name]}.jsonl").read_text(encoding="utf-8").splitlines()
        row: Row = json.loads(lines[0])
        return row

    return first


@pytest.fixture
def load(write: Callable[..., Path]) -> Callable[..., Task]:
    def load(name: str, *rows: Row) -> Task:
        return load_task(name, data=write(*rows))

    return load


def solution(task: Task) -> str:
    (example,) = task.examples
    return example.reference


@pytest.mark.parametrize("name", FILES)
def test_what_is_hidden_changes_nothing_that_a_solver_sees(
    name: str, first: Callable[[str], Row], load: Callable[..., Task], isolation: None
) -> None:
    row = first(name)
    other = {**row, **HIDDEN[name]}
    if name == "mbpp":
        other["test_list"] = [row["test_list"][0], "assert square_nums([9]) is None"]
    one, two = load(name, row), load(name, other)
    assert one.examples[0].problem == two.examples[0].problem
    assert one.examples[0].reference != two.examples[0].reference
    assert one.grade(one.examples[0], solution(one))
    assert not two.grade(two.examples[0], solution(one))


def test_problems(fixtures_dir: Path) -> None:
    tasks = {name: load_task(name, data=fixtures_dir / "tasks") for name in FILES}
    problems = {example.problem.id: example.problem for task in tasks.values() for example in task.examples}
    assert {name: problem.tests for name, problem in problems.items()} == {
        "HumanEval-2": ("assert truncate_number(3.5) == 0.5",),
        "HumanEval-32": (
            "assert round(find_zero([1, 2]), 2) == -0.5",
            "assert round(find_zero([-6, 11, -6, 1]), 2) == 1.0",
        ),
        "HumanEval-77": tuple(
            f"assert iscube({x}) == {expected}"
            for x, expected in ((1, True), (2, False), (-1, True), (64, True), (0, True), (180, False))
        ),
        "mbpp-8": ("assert square_nums([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])==[1, 4, 9, 16, 25, 36, 49, 64, 81, 100]",),
        "mbpp-9": ('assert find_Rotations("aaaa") == 1',),
        "mbpp-82": ("assert math.isclose(volume_sphere(10), 4188.790204786391, rel_tol=0.001)",),
        "Mbpp-2": (
            "assert similar_elements((3, 4, 5, 6), (5, 7, 4, 10)) == (4, 5)",
            "assert similar_elements((1, 2, 3, 4), (5, 4, 3, 7)) == (3, 4)",
            "assert similar_elements((11, 12, 14, 13), (17, 15, 14, 13)) == (13, 14)",
        ),
        "Mbpp-9": tuple(
            f"assert find_Rotations('{x}') == {count}" for x, count in (("aaaa", 1), ("ab", 2), ("abc", 3))
        ),
        "Mbpp-737": ("assert check_str('annie')", "assert not check_str('dawood')", "assert check_str('Else')"),
    }
    assert problems["mbpp-82"].setup == "import math"
    for task in tasks.values():
        assert task.runs_programs
        for problem in (example.problem for example in task.examples):
            assert problem.closing == ""
            shown = problem.content[-1]["content"]  # type: ignore[index]
            assert problem.entry_point in shown  # type: ignore[operator]
            if task.name != "humaneval":
                assert all(test in shown for test in problem.tests)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("humaneval", {"prompt": ""}, "'prompt' has to be text"),
        ("humaneval", {"entry_point": "other"}, "does not define other"),
        ("humaneval", {"test": None}, "'test' has to be text"),
        ("mbpp", {"test_list": []}, "'test_list' has to be a list of tests"),
        ("mbpp", {"test_list": ["assert f("]}, "'test_list' has to be a list of tests"),
        ("mbpp", {"test_list": ["assert True"]}, "calls no function"),
        ("mbpp-plus", {"assertion": "x = 1"}, "'assertion' has no assertion"),
        ("mbpp-plus", {"assertion": "assert ("}, "'assertion' has to be Python"),
        ("mbpp-plus", {"base_input": None}, "'base_input' has to be a list"),
    ],
)
def test_rows_that_are_refused(
    name: str, change: Row, message: str, first: Callable[[str], Row], load: Callable[..., Task]
) -> None:
    with pytest.raises(UsageError, match=rf"rows\.jsonl, line 1: .*{message}"):
        load(name, {**first(name), **change})


def test_rows_of_the_hub_bring_a_finished_test(load: Callable[..., Task], isolation: None) -> None:
    row = {
        "task_id": 3,
        "prompt": "Write a function that doubles.",
        "code": "def double(x):\n    return x * 2\n",
        "test_imports": [],
        "test_list": ["assert double(2) == 4", "assert double(0) == 0"],
        "test": "for given, expected in zip([[1], [5]], [2, 10]):\n    assert double(*given) == expected, 0\n",
    }
    task = load("mbpp-plus", row)
    (example,) = task.examples
    assert example.problem.tests == tuple(row["test_list"])  # type: ignore[arg-type]
    assert task.grade(example, example.reference)
    assert not task.grade(example, "def double(x):\n    return x + x % 5 if x == 2 else 0\n")
    assert not task.grade(example, "def double(x):\n    return 4 if x == 2 else 0\n")


def test_infinity_is_close_to_nothing_else(load: Callable[..., Task], isolation: None) -> None:
    row = {
        "task_id": "Mbpp/1",
        "entry_point": "half",
        "prompt": "'''\nWrite a function that halves.\n'''",
        "canonical_solution": "def half(x):\n    return x / 2\n",
        "base_input": [[1.0]],
        "plus_input": [[float("inf")]],
        "atol": 0,
        "assertion": "assert half(1.0) == 0.5\n",
    }
    task = load("mbpp-plus", row)
    (example,) = task.examples
    assert task.grade(example, example.reference)
    for wrong in ("5.0", "float('-inf')"):
        assert not task.grade(example, f"def half(x):\n    return x / 2 if x < 100 else {wrong}\n")


def test_inputs_get_the_types_of_the_rows_own_tests(load: Callable[..., Task], isolation: None) -> None:
    row = {
        "task_id": "Mbpp/1",
        "entry_point": "kinds",
        "prompt": "'''\nWrite a function that names the kinds of things.\n'''",
        "canonical_solution": "def kinds(a, b):\n    names = [type(x).__name__ for x in (a, a[0], b)]\n"
        "    return names + sorted(map(str, b))\n",
        "base_input": [[[[1]], [2]]],
        "plus_input": [[[[1, 2], [3]], [2, 3]], [[[1.5]], []]],
        "atol": 0,
        "assertion": "assert kinds(((1,),), {2}) == ['tuple', 'tuple', 'set', '2']\n",
    }
    task = load("mbpp-plus", row)
    (example,) = task.examples
    assert task.grade(example, example.reference)
    strict = "def kinds(a, b):\n    hash(a)\n    return ['tuple', 'tuple', 'set'] + sorted(map(str, b))\n"
    assert task.grade(example, strict)
    assert not task.grade(example, strict.replace("sorted(map(str, b))", "['2']"))

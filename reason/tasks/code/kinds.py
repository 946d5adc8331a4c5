"""HumanEval (Chen et al. 2021, https://arxiv.org/abs/2107.03374) and MBPP (Austin et al. 2021,
https://arxiv.org/abs/2108.07732): a function is asked for, and tests decide.

    right(program) = every test of the row passes, in the sandbox

A solver sees the *public* tests only: of HumanEval the examples in the docstring, of MBPP the first of the row's tests,
which the prompt shows. The *hidden* ones, all that the row has, are read from ``Example.row`` when an answer is graded.

We depart from the papers in the prompts, which are for models that chat, and in showing one test of MBPP, not three.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Mapping, Sequence
from typing import Any

from reason.errors import UsageError
from reason.tasks.answer_kinds import AnswerKind, BadRow, Fields, Question, Row
from reason.tasks.code.behaviour import SameBehaviour
from reason.tasks.code.examples import docstring_tests
from reason.tasks.code.programs import ExtractProgram, function_of, parsed
from reason.tasks.code.prompts import COMPLETE, WRITE
from reason.tasks.code.running import GRADE_SECONDS, run
from reason.tasks.syntax import parse
from reason.tasks.task import Example
from reason.types import Problem

__all__ = [
    "HUMANEVAL",
    "MBPP",
    "check_mbpp",
    "code_problem",
    "entry_point_of",
    "passes",
    "question",
    "read_mbpp",
    "text_field",
    "with_tests",
]


def passes(program: str, test: str, *, entry_point: str | None, setup: str) -> bool:
    """Whether a program passes one test. Blocks."""
    (verdict,) = run(program, (test,), entry_point=entry_point, setup=setup, seconds=GRADE_SECONDS)
    return verdict.passed


def question(
    text: str, reference: str, *, entry_point: str, tests: Sequence[str], setup: str = "", prompt: str = ""
) -> Question:
    """What a kind makes of a row; ``prompt`` is the code that a solution may go on from."""
    return Question(
        text,
        reference,
        ExtractProgram(entry_point, prompt),
        SameBehaviour(tuple(tests), entry_point, setup),
        question=text,
        tests=tuple(tests),
        entry_point=entry_point,
        setup=setup,
    )


def code_problem(
    text: str, tests: Sequence[str], *, entry_point: str | None = None, setup: str = "", id: str = "problem"
) -> Problem:
    """A problem of one's own that asks for a program.

    Args:
        text: what the function should do. The tests are put after it.
        tests: what it has to pass, "assert f(2) == 3": public, so a strategy may use them.
        entry_point: the function; by default the one that the first test calls.
        setup: Python that runs before each test.

    Raises:
        UsageError: there is no test, one is no Python, or it does not say what the function is.
    """
    if not tests:
        raise UsageError("a problem that asks for a program needs at least one test, like 'assert f(2) == 3'")
    if wrong := [test for test in tests if parsed(test) is None]:
        raise UsageError(f"the test {wrong[0]!r:.100} is no Python")
    name = entry_point or entry_point_of(tests[0], setup)
    if name is None:
        raise UsageError(f"the test {tests[0]!r:.100} does not say which function it tests; give entry_point")
    made = question(with_tests(text, tests), "", entry_point=name, tests=tests, setup=setup)
    return Problem(
        content=WRITE.messages(made.text),
        id=id,
        extract=made.extract,
        equivalent=made.equivalent,
        closing="",
        question=made.question,
        tests=made.tests,
        entry_point=name,
        setup=setup,
    )


def entry_point_of(test: str, code: str = "") -> str | None:
    """The function that a test calls: one that ``code`` defines, or else the first that Python does not."""
    nodes = ast.walk(parse(test))
    called = [node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    own = [name for name in called if function_of(code, name) is not None]
    return next(iter(own or [name for name in called if not hasattr(builtins, name)]), None)


def text_field(row: Row, name: str) -> str:
    """A field that has to be text.

    Raises:
        BadRow: it is not, or empty.
    """
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"the field {name!r} has to be text and not empty, it is {value!r:.60}")
    return value


def with_tests(text: str, tests: Sequence[str]) -> str:
    """A description, and tests after it."""
    shown = "\n".join(tests)
    return f"{text.strip()}\n\nYour code should pass {'this test' if len(tests) == 1 else 'these tests'}:\n{shown}"


# --- HumanEval ------------------------------------------------------------------------------------------------------


def _read_humaneval(row: Row, fields: Fields) -> Question:
    code, name = text_field(row, "prompt").strip("\n") + "\n", text_field(row, "entry_point")
    solution, _ = text_field(row, "canonical_solution"), text_field(row, "test")
    if function_of(code, name) is None:
        raise BadRow(f"the prompt does not define {name}, the entry point")
    tests = docstring_tests(code, name)
    return question(code, code + solution, entry_point=name, tests=tests, setup=code, prompt=code)


def _check_humaneval(example: Example, answer: str) -> bool:
    row, problem = example.row, example.problem
    test = f"{row['test']}\n\ncheck(candidate)\n"
    return passes(answer, test, entry_point=problem.entry_point, setup=problem.setup)


HUMANEVAL = AnswerKind(
    name="a Python function",
    prompt=COMPLETE,
    read=_read_humaneval,
    check=_check_humaneval,
    closing="",
    runs_programs=True,
)

# --- MBPP -----------------------------------------------------------------------------------------------------------


def read_mbpp(row: Row, fields: Fields) -> Question:
    """A row with ``test_list``; its first test is public. Raises BadRow."""
    text, code = text_field(row, "prompt"), text_field(row, "code")
    tests = _tests(row)
    name = entry_point_of(tests[0], code)
    if name is None:
        raise BadRow(f"the test {tests[0]!r:.60} calls no function")
    public = tests[:1]
    return question(with_tests(text, public), code, entry_point=name, tests=public, setup=_imports(row))


def check_mbpp(example: Example, answer: str) -> bool:
    """Whether a program passes all of ``test_list``. Blocks."""
    problem = example.problem
    return passes(answer, "\n".join(_tests(example.row)), entry_point=problem.entry_point, setup=problem.setup)


def _tests(row: Mapping[str, Any]) -> list[str]:
    tests = row.get("test_list")
    if not isinstance(tests, list) or not tests or not all(isinstance(t, str) and parsed(t) is not None for t in tests):
        raise BadRow(f"the field 'test_list' has to be a list of tests and not empty, it is {tests!r:.60}")
    return [str(test) for test in tests]


def _imports(row: Mapping[str, Any]) -> str:
    return "\n".join(str(line) for line in row.get("test_imports") or ())


MBPP = AnswerKind(
    name="a Python function", prompt=WRITE, read=read_mbpp, check=check_mbpp, closing="", runs_programs=True
)

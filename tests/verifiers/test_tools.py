"""Tools: what a call is, what it comes to, and that each is made once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from reason.types import Problem, Review, Step, Trajectory
from reason.verifiers import make_verifier
from reason.verifiers.tools import Call, Toolbox, Tools, find_call

if TYPE_CHECKING:
    from collections.abc import Sequence

PROBLEM = Problem(content="?", passages=("Rome is in Italy.", "Paris is in France.", "The Seine flows through Paris."))


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("Let me see. <calc> 3 * 4 ", Call("calc", "3 * 4")),
        ("<python>\nprint(1)\n", Call("python", "print(1)")),
        ("<python>```python\nx = 1\nprint(x)\n```\n", Call("python", "x = 1\nprint(x)")),
        ("<python>    x = 1", Call("python", "    x = 1")),
        ("<search>Paris", Call("search", "Paris")),
        ("<calc>1</calc> and then <search>who</search>", None),
        ("<calc>1</calc> and then <search>who", Call("search", "who")),
        ("<html>1", None),
        ("", None),
    ],
)
def test_calls(text: str, call: Call | None) -> None:
    assert find_call(text) == call


def answer(call: Call, problem: Problem = PROBLEM, **options: Any) -> str:
    return asyncio.run(Toolbox(**options).answer(call, problem))


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("3 * 4", "12"),
        ("7 / 2", "3.5"),
        ("2 ^ 10", "1024"),
        ("1,000 × 3", "3000"),
        ("1,234,567 + 1", "1234568"),
        ("gcd(12,180) + lcm(4,100)", "112"),
        ("sqrt(16) + factorial(5)", "124"),
        ("0.1 + 0.2", "0.3"),
        ("12345678901.25*100", "1234567890125"),
        ("2**200", str(2**200)),
    ],
)
def test_the_calculator(expression: str, value: str) -> None:
    assert answer(Call("calc", expression)) == value


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("1 / 0", "division by zero"),
        ("x + 1", "name 'x' is not defined"),
        ("1 +", "no arithmetic expression"),
        ("", "no arithmetic expression"),
        ("9 ** 9 ** 9 ** 9", "it "),
        ("'a' * 10 ** 12", "emory"),
        ("10**400/3", "OverflowError"),
        ("__import__('os').listdir('/root')", ""),
    ],
)
def test_the_calculator_says_what_is_wrong(expression: str, said: str) -> None:
    told = answer(Call("calc", expression), seconds=1)
    assert told.startswith("error: ")
    assert said in told


def test_search() -> None:
    assert answer(Call("search", "Seine Paris"), num_passages=2) == (
        "[3] The Seine flows through Paris.\n\n[2] Paris is in France."
    )
    assert answer(Call("search", "x"), Problem(content="?")) == "error: there is nothing to search"


@pytest.mark.usefixtures("isolation")
@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("print(6 * 7)", "42"),
        ("x = 6\nx * 7", "42"),
        ("x = 6; x * 7", "42"),
        ("None", "(nothing was printed)"),
        ("x = 1", "(nothing was printed)"),
        ("print('a')\n1 / 0", "a\nerror: ZeroDivisionError: division by zero"),
        ("import os\nos.listdir('/home')", "error: "),
        ("def f(:", "error: SyntaxError"),
        ("print('x' * 5000)", "…"),
    ],
)
def test_python(program: str, said: str) -> None:
    assert said in answer(Call("python", program))


@pytest.mark.usefixtures("isolation")
def test_python_has_limits() -> None:
    assert "it took too long" in answer(Call("python", "while True: pass"), seconds=1)


def test_a_call_is_made_once() -> None:
    async def calls() -> Toolbox:
        box = Toolbox()
        first = await asyncio.gather(*(box.answer(Call("calc", "1 + 1"), PROBLEM) for _ in range(3)))
        assert first == ["2"] * 3
        box.begin(Call("calc", "1 + 1"), PROBLEM)
        box.begin(Call("calc", "2 + 2"), PROBLEM)
        assert await box.answer(Call("calc", "2 + 2"), PROBLEM) == "4"
        box.begin(Call("search", "never asked for"), PROBLEM)
        return box

    box = asyncio.run(calls())
    assert box.made == {"calc": 2, "search": 1}
    assert (box.ahead, box.spared) == (2, 3)


def test_a_call_that_failed_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def calls() -> list[Any]:
        box = Toolbox()
        make = box._make

        async def failing(call: Call, passages: tuple[str, ...]) -> str:
            monkeypatch.setattr(box, "_make", make)
            raise OSError("no room")

        monkeypatch.setattr(box, "_make", failing)
        return [
            *await asyncio.gather(box.answer(Call("calc", "1"), PROBLEM), return_exceptions=True),
            await box.answer(Call("calc", "1"), PROBLEM),
        ]

    error, value = asyncio.run(calls())
    assert isinstance(error, OSError)
    assert value == "1"


def test_the_verifier_answers_the_last_step() -> None:
    def steps(*texts: str) -> Trajectory:
        made = tuple(Step(text=text, tokens=(1,)) for text in texts)
        return Trajectory(problem=PROBLEM, prompt=(0,), steps=made)

    verifier = make_verifier("tools")
    assert isinstance(verifier, Tools)
    given = [steps("<calc>2 + 3"), steps("So it is 5."), steps("<calc>2</calc>", "<output>2</output> <search>Rome")]
    said: Sequence[Review] = asyncio.run(verifier.review(given, None, "o"))  # type: ignore[arg-type]
    assert said[:2] == [Review(1.0, "5"), Review(0.0)]
    assert said[2].feedback.startswith("[1] Rome is in Italy.")

"""The prompts of searches over thoughts, and how what is said to them is read (Tree of Thoughts, Yao et al.,
https://arxiv.org/abs/2305.10601).

    propose     the next thoughts, one on each line
    value       how far thoughts may lead: sure 20, likely 1, impossible 0.001, anything else 0
    conclude    the whole solution that thoughts amount to
    judge       whether such a solution is right, in the words of ``value``

A thought is one line of text. "general" is for any problem, "game24" for the game of 24, where a thought is
"4 + 5 = 9 (left: 6 9 10)" and its value depends on the numbers that are left alone. Problems come first in the general
prompts and worked examples in those of the game, so that prompts of one search share most of their KV. All wordings and
examples are our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias

from reason.errors import UsageError
from reason.tasks.answers import after_thinking
from reason.tasks.game24 import SameExpression
from reason.tasks.prompts import Prompt, Worked, problem_messages, problem_text
from reason.types import Message, Problem

__all__ = ["VALUES", "Messages", "PromptSet", "ThoughtPrompts", "read_value", "thought_prompts"]

Messages: TypeAlias = tuple[Message, ...]

PromptSet: TypeAlias = Literal["auto", "general", "game24"]
"""Which prompts; "auto" takes those of the game of 24 for that task's problems."""

VALUES = {"sure": 20.0, "likely": 1.0, "impossible": 0.001}
"""What a verdict is worth."""


class ThoughtPrompts(Protocol):
    """The prompts for one kind of problem."""

    def propose(self, problem: Problem, thoughts: Sequence[str], count: int) -> Messages:
        """Asks for about ``count`` thoughts that could come next; where it is 1, for the next one."""
        ...

    def read_proposals(self, text: str, count: int) -> list[str]:
        """The thoughts in what was said to ``propose``, as they stand."""
        ...

    def value(self, problem: Problem, thoughts: Sequence[str]) -> Messages:
        """Asks for a verdict on thoughts, at least one."""
        ...

    def conclude(self, problem: Problem, thoughts: Sequence[str]) -> Messages:
        """Asks for the whole solution, with its answer in the form that the problem wants."""
        ...

    def judge(self, problem: Problem, solution: str, answer: str | None) -> Messages:
        """Asks for a verdict on a whole solution."""
        ...


def thought_prompts(name: PromptSet, problem: Problem) -> ThoughtPrompts:
    """The prompts of a name; with "auto", those that the problem's task has."""
    if name == "auto":
        name = "game24" if isinstance(problem.equivalent, SameExpression) else "general"
    return _SETS[name]


_VERDICT = re.compile(rf"(?<!not )\b({'|'.join(VALUES)})\b", re.IGNORECASE)


def read_value(text: str) -> float:
    """What the last verdict in a text is worth; 0 where there is none."""
    verdicts = _VERDICT.findall(next(after_thinking(text)))
    return VALUES[verdicts[-1].lower()] if verdicts else 0.0


_BULLET = re.compile(r"\s*(?:(?:[-*•>]|\d+[.)]|\(\d+\)|(?:next )?step(?: \d+)?[:.)])\s+)*", re.IGNORECASE)


def _lines(text: str) -> list[str]:
    """The lines of what follows the thinking, without bullets; blank ones and headings left out."""
    said = next(after_thinking(text))
    lines = (_BULLET.sub("", line.replace("**", ""), count=1).strip() for line in said.splitlines())
    return [line for line in lines if line and not line.endswith(":")]


def _user(text: str) -> Messages:
    return (Message(role="user", content=text),)


# --- any problem ----------------------------------------------------------------------------------------------------

_MANY = (
    "Do not solve the problem yet. Give {count} different steps that could come next. "
    "Write each on a line of its own, in one sentence, with its result. Write nothing else."
)
_ONE = "Do not solve the whole problem. Write only the step that comes next, in one sentence, with its result."
_VALUE = (
    "Can these steps lead to the right answer? Check them briefly. Then end with one word on a line of its own: "
    "sure, if they are right and it is clear how to go on; likely, if you see no mistake; "
    "impossible, if there is a mistake or no way on."
)
_JUDGE = (
    "Is the final answer of this solution right? Check it briefly. Then end with one word on a line of its own: "
    "sure, if it is right; likely, if you see no mistake; impossible, if it is wrong."
)


class _General:
    """See the module's docstring."""

    def propose(self, problem: Problem, thoughts: Sequence[str], count: int) -> Messages:
        return self._about(problem, thoughts, _ONE if count == 1 else _MANY.replace("{count}", str(count)))

    def read_proposals(self, text: str, count: int) -> list[str]:
        return _lines(text)[:count]

    def value(self, problem: Problem, thoughts: Sequence[str]) -> Messages:
        return self._about(problem, thoughts, _VALUE)

    def conclude(self, problem: Problem, thoughts: Sequence[str]) -> Messages:
        *before, last = problem_messages(problem)
        if not thoughts:
            return (*before, last)
        text = f"{last['content']}\n\n{_steps(thoughts)}\n\nGo on from these steps, to the final answer."
        return (*before, Message(role=last["role"], content=text))

    def judge(self, problem: Problem, solution: str, answer: str | None) -> Messages:
        return _user(f"Problem:\n{problem_text(problem)}\n\nA solution:\n{solution.strip()}\n\n{_JUDGE}")

    def _about(self, problem: Problem, thoughts: Sequence[str], request: str) -> Messages:
        return _user(f"Problem:\n{problem_text(problem)}\n\n{_steps(thoughts)}\n\n{request}")


def _steps(thoughts: Sequence[str]) -> str:
    if not thoughts:
        return "Steps so far: none."
    return "\n".join(["Steps so far:", *(f"{place}. {thought}" for place, thought in enumerate(thoughts, start=1))])


# --- the game of 24 -------------------------------------------------------------------------------------------------

_PROPOSE_24 = Prompt(
    template=(
        "Two of these numbers are put together by +, -, * or /, and the result takes their place. "
        "List possible ways, one on each line, with the numbers that are left after it.\nNumbers: {problem}"
    ),
    worked=(  # as elsewhere, four numbers are never a puzzle of the game: one is above 13
        Worked(
            "2 6 9 15",
            "2 + 6 = 8 (left: 8 9 15)\n2 * 6 = 12 (left: 9 12 15)\n6 / 2 = 3 (left: 3 9 15)\n"
            "9 - 6 = 3 (left: 2 3 15)\n9 + 15 = 24 (left: 2 6 24)\n15 - 9 = 6 (left: 2 6 6)\n"
            "15 - 2 = 13 (left: 6 9 13)\n2 * 9 = 18 (left: 6 15 18)",
        ),
        Worked(
            "4 5 16",
            "4 + 5 = 9 (left: 9 16)\n5 - 4 = 1 (left: 1 16)\n4 * 5 = 20 (left: 16 20)\n16 / 4 = 4 (left: 4 5)\n"
            "16 - 4 = 12 (left: 5 12)\n16 - 5 = 11 (left: 4 11)\n16 + 5 = 21 (left: 4 21)",
        ),
        Worked(
            "6 18",
            "6 + 18 = 24 (left: 24)\n18 - 6 = 12 (left: 12)\n6 * 18 = 108 (left: 108)\n18 / 6 = 3 (left: 3)",
        ),
    ),
)

_STEP_24 = Prompt(
    template=(
        "Put two of these numbers together by +, -, * or /, so that 24 comes nearer; the result takes their place. "
        "Write one line, with the numbers that are left.\nNumbers: {problem}"
    ),
    worked=(
        Worked("2 6 9 15", "15 - 9 = 6 (left: 2 6 6)"),
        Worked("2 6 6", "2 * 6 = 12 (left: 6 12)"),
        Worked("6 18", "6 + 18 = 24 (left: 24)"),
    ),
)

_VALUE_24 = Prompt(
    template=(
        "Can 24 be made from these numbers, each used once, by +, -, * and /? Try a few ways. "
        "Then end with one word on a line of its own: sure, likely or impossible.\nNumbers: {problem}"
    ),
    worked=(
        Worked("6 18", "6 + 18 = 24\nsure"),
        Worked("4 9", "4 + 9 = 13\n4 * 9 = 36\n9 - 4 = 5\n9 / 4 = 2.25\nimpossible"),
        Worked("3 4 12", "3 * 4 + 12 = 12 + 12 = 24\nsure"),
        Worked(
            "15 16 17", "15 + 16 + 17 = 48\n15 + 17 - 16 = 16\nAll three are too large to come near 24.\nimpossible"
        ),
        Worked("6 7 10", "6 + 7 + 10 = 23\n(10 - 7) * 6 = 18\nNo way yet, but what they make is near 24.\nlikely"),
        Worked("5 6 13", "5 + 6 + 13 = 11 + 13 = 24\nsure"),
        Worked("1 1 2", "1 + 1 + 2 = 4\n(1 + 1) * 2 = 4\nAll three are too small.\nimpossible"),
        Worked("24", "It is 24.\nsure"),
        Worked("17", "It is not 24.\nimpossible"),
    ),
)

_CONCLUDE_24 = Prompt(
    template=(
        "Write these steps as one expression that uses each of the numbers exactly once, and put it, on one line, "
        "within \\boxed{}.\n{problem}"
    ),
    worked=(
        Worked(
            "Numbers: 1 4 14 20\nSteps:\n20 - 14 = 6 (left: 1 4 6)\n6 * 4 = 24 (left: 1 24)\n24 * 1 = 24 (left: 24)",
            "\\boxed{(20 - 14) * 4 * 1}",
        ),
        Worked(
            "Numbers: 2 5 7 18\nSteps:\n5 + 7 = 12 (left: 2 12 18)\n12 / 2 = 6 (left: 6 18)\n6 + 18 = 24 (left: 24)",
            "\\boxed{(5 + 7) / 2 + 18}",
        ),
        Worked(
            "Numbers: 3 3 8 16\nSteps:\n3 / 3 = 1 (left: 1 8 16)\n16 - 1 = 15 (left: 8 15)\n8 + 15 = 23 (left: 23)",
            "\\boxed{8 + (16 - 3 / 3)}",
        ),
    ),
)

_JUDGE_24 = Prompt(
    template=(
        "Does the expression come to 24, and does it use each of the numbers exactly once? Check it. "
        "Then end with one word on a line of its own: sure or impossible.\n{problem}"
    ),
    worked=(
        Worked(
            "Numbers: 2 5 7 18\nExpression: (5 + 7) / 2 + 18",
            "It uses 5, 7, 2 and 18, each once.\n(5 + 7) / 2 + 18 = 6 + 18 = 24\nsure",
        ),
        Worked("Numbers: 1 4 14 20\nExpression: 20 + 4", "It uses 20 and 4, but not 1 and 14.\nimpossible"),
        Worked(
            "Numbers: 2 3 5 14\nExpression: 14 + 5 + 2 * 3",
            "It uses 14, 5, 2 and 3, each once.\n14 + 5 + 2 * 3 = 19 + 6 = 25\nimpossible",
        ),
        Worked(
            "Numbers: 3 3 8 16\nExpression: (16 + 8) * (3 / 3)",
            "It uses 16, 8, 3 and 3, each once.\n(16 + 8) * (3 / 3) = 24 * 1 = 24\nsure",
        ),
    ),
)

_LEFT = re.compile(r"\bleft:\s*([-\u2212\d./, ]*\d)", re.IGNORECASE)
_FOUR = re.compile(r"(?<![\d.])\d+(?:(?:,\s*|\s+)\d+){3}(?!\.?\d|[,\s]+\d)")


class _Game24:
    """See the module's docstring. Thoughts that do not say what is left are valued by the general prompt."""

    def propose(self, problem: Problem, thoughts: Sequence[str], count: int) -> Messages:
        numbers = (_left(thoughts[-1]) if thoughts else None) or _numbers(problem)
        return _filled(_STEP_24 if count == 1 else _PROPOSE_24, numbers)

    def read_proposals(self, text: str, count: int) -> list[str]:
        said = [line for line in _lines(text) if _left(line) is not None]
        return said[:1] if count == 1 else said

    def value(self, problem: Problem, thoughts: Sequence[str]) -> Messages:
        left = _left(thoughts[-1])
        return _GENERAL.value(problem, thoughts) if left is None else _filled(_VALUE_24, left)

    def conclude(self, problem: Problem, thoughts: Sequence[str]) -> Messages:
        if not thoughts:
            return problem_messages(problem)
        return _filled(_CONCLUDE_24, "\n".join([f"Numbers: {_numbers(problem)}", "Steps:", *thoughts]))

    def judge(self, problem: Problem, solution: str, answer: str | None) -> Messages:
        if answer is None:
            return _GENERAL.judge(problem, solution, answer)
        return _filled(_JUDGE_24, f"Numbers: {_numbers(problem)}\nExpression: {answer}")


def _filled(prompt: Prompt, text: str) -> Messages:
    return prompt.messages(text, few_shot=len(prompt.worked))


def _left(thought: str) -> str | None:
    """The numbers that a thought leaves."""
    found = _LEFT.search(thought)
    return None if found is None else " ".join(found[1].replace(",", " ").split())


def _numbers(problem: Problem) -> str:
    """The puzzle's.

    Raises:
        UsageError: the problem has none.
    """
    if isinstance(problem.equivalent, SameExpression):
        return " ".join(map(str, problem.equivalent.numbers))
    found = _FOUR.search(problem_text(problem))
    if found is None:
        raise UsageError(
            f"the game24 prompts want a problem with four whole numbers in a row, got {problem_text(problem)!r:.80}"
        )
    return " ".join(found[0].replace(",", " ").split())


_GENERAL = _General()
_SETS: dict[str, ThoughtPrompts] = {"general": _GENERAL, "game24": _Game24()}

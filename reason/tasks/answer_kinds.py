"""The kinds of answers there are: how a row becomes a question and a reference, and how an answer to it is judged.

A kind reads rows of local files and of hub data sets alike; only the names of the fields differ.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, NamedTuple, TypeAlias

from reason.tasks.answers import extract_answer, extract_choice
from reason.tasks.equivalence import equivalent
from reason.tasks.normal_form import normal_form, number
from reason.tasks.prompts import CHOICE as CHOICE_PROMPT
from reason.tasks.prompts import MATH, Prompt
from reason.tasks.task import Check, Example, Mark, Part, by_equivalence
from reason.types import CLOSING, Extract

__all__ = ["ANSWER_LIST", "CHOICE", "LATEX", "NUMBER", "AnswerKind", "BadRow", "Fields", "Question", "Row", "value_of"]

Row: TypeAlias = Mapping[str, Any]


class BadRow(Exception):
    """What is wrong with a row; whoever knows the file and line says where."""


class Fields(NamedTuple):
    """The names to look under, the first that the row has counts."""

    question: tuple[str, ...] = ("problem", "question")
    answer: tuple[str, ...] = ("answer",)


class Question(NamedTuple):
    """What a kind makes of a row."""

    text: str  # goes into the prompt
    reference: str
    extract: Extract | None = None
    equivalent: Callable[[str, str], bool] | None = None
    question: str | None = None  # the bare one, where ``text`` has more
    passages: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    entry_point: str | None = None
    setup: str = ""


def _every(row: Row) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKind:
    """One kind of answer.

    Args:
        name: what answers look like, for reports.
        prompt: how problems are asked.
        read: makes the question of a row; raises ``BadRow``.
        check: decides whether an answer is right.
        keep: whether a row is a problem of the task at all.
        marks, part: see ``Task``.
        closing: see ``Problem``.
        runs_programs: see ``Task``.
    """

    name: str
    prompt: Prompt
    read: Callable[[Row, Fields], Question]
    check: Check = by_equivalence
    keep: Callable[[Row], bool] = _every
    marks: Mapping[str, Mark] = field(default_factory=dict)
    part: Part | None = None
    closing: str = CLOSING
    runs_programs: bool = False


def value_of(row: Row, names: Sequence[str]) -> Any:
    """The value of the first field among ``names`` that is there and not None.

    Raises:
        BadRow: there is none.
    """
    for name in names:
        if row.get(name) is not None:
            return row[name]
    wanted = " or ".join(repr(name) for name in names)
    raise BadRow(f"no field {wanted} (its fields: {', '.join(map(str, row)) or 'none'})")


def _text_of(row: Row, names: Sequence[str]) -> str:
    text = value_of(row, names)
    if not isinstance(text, str) or not text.strip():
        raise BadRow(f"the field {_present(row, names)!r} has to be text and not empty, it is {text!r:.60}")
    return text


def _present(row: Row, names: Sequence[str]) -> str:
    return next(name for name in names if row.get(name) is not None)


# --- numbers and formulas -------------------------------------------------------------------------------------------


def _reference(row: Row, names: Sequence[str]) -> str:
    """The reference: what follows "####" (as in GSM8K), what the last box holds, or else the whole value."""
    value = value_of(row, names)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    text = value.rpartition("####")[2].strip() if isinstance(value, str) else ""
    if "\\boxed" in text or "\\fbox" in text:
        text = extract_answer(text, explicit_only=True) or ""
    if not text:
        raise BadRow(f"the field {_present(row, names)!r} has to be a number or a text with one answer: {value!r:.60}")
    return text


def _read_formula(row: Row, fields: Fields) -> Question:
    return Question(_text_of(row, fields.question), _reference(row, fields.answer))


def _read_number(row: Row, fields: Fields) -> Question:
    question = _read_formula(row, fields)
    if number(normal_form(question.reference)) is None:
        raise BadRow(f"the field {_present(row, fields.answer)!r} has no number: {question.reference!r:.60}")
    return question


NUMBER = AnswerKind(name="a number", prompt=MATH, read=_read_number)
LATEX = AnswerKind(name="a number or LaTeX", prompt=MATH, read=_read_formula)

# --- several answers and tolerances: OlympiadBench ------------------------------------------------------------------

_BRACKETS = {"(": 1, "[": 1, "{": 1, ")": -1, "]": -1, "}": -1}
_SEPARATOR = re.compile(r"[,;]|\b(?:and|or)\b|\\text\s*\{\s*(?:and|or)\s*\}")


def _read_answer_list(row: Row, fields: Fields) -> Question:
    text = _text_of(row, fields.question)
    if isinstance(context := row.get("context"), str) and context.strip():
        text = f"{context.strip()}\n{text}"
    answers = value_of(row, fields.answer)
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise BadRow(f"the field {_present(row, fields.answer)!r} has to be a list of texts, it is {answers!r:.60}")
    return Question(text, ", ".join(answer.strip() for answer in answers))


def _check_answer_list(example: Example, answer: str) -> bool:
    """Right if it is the reference, or within the row's tolerance of it, or has its several answers in any order."""
    row, reference = example.row, example.reference
    tolerance = _tolerance(row.get("error"))
    if _close(answer, reference, tolerance):
        return True
    if not (row.get("multiple") or row.get("is_multiple_answer")):
        return False
    missing = _split(reference)
    given = _split(answer)
    if len(missing) != len(given):
        return False
    for part in given:
        found = next((index for index, other in enumerate(missing) if _close(part, other, tolerance)), None)
        if found is None:
            return False
        del missing[found]
    return True


def _close(answer: str, reference: str, tolerance: float) -> bool:
    values = number(normal_form(answer)), number(normal_form(reference))
    if tolerance and values[0] is not None and values[1] is not None:
        return abs(values[0] - values[1]) <= tolerance * (1 + 1e-9)
    return equivalent(answer, reference)


def _tolerance(error: object) -> float:
    try:
        return float(error) if isinstance(error, (str, int, float)) else 0.0
    except ValueError:  # a few rows of other subsets have one for each answer
        return 0.0


def _split(answers: str) -> list[str]:
    """The parts between commas and the like outside brackets. Dollar signs go: they wrap one part or several."""
    answers = answers.replace("\\$", "").replace("$", "").replace("\\{", "{").replace("\\}", "}")
    parts, depth, start = [], 0, 0
    separators = {match.start(): match.end() for match in _SEPARATOR.finditer(answers)}
    for index, character in enumerate(answers):
        depth = max(0, depth + _BRACKETS.get(character, 0))
        if depth == 0 and index >= start and index in separators:
            parts.append(answers[start:index])
            start = separators[index]
    parts.append(answers[start:])
    return [part.strip() for part in parts if part.strip()]


ANSWER_LIST = AnswerKind(
    name="one or several of: a number, LaTeX, a tuple, an interval",
    prompt=MATH,
    read=_read_answer_list,
    check=_check_answer_list,
)

# --- multiple choice ------------------------------------------------------------------------------------------------


def _read_choice(row: Row, fields: Fields) -> Question:
    text = _text_of(row, fields.question).strip()
    choices = value_of(row, ("choices",))
    if not isinstance(choices, list) or not 2 <= len(choices) <= len(ascii_uppercase):
        raise BadRow(f"the field 'choices' has to be a list of 2 to {len(ascii_uppercase)}, it is {choices!r:.60}")
    letters = ascii_uppercase[: len(choices)]
    lines = [f"{letter}. {str(choice).strip()}" for letter, choice in zip(letters, choices, strict=True)]
    reference = value_of(row, fields.answer)
    if isinstance(reference, int) and not isinstance(reference, bool) and 0 <= reference < len(letters):
        reference = letters[reference]
    if not isinstance(reference, str) or len(reference.strip()) != 1 or reference.strip().upper() not in letters:
        raise BadRow(
            f"the field {_present(row, fields.answer)!r} has to be a letter up to {letters[-1]} or an index from 0 on, "
            f"it is {reference!r:.60}"
        )
    return Question("\n".join([text, *lines]), reference.strip().upper(), ExtractLetter(letters), _same_letter)


@dataclass(frozen=True, slots=True)
class ExtractLetter:
    """``extract_choice`` with the letters of one question."""

    letters: str

    def __call__(self, text: str) -> str | None:
        return extract_choice(text, self.letters)


def _same_letter(a: str, b: str) -> bool:
    return a.strip().upper() == b.strip().upper()


CHOICE = AnswerKind(name="the letter of a choice", prompt=CHOICE_PROMPT, read=_read_choice)

"""Solutions that rows come with: ProcessBench's, whose first wrong step is marked (Zheng et al.,
https://arxiv.org/abs/2412.06559), and recorded samples, each known to be right or wrong.

Asked like any other problem, a row of ProcessBench makes the model a critic: it is shown the solution, its steps
numbered from 0, and names the first wrong one, or -1. We depart from the paper in the wording, and in accepting an
answer that is stated without a box, or on the last line. For verifiers, which score steps, ``given`` has
the solutions themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from reason.errors import UsageError
from reason.tasks.answer_kinds import AnswerKind, BadRow, Fields, Question, Row, value_of
from reason.tasks.answers import after_thinking, extract_answer
from reason.tasks.prompts import MATH, Prompt, Worked
from reason.tasks.task import Example
from reason.types import Problem

__all__ = ["FLAWED", "PROCESSBENCH", "SOUND", "SUITES", "Given", "GivenSolution", "given", "has_solutions", "has_steps"]

SOUND, FLAWED = "rows without an error", "rows with an error"
"""The two parts of ProcessBench."""

SUITES = {"processbench": ("processbench-gsm8k", "processbench-math")}
"""Names for several tasks, one after the other."""


def _shown(problem: str, steps: Sequence[str]) -> str:
    numbered = "\n\n".join(f"[Paragraph {number}]\n{step}" for number, step in enumerate(steps))
    return f"A problem:\n\n{problem}\n\nA solution, paragraphs 0 to {len(steps) - 1}:\n\n{numbered}"


_CRITIC = Prompt(
    template=(
        "{problem}\n\nWhich paragraph of the solution is the first with a mistake? Do not solve the problem anew: "
        "check paragraph after paragraph, briefly, and stop at a mistake. End with the paragraph's number within "
        "\\boxed{}, or with \\boxed{-1} if all of them are right."
    ),
    worked=(
        Worked(
            _shown(
                "A baker makes 12 trays of 8 rolls and sells 70 rolls. How many are left?",
                ["There are 12 * 8 = 96 rolls.", "Of these 70 are sold, so 96 - 70 = 36 are left.", "\\boxed{36}"],
            ),
            "Paragraph 0: 12 * 8 = 96 is right.\n\nParagraph 1: 96 - 70 is 26, not 36.\n\n\\boxed{1}",
        ),
        Worked(
            _shown(
                "What is the area of a square with a perimeter of 20?",
                ["A square has four equal sides, so each is 20 / 4 = 5.", "The area is 5^2 = 25.", "\\boxed{25}"],
            ),
            "Paragraph 0: the side is 20 / 4 = 5.\n\nParagraph 1: 5 times 5 is 25.\n\nParagraph 2: that is the answer."
            "\n\n\\boxed{-1}",
        ),
        Worked(
            _shown(
                "Tom is 4 years older than Ann. Together they are 20. How old is Ann?",
                ["If Ann is a years old, Tom is a - 4.", "Then 2a - 4 = 20, so a = 12.", "\\boxed{12}"],
            ),
            "Paragraph 0: Tom is older, so he is a + 4, not a - 4.\n\n\\boxed{0}",
        ),
        Worked(
            _shown(
                "A coat of 80 euros is reduced by 25 percent. What does it cost?",
                ["25 percent of 80 is 20.", "The coat costs 80 - 20 = 60 euros.", "So the answer is \\boxed{20}."],
            ),
            "Paragraph 0: 0.25 * 80 = 20.\n\nParagraph 1: 80 - 20 = 60 is right.\n\n"
            "Paragraph 2: the coat costs 60 euros, not 20.\n\n\\boxed{2}",
        ),
    ),
)


def _read_steps(row: Row, fields: Fields) -> Question:
    problem, steps, label = value_of(row, fields.question), _steps(row), value_of(row, ("label",))
    if not isinstance(problem, str) or not problem.strip():
        raise BadRow(f"the problem has to be text and not empty, it is {problem!r:.60}")
    if isinstance(label, bool) or not isinstance(label, int) or not -1 <= label < len(steps):
        raise BadRow(f"the field 'label' has to be -1 or the index of a step, below {len(steps)}; it is {label!r:.60}")
    return Question(_shown(problem.strip(), steps), str(label), _extract_index, _same_index)


def _steps(row: Row) -> list[str]:
    steps = value_of(row, ("steps",))
    if not isinstance(steps, list) or not steps or not all(isinstance(step, str) and step.strip() for step in steps):
        raise BadRow(f"the field 'steps' has to be a list of texts, it is {steps!r:.60}")
    return [step.strip() for step in steps]


_INDEX = re.compile(r"(?:(?<![A-Za-z])[-−–]\s*)?\d{1,6}")
_LAST_LINE = re.compile(r"(?:.*\bis (?:in )?\[?paragraph )?([-−–]?\d{1,6})\]?\.?", re.IGNORECASE)


def _extract_index(text: str) -> str | None:
    """The number of a paragraph in the answer that a critique ends with; of several, the first. The last line may also
    be that number, or say which paragraph it is."""
    last = _LAST_LINE.fullmatch(next(after_thinking(text)).strip().rpartition("\n")[2])
    answer = extract_answer(text, explicit_only=True) or (last[1] if last else "")
    found = _INDEX.search(answer)
    return None if found is None else str(int(re.sub(r"[−–]", "-", re.sub(r"\s", "", found[0]))))


def _same_index(a: str, b: str) -> bool:
    return a == b


def _part(example: Example) -> str:
    return SOUND if example.reference == "-1" else FLAWED


PROCESSBENCH = AnswerKind(
    name="the number of the first wrong paragraph, or -1", prompt=_CRITIC, read=_read_steps, part=_part
)

# --- the solutions themselves ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenSolution:
    """A solution that a row has.

    Args:
        steps: its text, cut; together with their delimiters the whole of it.
        answer: what it comes to.
        correct: as the data has it.
        reward: the score that was recorded with it.
    """

    steps: tuple[str, ...]
    answer: str | None
    correct: bool
    reward: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The solutions of a row, and the problem as a model that writes such solutions is asked it."""

    problem: Problem
    solutions: tuple[GivenSolution, ...]


def has_steps(row: Row) -> bool:
    """Whether a row has one solution, in steps, with its first wrong step."""
    return isinstance(row.get("steps"), list) and "label" in row


def has_solutions(row: Row) -> bool:
    """Whether a row has solutions at all: steps, or samples."""
    return has_steps(row) or any(row.get(name) for name in _SAMPLES)


_SAMPLES = ("samples", "solutions")
_ANSWERS = ("pred", "answer")
_REWARDS = ("rm_score", "reward", "score")
_DELIMITERS = ("\n\n", "\n")


def given(example: Example) -> Given:
    """The solutions of an example's row.

    Raises:
        UsageError: it has none, or what it has is none.
    """
    try:
        if has_steps(example.row):
            return _of_steps(example)
        return _of_samples(example)
    except BadRow as error:
        raise UsageError(f"{example.problem.id}: {error}") from None


def _of_steps(example: Example) -> Given:
    """Steps are paragraphs. The whole of them ends in an answer, which nobody needs to be right here."""
    question = value_of(example.row, Fields().question).strip()
    problem = Problem(content=MATH.messages(question), id=example.problem.id, question=question)
    steps = _joined(_steps(example.row), problem.step_delimiter)
    answer = extract_answer("".join(steps))
    return Given(
        problem=problem,
        solutions=(GivenSolution(steps=steps, answer=answer, correct=example.reference == "-1"),),
    )


def _of_samples(example: Example) -> Given:
    samples = value_of(example.row, _SAMPLES)
    if not samples or not all(isinstance(sample, dict) for sample in samples):
        raise BadRow(f"samples have to be a list of objects, not {samples!r:.60}")
    texts = [sample.get("text") for sample in samples]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadRow("each sample needs its text")
    # Chains of the days before chat models have a step in each line.
    delimiter = next((cut for cut in _DELIMITERS if any(cut in text.strip() for text in texts)), _DELIMITERS[0])
    problem = replace(example.problem, step_delimiter=delimiter)
    extract = problem.extract or extract_answer
    return Given(
        problem=problem,
        solutions=tuple(
            _sample(sample, text.strip(), delimiter, extract) for sample, text in zip(samples, texts, strict=True)
        ),
    )


def _sample(sample: Row, text: str, delimiter: str, extract: Any) -> GivenSolution:
    correct = sample.get("correct")
    if not isinstance(correct, (bool, int)) or correct not in (0, 1):
        raise BadRow(f"each sample needs correct, true or false; one has {correct!r:.60}")
    answer = next((str(sample[name]) for name in _ANSWERS if sample.get(name) not in (None, "")), None)
    reward = next((sample[name] for name in _REWARDS if isinstance(sample.get(name), (int, float))), None)
    if reward is not None and not math.isfinite(reward):
        raise BadRow(f"a reward has to be a finite number, one is {reward}")
    return GivenSolution(
        steps=_joined([part for part in text.split(delimiter) if part.strip()], delimiter),
        answer=extract(text) if answer is None else answer,
        correct=bool(correct),
        reward=None if reward is None else float(reward),
    )


def _joined(parts: list[str], delimiter: str) -> tuple[str, ...]:
    """Each part with the delimiter that ends it; the last has none."""
    return (*(part + delimiter for part in parts[:-1]), parts[-1])

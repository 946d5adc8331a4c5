"""What a task is: problems for a solver, references for the grader, and what both came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reason.tasks.equivalence import equivalent
from reason.tasks.prompts import Prompt
from reason.types import Problem

__all__ = ["Check", "Example", "Mark", "Part", "Task", "by_equivalence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One problem with its reference. A solver gets ``problem`` and nothing else; no reference can be reached from it.

    Args:
        problem: what a solver sees; its id is unique within the task and safe as a file name.
        reference: the answer that is right.
        row: the row of the data set that it was made from.
    """

    problem: Problem
    reference: str
    row: Mapping[str, Any] = field(repr=False)


Check = Callable[[Example, str], bool]
"""Whether an answer is right. Blocks."""

Mark = Callable[[Example, str], float]
"""How good an answer is, from 0 to 1. Blocks."""

Part = Callable[[Example], str]
"""Which part of a task a problem belongs to."""


def by_equivalence(example: Example, answer: str) -> bool:
    """Right if it is the same as the reference by the problem's own comparison, or else as ``equivalent`` has it."""
    same = example.problem.equivalent or equivalent
    return same(answer, example.reference)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Examples, how they are asked and how they are graded.

    Args:
        name: as it was asked for; for a file its name without endings.
        examples: at least one.
        source: the file's path, or the name of the hub data set or generator.
        sha256: of the file's bytes; of the rows as sorted JSON where there is no file.
        available: rows in the source; the examples are those from ``offset`` on, up to the limit that was given.
        offset: rows of the source that were passed over.
        prompt: how problems are asked.
        few_shot: worked examples before each problem.
        answer_format: what answers look like.
        licence: the data's.
        check: what decides whether an answer is right.
        marks: what else reports give for answers, by name.
        part: which part of the task a problem belongs to, where reports are to tell parts apart.
        runs_programs: answers are programs, which grading runs: it needs a sandbox.
    """

    name: str
    examples: tuple[Example, ...] = field(repr=False)
    source: str
    sha256: str
    available: int
    offset: int = 0
    prompt: Prompt = field(repr=False)
    few_shot: int = 0
    answer_format: str
    licence: str
    check: Check = field(default=by_equivalence, repr=False)
    marks: Mapping[str, Mark] = field(default_factory=dict, repr=False)
    part: Part | None = field(default=None, repr=False)
    runs_programs: bool = False

    def __len__(self) -> int:
        return len(self.examples)

    def grade(self, example: Example, answer: str | None) -> bool:
        """Whether ``answer`` is right; None is wrong. Blocks: not for an event loop's thread.

        Raises:
            ReasonError: what is needed (math-verify, a sandbox) cannot be started.
        """
        return answer is not None and self.check(example, answer)

    def mark(self, example: Example, answer: str | None) -> dict[str, float]:
        """Each of ``marks`` for ``answer``; 0 for None. Blocks like ``grade``."""
        return {name: 0.0 if answer is None else mark(example, answer) for name, mark in self.marks.items()}

    def describe(self) -> dict[str, Any]:
        """What a report needs to say about the data, as JSON-able values. Equal for equal arguments and data."""
        return {
            "name": self.name,
            "source": self.source,
            "sha256": self.sha256,
            "rows": len(self.examples),
            "offset": self.offset,
            "rows_available": self.available,
            "prompt": self.prompt.template,
            "few_shot": self.few_shot,
            "answer_format": self.answer_format,
            "licence": self.licence,
        }

"""Recorded traces from a file of JSON lines, as jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reason.compress.costs import boxed_answer
from reason.compress.job import Job
from reason.compress.steps import split_trace
from reason.errors import UsageError
from reason.tasks.answers import extract_answer
from reason.tasks.equivalence import equivalent
from reason.tasks.rows import ENDINGS, read_file
from reason.types import Problem

__all__ = ["TraceFields", "find", "read_traces"]

_MISSING = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceFields:
    """Where a row has what. A name may lead into nested objects and lists: "samples.0.text". None is the usual names:
    the problem in "problem" or "question", the trace in "trace" or "text", the solution in "solution", the answer in
    "answer". The last two a row need not have.
    """

    problem: str | None = None
    trace: str | None = None
    solution: str | None = None
    answer: str | None = None


def read_traces(
    file: Path, fields: TraceFields, *, only: str | None = None, limit: int | None = None
) -> dict[str, Job]:
    """The jobs of a file by id: a row's own "id", or the file's name and the row's number.

    The reference solution is the row's, or what the trace says after its thinking if its answer is the row's; where
    either has no box, or there is neither, the row's answer is put into one.

    Args:
        file: JSON lines, or a JSON list; with .gz too.
        only: a field; rows where it is not true are passed over.
        limit: at most so many.

    Raises:
        DataNotFound: no such file.
        UsageError: a row has not what it should have; says where, and what it has.
    """
    stem = next((file.name.removesuffix(ending) for ending in ENDINGS if file.name.endswith(ending)), file.stem)
    jobs: dict[str, Job] = {}
    rows = read_file(file).rows
    for number, (where, row) in enumerate(rows, start=1):
        if limit is not None and len(jobs) >= limit:
            break
        if only is not None and _needed(where, row, only, (only,), "--only") is not True:
            continue
        own = row.get("id")
        name = str(own) if isinstance(own, (str, int)) else f"{stem}-{number}"
        if name in jobs:
            name = f"{name}-{number}"
        jobs[name] = _job(where, row, fields, name)
    if not jobs:
        raise UsageError(f"{file}: in none of {len(rows)} rows is {only} true")
    return jobs


def find(row: Any, name: str) -> Any:
    """What a dotted name leads to in a row; a number is a place in a list. ``KeyError`` where it leads nowhere."""
    for part in name.split("."):
        if isinstance(row, Mapping) and part in row:
            row = row[part]
        elif isinstance(row, list) and part.isdigit() and int(part) < len(row):
            row = row[int(part)]
        else:
            raise KeyError(name)
    return row


def _job(where: str, row: Any, fields: TraceFields, name: str) -> Job:
    problem = _text(where, row, fields.problem, ("problem", "question"), "--problem-field")
    trace = _text(where, row, fields.trace, ("trace", "text"), "--trace-field")
    answer = _optional(where, row, fields.answer, "answer", "--answer-field")
    solution = _optional(where, row, fields.solution, "solution", "--solution-field")
    try:
        return Job.of(Problem(content=problem, id=name), trace, _solution(solution, trace, answer))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _solution(solution: str | None, trace: str, answer: str | None) -> str:
    """See ``read_traces``; "" if there is none."""
    if answer is not None:
        answer = extract_answer(answer, explicit_only=True) or answer.strip()
    if solution is None:
        solution = split_trace(trace).solution
        said = boxed_answer(solution)
        if answer is not None and said is not None and not equivalent(said, answer):
            solution = ""
    if answer is None or boxed_answer(solution) is not None:
        return solution
    return f"{solution}\n\nThe final answer is \\boxed{{{answer}}}.".strip()


def _needed(where: str, row: Any, named: str | None, usual: Sequence[str], option: str) -> Any:
    names = (named,) if named else tuple(usual)
    for name in names:
        value = _found(row, name)
        if value is not _MISSING:
            return value
    raise UsageError(f"{where}: no field {' or '.join(names)}; name it with {option}. {_what_there_is(row, names[0])}")


def _text(where: str, row: Any, named: str | None, usual: Sequence[str], option: str) -> str:
    value = _needed(where, row, named, usual, option)
    if not isinstance(value, str) or not value.strip():
        what = "empty" if isinstance(value, str) else "no text"
        raise UsageError(f"{where}: {named or ' or '.join(usual)} is {what}; name another field with {option}")
    return value


def _optional(where: str, row: Any, named: str | None, usual: str, option: str) -> str | None:
    value = _needed(where, row, named, (), option) if named else _found(row, usual)
    if value is _MISSING or value is None:
        return None
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise UsageError(f"{where}: {named or usual} is neither text nor a number; name another field with {option}")
    return str(value)


def _found(row: Any, name: str) -> Any:
    try:
        return find(row, name)
    except KeyError:
        return _MISSING


def _what_there_is(row: Any, name: str) -> str:
    """What stands where a dotted name stops leading anywhere."""
    reached: list[str] = []
    for part in name.split("."):
        further = _found(row, part)
        if further is _MISSING:
            break
        row = further
        reached.append(part)
    here = ".".join(reached) or "The row"
    if isinstance(row, Mapping):
        return f"{here} has {', '.join(map(str, row))}."
    return f"{here} is a list of {len(row)}." if isinstance(row, list) else f"{here} has nothing inside."

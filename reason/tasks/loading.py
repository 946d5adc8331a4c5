"""Loads tasks: from files, from the Hugging Face hub, or generated.

The data of a named task is looked for in the folder given, else in the folder that the environment variable REASON_DATA
names, else on the hub.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reason.errors import DataNotFound, UnknownName, UsageError
from reason.tasks.answer_kinds import CHOICE, LATEX, AnswerKind, BadRow, Fields, Row
from reason.tasks.generated import DEFAULT_SIZE, GENERATED, PREFIX, generate
from reason.tasks.process import PROCESSBENCH, has_steps
from reason.tasks.registry import TASKS, TaskEntry
from reason.tasks.rows import ENDINGS, Rows, Sourced, find_file, read_file, read_hub
from reason.tasks.task import Example, Task
from reason.types import Problem

__all__ = ["load_task"]

HUB_PREFIX = "hf:"


def load_task(
    name_or_path: str | Path,
    *,
    data: Path | None = None,
    few_shot: int = 0,
    limit: int | None = None,
    offset: int = 0,
    question_field: str | None = None,
    answer_field: str | None = None,
    split: str | None = None,
    seed: int = 0,
) -> Task:
    """Loads a task.

    Args:
        name_or_path: a name of ``TASKS``; the path of a file of JSON lines or of a .json list, either with .gz;
            "hf:owner/name" or "hf:owner/name:config", a data set of the hub; "reasoning_gym:name", generated problems.
            Files and hub data sets have a question or problem and an answer (a number, LaTeX, a solution that ends in
            "#### 42" or in a box), or a question, a list of choices and the letter or index of the right one.
        data: for a named task the folder, or the file, with its data; nowhere else is then looked.
        few_shot: worked examples to put before each problem.
        limit: at most so many problems; for generated ones how many (100 when None).
        offset: rows to pass over first. Ids do not depend on it.
        question_field: the field with the problem, if it has another name.
        answer_field: the field with the reference, if it has another name.
        split: of a hub data set; for a named task it means the hub's.
        seed: of generated problems.

    Raises:
        UnknownName: no such task.
        DataNotFound: the data is not where it was looked for; the message says where that was and what to do.
        UsageError: an argument does not fit, a row is malformed (the message has file and line), a library is missing.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit {limit}: has to be at least 1")
    if offset < 0 or few_shot < 0:
        raise UsageError(f"{'offset' if offset < 0 else 'few_shot'} {min(offset, few_shot)}: has to be at least 0")
    name = str(name_or_path)
    entry = TASKS.get(name)
    fields = entry.fields if entry else Fields()
    fields = Fields(
        (question_field,) if question_field else fields.question, (answer_field,) if answer_field else fields.answer
    )
    if name.startswith(PREFIX):
        if split or question_field or answer_field:
            raise UsageError(f"{name} is generated: it has no splits and its fields are known")
        rows, scorer = generate(name.removeprefix(PREFIX), size=offset + (limit or DEFAULT_SIZE), seed=seed)
        task = _task(name, replace(GENERATED, check=scorer), rows, fields, few_shot, limit, offset)
        return replace(task, licence="Apache-2.0")
    if entry:
        rows = _rows_of(name, entry, data, split)
        task = _task(name, entry.kind, rows, fields, few_shot, limit, offset, scattered=entry.scattered)
        return replace(task, licence=entry.licence)
    if name.startswith(HUB_PREFIX):
        dataset, _, config = name.removeprefix(HUB_PREFIX).partition(":")
        if not dataset:
            raise UsageError(f"{name!r}: a hub data set is written hf:owner/name or hf:owner/name:config")
        rows = read_hub(dataset, config or None, split)
    elif _is_path(name):
        if split:
            raise UsageError(f"split {split!r}: files have no splits, hub data sets have")
        rows = read_file(Path(name))
        name = _stem(Path(name))
    else:
        known = [*TASKS, "FILE.jsonl", f"{HUB_PREFIX}OWNER/NAME", f"{PREFIX}NAME"]
        raise UnknownName("task", name, known)
    return _task(name, _kind(rows.rows[0].row), rows, fields, few_shot, limit, offset)


def _kind(row: Row) -> AnswerKind:
    """What rows like this one hold."""
    if has_steps(row):
        return PROCESSBENCH
    return CHOICE if isinstance(row.get("choices"), list) else LATEX


# --- finding --------------------------------------------------------------------------------------------------------


def _is_path(name: str) -> bool:
    return name.endswith(ENDINGS) or os.sep in name or Path(name).is_file()


def _stem(path: Path) -> str:
    ending = next((ending for ending in ENDINGS if path.name.endswith(ending)), "")
    return path.name.removesuffix(ending) or path.name


def _rows_of(name: str, entry: TaskEntry, data: Path | None, split: str | None) -> Rows:
    """The rows of a named task, from ``data`` alone if that is given, else from REASON_DATA or the hub."""
    stems = list(dict.fromkeys([entry.file, Path(entry.file).name, name, name.replace("-", "_")]))
    if data is not None:
        if split:
            raise UsageError(f"split {split!r}: files in {data} have no splits; leave out one of split and data")
        if data.is_file():
            return read_file(data)
        if found := find_file(data, stems):
            return read_file(found)
        raise DataNotFound(f"no data for {name}. {_looked_in(data, stems)} Leave out data to load it from the hub.")
    folder = Path(named) if (named := os.environ.get("REASON_DATA")) else None
    if folder and not split and (found := find_file(folder, stems)):
        return read_file(found)
    try:
        return read_hub(entry.hub, entry.config, split or entry.split)
    except (DataNotFound, UsageError) as error:
        if split:
            raise
        looked = _looked_in(folder, stems) if folder else "REASON_DATA is not set."
        raise DataNotFound(
            f"no data for {name}. {looked} From the hub: {error} "
            f"Put {stems[0]}.jsonl.gz or {name}.jsonl into a folder and name the folder in data or REASON_DATA."
        ) from error


def _looked_in(folder: Path, stems: Sequence[str]) -> str:
    if not folder.is_dir():
        return f"{folder} is not a folder."
    return f"Looked in {folder} for {', '.join(stems)} with {', '.join(ENDINGS)}."


# --- making ---------------------------------------------------------------------------------------------------------


def _task(
    name: str,
    kind: AnswerKind,
    rows: Rows,
    fields: Fields,
    few_shot: int,
    limit: int | None,
    offset: int,
    *,
    scattered: bool = False,
) -> Task:
    if few_shot > (most := len(kind.prompt.worked)):
        raise UsageError(f"few_shot {few_shot}: there are {most} worked examples for {name}")
    kept = [sourced for sourced in rows.rows if kind.keep(sourced.row)]
    if offset >= len(kept):
        raise UsageError(f"offset {offset}: {rows.source} has {len(kept)} problems, so at most {len(kept) - 1}")
    named = list(zip(kept, _ids(name, kept), strict=True))
    if scattered:
        named.sort(key=lambda one: hashlib.blake2b(one[1].encode()).digest())
    chosen = named[offset : None if limit is None else offset + limit]
    examples = [_example(sourced, problem_id, kind, fields, few_shot) for sourced, problem_id in chosen]
    return Task(
        name=name,
        examples=tuple(examples),
        source=rows.source,
        sha256=rows.sha256,
        available=len(kept),
        offset=offset,
        prompt=kind.prompt,
        few_shot=few_shot,
        answer_format=kind.name,
        licence="not known",
        check=kind.check,
        marks=kind.marks,
        part=kind.part,
        runs_programs=kind.runs_programs,
    )


def _example(sourced: Sourced, problem_id: str, kind: AnswerKind, fields: Fields, few_shot: int) -> Example:
    try:
        question = kind.read(sourced.row, fields)
    except BadRow as error:
        raise UsageError(f"{sourced.where}: {error}") from None
    problem = Problem(
        content=kind.prompt.messages(question.text, few_shot=few_shot),
        id=problem_id,
        extract=question.extract,
        equivalent=question.equivalent,
        closing=kind.closing,
        question=question.question,
        passages=question.passages,
        tests=question.tests,
        entry_point=question.entry_point,
        setup=question.setup,
    )
    return Example(problem=problem, reference=question.reference, row=sourced.row)


_ID_FIELDS = ("id", "unique_id", "ID", "task_id")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_ID = 100


def _ids(name: str, rows: Sequence[Sourced]) -> list[str]:
    """A distinct id for each row, safe as a file name: its own made safe, or else the task's name and the index."""
    ids: list[str] = []
    seen: set[str] = set()  # in lower case: some file systems do not tell case apart
    for index, (_, row) in enumerate(rows):
        own = next((row[field] for field in _ID_FIELDS if isinstance(row.get(field), (str, int))), None)
        safe = _safe(str(own)) if own is not None else ""
        if not safe or safe.isdecimal():
            safe = _safe(f"{name}-{safe or index}")
        while safe.lower() in seen:
            safe = f"{safe}-{index}"
        seen.add(safe.lower())
        ids.append(safe)
    return ids


def _safe(text: str) -> str:
    return _UNSAFE.sub("-", text)[:_LONGEST_ID].strip("-.")

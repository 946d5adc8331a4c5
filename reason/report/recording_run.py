"""Making recordings: samples of a task's problems, with the likeliest tokens of every row that a token was drawn from.

Seed and key of the sampling noise are the indices of the problem and the sample.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from reason.errors import EngineError, ReasonError, UsageError
from reason.speculate.recording import RecordedProblem, RecordedSample, Recording
from reason.tasks.loading import load_task
from reason.tasks.prompts import math_messages
from reason.types import Completion, Engine, Path, Problem, Request, Sampling

if TYPE_CHECKING:
    from reason.tasks.task import Task

__all__ = ["RecordingProgress", "check_out", "load_tasks", "make_recording", "prompt_of", "save_recording"]

TOP_LOGPROBS = 64
"""Tokens of a row that are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingProgress:
    """Where a recording stands."""

    done: int  # problems
    total: int
    tokens: int
    seconds: float


OnProgress: TypeAlias = Callable[[RecordingProgress], None]


def load_tasks(names: Sequence[str], *, data: FilePath | None, problems: int) -> list[Task]:
    """The first problems of some tasks, ``problems`` in all, split evenly.

    Raises:
        ReasonError: a task cannot be loaded, or has fewer problems than its share.
    """
    if problems < len(names) or len(set(names)) < len(names):
        raise UsageError(f"{problems} problems cannot be split over the tasks {', '.join(names)}: one each, at least")
    shares = [problems // len(names) + (i < problems % len(names)) for i in range(len(names))]
    tasks = [load_task(name, data=data, limit=share) for name, share in zip(names, shares, strict=True)]
    for task, share in zip(tasks, shares, strict=True):
        if len(task) < share:
            raise UsageError(f"{task.name} has {len(task)} problems, and its share is {share}; ask for fewer")
    return tasks


async def make_recording(
    engine: Engine,
    tasks: Sequence[Task],
    *,
    num_samples: int,
    temperature: float = 0.8,
    max_tokens: int = 512,
    at_once: int = 4,
    on_progress: OnProgress | None = None,
) -> Recording:
    """Samples every problem of some tasks.

    Args:
        num_samples: of each problem.
        at_once: problems in the engine's batch at a time.
        on_progress: called in the event loop whenever a problem is done.

    Raises:
        ReasonError: a sample failed.
    """
    examples = [(task.name, example.problem) for task in tasks for example in task.examples]
    sampling = Sampling(temperature=temperature, logprobs=TOP_LOGPROBS)
    room = asyncio.Semaphore(at_once)
    began = time.perf_counter()
    done = tokens = 0

    async def one(index: int, problem: Problem, task: str) -> RecordedProblem:
        nonlocal done, tokens
        prompt = prompt_of(engine, problem)
        requests = [
            Request(prefix=prompt, seed=index, key=key, sampling=sampling, max_tokens=max_tokens, owner="recording")
            for key in range(num_samples)
        ]
        async with room:
            samples = [_sample(completion) async for completion in engine.generate(requests)]
        done += 1
        tokens += sum(len(sample.tokens) for sample in samples)
        if on_progress is not None:
            seconds = time.perf_counter() - began
            on_progress(RecordingProgress(done=done, total=len(examples), tokens=tokens, seconds=seconds))
        samples.sort(key=lambda sample: sample.key)
        return RecordedProblem(id=f"{task}/{problem.id}", seed=index, prompt=prompt, samples=tuple(samples))

    working = [asyncio.ensure_future(one(i, problem, task)) for i, (task, problem) in enumerate(examples)]
    try:
        problems = await asyncio.gather(*working)
    finally:
        for work in working:
            work.cancel()
    return Recording(model=engine.name, temperature=temperature, problems=tuple(problems))


def prompt_of(engine: Engine, problem: Problem) -> Path:
    """The tokens that a search of this problem begins with."""
    content = problem.content
    return engine.codec.encode_chat(math_messages(content) if isinstance(content, str) else content)


def check_out(file: FilePath, *, ending: str) -> None:
    """Whether a file may be made here: said before the work, not after it.

    Raises:
        UsageError: it may not; the message says why.
    """
    if file.suffix != ending:
        raise UsageError(f"the file's name must end in {ending}, got {file}")
    if file.exists():
        raise UsageError(f"{file} is there already; use another --out, or delete it")
    folder = file.absolute().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is not a folder that can be written to; use another --out")


def save_recording(recording: Recording, file: FilePath) -> None:
    """Writes a recording whole, or nothing: an interrupt leaves no part of it behind.

    Raises:
        ReasonError: it cannot be written.
    """
    try:
        with tempfile.TemporaryDirectory(dir=file.absolute().parent, prefix=f".{file.name}.") as folder:
            whole = FilePath(folder) / file.name
            recording.save(whole)
            whole.replace(file)
    except OSError as error:
        raise ReasonError(f"cannot write {file}: {error.strerror or error}") from error


def _sample(completion: Completion) -> RecordedSample:
    if completion.error is not None:
        raise completion.error
    if completion.finish_reason == "cancelled":
        raise EngineError("a sample was cancelled, so there is no recording")
    width = min((len(row.top) for row in completion.logprobs), default=0)
    tops = [row.top[:width] for row in completion.logprobs]
    shape = (len(tops), width)
    return RecordedSample(
        key=completion.index,
        tokens=np.array(completion.token_ids, dtype=np.int64),
        top_tokens=np.array([[token for token, _ in top] for top in tops], dtype=np.int32).reshape(shape),
        top_logprobs=np.array([[logprob for _, logprob in top] for top in tops], dtype=np.float16).reshape(shape),
    )

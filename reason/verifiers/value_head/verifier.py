"""Scores steps by a value head on the policy's own hidden states.

score = the head's value of the state that the step's last token was drawn from

The engine reads it while it generates, so it costs no forward; steps that it did not write cost one over their tokens,
once, as what was read of a path is remembered.
It is a probability: how often a solution that goes on from here is right, as far as the head knows. See
docs/value-heads.md.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path as FilePath
from typing import ClassVar, NamedTuple

from reason.errors import ModelError, UsageError
from reason.types import Engine, Message, Path, Probe, TextCodec, Trajectory
from reason.verifiers.remembered import Remembered
from reason.verifiers.value_head.head import ValueHead
from reason.verifiers.value_head.shipped import SHIPPED, find_shipped

__all__ = ["HeadVerifier", "short_name"]


@dataclass(frozen=True, kw_only=True)
class HeadVerifier:
    """Args:
    head: a file that `reason train value` wrote; "" is the one that comes with the package for the policy's model.
    """

    name: ClassVar[str] = "head"
    argument: ClassVar[str] = "head"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = True

    head: str = ""
    _read_before: _ReadBefore = field(default_factory=lambda: _ReadBefore(), init=False, repr=False, compare=False)

    def probes(self, engine: Engine) -> tuple[Probe, ...]:
        """Those of the head that fits an engine.

        Raises:
            UsageError: there is none for its model, or the file's is another's.
            ModelError: the file is no value head.
        """
        return self.find(engine).probes

    def find(self, engine: Engine) -> ValueHead:
        """The head that fits an engine; raises as ``probes`` does."""
        if self.head:
            return self._read(engine)
        found = find_shipped(engine.name)
        if found is None:
            known = ", ".join(SHIPPED) or "no model yet"
            raise UsageError(
                f"no value head comes with the package for {engine.name} (there is one for {known}): train one with "
                "`reason train value`, and name its file: head:FILE; or use another verifier"
            )
        return found

    def fingerprint(self, model: str | None) -> str:
        """What is in the head of a model, in short: one that was trained anew gives other scores. "" where the model
        decides and is not known, or has none.

        Raises:
            ModelError: the file is no value head.
        """
        found = _open(self.head) if self.head else find_shipped(model) if model is not None else None
        return "" if found is None else found.name

    def _read(self, engine: Engine) -> ValueHead:
        head = _open(self.head)
        if short_name(head.model) != short_name(engine.name):
            raise UsageError(f"the value head {self.head} reads states of {head.model}, and the model is {engine.name}")
        return head

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        head = self.find(engine)
        known = self._read_before.of(engine, head)
        values: dict[int, float] = {}
        unread: list[_Unread] = []
        for i, trajectory in enumerate(trajectories):
            recorded = _recorded(trajectory, head)
            if recorded is not None:
                values[i] = recorded
                continue
            each = _unread(i, trajectory, drawn_from(trajectory, engine.codec), known)
            if each.start == len(each.path):
                values[i] = each.before.value(head)
            else:
                unread.append(each)
        for together in await asyncio.gather(*(_read_path(each, head, engine, owner) for each in _together(unread))):
            for each, numbers in together:
                known.put(each.path, numbers)
                values[each.number] = numbers.value(head)
        return [values[i] for i in range(len(trajectories))]


class _Numbers(NamedTuple):
    """What a head says of a path."""

    own: float  # of its last token
    pool: float  # the sum of the pooled part's numbers, of a head that has one
    tokens: int  # that it is the sum of: the prompt's last and the solution's up to there

    def value(self, head: ValueHead) -> float:
        return head.value(self.own, self.pool / self.tokens) if head.pooled else self.own


class _ReadBefore:
    """What was read with one engine, by the head's name."""

    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._by_head: dict[str, Remembered[_Numbers]] = {}

    def of(self, engine: Engine, head: ValueHead) -> Remembered[_Numbers]:
        if self._engine is not engine:
            self._engine, self._by_head = engine, {}
        return self._by_head.setdefault(head.name, Remembered())


class _Unread(NamedTuple):
    """A trajectory whose states are to be computed."""

    number: int
    path: Path  # up to the place whose state is read
    start: int  # of the states that count and are not known
    before: _Numbers  # what is known


def _unread(number: int, trajectory: Trajectory, place: int, known: Remembered[_Numbers]) -> _Unread:
    """Where to read from: what was read of the solution before its last steps need not be read again."""
    path, prompt = trajectory.path[: place + 1], len(trajectory.prompt)
    ends = list(itertools.accumulate((len(step.tokens) for step in trajectory.steps), initial=prompt))
    begin = min(place, prompt - 1)
    found = known.longest(path, (len(path), *ends, *(end - 1 for end in ends)))
    if found is None or found[1].tokens != found[0] - begin:  # nothing, or of a solution that began elsewhere
        return _Unread(number, path, begin, _Numbers(0.0, 0.0, 0))
    return _Unread(number, path, *found)


async def _read_path(
    together: Sequence[_Unread], head: ValueHead, engine: Engine, owner: str
) -> list[tuple[_Unread, _Numbers]]:
    """What a head says of paths that the first one begins with."""
    start = min(each.start for each in together) if head.pooled else min(len(each.path) for each in together) - 1
    (scored,) = await engine.score([together[0].path], start, logprobs=False, layers=(head.layer,), owner=owner)
    states = scored.hidden[head.layer]
    found = []
    for each in together:
        own = float(head(states[len(each.path) - 1 - start :][:1])[0])
        new = head.pool(states[each.start - start : len(each.path) - start]).tolist() if head.pooled else []
        tokens = each.before.tokens + len(each.path) - each.start
        found.append((each, _Numbers(own, math.fsum((each.before.pool, *new)), tokens)))
    return found


def _together(unread: Sequence[_Unread]) -> list[list[_Unread]]:
    """Those that one forward serves: each group's first path begins with all its others."""
    groups: list[list[_Unread]] = []
    for each in sorted(unread, key=lambda one: -len(one.path)):
        group = next((group for group in groups if group[0].path[: len(each.path)] == each.path), None)
        if group is None:
            groups.append([each])
        else:
            group.append(each)
    return groups


def _recorded(trajectory: Trajectory, head: ValueHead) -> float | None:
    """The value that follows from what the engine read while it wrote; None where something of it is missing."""
    last = next((step for step in reversed(trajectory.steps) if step.tokens), None)
    if last is None or len(last.logprobs) < len(last.tokens):
        return None
    own = dict(last.logprobs[-1].values).get(head.name)
    if own is None or not head.pooled:
        return own
    pool = head.probes[1].name
    numbers = [dict(token.values).get(pool) for step in trajectory.steps for token in step.logprobs]
    if len(numbers) < sum(len(step.tokens) for step in trajectory.steps):
        return None
    known = [number for number in numbers if number is not None]
    return head.value(own, math.fsum(known) / len(known)) if len(known) == len(numbers) else None


def drawn_from(trajectory: Trajectory, codec: TextCodec) -> int:
    """The place on the path whose state is to be read: that before the last step's last token; the last, where a
    solution is finished and does not show its turn's end, or there is no step yet."""
    path = trajectory.path
    turn = codec.encode_turn([Message(role="user", content="?")])  # begins with the end of the turn before it
    whole = (trajectory.finished and path[-1:] != turn[:1]) or len(path) == len(trajectory.prompt)
    return max(0, len(path) - (1 if whole else 2))


def _open(name: str) -> ValueHead:
    file = FilePath(name).expanduser().resolve()
    try:
        found = file.stat()
    except OSError as error:
        raise ModelError(f"cannot read the value head {name}: {error.strerror or error}") from error
    return _read(file, found.st_mtime_ns, found.st_size)


@cache
def _read(file: FilePath, changed: int, size: int) -> ValueHead:
    return ValueHead.load(file)


def short_name(model: str) -> str:
    """A model's name without the folder or owner that it was given with."""
    return FilePath(model).name.lower().removesuffix(".gguf")

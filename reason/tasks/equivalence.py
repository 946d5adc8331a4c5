"""Whether two answers are the same, decided in this order:

1. equal normal forms are the same; plain numbers are compared exactly; prose is compared as folded words;
2. anything else goes to math-verify (https://github.com/huggingface/Math-Verify) in a process of its own under a
   hard limit. It is not symmetric in which answer is the reference, so either order counts.

A comparison that hangs or crashes counts as "not the same", shows in ``Comparer.counts``, and an answer that does so on
its own too is not asked about a third time.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from reason.tasks.answers import MAX_ANSWER
from reason.tasks.math_process import MathProcess, Verdict
from reason.tasks.normal_form import THOUSANDS, Key, exact_key, normal_form

__all__ = ["Comparer", "Counts", "counts", "equivalent", "group"]

_PROBE_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How comparisons were decided. ``hung`` and ``crashed`` are among ``asked``, each taken as "not the same"."""

    quick: int = 0  # by normal form
    cached: int = 0
    asked: int = 0  # by the worker process
    hung: int = 0
    crashed: int = 0


class Comparer:
    """Compares answers, with one worker process and one cache. Safe to share between threads.

    Args:
        limit_seconds: wall time one comparison may take.
        memory_mb: address space the worker may use (enforced on Linux).
        cache_size: comparisons remembered; the oldest go first.
    """

    def __init__(self, *, limit_seconds: float = 3.0, memory_mb: int = 2048, cache_size: int = 100_000) -> None:
        self.limit_seconds = limit_seconds
        self._cache_size = cache_size
        self._cache: dict[tuple[str, str], bool] = {}
        self._suspects: set[str] = set()  # normal forms from pairs that made the worker hang or crash
        self._hopeless: set[str] = set()  # those that did so by themselves, too
        self._counts = Counts()
        self._process = MathProcess(memory_mb=memory_mb)
        self._process_lock = threading.Lock()  # held while the worker is asked
        self._state_lock = threading.Lock()  # held for moments

    @property
    def counts(self) -> Counts:
        """How comparisons were decided so far."""
        return self._counts

    @property
    def worker_pid(self) -> int | None:
        """The worker's process id, or None while none runs."""
        return self._process.pid

    def equivalent(self, a: str, b: str) -> bool:
        """Whether two answers are the same. Blocks for up to ``limit_seconds`` and a restart of the worker.

        Raises:
            ReasonError: math-verify is needed and cannot be started.
        """
        return self._same(_read(a), _read(b))

    def group(self, answers: Sequence[str]) -> list[list[int]]:
        """Equivalence classes of ``answers`` as lists of indices, in order of first appearance.

        Equal normal forms are put together first; only the first member of a class is compared with newcomers.
        """
        classes: list[list[int]] = []
        representatives: list[_Answer] = []
        known: dict[Key, int] = {}
        for index, answer in enumerate(answers):
            read = _read(answer)
            if read.key not in known:
                matches = (i for i, other in enumerate(representatives) if self._same(other, read))
                known[read.key] = next(matches, len(classes))
                if known[read.key] == len(classes):
                    classes.append([])
                    representatives.append(read)
            classes[known[read.key]].append(index)
        return classes

    def close(self) -> None:
        """Ends the worker process. Idempotent; a later comparison starts another."""
        with self._process_lock:
            self._process.close()

    def _same(self, a: _Answer, b: _Answer) -> bool:
        if _number_or_list(a, b):
            self._count(quick=1)
            return True
        if a.key == b.key or _decided_by_key(a.key, b.key) or max(len(a.form), len(b.form)) > MAX_ANSWER:
            self._count(quick=1)
            return a.key == b.key
        if _of_other_halves(a.form, b.form):
            self._count(quick=1)
            return False
        pair = (min(a.form, b.form), max(a.form, b.form))
        if (known := self._recall(pair)) is not None:
            return known
        with self._process_lock:
            if (known := self._recall(pair)) is not None:  # another thread asked while we waited
                return known
            same = self._ask(pair)
        with self._state_lock:
            while len(self._cache) >= self._cache_size:
                del self._cache[next(iter(self._cache))]
            self._cache[pair] = same
        return same

    def _recall(self, pair: tuple[str, str]) -> bool | None:
        with self._state_lock:
            known = False if self._hopeless.intersection(pair) else self._cache.get(pair)
            if known is not None:
                self._counts = replace(self._counts, cached=self._counts.cached + 1)
            return known

    def _ask(self, pair: tuple[str, str]) -> bool:
        # Which of two answers made the worker hang? In a vote the culprit would otherwise stall on every class.
        for form in pair:
            if form not in self._suspects:
                continue
            self._suspects.remove(form)
            if self._verdict(form, "0", min(self.limit_seconds, _PROBE_SECONDS)) in ("hung", "crashed"):
                with self._state_lock:
                    self._hopeless.add(form)
                return False
        verdict = self._verdict(*pair, self.limit_seconds)
        if verdict in ("hung", "crashed"):
            self._suspects.update(pair)
        return verdict == "equal"

    def _verdict(self, a: str, b: str, limit_seconds: float) -> Verdict:
        verdict = self._process.compare(a, b, limit_seconds=limit_seconds)
        self._count(asked=1, hung=verdict == "hung", crashed=verdict == "crashed")
        return verdict

    def _count(self, **more: int) -> None:
        with self._state_lock:
            self._counts = replace(self._counts, **{name: getattr(self._counts, name) + n for name, n in more.items()})


class _Answer(NamedTuple):
    form: str
    key: Key
    grouped: bool  # written with commas between groups of three digits


def _read(answer: str) -> _Answer:
    form = normal_form(answer)
    return _Answer(form, exact_key(form), THOUSANDS.search(answer) is not None)


def _decided_by_key(a: Key, b: Key) -> bool:
    """Whether unequal keys already mean different answers: two numbers, or prose beside anything."""
    return a.kind == b.kind == "number" or "words" in (a.kind, b.kind)


def _number_or_list(a: _Answer, b: _Answer) -> bool:
    """Whether a number is a list read as one: "70,110" may be either, beside "70, 110" it is the same."""
    number, other = (a, b) if a.key.kind == "number" else (b, a)
    if not number.grouped or number.key.kind != "number" or other.key.kind != "formula":
        return False
    digits = str(other.key.value)
    return THOUSANDS.fullmatch(digits) is not None and number.key.value == Fraction(digits.replace(",", ""))


_HALF_OF_DAY = re.compile(r"(?<=[\d\s])([ap])\.?\s?m\.?$", re.IGNORECASE)


def _of_other_halves(a: str, b: str) -> bool:
    """Whether one is a time in the morning and the other one in the afternoon; math-verify does not look at that."""
    halves = [found[1].lower() for found in (_HALF_OF_DAY.search(a), _HALF_OF_DAY.search(b)) if found]
    return len(halves) == 2 and halves[0] != halves[1]


_shared = Comparer()


def _renew() -> None:
    """A forked child must not talk to its parent's worker, nor wait for locks that threads of the parent held."""
    global _shared
    _shared = Comparer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def equivalent(a: str, b: str) -> bool:
    """Whether two answers are the same; see ``Comparer.equivalent``. Blocks: not for an event loop's thread."""
    return _shared.equivalent(a, b)


def group(answers: Sequence[str], same: Callable[[str, str], bool] | None = None) -> list[list[int]]:
    """Equivalence classes as lists of indices, in order of first appearance.

    Args:
        answers: what to group.
        same: the comparison to use instead of ``equivalent``; asked about a class's first member and the newcomer.
    """
    if same is None:
        return _shared.group(answers)
    classes: list[list[int]] = []
    for index, answer in enumerate(answers):
        for members in classes:
            if answers[members[0]] == answer or same(answers[members[0]], answer):
                members.append(index)
                break
        else:
            classes.append([index])
    return classes


def counts() -> Counts:
    """How the comparisons of this process were decided so far."""
    return _shared.counts

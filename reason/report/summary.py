"""The figures of an evaluation: accuracy with its interval, curves over the number of samples, and the ledger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from reason.errors import UsageError
from reason.report.process_statistics import harmonic_mean
from reason.report.results import PACE, ProblemResult, Result, ResultsOf
from reason.report.statistics import (
    CurvePoint,
    Estimate,
    Interval,
    curve,
    maj_at_k,
    mean_with_interval,
    pass_at_k,
    share_right,
)
from reason.types import Usage

if TYPE_CHECKING:
    from reason.tasks.task import Task

__all__ = ["Shown", "Summary", "ledger", "moved", "read_summary", "summarize", "unfinished"]

_NOT_SUMMED = ("unique_kv_tokens_peak", "unique_kv_tokens_mean")


class Shown:
    """What all summaries have: ``done`` of ``total``, and a form for JSON."""

    __slots__ = ()

    done: int
    total: int

    @property
    def complete(self) -> bool:
        return self.done == self.total

    def as_dict(self) -> dict[str, Any]:
        """The object of summary.json, and of ``reason eval --json``."""
        return {**_plain(self), "complete": self.complete}


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary(Shown):
    """See ``summarize``.

    Args:
        done: problems with a result, failed ones among them; ``total`` is how many there are.
        accuracy: the share of those done whose answer is right; None if none is done.
        marks: the means of the task's other marks, by name; failed problems have 0.
        parts: the accuracy on each part of the task, where it has parts; ``harmonic_mean`` is that of two parts.
        unanswered: problems whose search gave no answer.
        failed: ids of problems whose run failed.
        curves: "majority", "pass" and, where candidates have weights, "weighted", over the number of candidates.
        totals: the ledger over all problems; KV figures are their largest and their mean.
        means: the ledger's row of the average problem.
        wall_seconds: of all sittings together; runs of problems overlap, so this is less than the sum of theirs.
        notes: what a reader should know before trusting the figures.
    """

    task: str
    model: str
    strategy: str
    seed: int
    done: int
    total: int
    accuracy: float | None
    standard_error: float | None
    interval: Interval | None
    marks: Mapping[str, Estimate]
    parts: Mapping[str, Estimate]
    harmonic_mean: Estimate | None
    correct: int
    unanswered: int
    failed: tuple[str, ...]
    curves: Mapping[str, Sequence[CurvePoint]]
    totals: Mapping[str, float]
    means: Mapping[str, float]
    wall_seconds: float
    tokens_per_second: float
    sittings: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    config: Mapping[str, Any]

    @property
    def seconds_per_problem(self) -> float:
        """Of wall time, in which several problems may be under way; ``means["seconds"]`` is how long one's own run took
        beside the others."""
        return self.wall_seconds / max(1, self.done)


def _plain(summary: Any) -> dict[str, Any]:
    """The fields of a summary, JSON-able: intervals are objects with both ends."""

    def shown(value: Any) -> Any:
        if isinstance(value, Interval):
            return value._asdict()
        if is_dataclass(value):
            return {field.name: shown(getattr(value, field.name)) for field in fields(value)}
        if isinstance(value, Mapping):
            return {name: shown(one) for name, one in value.items()}
        return [shown(one) for one in value] if isinstance(value, (list, tuple)) else value

    whole: dict[str, Any] = shown(summary)
    return whole


def read_summary(folder: ResultsOf[ProblemResult], task: Task) -> Summary:
    """The figures of what an evaluation of the task has done so far.

    Raises:
        UsageError: the folder holds none.
    """
    results, config = folder.results(), folder.config()
    if config is None:
        raise UsageError(f"{folder.path} holds no evaluation; name a folder that `reason eval` wrote")
    return summarize(
        [results[example.problem.id] for example in task.examples if example.problem.id in results],
        total=len(task),
        config=config,
        sittings=folder.read("sittings.json") or [],
    )


def summarize(
    results: Sequence[ProblemResult],
    *,
    total: int,
    config: Mapping[str, Any],
    sittings: Sequence[Mapping[str, Any]],
) -> Summary:
    """The figures of ``results``, which come in the task's order, so that they do not depend on who finished first.

    Args:
        total: how many problems the task has.
        config: what the evaluation was begun with.
        sittings: when it ran; each has its "seconds".
    """
    correct = [float(result.correct) for result in results]
    accuracy = mean_with_interval(correct) if correct else None
    totals = ledger(results, mean=False)
    parts = _parts(results)
    wall = sum(float(sitting["seconds"]) for sitting in sittings)
    return Summary(
        task=config["task"]["name"],
        model=config["model"]["name"],
        strategy=config["strategy"]["name"],
        seed=config["seed"],
        done=len(results),
        total=total,
        accuracy=accuracy.mean if accuracy else None,
        standard_error=accuracy.standard_error if accuracy else None,
        interval=accuracy.interval if accuracy else None,
        marks=_marks(results),
        parts={name: mean_with_interval(right) for name, right in parts.items()},
        harmonic_mean=harmonic_mean(*parts.values()) if len(parts) == 2 else None,
        correct=int(sum(correct)),
        unanswered=sum(result.answer is None and result.error is None for result in results),
        failed=tuple(result.id for result in results if result.error is not None),
        curves=_curves(results),
        totals=totals,
        means=ledger(results, mean=True),
        wall_seconds=wall,
        tokens_per_second=totals["policy_tokens"] / wall if wall else 0.0,
        sittings=sittings,
        notes=_notes(results, total, config, sittings),
        config=config,
    )


def _marks(results: Sequence[ProblemResult]) -> dict[str, Estimate]:
    names = dict.fromkeys(name for result in results for name in result.marks)
    return {name: mean_with_interval([result.marks.get(name, 0.0) for result in results]) for name in names}


def _parts(results: Sequence[ProblemResult]) -> dict[str, list[bool]]:
    """Whether each problem of a part is right, by part."""
    parts: dict[str, list[bool]] = {}
    for result in results:
        if result.part:
            parts.setdefault(result.part, []).append(result.correct)
    return dict(sorted(parts.items()))


def _curves(results: Sequence[ProblemResult]) -> dict[str, list[CurvePoint]]:
    sizes = [len(result.candidates) for result in results]
    curves = {
        "majority": curve(sizes, lambda i, k: _vote(results[i], k)),
        "pass": curve(sizes, lambda i, k: _any(results[i], k)),
    }
    if any(sizes) and all(_weight_of(result) is not None for result in results):
        curves["weighted"] = curve(sizes, lambda i, k: _vote(results[i], k, _weight_of(results[i])))
    return curves


def _any(result: ProblemResult, k: int) -> float:
    return pass_at_k(len(result.candidates), sum(c.correct for c in result.candidates), k)


def _vote(result: ProblemResult, k: int, weights: Sequence[float] | None = None) -> float:
    classes = [candidate.answer_class for candidate in result.candidates]
    right = share_right(classes, [candidate.correct for candidate in result.candidates])
    return maj_at_k(classes, right, k, weights=weights)


def _weight_of(result: ProblemResult) -> list[float] | None:
    """The candidates' scores as weights; None where there are none, or they are no weights."""
    weights = [0.0 if c.answer_class is None else c.score for c in result.candidates]
    known = [weight for weight in weights if weight is not None and weight >= 0]
    return known if len(known) == len(weights) else None


def ledger(results: Sequence[Result], *, mean: bool) -> dict[str, float]:
    """Sums or means by the ledger's names, over the problems that did not fail."""
    row: dict[str, float] = {}
    for field in fields(Usage):
        values = [result.usage[field.name] for result in results if field.name in result.usage]
        if mean or field.name == "unique_kv_tokens_mean":
            row[field.name] = float(np.mean(values)) if values else 0.0
        else:
            row[field.name] = max(values, default=0) if field.name in _NOT_SUMMED else sum(values)
    return row


def _notes(
    results: Sequence[ProblemResult],
    total: int,
    config: Mapping[str, Any],
    sittings: Sequence[Mapping[str, Any]],
) -> list[str]:
    notes = unfinished(results, total)
    if config["budget"].get("seconds") is not None:
        notes.append("problems were limited by seconds: results depend on the machine and are not reproducible")
    if lost := sum(result.failed_samples > 0 for result in results):
        notes.append(f"{lost} problems lost samples to errors; the same command tries them again")
    notes += moved(sittings)
    notes += [f"auto chose {chosen}" for chosen in _chosen(config["strategy"]["fields"])]
    return notes


def unfinished(results: Sequence[Result], total: int, failures: str = "count as wrong") -> list[str]:
    """What to note where problems are not done, or failed; ``failures`` says what is made of those."""
    notes = []
    if len(results) < total:
        notes.append(f"{total - len(results)} of {total} problems are not done: these are the figures of the others")
    if failed := sum(result.error is not None for result in results):
        notes.append(f"{failed} failed problems {failures}; the same command tries them again")
    return notes


def moved(sittings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What to note where sittings cannot be compared."""
    if any(_place(sitting) != _place(sittings[0]) for sitting in sittings):
        return ["sittings ran on different machines or versions, see sittings"]
    return []


def _place(sitting: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in sitting["environment"].items() if key not in PACE}


def _chosen(fields: Any) -> Iterator[str]:
    """What ``auto`` chose, where a described strategy is it or wraps it."""
    while isinstance(fields, Mapping):
        if "chosen" in fields:
            yield fields["chosen"]
        fields = fields.get("inner")

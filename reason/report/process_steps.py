"""The figures of a verifier that scored solutions step by step: how often it finds the first wrong step.

    predicted = min {i : score_i < threshold}, none where there is no such step

Accuracy is that of the prediction on rows with an error and on those without; F1 is the harmonic mean of the two (Zheng
et al., https://arxiv.org/abs/2412.06559). A threshold is given, or chosen for the best F1 on rows that are left out of
the figures. The areas under the curve need none: they compare right steps with first wrong ones, and, by their lowest
score, whole solutions. Steps after the first wrong one count nowhere. Rows that failed count as wrong.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from reason.errors import UsageError
from reason.report.process_statistics import area_under_curve, harmonic_mean
from reason.report.statistics import Estimate, mean_with_interval
from reason.report.summary import Shown, ledger, moved, unfinished

if TYPE_CHECKING:
    from reason.report.process import ScoredSolutions, Scoring

__all__ = ["LabelledScores", "StepSummary", "Threshold", "best_threshold", "first_below", "summarize_steps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """Below which score a step is wrong.

    Args:
        value: None is not known: then the figures are those that need none.
        tune: choose it on so many rows, drawn at random by the evaluation's seed.
    """

    value: float | None = None
    tune: int = 0

    def check(self, flawed: Sequence[bool], seed: int) -> None:
        """Whether it can be chosen on rows with these labels.

        Raises:
            UsageError: too few rows, or of one kind only.
        """
        if self.value is not None and not math.isfinite(self.value):
            raise UsageError(f"a threshold is a finite number, not {self.value}")
        if not self.tune:
            return
        if self.value is not None:
            raise UsageError("a threshold is given or chosen, not both")
        if not 2 <= self.tune < len(flawed):
            raise UsageError(f"a threshold is chosen on 2 to {len(flawed) - 1} of {len(flawed)} rows, not {self.tune}")
        chosen = self.rows(len(flawed), seed)
        if len({flawed[i] for i in chosen}) < 2:
            raise UsageError(f"all {self.tune} rows to choose a threshold on are of one kind; take more of them")

    def rows(self, total: int, seed: int) -> frozenset[int]:
        """The rows that it is chosen on."""
        return frozenset(random.Random(seed).sample(range(total), self.tune))


class LabelledScores(NamedTuple):
    """The scores of a solution's steps, and the index of the first wrong one, -1 if there is none. None failed."""

    scores: tuple[float, ...] | None
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary(Shown):
    """See the module and ``Summary``.

    Args:
        done: rows with a result; ``total`` is how many there are, ``tuned_on`` of them for the threshold.
        flawed, sound: accuracy on the rows with an error and on those without; None without a threshold or rows.
        f1: the harmonic mean of the two.
        step_auc: how often a right step has a higher score than a first wrong one.
        solution_auc: how often a solution without an error has a higher lowest score than one with an error.
    """

    task: str
    model: str
    verifier: str
    seed: int
    done: int
    total: int
    tuned_on: int
    threshold: float | None
    flawed: Estimate | None
    sound: Estimate | None
    f1: Estimate | None
    step_auc: Estimate | None
    solution_auc: Estimate | None
    failed: tuple[str, ...]
    totals: Mapping[str, float]
    means: Mapping[str, float]
    wall_seconds: float
    sittings: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    config: Mapping[str, Any]


def summarize_steps(
    scoring: Scoring,
    results: Sequence[ScoredSolutions],
    *,
    config: Mapping[str, Any],
    sittings: Sequence[Mapping[str, Any]],
) -> StepSummary:
    """The figures of what is done."""
    labels = {example.problem.id: int(example.reference) for example in scoring.task.examples}
    places = {name: place for place, name in enumerate(labels)}
    left_out = scoring.threshold.rows(len(labels), scoring.seed)
    rows: dict[bool, list[LabelledScores]] = {True: [], False: []}
    for result in results:
        scores = result.scores[0] if result.scores else None
        rows[places[result.id] in left_out].append(LabelledScores(scores, labels[result.id]))
    threshold = best_threshold(rows[True]) if left_out else scoring.threshold.value
    reported = rows[False]
    notes = unfinished(results, len(labels)) + moved(sittings)
    right: dict[bool, list[bool]] = {True: [], False: []}
    if threshold is None:
        notes.append(
            f"scores of {scoring.label} are no probabilities: for accuracies give a --threshold, or --tune one"
            if not left_out
            else "too few of the rows that the threshold is chosen on are done"
        )
    else:
        for row in reported:
            found = row.scores is not None and first_below(row.scores, threshold) == row.label
            right[row.label >= 0].append(found)
    if len({row.label >= 0 for row in reported}) == 1:
        kind = "an" if reported[0].label >= 0 else "no"
        notes.append(f"all of these rows have {kind} error, and F1 needs both kinds")
    return StepSummary(
        task=scoring.task.name,
        model=config["model"]["name"],
        verifier=scoring.label,
        seed=scoring.seed,
        done=len(results),
        total=len(labels),
        tuned_on=len(left_out),
        threshold=threshold,
        flawed=mean_with_interval(right[True]) if right[True] else None,
        sound=mean_with_interval(right[False]) if right[False] else None,
        f1=harmonic_mean(right[True], right[False]) if right[True] and right[False] else None,
        step_auc=area_under_curve(*_apart(reported, _right_steps, _first_wrong)),
        solution_auc=area_under_curve(*_apart(reported, _lowest_if_sound, _lowest_if_flawed)),
        failed=tuple(result.id for result in results if result.error is not None),
        totals=ledger(results, mean=False),
        means=ledger(results, mean=True),
        wall_seconds=sum(float(sitting["seconds"]) for sitting in sittings),
        sittings=sittings,
        notes=notes,
        config=config,
    )


def first_below(scores: Sequence[float], threshold: float) -> int:
    """The index of the first score below the threshold; -1 if there is none."""
    return next((i for i, score in enumerate(scores) if score < threshold), -1)


def best_threshold(rows: Sequence[LabelledScores]) -> float | None:
    """The threshold with the best F1, of those between neighbouring scores and beside all; of equals the one amid the
    longest run of them. None without scored rows of both kinds.
    """
    scored = [(row.scores, row.label) for row in rows if row.scores is not None]
    if {label >= 0 for _, label in scored} != {True, False}:
        return None
    values = sorted({score for scores, _ in scored for score in scores})
    candidates = [values[0], *((a + b) / 2 for a, b in itertools.pairwise(values)), values[-1] + 1e-6]

    def f1(threshold: float) -> float:
        right: dict[bool, list[bool]] = {True: [], False: []}
        for scores, label in scored:
            right[label >= 0].append(first_below(scores, threshold) == label)
        a, b = (sum(part) / len(part) for part in right.values())
        return 2 * a * b / (a + b) if a + b else 0.0

    found = [f1(candidate) for candidate in candidates]
    best = max(found)
    runs = [list(run) for same, run in itertools.groupby(range(len(found)), lambda i: found[i] == best) if same]
    longest = max(runs, key=len)
    return candidates[longest[len(longest) // 2]]


# -- which scores are compared -----------------------------------------------------------------------------------------


def _right_steps(scores: Sequence[float], label: int) -> Sequence[float]:
    return scores if label < 0 else scores[:label]


def _first_wrong(scores: Sequence[float], label: int) -> Sequence[float]:
    return () if label < 0 else scores[label : label + 1]


def _lowest_if_sound(scores: Sequence[float], label: int) -> Sequence[float]:
    return (min(scores),) if label < 0 else ()


def _lowest_if_flawed(scores: Sequence[float], label: int) -> Sequence[float]:
    return () if label < 0 else (min(scores),)


def _apart(rows: Sequence[LabelledScores], *kinds: Any) -> Iterator[list[Sequence[float]]]:
    """The scores of each kind, by row."""
    for kind in kinds:
        yield [kind(row.scores, row.label) for row in rows if row.scores is not None]

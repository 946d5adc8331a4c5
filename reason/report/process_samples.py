"""The figures of a verifier that scored recorded samples: best-of-N, as if N of each problem's samples were all.

    majority   the answer that most samples give
    best       the answer of the best-scored sample
    weighted   the answer with the largest sum of scores
    oracle     any right answer

Each is the mean over problems of the mean over subsets of N samples (best@k, maj@k, pass@k, see ``statistics``). Beside
the verifier's are those of a reward that was recorded with the samples. Scores of which any is negative are taken for
log-odds, and weigh by their logistic. Differences are paired by problem.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reason.report.process_statistics import best_at_k, logistic
from reason.report.statistics import (
    CurvePoint,
    Difference,
    curve,
    curve_sizes,
    maj_at_k,
    paired_bootstrap,
    pass_at_k,
    share_right,
)
from reason.report.summary import Shown, ledger, moved, unfinished
from reason.verifiers.aggregate import aggregate

if TYPE_CHECKING:
    from reason.report.process import ScoredSolutions, Scoring

__all__ = ["SampleSummary", "ScoredSamples", "sample_curves", "sample_differences", "summarize_samples"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSamples:
    """The samples of a problem, in the order in which they were drawn.

    Args:
        classes: of their answers, equal for equivalent ones; None abstains.
        scores: by the verifier.
        rewards: as recorded; None where a sample has none.
    """

    correct: tuple[bool, ...]
    classes: tuple[int | None, ...]
    scores: tuple[float, ...]
    rewards: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSummary(Shown):
    """See the module and ``Summary``.

    Args:
        done: problems that were scored or failed; those that failed are left out of the figures.
        curves: over N; "mean" is a sample's accuracy, the others are by the module's names, the recorded reward's
            "recorded best" and "recorded weighted".
        differences: the differences of curves at each N, by "A - B".
    """

    task: str
    model: str
    verifier: str
    aggregation: str
    done: int
    total: int
    curves: Mapping[str, Sequence[CurvePoint]]
    differences: Mapping[str, Mapping[int, Difference]]
    failed: tuple[str, ...]
    totals: Mapping[str, float]
    means: Mapping[str, float]
    wall_seconds: float
    sittings: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    config: Mapping[str, Any]


def summarize_samples(
    scoring: Scoring,
    results: Sequence[ScoredSolutions],
    *,
    config: Mapping[str, Any],
    sittings: Sequence[Mapping[str, Any]],
) -> SampleSummary:
    """The figures of what is done."""
    how = "last" if scoring.aggregation == "none" else scoring.aggregation
    problems = []
    for result in results:
        if result.error is None:
            solutions = scoring.given[result.id].solutions
            rewards = [solution.reward for solution in solutions if solution.reward is not None]
            problems.append(
                ScoredSamples(
                    correct=tuple(solution.correct for solution in solutions),
                    classes=result.classes,
                    scores=tuple(aggregate(scores, how) for scores in result.scores),
                    rewards=tuple(rewards) if scoring.needs_model and len(rewards) == len(solutions) else None,
                )
            )
    return SampleSummary(
        task=scoring.task.name,
        model=config["model"]["name"],
        verifier=scoring.label,
        aggregation=scoring.aggregation,
        done=len(results),
        total=len(scoring.task),
        curves=sample_curves(problems),
        differences=sample_differences(problems),
        failed=tuple(result.id for result in results if result.error is not None),
        totals=ledger(results, mean=False),
        means=ledger(results, mean=True),
        wall_seconds=sum(float(sitting["seconds"]) for sitting in sittings),
        sittings=sittings,
        notes=unfinished(results, len(scoring.task), "are left out") + moved(sittings),
        config=config,
    )


def sample_curves(problems: Sequence[ScoredSamples]) -> dict[str, list[CurvePoint]]:
    """Each figure over N."""
    sizes = [len(problem.correct) for problem in problems]
    return {name: curve(sizes, value) for name, value in _figures(problems).items()}


def sample_differences(problems: Sequence[ScoredSamples]) -> dict[str, dict[int, Difference]]:
    """What the verifier gains over the majority and over the recorded reward, at each N above 1."""
    figures = _figures(problems)
    sizes = [len(problem.correct) for problem in problems]
    pairs = [("best", "majority"), ("weighted", "majority"), ("best", "recorded best")]

    def values(name: str, k: int) -> list[float]:
        return [figures[name](i, min(k, size)) for i, size in enumerate(sizes)]

    return {
        f"{a} - {b}": {k: paired_bootstrap(values(a, k), values(b, k)) for k in curve_sizes(max(sizes, default=0))[1:]}
        for a, b in pairs
        if a in figures and b in figures
    }


def _figures(problems: Sequence[ScoredSamples]) -> dict[str, Callable[[int, int], float]]:
    """What each figure is of problem i at N samples."""
    if not problems:
        return {}
    scores = [problem.scores for problem in problems]
    figures: dict[str, Callable[[int, int], float]] = {
        "mean": lambda i, k: sum(problems[i].correct) / len(problems[i].correct),
        "majority": lambda i, k: _vote(problems[i], k),
        **_judged(problems, scores, ""),
    }
    rewards = [problem.rewards for problem in problems if problem.rewards is not None]
    if len(rewards) == len(problems):
        figures |= _judged(problems, rewards, "recorded ")
    figures["oracle"] = lambda i, k: pass_at_k(len(problems[i].correct), sum(problems[i].correct), k)
    return figures


def _judged(
    problems: Sequence[ScoredSamples], scores: Sequence[tuple[float, ...]], whose: str
) -> dict[str, Callable[[int, int], float]]:
    odds = any(score < 0 for row in scores for score in row)
    weights = [tuple(logistic(score) for score in row) if odds else row for row in scores]
    return {
        f"{whose}best": lambda i, k: best_at_k(scores[i], problems[i].correct, k),
        f"{whose}weighted": lambda i, k: _vote(problems[i], k, weights[i]),
    }


def _vote(problem: ScoredSamples, k: int, weights: Sequence[float] | None = None) -> float:
    return maj_at_k(problem.classes, share_right(problem.classes, problem.correct), k, weights=weights)

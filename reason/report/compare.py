"""Two evaluations of the same problems, side by side: the difference with its interval, and what each cost.

Pairs are made by problem id; what only one of them has done is left out and counted. Failed problems count as wrong, as
everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reason.errors import UsageError
from reason.report.results import PACE, ProblemResult, ResultsFolder, compared_settings
from reason.report.statistics import Difference, Interval, paired_bootstrap, ratio_interval

__all__ = ["Comparison", "Ratio", "accuracy_difference", "compare_runs"]

_COSTS = ("policy_tokens", "verifier_tokens", "forwards", "unique_kv_tokens_peak")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """What A and B spent on a problem on average, and A's as a multiple of B's; None where B spent nothing."""

    a: float
    b: float
    ratio: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A against B over the ``n`` problems that both have done.

    Args:
        accuracy: A's minus B's, paired.
        a_only: problems that only A got right; ``b_only`` likewise.
        costs: by the ledger's names; "seconds" is each run's wall time over its own problems, which has no interval:
            problems run side by side.
        unpaired: problems that only one of them has done.
        differing: settings in which they differ, as (A's, B's).
    """

    n: int
    accuracy_a: float
    accuracy_b: float
    accuracy: Difference
    a_only: int
    b_only: int
    costs: Mapping[str, Ratio]
    unpaired: int
    differing: Mapping[str, tuple[Any, Any]]

    def as_dict(self) -> dict[str, Any]:
        """The object that ``reason compare --json`` prints."""
        values = asdict(self)
        values["accuracy"]["interval"] = self.accuracy.interval._asdict()
        for name, ratio in self.costs.items():
            values["costs"][name]["interval"] = ratio.interval._asdict() if ratio.interval else None
        return values


def compare_runs(a: Path, b: Path, *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Compares two folders that ``reason eval`` wrote.

    Raises:
        UsageError: one of them is no such folder, or they have no problem in common.
    """
    configs = [_config(path) for path in (a, b)]
    pairs, unpaired = _paired(a, b)
    wall_a, wall_b = (_wall_seconds(path) for path in (a, b))
    return Comparison(
        n=len(pairs),
        accuracy_a=sum(x.correct for x, _ in pairs) / len(pairs),
        accuracy_b=sum(y.correct for _, y in pairs) / len(pairs),
        accuracy=_difference(pairs),
        a_only=sum(x.correct and not y.correct for x, y in pairs),
        b_only=sum(y.correct and not x.correct for x, y in pairs),
        costs={
            **{name: _ratio(name, pairs, resamples, seed) for name in _COSTS},
            "seconds": Ratio(a=wall_a, b=wall_b, ratio=wall_a / wall_b if wall_b else None, interval=None),
        },
        unpaired=unpaired,
        differing=_differing(*configs),
    )


def accuracy_difference(a: Path, b: Path) -> Difference:
    """A's accuracy minus B's over the problems that both folders have.

    Raises:
        UsageError: they have none in common.
    """
    return _difference(_paired(a, b)[0])


def _config(path: Path) -> dict[str, Any]:
    config = ResultsFolder(path).config()
    if config is None:
        raise UsageError(f"{path} holds no evaluation; name a folder that `reason eval` wrote")
    return config


def _paired(a: Path, b: Path) -> tuple[list[tuple[ProblemResult, ProblemResult]], int]:
    """The results of the problems that both have, and how many only one has."""
    left, right = (ResultsFolder(path).results() for path in (a, b))
    pairs = [(left[name], right[name]) for name in left if name in right]
    if not pairs:
        raise UsageError(f"{a} and {b} have no problem in common")
    if other := [x.id for x, y in pairs if x.reference != y.reference]:
        raise UsageError(f"{a} and {b} are of different tasks: problem {other[0]} has another reference in each")
    return pairs, len(left) + len(right) - 2 * len(pairs)


def _difference(pairs: list[tuple[ProblemResult, ProblemResult]]) -> Difference:
    return paired_bootstrap([float(x.correct) for x, _ in pairs], [float(y.correct) for _, y in pairs])


def _wall_seconds(path: Path) -> float:
    """Of all sittings, for each problem that they did."""
    folder = ResultsFolder(path)
    seconds = sum(float(sitting["seconds"]) for sitting in folder.read("sittings.json") or [])
    return seconds / max(1, len(folder.results()))


def _ratio(name: str, pairs: list[tuple[ProblemResult, ProblemResult]], resamples: int, seed: int) -> Ratio:
    """Over the problems whose cost both know: a failed run's is lost."""
    known = [(x.usage[name], y.usage[name]) for x, y in pairs if name in x.usage and name in y.usage]
    spent_a, spent_b = [x for x, _ in known], [y for _, y in known]
    return Ratio(
        a=sum(spent_a) / max(1, len(known)),
        b=sum(spent_b) / max(1, len(known)),
        ratio=sum(spent_a) / sum(spent_b) if sum(spent_b) else None,
        interval=ratio_interval(spent_a, spent_b, resamples=resamples, seed=seed) if sum(spent_b) else None,
    )


def _differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    old, new = ({**compared_settings(config), **_pace(config)} for config in (a, b))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def _pace(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config["environment"].get(key) for key in PACE}

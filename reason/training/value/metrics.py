"""How good values are: ranking, calibration, and what votes make of them. Intervals are over problems, because the
rollouts of one problem are alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from reason.training.value.rollouts import FINAL, INNER

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from reason.training.value.states import States

    F64 = npt.NDArray[np.float64]
    I64 = npt.NDArray[np.int64]

__all__ = ["Figure", "auc", "brier", "calibration_error", "figures", "log_loss", "within_auc"]

_RESAMPLES = 1000


class Figure(NamedTuple):
    """A figure with its 95% interval."""

    value: float
    low: float
    high: float


def auc(values: F64, labels: F64) -> float:
    """The chance that a right one has a higher value than a wrong one; ties count half. nan without both kinds."""
    from scipy.stats import rankdata

    right = int(labels.sum())
    wrong = len(labels) - right
    if not right or not wrong:
        return float("nan")
    ranks = rankdata(values)
    return float((ranks[labels == 1].sum() - right * (right + 1) / 2) / (right * wrong))


def within_auc(values: F64, labels: F64, groups: I64) -> float:
    """The same over the pairs of one group alone, each pair counted once: what a vote among one problem's samples can
    gain."""
    won = pairs = 0.0
    for group in np.unique(groups):
        own = groups == group
        right, wrong = values[own & (labels == 1)], values[own & (labels == 0)]
        if len(right) and len(wrong):
            differences = right[:, None] - wrong[None]
            won += float((differences > 0).sum() + 0.5 * (differences == 0).sum())
            pairs += differences.size
    return won / pairs if pairs else float("nan")


def log_loss(values: F64, labels: F64) -> float:
    """Cross-entropy in nats."""
    clipped = np.clip(values, 1e-6, 1 - 1e-6)
    return float(-(labels * np.log(clipped) + (1 - labels) * np.log1p(-clipped)).mean())


def brier(values: F64, labels: F64) -> float:
    """Mean squared error."""
    return float(((values - labels) ** 2).mean())


def calibration_error(values: F64, labels: F64, bins: int = 10) -> float:
    """Expected calibration error over equally wide bins."""
    of_bin = np.minimum((values * bins).astype(int), bins - 1)
    total = 0.0
    for number in range(bins):
        if (own := of_bin == number).any():
            total += float(own.mean()) * abs(float(values[own].mean()) - float(labels[own].mean()))
    return total


def figures(values: torch.Tensor, given: States, *, seed: int = 0) -> dict[str, Figure]:
    """The figures of some values, one a row of ``given``: AUC over the ends of steps, over the ends of solutions, and
    over the latter within problems; cross-entropy, Brier score and calibration error over the ends of steps; and the
    share of problems that the majority, the weighted vote and the best solution answer."""
    kind = given.kind.numpy()
    rollout = given.rollout.numpy()
    ends, finals = kind != INNER, kind == FINAL
    guess = values.double().numpy()
    label = given.correct.double().numpy()[rollout]
    group = given.problem.numpy()[rollout]
    final_class = given.answer_class.numpy()[rollout[finals]]
    votes = _votes(guess[finals], label[finals], group[finals], final_class)

    def on(rows: npt.NDArray[np.bool_], measure: Callable[..., float], *more: I64) -> Callable[[I64], float]:
        parts = [part[rows] for part in (guess, label, *more)]
        by_group = _by_group(group[rows])

        def measured(groups: I64) -> float:
            chosen = np.concatenate([by_group[each] for each in groups.tolist() if each in by_group])
            return measure(*(part[chosen] for part in parts))

        return measured

    def within(groups: I64) -> float:
        won, pairs = _pairs
        counted = float(pairs[groups].sum())
        return float(won[groups].sum()) / counted if counted else float("nan")

    _pairs = _won_pairs(guess[finals], label[finals], group[finals])

    def share(hits: F64) -> Callable[[I64], float]:
        return lambda groups: float(hits[groups].mean())

    measures: dict[str, Callable[[I64], float]] = {
        "step AUC": on(ends, auc),
        "final AUC": on(finals, auc),
        "final AUC within problems": within,
        "step cross-entropy": on(ends, log_loss),
        "step Brier score": on(ends, brier),
        "step calibration error": on(ends, calibration_error),
        **{name: share(hits) for name, hits in votes.items()},
    }
    problems = np.arange(int(given.problem.max()) + 1)
    generator = np.random.default_rng(seed)
    draws = [generator.choice(problems, len(problems)) for _ in range(_RESAMPLES)]
    found: dict[str, Figure] = {}
    for name, measure in measures.items():
        slow = not name.startswith(("final AUC within", *votes))
        spread = [measure(draw) for draw in (draws[:200] if slow else draws)]
        found[name] = Figure(measure(problems), *np.nanpercentile(spread, [2.5, 97.5]).tolist())
    return found


def _by_group(groups: I64) -> dict[int, I64]:
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    return dict(zip(names.tolist(), np.split(order, starts[1:]), strict=True))


def _won_pairs(values: F64, labels: F64, groups: I64) -> tuple[F64, F64]:
    """By group, how many pairs of a right and a wrong one there are, and how many of them are in order."""
    count = int(groups.max()) + 1
    won, pairs = np.zeros(count), np.zeros(count)
    for group, rows in _by_group(groups).items():
        right, wrong = values[rows][labels[rows] == 1], values[rows][labels[rows] == 0]
        pairs[group] = len(right) * len(wrong)
        share = within_auc(values[rows], labels[rows], np.zeros(len(rows), dtype=np.int64))
        won[group] = 0.0 if not pairs[group] else share * pairs[group]
    return won, pairs


def _votes(values: F64, labels: F64, groups: I64, classes: I64) -> dict[str, F64]:
    """By group, whether the majority, the weighted vote and the solution of the highest value are right. Solutions
    without an answer abstain; ties go to the class that appeared first."""
    count = int(groups.max()) + 1
    hits = {name: np.zeros(count) for name in ("majority", "weighted vote", "best by value")}
    for group, rows in _by_group(groups).items():
        said = rows[classes[rows] >= 0]
        if not len(said):
            continue
        kinds = list(dict.fromkeys(classes[said].tolist()))
        for name, weights in (("majority", np.ones(len(said))), ("weighted vote", values[said])):
            sums = [float(weights[classes[said] == kind].sum()) for kind in kinds]
            winner = kinds[int(np.argmax(sums))]
            hits[name][group] = labels[said[classes[said] == winner][0]]
        hits["best by value"][group] = labels[said[int(np.argmax(values[said]))]]
    return hits

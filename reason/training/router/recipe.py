"""From explored steps to a router: fits on several layers, the choice between them, and thresholds for shares.

The head is a ridge regression of Δ (``ridge``). Layer and penalty are chosen by Spearman's correlation with Δ, as in
the paper, of what fits on other problems predict; calibration and the thresholds that escalate a share of the steps
come from the same predictions. A part of the problems is kept out of all that and gives the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from reason.errors import UsageError
from reason.training.router.explore import Examples, load
from reason.training.router.ridge import calibrated, fit_ridge
from reason.training.value.fit import calibration
from reason.training.value.metrics import auc
from reason.training.value.recipe import hashed, part
from reason.verifiers.value_head import ValueHead

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    F64 = npt.NDArray[np.float64]

__all__ = [
    "PENALTIES",
    "SHARES",
    "RouterFigures",
    "RouterTried",
    "cross_validated",
    "gain",
    "kept_for_figures",
    "train_router",
]

PENALTIES = (0.6, 2.0, 6.0, 20.0)
FOLDS = 6

SHARES = tuple(i / 100 for i in range(101))
"""Shares of steps whose thresholds a router's file has."""


@dataclass(frozen=True)
class RouterFigures:
    """On problems that decided nothing.

    Args:
        spearman: of the predicted advantage and Δ.
        auc: of telling Δ > 0.
        steps: how many.
        better: the share with Δ > 0.
        gains: by share escalated, the mean score gained a step: by this router, by one that takes the largest Δ, and by
            one that takes the lowest scores of the draft model's steps (RSD).
    """

    spearman: float
    auc: float
    steps: int
    better: float
    gains: Mapping[str, tuple[float, float, float]]


@dataclass(frozen=True)
class RouterTried:
    """A layer and a penalty: the head, the Spearman correlation on problems that fits did not see, and the figures."""

    layer: int
    penalty: float
    head: ValueHead
    chosen_by: float
    figures: RouterFigures


def train_router(
    folder: FilePath,
    layers: Sequence[int],
    *,
    model: str,
    target: str,
    penalties: Sequence[float] = PENALTIES,
    about: Mapping[str, Any] | None = None,
    on_fit: Callable[[int, int], None] | None = None,
) -> tuple[ValueHead, list[RouterTried]]:
    """Fits a router for each layer and penalty, and chooses.

    Args:
        folder: what an ``Explorer`` left.
        model, target: the draft model's name and the target's.
        penalties: see ``fit_ridge``.
        about: what is to be said of the data, for the file.

    Raises:
        UsageError: there is too little to learn from.
    """
    tried: list[RouterTried] = []
    counts: dict[str, int] = {}
    for layer in layers:
        examples = load(folder, layer, draft=model, target=target)
        tests = kept_for_figures(examples.names)
        counts = {"training": tests.count(False), "test": tests.count(True)}
        learning, test = (
            examples.of_problems(i for i, of_test in enumerate(tests) if of_test is wanted) for wanted in (False, True)
        )
        for penalty in penalties:
            fits = partial(fit_ridge, penalty=penalty, model=model, layer=layer)
            unseen = cross_validated(learning, fits)
            platt = calibration(unseen, (learning.advantage > 0).float())
            predicted = (platt[0] * unseen + platt[1]).sigmoid().double().numpy()
            head = calibrated(fits(learning), platt)
            head = replace(head, about={"thresholds": [_threshold(predicted, share) for share in SHARES]})
            figures = _figures(_predicted(head, test), test)
            tried.append(RouterTried(layer, penalty, head, _spearman(predicted, _delta(learning)), figures))
            if on_fit is not None:
                on_fit(len(tried), len(layers) * len(penalties))
    best = max(tried, key=lambda one: -2.0 if one.chosen_by != one.chosen_by else one.chosen_by)
    said = {**(about or {}), **best.head.about, "target": target, "penalty": best.penalty, "problems": counts}
    return replace(best.head, about=said), tried


def kept_for_figures(problems: Sequence[str]) -> list[bool]:
    """Of each problem's id whether it is kept for the figures, the same as by ``reason train value``.

    Raises:
        UsageError: there are too few problems for both parts.
    """
    tests = [number == 2 for number in part(problems)]
    if all(tests) or not any(tests):
        raise UsageError(f"{len(tests)} problems leave none to {'train' if any(tests) else 'test'} with: take more")
    _folds([name for name, of_test in zip(problems, tests, strict=True) if not of_test])
    return tests


def cross_validated(examples: Examples, fits: Callable[[Examples], ValueHead]) -> torch.Tensor:
    """The logits of each step by a fit that saw none of its problem's, [steps].

    Raises:
        UsageError: there are too few problems for that.
    """
    import torch

    folds = _folds(examples.names)
    of_step = torch.tensor(folds)[examples.problem]
    logits = torch.zeros(len(of_step))
    for fold in set(folds):
        head = fits(examples.of_problems(i for i, each in enumerate(folds) if each != fold))
        rows = of_step == fold
        logits[rows] = head.logits(examples.states[rows], examples.means[rows])[0]
    return logits


def _folds(problems: Sequence[str]) -> list[int]:
    """Which fold each problem is in."""
    folds = [int(FOLDS * hashed(f"{name} fold")) for name in problems]
    if len(set(folds)) < 2:
        raise UsageError(f"{len(folds)} problems to train with are too few to keep some back from each fit: take more")
    return folds


def gain(predicted: F64, advantage: F64, share: float) -> float:
    """The mean score gained a step if the ``share`` of steps with the highest prediction is escalated."""
    count = round(share * len(predicted))
    chosen = np.argsort(-predicted, kind="stable")[:count]
    return float(advantage[chosen].sum() / max(1, len(advantage)))


def _predicted(head: ValueHead, examples: Examples) -> F64:
    import torch

    with torch.no_grad():
        return head.values(examples.states, examples.means).double().numpy()


def _delta(examples: Examples) -> F64:
    return examples.advantage.double().numpy()


def _spearman(predicted: F64, advantage: F64) -> float:
    from scipy.stats import spearmanr

    if len(predicted) < 3 or np.ptp(predicted) == 0 or np.ptp(advantage) == 0:
        return float("nan")
    return float(spearmanr(predicted, advantage).statistic)


def _threshold(predicted: F64, share: float) -> float:
    """At or above which about ``share`` of the predictions lie; above all of them for 0."""
    if share == 0:
        return float(np.nextafter(predicted.max(), 2.0)) if len(predicted) else 1.0
    return float(np.quantile(predicted, 1 - share))


def _figures(predicted: F64, examples: Examples) -> RouterFigures:
    advantage, drafted = _delta(examples), examples.drafted.double().numpy()
    better = (advantage > 0).astype(float)
    gains = {
        f"{share:.0%}": (
            gain(predicted, advantage, share),
            gain(advantage, advantage, share),
            gain(-drafted, advantage, share),
        )
        for share in (0.1, 0.2, 0.3, 0.5)
    }
    return RouterFigures(_spearman(predicted, advantage), auc(predicted, better), len(advantage), better.mean(), gains)

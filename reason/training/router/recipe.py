"""From explored steps to a router: fits on several layers, the choice between them, and thresholds for shares.

The head is fitted to I[Δ > 0] with as many steps of either class, those that are told apart by less than ``margin``
left out; the layer is chosen by Spearman's correlation of its value with Δ on held-out problems, as in the paper. The
thresholds that escalate a share of the steps come from the same problems; the rest give the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np

from reason.training.router.explore import Examples, load
from reason.training.value.fit import FitOptions, fit
from reason.training.value.metrics import auc
from reason.training.value.recipe import part, whole_parts
from reason.training.value.rollouts import FINAL
from reason.training.value.states import States
from reason.verifiers.value_head import ValueHead

if TYPE_CHECKING:
    import numpy.typing as npt

    F64 = npt.NDArray[np.float64]

__all__ = ["SHARES", "RouterFigures", "RouterTried", "gain", "train_router"]

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
    """One fit: its layer, its held-out Spearman correlation, and its figures."""

    layer: int
    head: ValueHead
    chosen_by: float
    figures: RouterFigures


def train_router(
    folder: FilePath,
    layers: Sequence[int],
    options: FitOptions,
    *,
    model: str,
    target: str,
    margin: float = 0.02,
    about: Mapping[str, Any] | None = None,
    on_fit: Callable[[int, int], None] | None = None,
) -> tuple[ValueHead, list[RouterTried]]:
    """Fits a router for each layer, and chooses.

    Args:
        folder: what an ``Explorer`` left.
        model, target: the draft model's name and the target's.
        margin: of |Δ|, below which a step teaches nothing.
        about: what is to be said of the data, for the file.

    Raises:
        UsageError: there is too little to learn from.
    """
    tried: list[RouterTried] = []
    names: tuple[str, ...] = ()
    for layer in layers:
        examples = load(folder, layer, draft=model, target=target)
        names = examples.names
        of_part = whole_parts(names)
        parts = [examples.of_problems(i for i, p in enumerate(of_part) if p == number) for number in range(3)]
        fitted = fit(_as_states(parts[0], margin), _as_states(parts[1], margin), options, model=model, layer=layer).head
        held, test = (_predicted(fitted, each) for each in parts[1:])
        head = replace(fitted, about={"thresholds": [_threshold(held, share) for share in SHARES]})
        tried.append(RouterTried(layer, head, _spearman(held, _delta(parts[1])), _figures(test, parts[2])))
        if on_fit is not None:
            on_fit(len(tried), len(layers))
    best = max(tried, key=lambda one: -2.0 if one.chosen_by != one.chosen_by else one.chosen_by)
    counts = dict(zip(("training", "held out", "test"), (part(names).count(i) for i in range(3)), strict=True))
    said = {**(about or {}), **best.head.about, "target": target, "margin": margin, "problems": counts}
    return replace(best.head, about=said), tried


def gain(predicted: F64, advantage: F64, share: float) -> float:
    """The mean score gained a step if the ``share`` of steps with the highest prediction is escalated."""
    count = round(share * len(predicted))
    chosen = np.argsort(-predicted, kind="stable")[:count]
    return float(advantage[chosen].sum() / max(1, len(advantage)))


def _as_states(examples: Examples, margin: float) -> States:
    """Steps as rollouts of one place, as many with Δ > 0 as without: the first of the more numerous kind stay."""
    import torch

    told = torch.nonzero(examples.advantage.abs() >= margin)[:, 0]
    better = examples.advantage[told] > 0
    count = int(min(better.sum(), (~better).sum()))
    generator = torch.Generator().manual_seed(0)
    kept = []
    for kind in (told[better], told[~better]):
        kept.append(kind[torch.randperm(len(kind), generator=generator)[:count]])
    rows = torch.cat(kept).sort().values
    _, problem = torch.unique(examples.problem[rows], return_inverse=True)
    return States(
        states=examples.states[rows],
        means=examples.means[rows],
        rollout=torch.arange(len(rows)),
        kind=torch.full((len(rows),), FINAL),
        token=torch.zeros(len(rows), dtype=torch.long),
        correct=(examples.advantage[rows] > 0).float(),
        problem=problem,
        answer_class=torch.full((len(rows),), -1),
    )


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

"""From rollouts to a value head: states, fits on several layers and targets, the choice between them, figures.

Problems are parted by a hash of their ids: most are fitted to, some stop the training, calibrate and choose, and the
rest give the figures and decide nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple

from reason.errors import UsageError
from reason.training.value import states as stored
from reason.training.value.fit import Epoch, FitOptions, fit
from reason.training.value.metrics import Figure, figures
from reason.training.value.objective import place_loss, rank_loss
from reason.training.value.rollouts import INNER, Rollout
from reason.verifiers.value_head import ValueHead

if TYPE_CHECKING:
    from reason.training.value.states import States

__all__ = ["CHOSEN_BY", "Parts", "Tried", "default_layers", "hashed", "part", "train", "tried_row"]

CHOSEN_BY = "loss"
"""What decides between layers and targets, on the held-out problems: the lowest, of outcomes at the ends of steps."""


class Parts(NamedTuple):
    """States of three disjoint sets of problems."""

    training: States
    held_out: States
    test: States


@dataclass(frozen=True)
class Tried:
    """One fit.

    Args:
        chosen_by: the held-out figure, see ``CHOSEN_BY``.
        figures: of the test part.
        spread: mean variance of the members' values at the ends of steps, test part.
        steps: mean variance of the value along a solution, test part.
    """

    layer: int
    options: FitOptions
    head: ValueHead
    epochs: tuple[Epoch, ...]
    chosen_by: float
    figures: Mapping[str, Figure]
    spread: float
    steps: float


def default_layers(num_layers: int) -> tuple[int, ...]:
    """Layers from a half to three quarters of the depth, where heads were best, for want of them the last."""
    found = [num_layers * part // 12 for part in (6, 7, 8, 9)]
    return tuple(layer for layer in dict.fromkeys(found) if layer < num_layers - 1) or (-1,)


def part(problems: Sequence[str], *, held_out: float = 0.15, test: float = 0.15) -> list[int]:
    """For each problem's id 0 (training), 1 (held out) or 2 (test), by a hash of the id: a problem stays where it is
    when others are added."""
    found = []
    for problem in problems:
        place = hashed(problem)
        found.append(2 if place < test else 1 if place < test + held_out else 0)
    return found


def whole_parts(problems: Sequence[str]) -> list[int]:
    """``part``, where none of the three is empty.

    Raises:
        UsageError: there are too few problems.
    """
    found = part(problems)
    if missing := [name for number, name in enumerate(("train", "stop", "test")) if number not in found]:
        raise UsageError(f"{len(problems)} problems leave none to {missing[0]} with: take more")
    return found


def hashed(text: str) -> float:
    """A number in [0, 1) that hangs on the text alone."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64


def train(
    rollouts: Sequence[Rollout],
    folder: FilePath,
    layers: Sequence[int],
    options: Sequence[FitOptions],
    *,
    model: str,
    about: Mapping[str, Any] | None = None,
    on_fit: Callable[[int, int], None] | None = None,
) -> tuple[ValueHead, list[Tried]]:
    """Fits a head for each layer and each of ``options``, and chooses.

    Args:
        folder: with the states of the rollouts, see ``states.collect``.
        model: whose states they are.
        about: what is to be said of the data, for the head's file.
        on_fit: told how many of how many fits are done.

    Raises:
        UsageError: there is too little to learn from.
    """
    names = list(dict.fromkeys(rollout.problem for rollout in rollouts))
    of_part = whole_parts(names)
    tried: list[Tried] = []
    total = len(layers) * len(options)
    for layer in layers:
        whole = stored.load(rollouts, folder, layer)
        parts = Parts(*(whole.of_problems(i for i, p in enumerate(of_part) if p == number) for number in range(3)))
        for each in options:
            tried.append(_try(parts, layer, each, model))
            if on_fit is not None:
                on_fit(len(tried), total)
    best = min(tried, key=lambda one: one.chosen_by)
    said = {
        **(about or {}),
        "options": dataclasses.asdict(best.options),
        "problems": {name: of_part.count(number) for number, name in enumerate(("training", "held out", "test"))},
        "rollouts": len(rollouts),
        "right": sum(rollout.correct for rollout in rollouts) / len(rollouts),
        "figures": {name: list(figure) for name, figure in best.figures.items()},
    }
    return replace(best.head, about=said), tried


def tried_row(one: Tried) -> dict[str, Any]:
    """A fit as plain values, for metrics.json."""
    return {
        "layer": one.layer,
        "targets": one.options.targets,
        "options": dataclasses.asdict(one.options),
        "held-out " + CHOSEN_BY: one.chosen_by,
        "member variance": one.spread,
        "variance along solutions": one.steps,
        "figures": {name: list(figure) for name, figure in one.figures.items()},
        "epochs": [dataclasses.asdict(epoch) for epoch in one.epochs],
    }


def _try(parts: Parts, layer: int, options: FitOptions, model: str) -> Tried:
    import torch

    fitted = fit(parts.training, parts.held_out, options, model=model, layer=layer)
    head = fitted.head
    with torch.no_grad():
        held = _loss(head, parts.held_out, options.rank)
        values = head.values(parts.test.states, parts.test.means)
        ends = parts.test.kind != INNER
        members = head.logits(parts.test.states[ends], parts.test.means[ends]).sigmoid()
    return Tried(
        layer=layer,
        options=options,
        head=head,
        epochs=fitted.epochs,
        chosen_by=held,
        figures=figures(values, parts.test),
        spread=float(members.var(dim=0).mean()) if len(members) > 1 else 0.0,
        steps=_variance_along(values[ends], parts.test.rollout[ends]),
    )


def _loss(head: ValueHead, given: States, rank: float) -> float:
    logits = head.values(given.states, given.means).logit(eps=1e-6)
    outcome, problem = given.correct[given.rollout], given.problem[given.rollout]
    lost = place_loss(logits, outcome, given.kind, 0.0)
    return float(lost + rank * rank_loss(logits, outcome, problem, given.kind))


def _variance_along(values: Any, rollout: Any) -> float:
    """The mean, over solutions of more than one step, of the variance of a solution's values."""
    import torch

    count = int(rollout.max()) + 1
    size = torch.bincount(rollout, minlength=count).double()
    total = torch.zeros(count, dtype=torch.double).index_add_(0, rollout, values.double())
    squares = torch.zeros(count, dtype=torch.double).index_add_(0, rollout, values.double() ** 2)
    several = size > 1
    variance = squares[several] / size[several] - (total[several] / size[several]) ** 2
    return float(variance.mean()) if len(variance) else 0.0

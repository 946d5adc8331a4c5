"""Fits a value head to states and outcomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from reason.errors import UsageError
from reason.fields import check_choices
from reason.training.value.objective import place_loss, rank_loss
from reason.training.value.rollouts import INNER
from reason.training.value.targets import lambda_returns, ramp
from reason.verifiers.value_head import ValueHead

if TYPE_CHECKING:
    import torch

    from reason.training.value.states import States

__all__ = ["Epoch", "FitOptions", "Fitted", "calibration", "fit"]


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Args:
    targets: "mc" (Monte Carlo: the outcome) or "td" (λ-returns, see ``targets``).
    lambda_: of the λ-returns.
    ramp: steps of the optimiser over which α goes from 0 to 1.
    units: hidden units of each member; 0 is a linear head.
    members: networks whose logits are averaged.
    pool: also read the mean of the states so far, see ``ValueHead``.
    rank: weight of the ranking loss, see ``objective``; 0 is none.
    epochs: at most; training stops when the held-out loss has not fallen for ``patience`` of them.
    batch: rollouts of a step of the optimiser, about: all of a problem's belong together.
    learning_rate, weight_decay, dropout: of AdamW; dropout is on the states and on the hidden units.
    inner: weight of places within steps, beside 1 for the ends of steps.
    seed: of initial weights and batches.
    """

    targets: Literal["mc", "td"] = "mc"
    lambda_: float = 0.8
    ramp: int = 768
    units: int = 64
    members: int = 4
    pool: bool = True
    rank: float = 1.0
    epochs: int = 40
    patience: int = 4
    batch: int = 64
    learning_rate: float = 5e-4
    weight_decay: float = 0.1
    dropout: float = 0.2
    inner: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_choices(self)
        least = {"ramp": 0, "units": 0, "members": 1, "epochs": 1, "patience": 1, "batch": 1, "inner": 0, "rank": 0}
        for name, value in least.items():
            if getattr(self, name) < value:
                raise UsageError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if not 0 <= self.lambda_ <= 1:
            raise UsageError(f"lambda must be in [0, 1], got {self.lambda_}")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"dropout must be in [0, 1), got {self.dropout}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0 and math.isfinite(self.rank)):
            raise UsageError("learning_rate must be above 0, weight_decay at least 0, and rank finite")


@dataclass(frozen=True, slots=True)
class Epoch:
    """Losses after an epoch of a member; the held-out one is of outcomes, at the ends of steps."""

    member: int
    number: int
    training: float
    held_out: float


@dataclass(frozen=True)
class Fitted:
    """A head, and how it came to be."""

    head: ValueHead
    epochs: tuple[Epoch, ...]


def fit(
    training: States,
    held_out: States,
    options: FitOptions,
    *,
    model: str,
    layer: int,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> Fitted:
    """Fits a head; equal arguments give equal heads.

    Args:
        held_out: of other problems: training stops by it, and the calibration is fitted to it.
        model, layer: what the states are of.

    Raises:
        UsageError: the outcomes of one part are all alike, or a part is empty.
    """
    import torch

    for name, part in (("training", training), ("held-out", held_out)):
        if not len(part.correct) or not 0 < float(part.correct.mean()) < 1:
            raise UsageError(
                f"the {name} part has {len(part.correct)} rollouts, {int(part.correct.sum())} of them right: "
                "a value head learns from both kinds; take more problems, or others, into another folder"
            )
    scaling = {"mean": training.states.mean(dim=0), "std": training.states.std(dim=0).clamp_min(1e-4)}
    if options.pool:
        scaling |= {"pool.mean": training.means.mean(dim=0), "pool.std": training.means.std(dim=0).clamp_min(1e-4)}
    seen, unseen = _Part(training, scaling), _Part(held_out, scaling)
    epochs: list[Epoch] = []
    members = [_fit_member(seen, unseen, options, number, epochs, on_epoch) for number in range(options.members)]
    weights = {**scaling, **{name: torch.stack([each[name] for each in members]) for name in members[0]}}
    weights["calibration"] = torch.tensor([1.0, 0.0])
    uncalibrated = ValueHead("fitting", model, layer, weights)
    weights["calibration"] = _calibration(uncalibrated, held_out)
    return Fitted(ValueHead("fitted", model, layer, weights), tuple(epochs))


class _Part:
    """A part as a member sees it: scaled states, and which rows belong to which problem."""

    def __init__(self, states: States, scaling: Mapping[str, torch.Tensor]) -> None:
        import torch

        self.x = (states.states - scaling["mean"]) / scaling["std"]
        self.z = (states.means - scaling["pool.mean"]) / scaling["pool.std"] if "pool.mean" in scaling else None
        self.kind = states.kind
        self.rollout = states.rollout
        self.correct = states.correct
        self.outcome = states.correct[states.rollout]
        self.problem = states.problem[states.rollout]
        order = torch.argsort(self.problem, stable=True)
        self.rows = torch.split(order, torch.bincount(self.problem).tolist())

    def logits(
        self, weights: Mapping[str, torch.Tensor], rows: torch.Tensor, dropout: float, generator: torch.Generator
    ) -> torch.Tensor:
        """One member's logits of some rows."""
        logits = _logits(weights, self.x[rows], dropout, generator)
        return logits if self.z is None else logits + _drop(self.z[rows], dropout, generator) @ weights["pool.weight"]


def _fit_member(
    training: _Part,
    held_out: _Part,
    options: FitOptions,
    number: int,
    epochs: list[Epoch],
    on_epoch: Callable[[Epoch], None] | None,
) -> dict[str, torch.Tensor]:
    """One member's weights, those of its best epoch."""
    import torch

    generator = torch.Generator().manual_seed(1000 * options.seed + number)
    weights = _initial(training.x.shape[1], options, generator)
    groups: list[dict[str, Any]] = [
        {"params": [weights[name] for name in weights if name.endswith(ending)], "weight_decay": decay}
        for ending, decay in (("weight", options.weight_decay), ("bias", 0.0))
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.learning_rate)
    problems = len(training.rows)
    at_once = max(1, round(options.batch * problems / len(training.correct)))
    best, best_loss, since, step = {name: w.detach().clone() for name, w in weights.items()}, float("inf"), 0, 0
    for epoch in range(1, options.epochs + 1):
        losses: list[float] = []
        for batch in torch.split(torch.randperm(problems, generator=generator), at_once):
            rows = torch.cat([training.rows[each] for each in batch.tolist()])
            logits = training.logits(weights, rows, options.dropout, generator)
            target = _target(training, rows, weights, options, step, generator)
            loss = place_loss(logits, target, training.kind[rows], options.inner)
            loss = loss + options.rank * _rank_loss(training, rows, logits)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            losses.append(float(loss.detach()))
            step += 1
        with torch.no_grad():
            everything = torch.arange(len(held_out.x))
            logits = held_out.logits(weights, everything, 0.0, generator)
            lost = place_loss(logits, held_out.outcome, held_out.kind, 0.0)
            held = float(lost + options.rank * _rank_loss(held_out, everything, logits))
        epochs.append(Epoch(number, epoch, sum(losses) / len(losses), held))
        if on_epoch is not None:
            on_epoch(epochs[-1])
        if held < best_loss:
            best, best_loss, since = {name: w.detach().clone() for name, w in weights.items()}, held, 0
        elif (since := since + 1) >= options.patience:
            break
    return best


def _target(
    part: _Part,
    rows: torch.Tensor,
    weights: Mapping[str, torch.Tensor],
    options: FitOptions,
    step: int,
    generator: torch.Generator,
) -> torch.Tensor:
    """What the values of some rows, whole rollouts in order, are drawn towards."""
    import torch

    outcome = part.outcome[rows]
    if options.targets == "mc":
        return outcome
    with torch.no_grad():
        values = part.logits(weights, rows, 0.0, generator).sigmoid()
        numbers, rollout = torch.unique_consecutive(part.rollout[rows], return_inverse=True)
        returns = lambda_returns(values, part.correct[numbers], rollout, options.lambda_)
        alpha = ramp(step, options.ramp)
        return (1 - alpha) * outcome + alpha * returns


def _rank_loss(part: _Part, rows: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return rank_loss(logits, part.outcome[rows], part.problem[rows], part.kind[rows])


def _initial(size: int, options: FitOptions, generator: torch.Generator) -> dict[str, torch.Tensor]:
    import torch

    units = options.units

    def uniform(*shape: int, inputs: int) -> torch.Tensor:
        drawn: torch.Tensor = (torch.rand(*shape, generator=generator) * 2 - 1) / inputs**0.5
        return drawn.requires_grad_()

    pool = {"pool.weight": torch.zeros(size).requires_grad_()} if options.pool else {}
    if not units:
        return {
            "out.weight": torch.zeros(size).requires_grad_(),
            "out.bias": torch.zeros(()).requires_grad_(),
            **pool,
        }
    return {
        "in.weight": uniform(units, size, inputs=size),
        "in.bias": uniform(units, inputs=size),
        "out.weight": uniform(units, inputs=units),
        "out.bias": torch.zeros(()).requires_grad_(),
        **pool,
    }


def _logits(
    weights: Mapping[str, torch.Tensor], x: torch.Tensor, dropout: float, generator: torch.Generator
) -> torch.Tensor:
    """One member's logits of scaled states, [rows]."""
    x = _drop(x, dropout, generator)
    if "in.weight" not in weights:
        linear: torch.Tensor = x @ weights["out.weight"] + weights["out.bias"]
        return linear
    hidden = (x @ weights["in.weight"].T + weights["in.bias"]).relu()
    logits: torch.Tensor = _drop(hidden, dropout, generator) @ weights["out.weight"] + weights["out.bias"]
    return logits


def _drop(x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    import torch

    if not share:
        return x
    kept = torch.rand(x.shape, generator=generator) >= share
    dropped: torch.Tensor = x * kept / (1 - share)
    return dropped


def _calibration(head: ValueHead, held_out: States) -> torch.Tensor:
    """At the ends of steps."""
    import torch

    ends = held_out.kind != INNER
    with torch.no_grad():
        logits = head.logits(held_out.states[ends], held_out.means[ends]).mean(dim=0)
    return calibration(logits, held_out.correct[held_out.rollout[ends]])


def calibration(logits: torch.Tensor, outcome: torch.Tensor) -> torch.Tensor:
    """Platt's scale and shift, [2], for logits and outcomes (0 or 1) of the same shape. The scale is above 0: a head
    that ranks backwards on held-out problems is to be seen, not turned around."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

    parameters = torch.tensor([0.0, 0.0], requires_grad=True)  # the logarithm of the scale, and the shift
    optimiser = torch.optim.LBFGS([parameters], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = cross_entropy(parameters[0].exp() * logits + parameters[1], outcome)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    fitted = torch.stack([parameters[0].exp(), parameters[1]]).detach()
    return fitted if bool(fitted.isfinite().all()) else torch.tensor([1.0, 0.0])

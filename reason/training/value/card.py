"""What is written beside a trained head: a model card, the figures, a plot."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from reason.training.value.recipe import CHOSEN_BY, tried_row
from reason.training.writing import write_whole

if TYPE_CHECKING:
    from reason.training.value.recipe import Tried
    from reason.verifiers.value_head import ValueHead

__all__ = ["json_figures", "write_card"]

_COLUMNS = ("step AUC", "final AUC", "final AUC within problems", "step cross-entropy", "step calibration error")
_VOTES = ("majority", "weighted vote", "best by value")


def write_card(folder: FilePath, head: ValueHead, tried: Sequence[Tried], command: str) -> None:
    """Writes card.md, metrics.json and, where matplotlib is there, training.png.

    Raises:
        ReasonError: the folder cannot be written.
    """
    metrics = {"chosen": {"layer": head.layer, **dict(head.about)}, "tried": [tried_row(one) for one in tried]}
    write_whole(folder / "metrics.json", (json.dumps(json_figures(metrics), indent=1) + "\n").encode())
    write_whole(folder / "card.md", _card(head, tried, command).encode())
    if (plot := _plot(head, tried)) is not None:
        write_whole(folder / "training.png", plot)


def json_figures(found: Any) -> Any:
    """The same with None for figures that are not numbers: JSON has no nan."""
    if isinstance(found, Mapping):
        return {name: json_figures(each) for name, each in found.items()}
    if isinstance(found, list | tuple):
        return [json_figures(each) for each in found]
    return None if isinstance(found, float) and not math.isfinite(found) else found


def _card(head: ValueHead, tried: Sequence[Tried], command: str) -> str:
    about = head.about
    options: Mapping[str, Any] = about["options"]
    problems: Mapping[str, int] = about["problems"]
    shape = f"{options['members']} networks of {options['units']} hidden units" if options["units"] else "linear"
    lines = [
        f"# Value head for {head.model}",
        "",
        f"Reads the states of layer {head.layer} (-1: after the final norm; {head.size} numbers; {shape}, "
        f"{sum(weight.numel() for weight in head.weights.values()):,} parameters) and estimates how likely the "
        "solution under way is to end in the right answer.",
        "",
        f"Data: {about.get('data', 'not told')}. {about['rollouts']:,} solutions, {about['right']:.1%} of them right; "
        f"{problems['training']} problems to learn from, {problems['held out']} to stop, calibrate and choose with, "
        f"{problems['test']} for the figures.",
        "",
        f"Made by: `{command}`",
        "",
        "## Figures on the problems that decided nothing",
        "",
        "| figure | value | 95% interval |",
        "|---|---:|---|",
        *(f"| {name} | {v:.3f} | [{low:.3f}, {high:.3f}] |" for name, (v, low, high) in about["figures"].items()),
        "",
        "Intervals resample problems. Votes are over each problem's own solutions.",
        "",
        "## What was tried",
        "",
        "| layer | targets | held-out loss | " + " | ".join(_COLUMNS + _VOTES) + " | member variance | "
        "variance along solutions |",
        "|---:|---|" + "---:|" * (len(_COLUMNS) + len(_VOTES) + 3),
    ]
    for one in tried:
        named = [f"{one.figures[name].value:.3f}" for name in _COLUMNS + _VOTES]
        mark = " (chosen)" if one.head.weights is head.weights else ""
        lines.append(
            f"| {one.layer} | {_targets(one)}{mark} | {one.chosen_by:.4f} | {' | '.join(named)} | {one.spread:.5f} "
            f"| {one.steps:.4f} |"
        )
    lines += ["", f"Chosen by the held-out {CHOSEN_BY}."]
    return "\n".join(lines) + "\n"


def _targets(one: Tried) -> str:
    if one.options.targets == "mc":
        return "Monte Carlo"
    return f"TD({one.options.lambda_:g})"


def _plot(head: ValueHead, tried: Sequence[Tried]) -> bytes | None:
    """Losses by epoch of the chosen fit, and the step AUC of all, as PNG; None without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    (chosen,) = [one for one in tried if one.head.weights is head.weights]
    for number in range(chosen.options.members):
        own = [epoch for epoch in chosen.epochs if epoch.member == number]
        at = [epoch.number for epoch in own]
        label = {"label": "fitted to"} if number == 0 else {}
        left.plot(at, [epoch.training for epoch in own], color="tab:blue", alpha=0.6, **label)
        label = {"label": "held out"} if number == 0 else {}
        left.plot(at, [epoch.held_out for epoch in own], color="tab:orange", alpha=0.9, **label)
    left.set(xlabel="epoch", ylabel="loss", title=f"layer {head.layer}, each member")
    left.legend(frameon=False)
    names = [f"layer {one.layer}\n{_targets(one)}" for one in tried]
    figures = [one.figures["step AUC"] for one in tried]
    errors = [[f.value - f.low for f in figures], [f.high - f.value for f in figures]]
    colours = ["tab:green" if one is chosen else "tab:grey" for one in tried]
    right.errorbar(range(len(tried)), [f.value for f in figures], yerr=errors, fmt="none", ecolor="black", capsize=3)
    right.scatter(range(len(tried)), [f.value for f in figures], c=colours, zorder=3)
    right.set_xticks(range(len(tried)), names, fontsize=7)
    right.set(ylabel="AUC at the ends of steps", title="test problems, 95% intervals")
    data = io.BytesIO()
    figure.savefig(data, dpi=150, format="png")
    pyplot.close(figure)
    return data.getvalue()

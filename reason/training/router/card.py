"""The card beside a trained router."""

from __future__ import annotations

from collections.abc import Sequence

from reason.training.router.recipe import RouterTried
from reason.verifiers.value_head import ValueHead

__all__ = ["router_card"]


def router_card(head: ValueHead, tried: Sequence[RouterTried], *, command: str) -> str:
    """A model card in Markdown."""
    about = head.about
    (chosen,) = [one for one in tried if one.head.weights is head.weights]
    figures, problems = chosen.figures, about["problems"]
    lines = [
        f"# Router for {head.model} and {about['target']}",
        "",
        f"Reads the states of layer {head.layer} of {head.model} where a step of it ends, and estimates how likely a "
        f"step of {about['target']} from the same prefix would have been better.",
        "",
        f"Data: {about.get('data', 'not told')}. Scores of steps: {about.get('verifier', 'not told')}. "
        f"{problems['training']} problems to learn from, {problems['test']} for the figures.",
        "",
        f"Made by: `{command}`",
        "",
        f"## Figures on {figures.steps} steps of problems that decided nothing",
        "",
        f"The target's step is better in {figures.better:.1%}; Spearman's correlation with Δ {figures.spearman:.3f}; "
        f"AUC of telling Δ > 0 {figures.auc:.3f}. Mean score gained a step:",
        "",
        "| share escalated | this router | the largest Δ | the lowest scores of drafted steps |",
        "|---:|---:|---:|---:|",
        *(f"| {share} | {own:.4f} | {best:.4f} | {low:.4f} |" for share, (own, best, low) in figures.gains.items()),
        "",
        "## What was tried",
        "",
        "| layer | penalty | cross-validated Spearman | Spearman | AUC |",
        "|---:|---:|---:|---:|---:|",
    ]
    for one in tried:
        mark = " (chosen)" if one is chosen else ""
        lines.append(
            f"| {one.layer}{mark} | {one.penalty:g} | {one.chosen_by:.3f} | {one.figures.spearman:.3f} "
            f"| {one.figures.auc:.3f} |"
        )
    return "\n".join(lines) + "\n"

"""What speculation proposed, what of it stood and what that saved, grain by grain: tokens, steps, whole answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["Grain", "grains"]


class Grain(NamedTuple):
    """One grain's row. ``proposed`` and ``stood`` count tokens, steps or answers."""

    name: str
    proposed: int
    stood: int
    saved: str

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """As a table shows them."""
        share = f"{self.stood:,} ({self.stood / self.proposed:.0%})" if self.proposed else "0"
        return self.name, f"{self.proposed:,}", share, self.saved


def grains(usage: Mapping[str, float], *, planned: int = 0) -> list[Grain]:
    """The grains that were in use.

    Args:
        usage: a ledger row, of one problem or of many.
        planned: problems that a small model was to answer first.
    """
    tokens = usage["policy_tokens"]
    rows = []
    if drafted := usage.get("drafted_tokens", 0):
        accepted = usage["accepted_tokens"]
        saved = f"{accepted / tokens:.0%} of tokens without their own forward" if tokens else ""
        rows.append(Grain("tokens", round(drafted), round(accepted), saved))
    large = f"the large model wrote {tokens - usage.get('draft_model_tokens', 0):,.0f} of {tokens:,.0f} tokens"
    if steps := usage.get("routed_steps", 0):
        rows.append(Grain("steps", round(steps), round(steps - usage["escalated_steps"]), large))
    if planned:
        searches = "1 search" if (spared := round(usage.get("short_cuts", 0))) == 1 else f"{spared:,} searches"
        rows.append(Grain("answers", planned, spared, f"{searches}; {large}" if not steps else searches))
    return rows

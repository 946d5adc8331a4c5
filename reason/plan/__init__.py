"""Speculative planning: a small model answers outright, and a gate decides whether the search runs at all."""

from __future__ import annotations

from reason.plan.ahead import ToolsAhead
from reason.plan.run import PlannedRun
from reason.plan.speceyes import PLANS, SpecEyes, make_plan

__all__ = ["PLANS", "PlannedRun", "SpecEyes", "ToolsAhead", "make_plan"]

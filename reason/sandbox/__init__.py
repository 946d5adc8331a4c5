"""Runs model-written programs safely: docs/sandbox.md."""

from __future__ import annotations

from reason.errors import SandboxUnavailable
from reason.sandbox.limits import Execution, Limits, Status, Verdict
from reason.sandbox.pool import Sandbox
from reason.sandbox.testing import run_tests

__all__ = ["Execution", "Limits", "Sandbox", "SandboxUnavailable", "Status", "Verdict", "run_tests"]

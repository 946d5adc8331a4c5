"""Runs model-written programs safely: docs/sandbox.md."""

from __future__ import annotations

from reason.errors import SandboxUnavailable
from reason.sandbox.limits import Execution, Limits, Status, Verdict
from reason.sandbox.pool import Sandbox
from reason.sandbox.service import SandboxService, allow_unsafe, check_sandbox, shared_sandbox
from reason.sandbox.testing import run_tests

__all__ = [
    "Execution",
    "Limits",
    "Sandbox",
    "SandboxService",
    "SandboxUnavailable",
    "Status",
    "Verdict",
    "allow_unsafe",
    "check_sandbox",
    "run_tests",
    "shared_sandbox",
]

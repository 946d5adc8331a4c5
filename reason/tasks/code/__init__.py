"""Tasks whose answers are programs: docs/code.md."""

from __future__ import annotations

from reason.tasks.code.behaviour import SameBehaviour
from reason.tasks.code.examples import docstring_tests
from reason.tasks.code.kinds import HUMANEVAL, MBPP, code_problem
from reason.tasks.code.mbpp_plus import MBPP_PLUS
from reason.tasks.code.programs import ExtractProgram
from reason.tasks.code.running import check_sandbox

__all__ = [
    "HUMANEVAL",
    "MBPP",
    "MBPP_PLUS",
    "ExtractProgram",
    "SameBehaviour",
    "check_sandbox",
    "code_problem",
    "docstring_tests",
]

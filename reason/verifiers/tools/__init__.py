"""Tools that a model may call while it solves: Python in the sandbox, a calculator, a search of given passages."""

from __future__ import annotations

from reason.verifiers.tools.calls import TOOLS, Call, find_call
from reason.verifiers.tools.toolbox import Toolbox
from reason.verifiers.tools.verifier import Tools

__all__ = ["TOOLS", "Call", "Toolbox", "Tools", "find_call"]

"""Better reasoning from language models by spending compute at inference time, and making that compute cheap.

    from reason import solve

    solution = solve("What is 17 * 23?", strategy="best-of-n", num_samples=8)
    print(solution.answer, solution.usage)

Importing this package is cheap: torch and the rest come with the first engine.
"""

from __future__ import annotations

from reason.api import Solver, asolve, solve
from reason.errors import ReasonError
from reason.types import Budget, Problem, Sampling, Solution, Usage

__all__ = [
    "Budget",
    "Problem",
    "ReasonError",
    "Sampling",
    "Solution",
    "Solver",
    "Usage",
    "asolve",
    "solve",
]

__version__ = "0.1.0"

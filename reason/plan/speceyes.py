"""SpecEyes (https://arxiv.org/abs/2603.23483) as a setting: how the small model answers, and what its answer must pass.

    1  screen    does this need more than an answer? P(yes) by the large model, one prefill    (if ``screen`` is set)
    2  answer    by the small model, without search or tools
    3  gate      its score is at least ``threshold``
    4            otherwise the full search

A gate is any verifier on the small model's own solution: "separability" is the paper's, "head" is a learned one, and
"agreement" is the share of ``samples`` solutions that give the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reason.errors import UsageError
from reason.fields import make
from reason.types import Message, Problem
from reason.verifiers import make_verifier

__all__ = ["AGREEMENT", "AT_ONCE", "PLANS", "SpecEyes", "followed_by", "make_plan"]

AGREEMENT = "agreement"

AT_ONCE = "Answer at once, without any explanation: give only the final answer, within \\boxed{}."
"""What follows a problem under ``direct``."""


@dataclass(frozen=True, kw_only=True)
class SpecEyes:
    """Args:
    gate: the verifier that scores the small model's solution.
    threshold: of its score, from which on the answer stands; by default 0.98, for scores that are probabilities.
    samples: solutions of the small model: one is greedy, several are drawn, and the answer is what they vote for.
    screen: the large model's P(yes) that a problem needs more, from which on the small model is not asked; None asks
        it always.
    max_tokens: of a small model's solution.
    direct: the small model gives its answer at once, without reasoning.
    ahead: while an agent works, the small model also guesses its next tool call, which is then made ahead of time.
    """

    gate: str = "separability"
    threshold: float | None = None
    samples: int = 1
    screen: float | None = None
    max_tokens: int = 512
    direct: bool = False
    ahead: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.max_tokens < 1:
            raise UsageError("samples and max_tokens must be at least 1")
        if self.gate == AGREEMENT and self.samples < 2:
            raise UsageError("agreement is among several solutions: set samples to 2 or more")
        if self.screen is not None and not 0 <= self.screen <= 1:
            raise UsageError(f"screen must be in [0, 1], got {self.screen}")
        verifier = make_verifier(self.verifier)
        if self.threshold is None and not verifier.probability:
            raise UsageError(
                f"scores of {self.gate} are no probabilities: give a threshold (`reason train gate` finds one)"
            )

    @property
    def limit(self) -> float:
        """The threshold."""
        return 0.98 if self.threshold is None else self.threshold

    @property
    def verifier(self) -> str:
        """The gate as a verifier's name; what it is written with inside a plan's name has semicolons for commas."""
        return self.gate.replace(";", ",")

    @property
    def fields(self) -> Mapping[str, Any]:
        """Of the best-of-N that the small model runs."""
        temperature = 0.0 if self.samples == 1 else 0.8
        fields = {"num_samples": self.samples, "max_tokens": self.max_tokens, "temperature": temperature}
        if self.gate == AGREEMENT:
            return fields
        return {**fields, "select": "weighted" if self.samples > 1 else "best", "verifier": self.verifier}

    def asked(self, problem: Problem) -> Problem:
        """The problem as the small model gets it."""
        return followed_by(problem, AT_ONCE) if self.direct else problem


def followed_by(problem: Problem, sentence: str) -> Problem:
    """The bare problem, without what its task has it asked with, and a sentence after it."""
    content = problem.question or problem.content
    text = content if isinstance(content, str) else "\n\n".join(str(each["content"]) for each in content)
    return replace(problem, content=(Message(role="user", content=f"{text}\n\n{sentence}"),))


PLANS: dict[str, type[Any]] = {"speceyes": SpecEyes}


def make_plan(name: str | SpecEyes, /, **fields: Any) -> SpecEyes:
    """A plan by name, with its fields, which may be written into the name: ``"speceyes:threshold=0.95"``.

    Raises:
        UnknownName: no plan, or no field, of that name.
        UsageError: a field has a value that it does not take, or is given twice.
    """
    if isinstance(name, SpecEyes):
        return name
    plan: SpecEyes = make("plan", PLANS, name, fields)
    return plan

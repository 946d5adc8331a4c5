"""Tree of Thoughts' evaluator as a verifier: the model is asked a few times how far the steps may lead (Yao et al.,
https://arxiv.org/abs/2305.10601).

    score = sum over num_values answers of {sure: 20, likely: 1, impossible: 0.001}

Answers without such a word count 0. The sampling noise comes from the question alone, so equal steps get equal scores,
whatever is scored beside them. We depart from the original in asking about a whole solution in other words than about
the beginning of one, for every kind of problem.

The answers are text that the policy writes: the ledger counts them as its calls and tokens. A budget cannot know of
them beforehand and may be exceeded by the last of them; the strategy ``tot`` asks the same within its budget.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.errors import EngineError, UsageError
from reason.fields import check_choices
from reason.tasks.thoughts import PromptSet, read_value, thought_prompts
from reason.types import Completion, Engine, Message, Path, Request, Sampling, Trajectory

__all__ = ["ValuePrompt"]


@dataclass(frozen=True, kw_only=True)
class ValuePrompt:
    """Args:
    num_values: answers to each question.
    temperature: of the answers.
    max_tokens: limit of each answer.
    prompts: how it is asked; see ``reason.tasks.thoughts``.
    """

    name: ClassVar[str] = "value-prompt"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = False

    num_values: int = 3
    temperature: float = 0.7
    max_tokens: int = 256
    prompts: PromptSet = "auto"

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least in (("num_values", 1), ("temperature", 0), ("max_tokens", 1)):
            if not getattr(self, name) >= least:
                raise UsageError(f"{name} must be at least {least}, got {getattr(self, name)}")

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        """Raises EngineError where an answer could not be generated."""
        paths = [engine.codec.encode_chat(self._question(trajectory)) for trajectory in trajectories]
        requests = [self._request(path, key, owner) for path in paths for key in range(self.num_values)]
        answers = {completion.index: completion async for completion in engine.generate(requests)}
        values = [_value(answers.get(index)) for index in range(len(requests))]
        return [math.fsum(values[first : first + self.num_values]) for first in range(0, len(values), self.num_values)]

    def _question(self, trajectory: Trajectory) -> tuple[Message, ...]:
        prompts = thought_prompts(self.prompts, trajectory.problem)
        steps = [step.text.strip() for step in trajectory.steps if step.text.strip()]
        if trajectory.finished or not steps:
            return prompts.judge(trajectory.problem, trajectory.text, trajectory.answer)
        return prompts.value(trajectory.problem, steps)

    def _request(self, path: Path, key: int, owner: str) -> Request:
        return Request(
            prefix=path,
            seed=int.from_bytes(hashlib.blake2b(repr(path).encode(), digest_size=7).digest(), "big"),
            key=key,
            sampling=Sampling(temperature=self.temperature),
            max_tokens=self.max_tokens,
            owner=owner,
        )


def _value(answer: Completion | None) -> float:
    if answer is None or answer.finish_reason in ("error", "cancelled"):
        why = answer.error if answer is not None and answer.error is not None else "the engine gave none"
        raise EngineError(f"the value-prompt verifier got no answer: {why}")
    return read_value(answer.text)

"""What routers see and say."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from reason.types import Completion, Engine, Step, Trajectory
from reason.verifiers.recording import Recording

__all__ = ["Author", "Drafted", "Rewrite", "Router"]

Author: TypeAlias = Literal["draft", "target"]

Rewrite: TypeAlias = Callable[[], Awaitable[Completion]]
"""Has the target model write the step; called twice it is written once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A step that the draft model wrote.

    Args:
        trajectory: the solution under way, this step last. What the router's probes say is with the tokens of every
            step, whoever wrote it; what else it had recorded is with the steps of those engines that can tell it. Its
            problem is known by its tokens alone.
        completion: the step.
        draft, target: the engines.
        owner: whose work it is.
    """

    trajectory: Trajectory
    completion: Completion
    draft: Engine
    target: Engine
    owner: str

    def rewritten(self, completion: Completion) -> Trajectory:
        """The solution with the target's step in the place of the drafted one."""
        step = Step(text=self.target.codec.decode(completion.token_ids), tokens=completion.token_ids)
        steps = (*self.trajectory.steps[:-1], step)
        return replace(self.trajectory, steps=steps, finished=completion.finish_reason == "eos")


@runtime_checkable
class Router(Protocol):
    """Decides who writes a step. Routers that decide without looking have ``author`` set; the others see the draft
    model's step first. One with a method ``check(draft, target)`` may refuse engines that it cannot decide with."""

    @property
    def author(self) -> Author | None:
        """Who writes every step, if that is settled."""
        ...

    def recording(self, draft: Engine) -> Recording:
        """What is to be recorded while steps are written, for ``choose``; states are the draft model's."""
        ...

    async def choose(self, drafted: Drafted, rewrite: Rewrite) -> Completion | None:
        """The target's step, from ``rewrite``, or None to keep the draft model's."""
        ...

"""Tool calls ahead of time: while an agent's model writes what leads to a call, a small model guesses the call from
the same text, and it is made. If the agent then asks for that very call its answer is there, or on its way; if it asks
for another, the guess is dropped. The tools only read (see ``Toolbox``), so a dropped call has changed nothing, and
what the agent is told is what the tool says either way.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from reason.types import Completion, Engine, Problem, Request, Usage
from reason.verifiers.tools import Toolbox, find_call
from reason.verifiers.tools.calls import CLOSINGS

__all__ = ["ToolsAhead"]


class ToolsAhead:
    """An engine for one problem's run: the agent's, beside which a small one guesses calls.

    Args:
        engine: writes what counts.
        small: guesses; its tokens are in the ledger.
        toolbox: the one that the run's calls go to.
        problem: whose run it is.
    """

    def __init__(self, engine: Engine, small: Engine, toolbox: Toolbox, problem: Problem) -> None:
        self._engine = engine
        self._small = small
        self._toolbox = toolbox
        self._problem = problem

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        calling = [request for request in requests if set(CLOSINGS) & set(request.stop)]
        guessing = asyncio.ensure_future(self._guess(calling)) if calling else None
        try:
            async with contextlib.aclosing(self._engine.generate(requests)) as stream:  # type: ignore[type-var]
                async for completion in stream:
                    yield completion
        finally:
            if guessing is not None:
                guessing.cancel()
                await asyncio.gather(guessing, return_exceptions=True)

    async def _guess(self, requests: Sequence[Request]) -> None:
        """A guess that fails is none."""
        asked = [
            replace(request, owner=_owner(request.owner), probes=(), states=(), hidden=False) for request in requests
        ]
        async with contextlib.aclosing(self._small.generate(asked)) as stream:  # type: ignore[type-var]
            async for completion in stream:
                if completion.stopped_on in CLOSINGS and (call := find_call(completion.text)) is not None:
                    self._toolbox.begin(call, self._problem)

    def usage(self, owner: str) -> Usage:
        """The agent's work and the guesses'."""
        guessed = self._small.usage(_owner(owner))
        total = self._engine.usage(owner).plus(guessed)
        total.draft_model_tokens += guessed.policy_tokens
        return total

    def forget(self, owner: str) -> None:
        self._engine.forget(owner)
        self._small.forget(_owner(owner))

    def close(self) -> None:
        """Closes nothing: the engines are the caller's."""


def _owner(owner: str) -> str:
    return f"{owner}#ahead"

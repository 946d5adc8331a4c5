"""Tool calls ahead of time: while an agent's model writes what leads to a call, a small model guesses the call from
the same text, and it is made. If the agent then asks for that very call its answer is there, or on its way; if it asks
for another, the guess is dropped. The tools only read (see ``Toolbox``), so a dropped call has changed nothing, and
what the agent is told is what the tool says either way.

A guess may have as many tokens as the agent's turn, and no more than a budget leaves beside that; it counts as
generated and thrown away. It ends when the turn does, so that how many tokens it has is a matter of timing.
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
        self._told = 0  # tokens of guesses, so far

    @property
    def generated_per_token(self) -> int:
        """One more than the agent's engine: a guess is as long as the turn at most."""
        return 1 + self._per_token

    @property
    def _per_token(self) -> int:
        return int(getattr(self._engine, "generated_per_token", 1))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        guesses = {i: guess for i, request in enumerate(requests) if (guess := self._guess_of(request)) is not None}
        rest = [_without(request, guesses.get(i)) for i, request in enumerate(requests)]
        guessing = asyncio.ensure_future(self._guess([*guesses.values()]))
        left = len(requests)
        try:
            async with contextlib.aclosing(self._engine.generate(rest)) as stream:  # type: ignore[type-var]
                async for completion in stream:
                    left -= 1
                    if left or not guesses:
                        yield completion
                        continue
                    await _ended(guessing)
                    guessed = self._newly_guessed(requests[0].owner)
                    yield replace(completion, discarded=completion.discarded + guessed)
        finally:
            await _ended(guessing)

    def _guess_of(self, request: Request) -> Request | None:
        """What the small model is asked beside a request: nothing where that makes no call, or no tokens are left."""
        if not set(CLOSINGS) & set(request.stop):
            return None
        room = request.max_tokens
        if request.max_generated is not None:
            room = min(room, request.max_generated - request.max_tokens * self._per_token)
        if room < 1:
            return None
        alone = replace(request, probes=(), states=(), hidden=False, max_generated=None)
        return replace(alone, owner=_owner(request.owner), max_tokens=room)

    def _newly_guessed(self, owner: str) -> int:
        """Tokens of guesses that nobody was told of yet."""
        before, self._told = self._told, self._small.usage(_owner(owner)).policy_tokens
        return self._told - before

    async def _guess(self, requests: Sequence[Request]) -> None:
        """A guess that fails is none."""
        async with contextlib.aclosing(self._small.generate(requests)) as stream:  # type: ignore[type-var]
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


async def _ended(work: asyncio.Future[None]) -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def _without(request: Request, guess: Request | None) -> Request:
    """A request, without the tokens that its guess may have of what may be generated for it."""
    if guess is None or request.max_generated is None:
        return request
    return replace(request, max_generated=request.max_generated - guess.max_tokens)


def _owner(owner: str) -> str:
    return f"{owner}#ahead"

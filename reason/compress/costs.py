"""The costs of states from an engine: log-probabilities for g and h, samples for the validation.

A path is the question's prompt, the state's steps, the solution. Steps are encoded each by itself, so that states with
the same first steps have the same first tokens: the engine computes their KV once, and what a step costs after the same
steps is asked once. Of a model that marks its thinking the steps stand between the marks.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from reason.compress.search import Cost
from reason.compress.steps import State
from reason.errors import EngineClosed
from reason.tasks.answers import boxed, clean_answer, extract_answer
from reason.tasks.equivalence import equivalent
from reason.tasks.prompts import math_messages
from reason.types import Completion, Engine, Extract, Path, Problem, Request, Sampling, TextCodec

__all__ = ["EngineCosts", "ThoughtPaths", "Validator", "boxed_answer"]

VALIDATION = Sampling(temperature=0.6, top_p=0.95)
"""How the paper's validator samples."""


def boxed_answer(text: str) -> str | None:
    """What the last closed box of a text holds; braces may nest."""
    return next((answer for content in boxed(text) if (answer := clean_answer(content))), None)


class ThoughtPaths:
    """The tokens of a problem's states, for one model.

    Args:
        steps: of the trace.
    """

    def __init__(self, codec: TextCodec, problem: Problem, steps: Sequence[str]) -> None:
        content = problem.content
        prompt = codec.encode_chat(math_messages(content) if isinstance(content, str) else content)
        opening, self._closing = _marks(codec, prompt)
        self.prompt = prompt + opening
        self.steps: tuple[Path, ...] = tuple(codec.encode(step + problem.step_delimiter) for step in steps)

    def thought(self, state: State) -> Path:
        """The tokens of a state's steps alone."""
        return tuple(itertools.chain.from_iterable(self.steps[index] for index in state))

    def path(self, state: State) -> Path:
        """The prompt and the steps, where the solution comes next."""
        return self.prompt + self.thought(state) + self._closing

    def num_tokens(self, state: State) -> int:
        """Of the steps alone."""
        return sum(len(self.steps[index]) for index in state)


class Validator:
    """Samples a solution after a state and compares its answer with the reference.

    A box or a stated answer is an answer; a number that only happens to be the last is none.

    Args:
        reference: the right answer.
        extract: gets the answer out of a text, None if there is none; None is the default.
        same: whether two answers are.
        max_tokens: of a sample.
        seed: of the samples; the first has key 0, the second 1.
        owner: the ledger row.
    """

    def __init__(
        self,
        engine: Engine,
        paths: ThoughtPaths,
        reference: str,
        *,
        extract: Extract | None = None,
        same: Callable[[str, str], bool] | None = None,
        max_tokens: int = 1024,
        seed: int = 0,
        owner: str = "",
    ) -> None:
        self._engine, self._paths, self._reference = engine, paths, reference
        self._extract, self._same = extract, same or equivalent
        self._max_tokens, self._seed, self._owner = max_tokens, seed, owner
        self._asked = 0

    async def suffices(self, state: State) -> bool:
        """Whether one sample gives the reference's answer."""
        request = Request(
            prefix=self._paths.path(state),
            seed=self._seed,
            key=self._asked,
            sampling=VALIDATION,
            max_tokens=self._max_tokens,
            owner=self._owner,
        )
        self._asked += 1
        text = (await _complete(self._engine, request)).text
        answer = self._extract(text) if self._extract is not None else extract_answer(text, explicit_only=True)
        return answer is not None and await asyncio.to_thread(self._same, answer, self._reference)


class EngineCosts:
    """``Costs`` of one trace.

    Args:
        paths: of the engine's model.
        solution: the reference solution, which h reads after the thought.
        validator: None validates nothing.
        owner: the ledger row.
    """

    def __init__(
        self, engine: Engine, paths: ThoughtPaths, solution: str, *, validator: Validator | None, owner: str
    ) -> None:
        self._engine, self._paths, self._owner = engine, paths, owner
        self._solution = engine.codec.encode(solution)
        self._validator = validator
        self._known: dict[State, float] = {}  # sum of -log p of a state's last step, after the others

    async def costs(self, states: Sequence[State]) -> Sequence[Cost]:
        """See ``Costs``. All are scored in one batch."""
        return await asyncio.gather(*(self._cost(state) for state in states))

    async def suffices(self, state: State) -> bool | None:
        """See ``Costs``."""
        return None if self._validator is None else await self._validator.suffices(state)

    async def _cost(self, state: State) -> Cost:
        prefixes = [state[:length] for length in range(1, len(state) + 1)]
        new = list(itertools.dropwhile(self._known.__contains__, prefixes))
        path = self._paths.path(state)
        start = len(self._paths.prompt) + self._paths.num_tokens(state[: len(state) - len(new)])
        if not new:  # only the solution after the thought is not known
            start = len(path)
        [scored] = await self._engine.score([path + self._solution], start, owner=self._owner)
        rows = scored.logprobs.tolist()
        place = 0
        for prefix in new:
            length = len(self._paths.steps[prefix[-1]])
            self._known[prefix] = -sum(rows[place : place + length])
            place += length
        thought = sum(self._known[prefix] for prefix in prefixes) / self._paths.num_tokens(state)
        return Cost(thought, -sum(rows[-len(self._solution) :]) / len(self._solution))


def _marks(codec: TextCodec, prompt: Path) -> tuple[Path, Path]:
    """What opens the thinking after a prompt, which may have done so itself, and what closes it."""
    thinking = codec.thinking
    if thinking is None:
        return (), ()
    start = codec.encode(thinking.start)
    tail = prompt[-(len(start) + 2) :]  # some templates add a line break
    opened = any(tail[i : i + len(start)] == start for i in range(len(tail)))
    return () if opened else codec.encode(f"{thinking.start}\n"), codec.encode(f"{thinking.end}\n\n")


async def _complete(engine: Engine, request: Request) -> Completion:
    stream: Any = engine.generate([request])
    try:
        async for completion in stream:
            done: Completion = completion
            if done.finish_reason == "error":
                assert done.error is not None
                raise done.error
            if done.finish_reason != "cancelled":  # not by us: then the stream would be closed
                return done
    finally:
        close: Any = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    raise EngineClosed("the engine was closed before it was done")

"""One sample, from a request to a completion: with a limit on thinking, where the model thinks.

At the limit the end of thinking is put into the model's mouth and it goes on to its answer, as in budget forcing
(Muennighoff et al., https://arxiv.org/abs/2501.19393). We depart from it in not adding "Final Answer:": the prompt says
what form the answer has.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reason.errors import EngineClosed
from reason.search.tree import Expand
from reason.types import Completion, Engine, Path, Request, Step, TextCodec, TokenLogprobs

__all__ = [
    "CountingEngine",
    "Generated",
    "generate",
    "is_thinking",
    "open_ended",
    "prompted",
    "split_steps",
    "step_text",
    "thinking_end",
]


_CUT = "\ufffd"  # what half a character decodes to


@dataclass(frozen=True, slots=True)
class Generated:
    """A completion, and how many of its tokens the model generated: the others were put into its mouth."""

    completion: Completion
    num_generated: int
    num_calls: int = 1  # of the engine

    @property
    def num_spent(self) -> int:
        """What counts against a budget: generated, kept or not."""
        return self.num_generated + self.completion.discarded


class CountingEngine:
    """An engine that counts what is generated through it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.num_generated = 0
        self.num_calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        async with contextlib.aclosing(self._engine.generate(requests)) as stream:  # type: ignore[type-var]
            async for completion in stream:
                self.num_generated += len(completion.token_ids) + completion.discarded
                self.num_calls += 1
                yield completion


async def generate(
    engine: Engine, request: Request, *, max_thinking_tokens: int | None = None, turns_before: int = 0
) -> Generated:
    """Runs a request to its end; cancelling cancels the work.

    Args:
        turns_before: so many tokens of the prefix are of turns that were over before this one, thinking included.

    Raises:
        EngineClosed: somebody closed the engine meanwhile.
    """
    thinking = engine.codec.thinking
    turn = request.prefix[turns_before:]
    if max_thinking_tokens is None or thinking is None or thinking.end_token in turn:
        completion = await _complete(engine, request)
        return Generated(completion, len(completion.token_ids))
    start = engine.codec.encode(thinking.start)
    limit = max_thinking_tokens - (_tokens_after(turn, start) or 0)
    first = await _complete(engine, replace(request, max_tokens=max(1, min(limit, request.max_tokens))))
    left = request.max_tokens - len(first.token_ids)
    if first.finish_reason != "length" or left < 1:
        return Generated(first, len(first.token_ids))
    thinks = _tokens_after(turn + first.token_ids, start) is not None
    cut = thinks and thinking.end_token not in first.token_ids
    given = thinking_end(engine.codec) if cut else ()
    prefix = request.prefix + first.token_ids + given
    spent = len(first.token_ids) + first.discarded
    most = None if request.max_generated is None else max(1, request.max_generated - spent)
    second = await _complete(engine, replace(request, prefix=prefix, max_tokens=left, max_generated=most))
    return Generated(_joined(engine.codec, first, given, second), len(first.token_ids) + len(second.token_ids), 2)


def thinking_end(codec: TextCodec) -> Path:
    """What is put into the model's mouth at the limit on thinking; nothing for models that do not think."""
    return () if codec.thinking is None else codec.encode("\n" + codec.thinking.end + "\n\n")


def is_thinking(codec: TextCodec, path: Path) -> bool:
    """Whether a path, or what there is of its last turn, ends in the middle of thinking."""
    thinking = codec.thinking
    return (
        thinking is not None
        and thinking.end_token not in path
        and _tokens_after(path, codec.encode(thinking.start)) is not None
    )


def prompted(codec: TextCodec, context: Path, expand: Expand) -> tuple[Path, Path]:
    """What the model is to go on from: the part of a node's context that stays, and what is put after it."""
    if isinstance(expand.prompt, str):
        return context, codec.encode(expand.prompt) if expand.prompt else ()
    if not expand.keep:
        return (), codec.encode_chat(expand.prompt)
    turn = codec.encode_turn(expand.prompt)
    return context, turn[1:] if context[-1:] == turn[:1] else turn  # what ended by itself has its turn's end already


def step_text(codec: TextCodec, before: Path, shown: str, given: Path, completion: Completion, open_end: bool) -> str:
    """The text of a node, such that a path's text is its nodes' joined: a step that may go on keeps its delimiter, and
    a character that was cut in two belongs to the node that ends it.

    Args:
        before: the path's tokens since the root, up to this node.
        shown: the text of the nodes they belong to.
        given: tokens put before the completion.
        open_end: this node may be extended.
    """
    if not given and codec.decode(before[-4:]).endswith(_CUT):
        text = codec.decode(before + completion.token_ids)[len(shown) :]
    elif open_end:
        text = codec.decode(given + completion.token_ids)
    else:
        text = codec.decode(given) + completion.text
    return text.rstrip(_CUT) if open_end else text


def open_ended(codec: TextCodec, completion: Completion) -> Completion:
    """A completion without the tokens that ended it: the end of its turn, or a stop string. What a token says before a
    stop string begins within it is kept as tokens of its own, in the place of that token."""
    tokens, ended = completion.token_ids, completion.stopped_on
    kept = len(tokens)
    rest: Path = ()
    if isinstance(ended, int):
        kept -= tokens[-1:] == (ended,)
    elif ended is not None:
        while kept and not completion.text.startswith(codec.decode(tokens[:kept])):
            kept -= 1
        if missing := completion.text[len(codec.decode(tokens[:kept])) :]:
            rest = codec.encode(missing)
    if kept == len(tokens):
        return completion
    places = [*range(kept), *[kept] * len(rest)]
    path = tokens[:kept] + rest
    return replace(
        completion,
        token_ids=path,
        text=codec.decode(path),
        logprobs=tuple(completion.logprobs[place] for place in places)
        if len(completion.logprobs) == len(tokens)
        else (),
        states={layer: states[places] for layer, states in completion.states.items()},
        proposers=completion.proposers[:kept] + ("",) * len(rest) if completion.proposers else (),
    )


def split_steps(codec: TextCodec, step: Step, delimiter: str) -> list[Step]:
    """A step cut after each token that completes the delimiter; at least one step."""
    cuts: list[int] = []
    text = ""
    for place, token in enumerate(step.tokens, start=1):
        text += codec.decode((token,))
        if delimiter in text.lstrip():
            cuts.append(place)
            text = ""
    if not text.strip() and cuts:  # nothing but white space after the last delimiter
        cuts.pop()
    edges = [0, *cuts, len(step.tokens)]
    recorded = len(step.logprobs) == len(step.tokens)
    return [
        Step(
            text=codec.decode(step.tokens[first:last]),
            tokens=step.tokens[first:last],
            logprobs=step.logprobs[first:last] if recorded else (),
            states={layer: states[first:last] for layer, states in step.states.items()},
        )
        for first, last in itertools.pairwise(edges)
    ]


def _tokens_after(path: Path, start: Path) -> int | None:
    """How many tokens follow the last ``start`` on a path; None if it is not there."""
    for place in range(len(path) - len(start), -1, -1):
        if path[place : place + len(start)] == start:
            return len(path) - place - len(start)
    return None


def _joined(codec: TextCodec, first: Completion, given: Path, second: Completion) -> Completion:
    tokens = first.token_ids + given + second.token_ids
    logprobs: tuple[TokenLogprobs, ...] = ()
    if first.logprobs and second.logprobs:  # what was put into its mouth counts as if it were like its neighbour
        logprobs = first.logprobs + (first.logprobs[-1],) * len(given) + second.logprobs
    return replace(
        second,
        token_ids=tokens,
        text=codec.decode(first.token_ids + given) + second.text,
        logprobs=logprobs,
        hidden=None,  # that of the second alone would not be the step's
        states={},
        discarded=first.discarded + second.discarded,
        proposers=first.proposers + ("",) * len(given) + second.proposers if first.proposers else (),
    )


async def _complete(engine: Engine, request: Request) -> Completion:
    stream: Any = engine.generate([request])
    try:
        async for completion in stream:
            done: Completion = completion
            if done.finish_reason == "cancelled":  # not by us: then the stream would be closed
                raise EngineClosed("the engine was closed before it was done")
            return done
    finally:
        close: Any = getattr(stream, "aclose", None)
        if close is not None:
            await close()
    raise EngineClosed("the engine ended without an answer")

"""A generative judge without training: the model that solves is asked whether its solution is right.

    score = P(yes) / (P(yes) + P(no)),   P(w) = sum over spellings s of w of p(s | path, turn with the question)

P(True) of Kadavath et al. (https://arxiv.org/abs/2207.05221) and the direct form of generative verifiers (Zhang et al.,
https://arxiv.org/abs/2408.15240). We depart from them in asking in the same conversation, so that the path's KV is used
as it is and a verdict costs the question's tokens only; in the ratio, from which the mass of other words cancels; in
asking without a chain of thought (of a model that thinks, the thinking is opened and closed). A step without tokens, or
a path without steps, is judged like any other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.errors import UsageError
from reason.types import Engine, Message, Path, TextCodec, Trajectory

__all__ = ["Judge", "log_masses", "spellings"]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Args:
    question: what the user asks after the steps so far; to be answered by yes or no.
    yes, no: spellings of the two answers. Those that are one token count; if none is, the first counts as a whole.
    """

    name: ClassVar[str] = "judge"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = True
    uses_score: ClassVar[bool] = True

    question: str = "Is everything in your solution so far correct? Answer with Yes or No only."
    yes: tuple[str, ...] = ("Yes", " Yes", "yes", " yes", "YES")
    no: tuple[str, ...] = ("No", " No", "no", " no", "NO")

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise UsageError("question must not be empty")
        for name in ("yes", "no"):
            spellings = getattr(self, name)
            if isinstance(spellings, str) or not spellings or not all(spellings):
                raise UsageError(f"{name} must be at least one spelling, none of them empty, got {spellings!r}")

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        turn = _question(engine.codec, self.question)
        answers = [spellings(engine.codec, words) for words in (self.yes, self.no)]
        if set(answers[0]) & set(answers[1]):
            raise UsageError(f"yes and no must differ in their tokens, got {self.yes!r} and {self.no!r}")
        asked = [self._ask(trajectory.path, turn, answers, engine, owner) for trajectory in trajectories]
        return list(await asyncio.gather(*asked))

    async def _ask(self, path: Path, turn: Path, answers: list[list[Path]], engine: Engine, owner: str) -> float:
        # A path that ended by itself has its turn's end already.
        begun = path + (turn[1:] if path[-1:] == turn[:1] else turn)
        yes, no = await log_masses(engine, begun, answers, owner)
        if yes == no:  # also where the model rules out both
            return 0.5
        return 1.0 / (1.0 + math.exp(min(no - yes, 700.0)))


def _question(codec: TextCodec, question: str) -> Path:
    """The user's turn with the question, up to where the first word of the answer belongs."""
    turn = codec.encode_turn([Message(role="user", content=question)])
    thinking = codec.thinking
    if thinking is None:
        return turn
    start = codec.encode(thinking.start)
    tail = turn[-(len(start) + 2) :]  # some templates open the thinking themselves, and may add a line break
    opened = any(tail[i : i + len(start)] == start for i in range(len(tail)))
    return turn + codec.encode(f"{'' if opened else thinking.start}\n\n{thinking.end}\n\n")


async def log_masses(engine: Engine, path: Path, answers: Sequence[Sequence[Path]], owner: str) -> tuple[float, ...]:
    """Of each answer the logarithm of its probability after a path, over all its spellings."""
    paths = [path + spelling for spelled in answers for spelling in spelled]
    scored = iter(await engine.score(paths, len(path), owner=owner))
    return tuple(_log_sum([float(next(scored).logprobs.sum()) for _ in spelled]) for spelled in answers)


def spellings(codec: TextCodec, words: Sequence[str]) -> list[Path]:
    """The distinct tokens that spell one of ``words``; or all tokens of the first, where none is one token."""
    encoded = list(dict.fromkeys(codec.encode(word) for word in words))
    return [tokens for tokens in encoded if len(tokens) == 1] or encoded[:1]


def _log_sum(logprobs: Sequence[float]) -> float:
    top = max(logprobs)
    return top if math.isinf(top) else top + math.log(sum(math.exp(value - top) for value in logprobs))

"""``ScriptedEngine`` plays given text: tests, docs and dry runs need no weights.

Its tokens are the UTF-8 bytes of the text. A script maps the text of a prefix to continuations; a request with key k
gets continuation k modulo their number.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from reason.errors import EngineClosed, UsageError
from reason.types import Completion, FinishReason, Message, Path, Request, Scored, TokenLogprobs, Usage

__all__ = ["ByteCodec", "ScriptedEngine"]

Script = Callable[[str], Sequence[str]]


class ByteCodec:
    """A ``TextCodec`` whose tokens are bytes."""

    eos_token_ids: frozenset[int] = frozenset({256})

    def encode(self, text: str) -> Path:
        return tuple(text.encode())

    def encode_chat(self, messages: Sequence[Message], *, continue_final: bool = False) -> Path:
        turns = [f"<{message['role']}>{message['content']}" for message in messages]
        return self.encode("".join(turns) + ("" if continue_final else "<assistant>"))

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class ScriptedEngine:
    """An ``Engine`` that plays a script.

    Args:
        script: the continuations of a prefix's text: a function, a mapping from the text that the prefix ends with
            (the longest match counts), or one list for every prefix.
        delay: seconds that each token takes.
        logprob: the raw log-probability that every token is said to have.
    """

    def __init__(
        self,
        script: Script | Mapping[str, Sequence[str]] | Sequence[str],
        *,
        delay: float = 0.0,
        logprob: float = -0.1,
    ) -> None:
        self._script = script if callable(script) else _lookup(script)
        self._delay = delay
        self._logprob = logprob
        self._usage: dict[str, Usage] = {}
        self._progress: dict[str, dict[int, str]] = {}
        self._closed = False

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def codec(self) -> ByteCodec:
        return ByteCodec()

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        self._check_open()
        tasks = [asyncio.ensure_future(self._answer(request, i)) for i, request in enumerate(requests)]
        try:
            for task in asyncio.as_completed(tasks):
                yield await task
        finally:
            for pending in tasks:
                pending.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def score(
        self, paths: Sequence[Path], start: int, *, hidden: bool = False, owner: str = ""
    ) -> Sequence[Scored]:
        import torch

        self._check_open()
        for path in paths:
            if not 0 <= start < len(path):
                raise UsageError(f"start must be in [0, {len(path)}), got {start}")
        if hidden:
            raise UsageError("a scripted engine has no hidden states")
        self._row(owner).verifier_tokens += sum(len(path) - start for path in paths)
        return [Scored(logprobs=torch.full((len(path) - start,), self._logprob)) for path in paths]

    def usage(self, owner: str) -> Usage:
        return replace(self._row(owner))

    def forget(self, owner: str) -> None:
        self._usage.pop(owner, None)

    def progress(self, owner: str) -> Mapping[int, str]:
        return dict(self._progress.get(owner, {}))

    def close(self) -> None:
        self._closed = True

    def _row(self, owner: str) -> Usage:
        return self._usage.setdefault(owner, Usage())

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed("the scripted engine is closed")

    async def _answer(self, request: Request, index: int) -> Completion:
        self._row(request.owner).calls += 1
        try:
            return await self._play(request, index)
        except Exception as error:  # the script's
            return Completion(index=index, token_ids=(), text="", finish_reason="error", error=error)
        finally:
            self._progress.get(request.owner, {}).pop(request.key, None)

    async def _play(self, request: Request, index: int) -> Completion:
        texts = self._script(self.codec.decode(request.prefix))
        if not texts:
            raise UsageError("the script has no continuation for this prefix")
        tokens = self.codec.encode(texts[request.key % len(texts)])
        reason: FinishReason = "eos"
        if len(tokens) > request.max_tokens:
            tokens, reason = tokens[: request.max_tokens], "length"
        text = self.codec.decode(tokens)
        stopped_on: str | None = None
        found = [(text.find(stop), stop) for stop in request.stop if stop in text]
        if found:
            place, stopped_on = min(found)
            tokens = self.codec.encode(text[: place + len(stopped_on)])
            text, reason = text[:place], "stop"
        row = self._row(request.owner)
        for drawn in range(1, len(tokens) + 1):
            if self._delay:
                await asyncio.sleep(self._delay)
                self._progress.setdefault(request.owner, {})[request.key] = self.codec.decode(tokens[:drawn])
            row.policy_tokens += 1
            row.forwards += 1
        wanted = request.sampling.logprobs is not None
        return Completion(
            index=index,
            token_ids=tokens,
            text=text,
            finish_reason=reason,
            stopped_on=stopped_on,
            logprobs=(TokenLogprobs(self._logprob),) * len(tokens) if wanted else (),
        )


def _lookup(script: Mapping[str, Sequence[str]] | Sequence[str]) -> Script:
    if not isinstance(script, Mapping):
        texts = list(script)
        return lambda prefix: texts

    def find(prefix: str) -> Sequence[str]:
        matches = [ending for ending in script if prefix.endswith(ending)]
        if not matches:
            raise UsageError(f"the script has no continuation for a prefix ending in {prefix[-40:]!r}")
        return script[max(matches, key=len)]

    return find

"""``ScriptedEngine`` plays given text: tests, docs and dry runs need no weights.

Its tokens are the UTF-8 bytes of the text. A script maps the text of a prefix to continuations; a request with key k
gets continuation k modulo their number. The log-probability of a token is scripted too, and stands for a whole row of
logits: the other bytes share what is left of the mass evenly.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from reason.engine.finishing import as_finished
from reason.errors import EngineClosed, UsageError
from reason.types import (
    Completion,
    FinishReason,
    Message,
    Path,
    Request,
    Sampling,
    Scored,
    Thinking,
    TokenLogprobs,
    Usage,
)

__all__ = ["ByteCodec", "ScriptedEngine"]

Script = Callable[[str], Sequence[str]]

_BYTES = 256


class ByteCodec:
    """A ``TextCodec`` whose tokens are bytes. ``thinking`` is what it is said to be."""

    eos_token_ids: frozenset[int] = frozenset({256})

    def __init__(self, thinking: Thinking | None = None) -> None:
        self._thinking = thinking

    @property
    def thinking(self) -> Thinking | None:
        return self._thinking

    def encode(self, text: str) -> Path:
        return tuple(text.encode())

    def encode_chat(
        self, messages: Sequence[Message], *, continue_final: bool = False, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Path:
        known = f"<tools>{json.dumps(list(tools))}" if tools else ""
        return self.encode(known + _turns(messages) + ("" if continue_final else "<assistant>"))

    def encode_turn(self, messages: Sequence[Message]) -> Path:
        return self.encode(_turns(messages) + "<assistant>")

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(token for token in tokens if token < 256).decode(errors="replace")


class ScriptedEngine:
    """An ``Engine`` that plays a script.

    Args:
        script: the continuations of a prefix's text: a function, a mapping from the text that the prefix ends with
            (the longest match counts), or one list for every prefix.
        delay: seconds that each token takes.
        logprob: the raw log-probability that every token is said to have, or a function of (text of the prefix, text
            of the token). Bytes inside a character decode to "\ufffd".
        thinking: how the model is said to mark its thinking.
    """

    def __init__(
        self,
        script: Script | Mapping[str, Sequence[str]] | Sequence[str],
        *,
        delay: float = 0.0,
        logprob: float | Callable[[str, str], float] = -0.1,
        thinking: Thinking | None = None,
    ) -> None:
        self._script = script if callable(script) else _lookup(script)
        self._delay = delay
        self._logprob = logprob
        self._codec = ByteCodec(thinking)
        self._usage: dict[str, Usage] = {}
        self._progress: dict[str, dict[int, str]] = {}
        self._closed = False

    @property
    def name(self) -> str:
        return "scripted"

    @property
    def codec(self) -> ByteCodec:
        return self._codec

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        self._check_open()
        tasks = [asyncio.ensure_future(self._answer(request, i)) for i, request in enumerate(requests)]
        async with as_finished(tasks) as finished:
            for task in finished:
                yield await task

    async def score(
        self,
        paths: Sequence[Path],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        import torch

        self._check_open()
        for path in paths:
            if not 0 <= start < len(path):
                raise UsageError(f"start must be in [0, {len(path)}), got {start}")
        if layers:
            raise UsageError("a scripted engine has no hidden states")
        self._row(owner).verifier_tokens += sum(len(path) - start for path in paths)
        return [Scored(logprobs=torch.tensor(self._logprobs(path, start), dtype=torch.float32)) for path in paths]

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

    def _logprobs(self, path: Path, start: int) -> list[float]:
        """Of ``path[start:]``."""
        if not callable(self._logprob):
            return [self._logprob] * (len(path) - start)
        decode = self._codec.decode
        return [self._logprob(decode(path[:i]), decode(path[i : i + 1])) for i in range(start, len(path))]

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
        logprobs: tuple[TokenLogprobs, ...] = ()
        if request.sampling.logprobs is not None or request.sampling.statistics:
            values = self._logprobs(request.prefix + tokens, len(request.prefix))
            logprobs = tuple(_row(t, value, request.sampling) for t, value in zip(tokens, values, strict=True))
        return Completion(
            index=index,
            token_ids=tokens,
            text=text,
            finish_reason=reason,
            stopped_on=stopped_on,
            logprobs=logprobs,
        )


def _turns(messages: Sequence[Message]) -> str:
    return "".join(f"<{message['role']}>{message['content']}{_calls(message)}" for message in messages)


def _calls(message: Mapping[str, Any]) -> str:
    return "".join(f"<tool_call>{json.dumps(call['function'])}" for call in message.get("tool_calls", ()))


def _row(token: int, logprob: float, sampling: Sampling) -> TokenLogprobs:
    """What the row of a token with this log-probability is like, the other bytes having the rest in equal shares."""
    rest = max(1.0 - math.exp(logprob), 1e-12)
    other = math.log(rest / (_BYTES - 1))
    others = ((byte, other) for byte in range(_BYTES) if byte != token)
    top = sorted([(token, logprob), *others], key=lambda pair: -pair[1])[: sampling.logprobs or 0]
    if not sampling.statistics:
        return TokenLogprobs(logprob, tuple(top))
    entropy = -math.exp(logprob) * logprob - rest * other
    certainty = -math.log(_BYTES) - (logprob + (_BYTES - 1) * other) / _BYTES
    return TokenLogprobs(logprob, tuple(top), entropy, certainty)


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

"""Replies of /v1/chat/completions and /v1/completions, whole and in pieces."""

from __future__ import annotations

import itertools
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reason.serve.chat_tools import Call
from reason.serve.failures import bad_request
from reason.types import Completion, Solution, TextCodec, TokenLogprobs, Usage

__all__ = ["DONE", "Choice", "Outcome", "Reply", "event", "token_logprobs", "told_solution"]

DONE = b"data: [DONE]\n\n"


_LINE_ENDS = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}
"""Some clients end a line there, where the standard does not."""


def event(content: Mapping[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    head = "" if name is None else f"event: {name}\n"
    data = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"{head}data: {data.translate(_LINE_ENDS)}\n\n".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of the answers to a request."""

    text: str
    finish_reason: str  # "stop", "length" or "tool_calls"
    calls: tuple[Call, ...] = ()
    logprobs: tuple[tuple[int, TokenLogprobs], ...] | None = None  # (token, what was recorded); None: not asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a request came to: its choices and what they cost."""

    choices: tuple[Choice, ...]
    prompt_tokens: int
    usage: Usage
    solution: Solution | None = None  # where it was searched for

    def cost(self) -> dict[str, Any]:
        tokens = self.usage.policy_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }

    def told(self) -> dict[str, Any]:
        """The ``reason`` field: the ledger, and of a search what it found."""
        ledger: dict[str, Any] = {"usage": self.usage.as_dict()}
        return ledger if self.solution is None else {**told_solution(self.solution), **ledger}


def told_solution(solution: Solution) -> dict[str, Any]:
    """What a client is told of a search, beside the ledger: each candidate by its answer, not by its text."""
    return {
        "answer": solution.answer,
        "confidence": solution.confidence,
        "strategy": solution.strategy,
        "chosen": solution.chosen,
        "stopped_by": solution.stopped_by,
        "candidates": [
            {"answer": each.answer, "num_tokens": each.num_tokens, "score": each.score} for each in solution.candidates
        ],
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Writes the replies to one request.

    Args:
        model: as the client named it.
        chat: whether it is a chat's.
    """

    model: str
    codec: TextCodec
    chat: bool
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The reply in one piece."""
        choices = [self._choice(i, choice) for i, choice in enumerate(outcome.choices)]
        kind = "chat.completion" if self.chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": outcome.cost(), "reason": outcome.told()}

    def opening(self, num_choices: int) -> list[bytes]:
        """What a stream begins with."""
        if not self.chat:
            return []
        return [self._chunk(i, {"role": "assistant", "content": ""}) for i in range(num_choices)]

    def piece(self, index: int, text: str) -> bytes:
        """More text of a choice."""
        return self._chunk(index, {"content": text} if self.chat else text)

    def thought(self, text: str) -> bytes:
        """A line about how a search goes on."""
        return self._chunk(0, {"reasoning_content": text} if self.chat else "")

    def closing(self, index: int, choice: Choice, rest: str, outcome: Outcome | None = None) -> list[bytes]:
        """What a choice ends with: the text that was not sent yet, calls, log-probabilities, why it ended.

        Args:
            outcome: given with the last choice, whose last piece has the ledger.
        """
        chunks = []
        if rest:
            chunks.append(self.piece(index, rest))
        for place, call in enumerate(choice.calls):
            chunks.append(self._chunk(index, {"tool_calls": [{"index": place, **_told_call(call)}]}))
        logprobs = None if choice.logprobs is None else self._logprobs(choice.logprobs)
        delta: Any = {} if self.chat else ""
        told = {} if outcome is None else {"reason": outcome.told()}
        chunks.append(self._chunk(index, delta, finish_reason=choice.finish_reason, logprobs=logprobs, **told))
        return chunks

    def ending(self, outcome: Outcome, *, with_usage: bool) -> list[bytes]:
        """What a stream ends with."""
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        usage = event({**self._head(kind), "choices": [], "usage": outcome.cost()})
        return [usage, DONE] if with_usage else [DONE]

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self.chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _chunk(
        self,
        index: int,
        delta: Any,
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
        **told: Any,
    ) -> bytes:
        said = {"delta": delta} if self.chat else {"text": delta}
        choice = {"index": index, **said, "logprobs": logprobs, "finish_reason": finish_reason}
        kind = "chat.completion.chunk" if self.chat else "text_completion"
        return event({**self._head(kind), "choices": [choice], **told})

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        said: dict[str, Any] = {"text": choice.text}
        if self.chat:
            message: dict[str, Any] = {"role": "assistant", "content": choice.text, "refusal": None}
            if choice.calls:
                message["content"] = choice.text or None
                message["tool_calls"] = [_told_call(call) for call in choice.calls]
            said = {"message": message}
        logprobs = None if choice.logprobs is None else self._logprobs(choice.logprobs)
        return {"index": index, **said, "logprobs": logprobs, "finish_reason": choice.finish_reason}

    def _logprobs(self, rows: Sequence[tuple[int, TokenLogprobs]]) -> dict[str, Any]:
        if self.chat:
            content = [
                {**self._token(token, row.token), "top_logprobs": [self._token(*each) for each in row.top]}
                for token, row in rows
            ]
            return {"content": content, "refusal": None}
        texts = [self.codec.decode([token]) for token, _ in rows]
        starts = [0, *itertools.accumulate(map(len, texts))][: len(texts)]
        return {
            "tokens": texts,
            "token_logprobs": [row.token for _, row in rows],
            "top_logprobs": [{self.codec.decode([token]): value for token, value in row.top} for _, row in rows],
            "text_offset": starts,
        }

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.codec.decode([token])
        spelled = None if "\ufffd" in text else list(text.encode())  # a token may end within a letter
        return {"token": text, "logprob": max(logprob, -9999.0), "bytes": spelled}


def token_logprobs(codec: TextCodec, completion: Completion) -> tuple[tuple[int, TokenLogprobs], ...]:
    """The recorded rows of a completion's text: without the token that ended it, or what a stop string cut off.

    Raises:
        ApiError: a server that runs the model told of other tokens than it wrote, so that there are none.
    """
    tokens, rows = completion.token_ids, completion.logprobs
    if len(rows) < len(tokens):
        raise bad_request("the server that runs the model tells none for this text; leave it out", param="logprobs")
    if completion.finish_reason == "eos" and isinstance(completion.stopped_on, int):
        tokens = tokens[:-1]
    elif completion.finish_reason == "stop":
        count = len(tokens)  # a stop string is short: what it cut off is found from the end
        while count and len(codec.decode(tokens[: count - 1])) >= len(completion.text):
            count -= 1
        tokens = tokens[:count]
    return tuple(zip(tokens, rows[: len(tokens)], strict=True))


def _told_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}

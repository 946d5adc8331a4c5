"""What a server has said so far in answer to one request, put together from its events."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Reply", "Told"]

_TOKEN_ID = re.compile(r"token_id:(\d+)\Z")


class Told(NamedTuple):
    """One token as a server tells it: its text, its number where that is told, its log-probability, and the likeliest
    tokens at its place, each as (text, number, log-probability), most likely first."""

    text: bytes
    id: int | None
    logprob: float
    top: tuple[tuple[bytes, int | None, float], ...] = ()


@dataclass(slots=True)
class Reply:
    """``finish_reason`` is the server's, None until it has ended; ``stopped_on`` the stop string or stop token that it
    names; ``calls`` are those of functions, [name, arguments] by place. ``completion_tokens``, ``prompt_tokens`` and
    ``cached_tokens`` are None until it tells them."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    calls: dict[int, list[str]] = field(default_factory=dict)
    chunks: int = 0
    finish_reason: str | None = None
    stopped_on: str | int | None = None
    completion_tokens: int | None = None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None

    @property
    def count(self) -> int:
        """Tokens generated so far, as exactly as is known."""
        return self.completion_tokens or len(self.token_ids) or len(self.told) or self.chunks

    def add(self, event: Mapping[str, Any]) -> None:
        """Takes an event of any of the APIs: completions, chat, llama.cpp's own; a piece of the answer or all of it."""
        if "choices" in event:
            self._add_usage(event.get("usage") or {})
            for choice in event["choices"]:
                self._add_choice(choice)
        elif "content" in event:
            self._add_own(event)

    def _add_text(self, text: str | None) -> None:
        if text:
            self.text += text
            self.chunks += 1

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        message = choice.get("delta") or choice.get("message") or {}
        thought = message.get("reasoning_content") or message.get("reasoning")
        self.chunks += bool(thought)  # it is generated, and kept from us
        self._add_text(choice["text"] if "text" in choice else message.get("content"))
        for place, call in enumerate(message.get("tool_calls") or ()):
            self._add_call(call.get("index", place), call.get("function") or {})
        self.token_ids += choice.get("token_ids") or ()
        logprobs = choice.get("logprobs") or {}
        for entry in logprobs.get("content") or ():
            self.told.append(_of_chat(entry))
        if "token_logprobs" in logprobs:
            self._add_columns(logprobs)
        if choice.get("finish_reason") is not None:
            self.finish_reason = choice["finish_reason"]
            self._add_text("".join(_written(*call) for call in self.calls.values()))
            named = choice.get("stop_reason", choice.get("matched_stop"))
            self.stopped_on = named if isinstance(named, (str, int)) else None

    def _add_call(self, place: int, function: Mapping[str, Any]) -> None:
        call = self.calls.setdefault(place, ["", ""])
        call[0] += function.get("name") or ""
        call[1] += function.get("arguments") or ""
        self.chunks += 1

    def _add_columns(self, logprobs: Mapping[str, Any]) -> None:
        """The completions API has a list for each figure."""
        tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
        for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=False):
            text, number = _spelling(token)
            found = [(*_spelling(other), float(each)) for other, each in (top or {}).items()]
            ordered = tuple(sorted(found, key=lambda each: -each[2]))
            self.told.append(Told(text, number, 0.0 if value is None else float(value), ordered))

    def _add_usage(self, usage: Mapping[str, Any]) -> None:
        if usage.get("completion_tokens") is not None:
            self.completion_tokens = usage["completion_tokens"]
        if usage.get("prompt_tokens") is not None:
            self.prompt_tokens = usage["prompt_tokens"]
        self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", self.cached_tokens)

    def _add_own(self, event: Mapping[str, Any]) -> None:
        """llama.cpp's own API: its last event tells how it ended, and repeats nothing when it streams."""
        self._add_text(event["content"])
        self.token_ids += event.get("tokens") or ()
        for entry in event.get("completion_probabilities") or ():
            self.told.append(_of_chat(entry))
        if not event.get("stop"):
            return
        kind = event.get("stop_type")
        self.finish_reason = "length" if kind == "limit" or event.get("truncated") else "stop"
        self.stopped_on = event.get("stopping_word") or None if kind == "word" else None
        self.completion_tokens = event.get("tokens_predicted", self.completion_tokens)
        self.prompt_tokens = event.get("tokens_evaluated", self.prompt_tokens)
        self.cached_tokens = (event.get("timings") or {}).get("cache_n", self.cached_tokens)


def _written(name: str, arguments: str) -> str:
    """A call that the server took out of the text, as Qwen's and Hermes' models write it there."""
    try:
        told = json.loads(arguments or "{}")
    except ValueError:
        told = arguments
    call = json.dumps({"name": name, "arguments": told}, ensure_ascii=False)
    return f"\n<tool_call>\n{call}\n</tool_call>"


def _of_chat(entry: Mapping[str, Any]) -> Told:
    """An entry of the chat API's log-probabilities; llama.cpp's own has the same form, and ids."""
    top = [(*_text_of(other), float(other["logprob"])) for other in entry.get("top_logprobs") or ()]
    return Told(*_text_of(entry), float(entry["logprob"]), tuple(sorted(top, key=lambda each: -each[2])))


def _text_of(entry: Mapping[str, Any]) -> tuple[bytes, int | None]:
    text, number = _spelling(entry["token"])
    if entry.get("bytes") is not None:
        text = bytes(entry["bytes"])
    return text, entry.get("id", number)


def _spelling(token: str) -> tuple[bytes, int | None]:
    """A token's text, and its number where the server was asked to write that (vLLM's "token_id:42")."""
    if (found := _TOKEN_ID.match(token)) is not None:
        return b"", int(found.group(1))
    return token.encode("utf-8", "surrogatepass"), None

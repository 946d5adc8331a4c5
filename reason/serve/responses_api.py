"""/v1/responses: a part of OpenAI's Responses API, for clients that speak nothing else.

Text and the client's own functions, in one piece or streamed. Nothing is stored, so there is no previous response to go
on from: the client sends the conversation, as items. Tools of OpenAI's side (search, files, code) do not exist here.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reason.serve.failures import bad_request
from reason.serve.functions import read_tools
from reason.serve.protocol import (
    HARMLESS,
    Ask,
    as_arguments,
    read_content,
    read_format,
    read_search,
)
from reason.serve.reading import LARGEST, Fields
from reason.serve.replies import Choice, Outcome, event
from reason.types import Message, Sampling, ToolMessage

__all__ = ["ResponseReply", "read_response"]


def read_response(body: Fields) -> Ask:
    """A body of /v1/responses.

    Raises:
        ApiError: it is not one, or asks for what cannot be done.
    """
    given: dict[str, Any] = {}
    sampling: dict[str, Any] = {"temperature": 1.0}
    for name, high in (("temperature", 2.0), ("top_p", 1.0)):
        value = body.number(name, 0.0, high)
        if value is not None:
            sampling[name] = given[name] = value
    if sampling.get("top_p") == 0.0:
        body.wrong("top_p", "more than 0", 0.0)
    max_tokens = body.integer("max_output_tokens", 1)
    if max_tokens is not None:
        given["max_tokens"] = max_tokens
    offer = read_tools(body, flat=True)
    text = body.object("text")
    schema, form = None, None
    if text is not None:
        form = text.raw("format")
        schema = read_format(None if form is None else Fields(form, "text.format."), flat=True)
        text.only("verbosity", "medium", why="cannot be set here; say so in a message")
        text.end()
    if schema is not None:
        given["response_format"] = True
        if offer.tools:
            body.unable("text", "a reply in a format has no room for tool calls; leave out the tools")
    if offer.tools:
        given["tools"] = True
    body.only("previous_response_id", why="nothing is stored here; send the conversation as input")
    body.only("conversation", why="nothing is stored here; send the conversation as input")
    body.only("background", False, why="a reply is waited for here")
    body.only("truncation", "disabled", why="input is not cut here; send less")
    body.only("include", [], why="there is nothing more to include")
    body.only("service_tier", "auto", "default", why="there is one tier: auto")
    body.only("top_logprobs", 0, why="use /v1/chat/completions for log-probabilities")
    body.only("max_tool_calls", why="is about tools that do not exist here")
    body.only("prompt", why="there are no stored prompts here")
    reasoning = body.raw("reasoning")
    if reasoning and any(value is not None for value in reasoning.values()):
        body.unable("reasoning", "cannot be set here; name a strategy as the model")
    body.drop(*HARMLESS)
    messages = _instructions(body) + _input(body)
    options = body.object("stream_options")
    if options is not None:
        options.only("include_obfuscation", False, True, why="must be true or false")
        options.end()
    ask = Ask(
        model=body.needed_text("model"),
        messages=messages,
        max_tokens=max_tokens,
        sampling=Sampling(**sampling, json_schema=schema or offer.forced),
        given=given,
        seed=body.integer("seed", -LARGEST, LARGEST - 1),  # not of OpenAI's
        offer=offer,
        search=read_search(body.object("reason")),
        stream=body.flag("stream") or False,
        text_format=form or {"type": "text"},
    )
    body.end()
    return ask


def _instructions(body: Fields) -> tuple[Message, ...]:
    text = body.text("instructions")
    return () if not text else (Message(role="system", content=text),)


def _input(body: Fields) -> tuple[Message, ...]:
    given = body.any("input")
    if isinstance(given, str) and given:
        return (Message(role="user", content=given),)
    if not isinstance(given, list) or not given:
        body.wrong("input", "a string or a list of items", given)
    messages: list[Message] = []
    for i, each in enumerate(given):
        where = f"input[{i}]"
        if not isinstance(each, dict):
            raise bad_request(f"{where} must be an object", param=where)
        item = Fields(each, f"{where}.")
        if (message := _item(item, messages)) is not None:
            messages.append(message)
    return tuple(messages)


def _item(item: Fields, before: list[Message]) -> Message | None:
    """An item as a message; None where it belongs to the message before it, or says nothing to the model."""
    kind = item.text("type") or "message"
    item.drop("id", "status")
    message: Message | None = None
    if kind == "message":
        role = item.choice("role", ("user", "assistant", "system", "developer"))
        content = read_content(item, "content")
        if role is None or content is None:
            item.wrong("content", "given, with a role")
        item.drop("phase")
        message = Message(role="system" if role == "developer" else role, content=content)
    elif kind == "function_call":
        function = {"name": item.needed_text("name"), "arguments": as_arguments(item.text("arguments") or "{}")}
        call = {"id": item.needed_text("call_id"), "type": "function", "function": function}
        last: Any = before[-1] if before and before[-1]["role"] == "assistant" else None
        if last is not None:
            last.setdefault("tool_calls", []).append(call)
        else:
            message = ToolMessage(role="assistant", content="", tool_calls=[call])
    elif kind == "function_call_output":
        content = read_content(item, "output")
        if content is None:
            item.wrong("output", "given, a string or a list of text parts")
        message = ToolMessage(role="tool", content=content, tool_call_id=item.needed_text("call_id"))
    elif kind == "reasoning":
        item.rest()  # what an earlier reply of ours thought aloud
    else:
        item.unable("type", "only messages, function calls and their outputs are understood")
    item.end()
    return message


@dataclass(kw_only=True)
class ResponseReply:
    """Writes the reply to one request, whole or as events, which it numbers.

    Args:
        ask: what the reply repeats of the request.
    """

    ask: Ask
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(16)}")
    message_id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(16)}")
    thought_id: str = field(default_factory=lambda: f"rs_{secrets.token_hex(16)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _number: int = field(default=0, init=False)
    _begun: bool = field(default=False, init=False)
    _thought: str = field(default="", init=False)

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The reply in one piece."""
        (choice,) = outcome.choices
        cost = outcome.cost()
        usage = {
            "input_tokens": cost["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": cost["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": cost["total_tokens"],
        }
        cut = choice.finish_reason == "length"
        told = self._response("incomplete" if cut else "completed", self._items(choice))
        told["incomplete_details"] = {"reason": "max_output_tokens"} if cut else None
        return {**told, "usage": usage, "reason": outcome.told()}

    def opening(self) -> list[bytes]:
        """What a stream begins with."""
        return [
            self._event("response.created", response=self._response("in_progress", [])),
            self._event("response.in_progress", response=self._response("in_progress", [])),
        ]

    def thought(self, text: str) -> list[bytes]:
        """More about how a search goes on: the summary of a reasoning item, which comes before the message."""
        place = {"item_id": self.thought_id, "output_index": 0, "summary_index": 0}
        events = []
        if not self._thought:
            item = {"type": "reasoning", "id": self.thought_id, "summary": []}
            part = {"type": "summary_text", "text": ""}
            events.append(self._event("response.output_item.added", output_index=0, item=item))
            events.append(self._event("response.reasoning_summary_part.added", **place, part=part))
        self._thought += text
        return [*events, self._event("response.reasoning_summary_text.delta", **place, delta=text)]

    def _end_thought(self) -> list[bytes]:
        """Closes the reasoning item if there is one."""
        if not self._thought:
            return []
        place = {"item_id": self.thought_id, "output_index": 0, "summary_index": 0}
        (item,) = self._thoughts()
        return [
            self._event("response.reasoning_summary_text.done", **place, text=self._thought),
            self._event("response.reasoning_summary_part.done", **place, part=item["summary"][0]),
            self._event("response.output_item.done", output_index=0, item=item),
        ]

    def piece(self, text: str) -> list[bytes]:
        """More text."""
        delta = self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])
        return [*self._begin(), delta]

    def closing(self, outcome: Outcome, rest: str) -> list[bytes]:
        """What a stream ends with: the text that was not sent yet, calls, and the whole reply."""
        (choice,) = outcome.choices
        events = self._end_thought() + (self.piece(rest) if rest else [])
        items = self._items(choice)
        for index, item in enumerate(items):
            if item["type"] == "reasoning":
                continue
            if item["type"] == "message":
                events += self._begin()
                part = item["content"][0]
                events.append(self._event("response.output_text.done", **self._place(), text=choice.text, logprobs=[]))
                events.append(self._event("response.content_part.done", **self._place(), part=part))
            else:
                events += self._call(index, item)
            events.append(self._event("response.output_item.done", output_index=index, item=item))
        whole = self.whole(outcome)
        whole["output"] = items  # of the same ids
        return [*events, self._event(f"response.{whole['status']}", response=whole)]

    def failure(self, body: Mapping[str, Any]) -> bytes:
        """An error in the middle of a stream."""
        error = body["error"]
        return self._event("error", code=error["code"], message=error["message"], param=error["param"])

    def _begin(self) -> list[bytes]:
        """Opens the message, once."""
        if self._begun:
            return []
        self._begun = True
        item = self._message("", "in_progress")
        part = item["content"][0]
        return [
            self._event("response.output_item.added", output_index=self._index, item={**item, "content": []}),
            self._event("response.content_part.added", **self._place(), part=part),
        ]

    def _call(self, index: int, item: Mapping[str, Any]) -> list[bytes]:
        place = {"item_id": item["id"], "output_index": index}
        arguments = item["arguments"]
        begun = {**item, "arguments": "", "status": "in_progress"}
        return [
            self._event("response.output_item.added", output_index=index, item=begun),
            self._event("response.function_call_arguments.delta", **place, delta=arguments),
            self._event("response.function_call_arguments.done", **place, name=item["name"], arguments=arguments),
        ]

    def _items(self, choice: Choice) -> list[dict[str, Any]]:
        message = [self._message(choice.text, "completed")] if choice.text or not choice.calls or self._begun else []
        calls = [
            {
                "type": "function_call",
                "id": f"fc_{secrets.token_hex(16)}",
                "call_id": f"call_{secrets.token_hex(12)}",
                "name": call.name,
                "arguments": call.arguments,
                "status": "completed",
            }
            for call in choice.calls
        ]
        return [*self._thoughts(), *message, *calls]

    def _thoughts(self) -> list[dict[str, Any]]:
        part = {"type": "summary_text", "text": self._thought}
        return [{"type": "reasoning", "id": self.thought_id, "summary": [part]}] if self._thought else []

    @property
    def _index(self) -> int:
        """The message's place in the output."""
        return 1 if self._thought else 0

    def _message(self, text: str, status: str) -> dict[str, Any]:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "message", "id": self.message_id, "role": "assistant", "status": status, "content": [part]}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.message_id, "output_index": self._index, "content_index": 0}

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        ask = self.ask
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "max_output_tokens": ask.max_tokens,
            "metadata": {},
            "model": ask.model,
            "output": output,
            "parallel_tool_calls": not ask.offer.one_call,
            "previous_response_id": None,
            "temperature": ask.sampling.temperature,
            "text": {"format": dict(ask.text_format)},
            "tool_choice": ask.offer.choice,
            "tools": ask.offer.flat(),
            "top_p": ask.sampling.top_p,
            "truncation": "disabled",
            "store": False,
            "usage": None,
        }

    def _event(self, kind: str, **content: Any) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **content}, kind)

"""Text to tokens and back, over a transformers tokenizer."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from reason.errors import UsageError
from reason.models.thinking import find_thinking
from reason.types import Message, Path, Thinking

__all__ = ["HubCodec", "StopMatcher"]

_TURN = "(the turn so far)"  # stands for an assistant's turn whose rendering nobody wants


class HubCodec:
    """A ``TextCodec`` over a fast transformers tokenizer."""

    def __init__(self, tokenizer: Any, eos_token_ids: Sequence[int]) -> None:
        self.tokenizer = tokenizer
        self.eos_token_ids = frozenset(eos_token_ids)
        self.backend = tokenizer.backend_tokenizer  # a tokenizers.Tokenizer

    def encode(self, text: str) -> Path:
        return tuple(self.tokenizer.encode(text, add_special_tokens=False))

    def encode_chat(
        self, messages: Sequence[Message], *, continue_final: bool = False, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Path:
        """See ``TextCodec``.

        Raises:
            UsageError: the chat template refuses the messages, or would leave out tools or tool calls.
        """
        if tools or any("tool_calls" in message for message in messages):
            self._check_tools(messages, tools)
        if not self.tokenizer.chat_template:  # a base model: plain text, the way its examples were written
            text = "\n\n".join(message["content"] for message in messages)
            return self.encode(text if continue_final else text + "\n\n")
        return self.encode(self._render(messages, continue_final, tools))

    def encode_turn(self, messages: Sequence[Message]) -> Path:
        """See ``TextCodec``. The tokens are those of the text between the two turns by itself; a template begins it
        with a special token, so that they are also those of the whole chat.

        Raises:
            UsageError: the chat template refuses the messages, or does not repeat what the assistant said.
        """
        if not self.tokenizer.chat_template:
            return self.encode("".join(f"\n\n{message['content']}" for message in messages) + "\n\n")
        # Some templates want the user to speak first, and roles to alternate.
        begun = [Message(role="user", content="?"), Message(role="assistant", content=_TURN)]
        _, found, text = self._render([*begun, *messages], False).partition(_TURN)
        if not found:
            raise UsageError("the model's chat template does not repeat the assistant's turn, so none can follow it")
        return self.encode(text)

    def _check_tools(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> None:
        """Templates that do not know tools leave them out without a word."""
        template = self.tokenizer.get_chat_template(tools=list(tools) or None) if self.tokenizer.chat_template else ""
        if tools and "tools" not in template:
            raise UsageError(
                "the model's chat template has no place for tools; use a model that was trained with tools"
            )
        if "tool_calls" not in template and any("tool_calls" in message for message in messages):
            raise UsageError("the model's chat template has no place for the assistant's tool calls")

    def _render(
        self, messages: Sequence[Message], continue_final: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=not continue_final,
                continue_final_message=continue_final,
            )
        except Exception as error:  # templates raise their own jinja errors on roles they do not know
            raise UsageError(f"the model's chat template refused the messages: {error}") from error
        return text

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self.backend.decode(list(tokens), skip_special_tokens=True))

    @functools.cached_property
    def thinking(self) -> Thinking | None:
        return find_thinking(self.backend.token_to_id)


class StopMatcher:
    """Finds stop strings in text that grows token by token, across token boundaries.

    Keeps only as much text as a stop string could still begin in.
    """

    def __init__(self, codec: HubCodec, stop: Sequence[str]) -> None:
        from tokenizers.decoders import DecodeStream

        self._backend = codec.backend
        self._stream: Any = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        self._keep = max(len(s) for s in stop) - 1
        self._tail = ""

    def push(self, token: int) -> str | None:
        """The stop string that this token completed, or None; the earliest in the text if several."""
        piece = self._stream.step(self._backend, token)
        if piece is None:  # in the middle of a character
            return None
        text = self._tail + piece
        found = [(text.find(s), s) for s in self._stop if s in text]
        if found:
            return min(found)[1]
        self._tail = text[-self._keep :] if self._keep else ""
        return None

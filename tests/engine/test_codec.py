"""Text to tokens and back, and stop strings in text that grows."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reason.engine.codec import HubCodec, StopMatcher
from reason.errors import UsageError
from reason.types import Message

USER = Message(role="user", content="what is x?")


@pytest.mark.parametrize("text", ["", "the answer is 12", " spaces  and\ttabs\n", "数学 🙂 é", "\0\x1b[2J", "Ġ▁"])
def test_text_comes_back(codec: HubCodec, text: str) -> None:
    assert codec.decode(codec.encode(text)) == text


def test_special_tokens(codec: HubCodec, tokenizer: Any) -> None:
    tokens = codec.encode("a<|im_end|>b")
    assert tokenizer.eos_token_id in tokens
    assert codec.decode(tokens) == "ab"
    assert codec.decode((399,)) == ""  # the model has more tokens than the tokenizer


def test_chat(codec: HubCodec) -> None:
    assert codec.encode_chat([USER]) == codec.encode("<|im_start|>user\nwhat is x?<|im_end|>\n<|im_start|>assistant\n")
    begun = Message(role="assistant", content="x is")
    assert codec.encode_chat([USER, begun], continue_final=True) == codec.encode(
        "<|im_start|>user\nwhat is x?<|im_end|>\n<|im_start|>assistant\nx is"
    )


def test_a_message_that_the_template_refuses(codec: HubCodec) -> None:
    with pytest.raises(UsageError, match="the model's chat template refused the messages: no such role"):
        codec.encode_chat([Message(role="wizard", content="hi")])


def test_a_model_without_a_template(tokenizer: Any) -> None:
    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    codec = HubCodec(base, [0])
    assert codec.encode_chat([USER]) == codec.encode("what is x?\n\n")
    assert codec.encode_chat([USER, Message(role="user", content="y")], continue_final=True) == codec.encode(
        "what is x?\n\ny"
    )


@given(
    text=st.text(alphabet="ab 数🙂.", max_size=40),
    stop=st.lists(st.text(alphabet="ab 数🙂.", min_size=1, max_size=5), min_size=1, max_size=3),
    data=st.data(),
)
def test_the_first_stop_string_is_found_wherever_tokens_end(
    codec: HubCodec, text: str, stop: list[str], data: st.DataObject
) -> None:
    tokens: list[int] = []
    rest = text
    while rest:  # pieces encoded by themselves: other token boundaries than the tokenizer's own
        size = data.draw(st.integers(1, 4))
        tokens += codec.encode(rest[:size])
        rest = rest[size:]
    matcher = StopMatcher(codec, stop)
    for place, token in enumerate(tokens):
        found = matcher.push(token)
        sofar = codec.decode(tokens[: place + 1]).rstrip("\ufffd")
        there = [(sofar.find(s), s) for s in stop if s in sofar]
        assert found == (min(there)[1] if there else None)
        if found:
            break

"""Turns that follow a turn, and the marks of thinking."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from tokenizers import AddedToken

from reason.engine.codec import HubCodec
from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import UsageError
from reason.types import Message, Thinking, ToolMessage

USER = Message(role="user", content="what is x?")
BEGUN = Message(role="assistant", content="x is 12")
JUDGE = Message(role="user", content="is that right?")
ALTERNATING = (
    "{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "[{{ m['role'] }}]{{ m['content'] | trim }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def with_template(tokenizer: Any, template: str | None) -> HubCodec:
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return HubCodec(changed, [0])


@pytest.mark.parametrize("turn", [[JUDGE], [JUDGE, BEGUN, JUDGE], []])
def test_a_turn_after_a_turn_is_the_whole_chat(codec: HubCodec, turn: list[Message]) -> None:
    path = codec.encode_chat([USER, BEGUN], continue_final=True)
    assert path + codec.encode_turn(turn) == codec.encode_chat([USER, BEGUN, *turn])


def test_a_template_that_wants_roles_to_alternate(tokenizer: Any) -> None:
    codec = with_template(tokenizer, ALTERNATING)
    assert codec.encode_turn([JUDGE]) == codec.encode("<|im_end|>[user]is that right?<|im_end|>[assistant]")
    with pytest.raises(UsageError, match="refused the messages: roles must alternate"):
        codec.encode_turn([BEGUN])


def test_a_template_that_leaves_turns_out(tokenizer: Any) -> None:
    codec = with_template(tokenizer, "{{ messages[-1]['content'] }}!")
    with pytest.raises(UsageError, match="does not repeat the assistant's turn"):
        codec.encode_turn([JUDGE])


def test_a_model_without_a_template(tokenizer: Any) -> None:
    codec = with_template(tokenizer, None)
    assert codec.encode_turn([JUDGE]) == codec.encode("\n\nis that right?\n\n")


def test_a_turn_in_bytes() -> None:
    codec = ByteCodec()
    assert codec.decode(codec.encode_turn([JUDGE])) == "<user>is that right?<assistant>"
    path = codec.encode_chat([USER, BEGUN], continue_final=True)
    assert path + codec.encode_turn([JUDGE]) == codec.encode_chat([USER, BEGUN, JUDGE])


def test_thinking(codec: HubCodec, tokenizer: Any) -> None:
    assert codec.thinking is None
    thinker = copy.deepcopy(tokenizer)
    thinker.add_tokens([AddedToken("<think>"), AddedToken("</think>")])
    thinking = HubCodec(thinker, [0]).thinking
    end_token = thinker.convert_tokens_to_ids("</think>")
    assert thinking == Thinking(start="<think>", end="</think>", end_token=end_token)
    assert HubCodec(thinker, [0]).encode("</think>") == (end_token,)


def test_scripted_thinking() -> None:
    assert ScriptedEngine(["x"]).codec.thinking is None
    thinking = Thinking(start="{", end="}", end_token=ord("}"))
    assert ScriptedEngine(["x"], thinking=thinking).codec.thinking == thinking


FIND: dict[str, Any] = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALLING = ToolMessage(role="assistant", content="", tool_calls=[{"id": "c", **FIND}])
WITH_TOOLS = (
    "{% for t in tools or [] %}({{ t.function.name }}){% endfor %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }}>{% endfor %}{% endfor %}[assistant]"
)


def test_tools_and_their_calls_go_into_the_template(tokenizer: Any) -> None:
    codec = with_template(tokenizer, WITH_TOOLS)
    answer = ToolMessage(role="tool", content="7", tool_call_id="c")
    expected = "(find)[user]what is x?[assistant]<find>[tool]7[assistant]"
    assert codec.encode_chat([USER, CALLING, answer], tools=[FIND]) == codec.encode(expected)


@pytest.mark.parametrize("template", [ALTERNATING, None])
def test_a_template_without_a_place_for_tools(tokenizer: Any, template: str | None) -> None:
    codec = with_template(tokenizer, template)
    with pytest.raises(UsageError, match="no place for tools"):
        codec.encode_chat([USER], tools=[FIND])
    with pytest.raises(UsageError, match="no place for the assistant's tool calls"):
        codec.encode_chat([USER, CALLING, USER])


def test_tools_in_bytes() -> None:
    codec = ByteCodec()
    text = codec.decode(codec.encode_chat([USER, CALLING], tools=[FIND]))
    assert text.startswith('<tools>[{"type": "function"')
    assert '<tool_call>{"name": "find"' in text

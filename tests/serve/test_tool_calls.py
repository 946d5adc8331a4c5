"""Calls read from text, and how much of an unfinished text is certain."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reason.serve.chat_tools import Call, parse_calls, visible
from reason.serve.plain import certain


def allows(name: str, arguments: Any) -> bool:
    """Functions ``find`` and ``add``, which take no ``forbidden``."""
    return name in ("find", "add") and "forbidden" not in arguments


FIND = Call(name="find", arguments='{"text": "x"}')
ADD = Call(name="add", arguments="{}")


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        ('<tool_call>\n{"name": "find", "arguments": {"text": "x"}}\n</tool_call>', "", (FIND,)),
        ('Well.\n<tool_call>{"name": "add"}</tool_call>\n<tool_call>{"name": "add"}', "Well.", (ADD, ADD)),
        ('{"name": "find", "parameters": {"text": "x"}}', "", (FIND,)),
        ('<|python_tag|>{"name": "add", "parameters": {}}; {"name": "add", "parameters": {}}', "", (ADD, ADD)),
        ('[{"name": "find", "arguments": {"text": "x"}}]', "", (FIND,)),
        ('```json\n{"name": "find", "arguments": "{\\"text\\": \\"x\\"}"}\n```', "", (FIND,)),
        ('<think>why</think>\n{"name": "add"}', "<think>why</think>", (ADD,)),
        ('<tool_call>{"name": "rm", "arguments": {}}</tool_call>', None, ()),
        ('<tool_call>{"name": ["find"]}</tool_call>', None, ()),
        ('{"name": "find", "arguments": [1]}', None, ()),
        ('{"name": "find", "arguments": {"forbidden": 1}}', None, ()),
        ('{"name": "find", "arguments": "no object"}', None, ()),
        ('{"name": "find"} and so on', None, ()),
        ("{not JSON", None, ()),
        ("plain ", None, ()),
        ("", None, ()),
    ],
)
def test_calls_of_each_family(text: str, content: str | None, calls: tuple[Call, ...]) -> None:
    parsed = parse_calls(text, allows)
    assert parsed.calls == calls
    assert parsed.content == (text if content is None else content)
    assert parse_calls(text, allows, most=1).calls == calls[:1]


PIECES = ["so ", "<", "<tool_call>", '{"name": "add"}', "</tool_call>", "\n", "{", "</think>", "```json\n", "x"]


@given(st.lists(st.sampled_from(PIECES), max_size=8))
@example(["<tool_call>", '{"name": "add"}', "</tool_call>", "</think>"])
@settings(max_examples=500)
def test_what_is_visible_stays(pieces: list[str]) -> None:
    whole = "".join(pieces)
    final = parse_calls(whole, allows).content
    shown = ""
    for end in range(len(whole) + 1):
        text = visible(whole[:end])
        if len(text) > len(shown):
            assert text.startswith(shown)
            shown = text
    assert final.startswith(shown)


@given(st.text(alphabet="ab\ufffd", max_size=12), st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=3))
def test_what_is_certain_stays(whole: str, stop: list[str]) -> None:
    ended = min((whole.find(each) + len(each) for each in stop if each in whole), default=len(whole))
    told = whole[:ended]  # nobody writes on behind a stop string
    final = told[: min((told.find(each) for each in stop if each in told), default=len(told))]
    for end in range(len(told) + 1):
        assert final.startswith(certain(told[:end], stop))

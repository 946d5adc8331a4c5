"""The live view: frames of any width, whatever the samples say."""

from __future__ import annotations

import io
import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from reason import api
from reason.cli import live
from reason.cli.live import render
from reason.engine.scripted import ScriptedEngine
from reason.search.tree import Node
from reason.types import FinishReason, Usage

if TYPE_CHECKING:
    from tests.cli.conftest import Reason

TEXTS = {
    "markup": "[bold]see [/bold] [/] [red on blue] [link=x] :smile: \\[",
    "long": "word " * 5000,
    "one word": "x" * 5000,
    "lines": "first\n\nsecond\r\nthird\t\ttab\x0b\x0c",
    "wide": "数学🙂" * 300,
    "control": "\x1b[2J\x1b[31mred\x07\x00 and back\x08",
    "broken": "\ufffd\u202eright to left\u200b",
    "empty": "",
}


def frame(nodes: list[Node], progress: dict[int, str], width: int, max_rows: int = 10) -> list[str]:
    """The lines of one frame, as a terminal would get them without colours."""
    usage = Usage(policy_tokens=123456, forwards=789, unique_kv_tokens_peak=4567)
    out = io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=False, color_system=None)
    console.print(render(nodes, progress, usage, 12.5, width, max_rows))
    return out.getvalue().splitlines()


def node(number: int, text: str = "", reason: FinishReason | None = "eos", **more: Any) -> Node:
    return Node(id=number, parent=0, context=(1,), text=text, finish_reason=reason, **more)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("pending", [True, False])
def test_samples_of_every_kind_take_one_line_each(width: int, name: str, pending: bool) -> None:
    text = TEXTS[name]
    if pending:
        lines = frame([node(1, reason=None), node(2, reason=None)], {1: text, 2: "plain"}, width)
    else:
        lines = frame([node(1, text, answer=text[:900], answer_class=0), node(2, "plain")], {}, width)
    assert lines[0].strip().startswith("1")
    assert lines[1].strip().startswith("2")
    assert "plain" in lines[1]
    assert set(lines[2].strip()) == {"─"}
    assert not any("\x1b" in line for line in lines)  # a sample must not steer the terminal


@pytest.mark.parametrize("width", [40, 80, 200])
def test_markup_is_shown_as_it_is(width: int) -> None:
    (line, *_) = frame([node(1, "see [/bold]", answer="[/red]", answer_class=0)], {}, width)
    assert "see [/bold]" in line
    assert "[/red]" in line


def test_marks_votes_and_the_ledger() -> None:
    nodes = [
        node(1, "a", answer="7", answer_class=0),
        node(2, "b", "stop", answer="7.0", answer_class=0),
        node(3, "c", "length", answer="8", answer_class=1),
        node(4, "d", "error"),
        node(5, "e", "cancelled"),
        node(6, reason=None),
    ]
    lines = frame(nodes, {6: "growing"}, 80)
    assert [line.split()[1] for line in lines[:6]] == ["✓", "✓", "…", "✗", "–", "·"]
    assert "growing" in lines[5]
    assert lines[7].split() == ["votes", "7", "×2", "8", "×1"]
    assert "123,456 tokens  9876 tokens/s  789 forwards  KV peak 4,567  12.5 s" in lines[8]


def test_the_newest_samples_are_shown_where_not_all_fit() -> None:
    lines = frame([node(i, f"text {i}") for i in range(1, 40)], {}, 80, max_rows=5)
    assert [line.split()[0] for line in lines[:5]] == ["35", "36", "37", "38", "39"]
    assert len(lines) == 5 + 3


@pytest.mark.parametrize("width", [1, 10, 20])
def test_a_terminal_too_narrow_for_samples(width: int) -> None:
    assert frame([node(1, TEXTS["wide"], answer="[/]", answer_class=0), node(2, reason=None)], {2: "x"}, width)


def test_before_anything_happened() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(render([], {}, Usage(), 0.0, 80, 5))
    assert "0 tokens  0 tokens/s" in out.getvalue()


@pytest.mark.parametrize("texts", [["so \\boxed{42}"], [*TEXTS.values(), *["so \\boxed{42}"] * 9]])
def test_live_where_there_is_no_terminal(reason: Reason, monkeypatch: pytest.MonkeyPatch, texts: list[str]) -> None:
    monkeypatch.setattr(api, "_load", lambda model, **options: ScriptedEngine(texts, delay=0.0005))
    settings = ("-S", f"num_samples={len(texts)}", "-S", "max_tokens=300")
    result = reason("solve", "What is 6 × 7?", "--live", *settings)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert "answer  42" in result.stdout
    assert "\x1b" not in result.stdout
    quiet = reason("solve", "What is 6 × 7?", "--live", "--json", *settings)
    assert json.loads(quiet.stdout)["answer"] == "42"
    assert quiet.stderr == ""


@pytest.mark.parametrize("width", [40, 80, 200])
def test_live_on_a_terminal(reason: Reason, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=40, force_terminal=True, color_system=None)
    monkeypatch.setattr(live, "Console", lambda **options: console)
    texts = [*TEXTS.values(), *["so \\boxed{42}"] * 9]
    monkeypatch.setattr(api, "_load", lambda model, **options: ScriptedEngine(texts, delay=0.002))
    result = reason("solve", "What is 6 × 7?", "--live", "-S", f"num_samples={len(texts)}", "-S", "max_tokens=300")
    assert result.exit_code == 0, result.output
    assert "votes" in out.getvalue()
    assert "42 ×9" in out.getvalue()
    last = [line for line in out.getvalue().splitlines() if "tokens/s" in line][-1]
    assert not re.match(r"\W*0 tokens", last), "the last frame shows what the run cost"
    assert "\x1b[2J" not in out.getvalue()
    assert width == 40 or "[bold]see [/bold]" in out.getvalue()

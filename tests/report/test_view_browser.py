"""The page in a real browser: no complaints, texts by click and by key, replays, themes, and thousands of nodes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reason.cli.view import ViewServer
from reason.report import view
from reason.report.view import find_runs, write_page
from tests.report.browser import Browser, find_browser
from tests.report.journals import begin, journal, packed, write

HOSTILE = "</script><img src=x onerror='window.hacked = 1'><b>bold</b> \u202e {{x}}"

Show = Callable[..., Browser]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    executable = find_browser()
    if executable is None or os.name != "posix":
        pytest.skip("there is no Chromium on this machine")
    try:
        browser = Browser(executable)
    except EOFError:
        pytest.skip(f"{executable} does not start here")
    yield browser
    browser.close()


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Show]:
    """Opens a page of runs, given by their events, at a size; in the end nothing may have gone wrong."""
    chromium.size(1200, 800)
    chromium.prefer("light")

    def shown(*runs: list[dict[str, Any]], size: tuple[int, int] = (1200, 800), at: str = "") -> Browser:
        chromium.size(*size)
        for place, events in enumerate(runs):
            write(tmp_path / "runs" / f"run-{place}.jsonl", events)
        write_page(find_runs(tmp_path / "runs"), tmp_path / "page.html")
        chromium.open(f"file://{tmp_path}/page.html{at}")
        return chromium

    yield shown
    assert chromium.errors() == []


def place(browser: Browser, node: int) -> tuple[float, float]:
    """Where a node is on the screen."""
    box = browser.run("(({x, y}) => [x, y])(document.getElementById('tree').getBoundingClientRect())")
    at = browser.run(f"(({{x, y}}) => [x, y])(reasonView.tree.screen(reasonView.page.run.byId.get({node})))")
    return box[0] + at[0] + 3, box[1] + at[1]


def panel(browser: Browser) -> str:
    return str(browser.run("document.getElementById('panel-body').innerText"))


def selected(browser: Browser) -> int:
    return int(browser.run("reasonView.tree.selected.id"))


def test_clicking_a_node_shows_its_text(show: Show) -> None:
    browser = show(journal(30))
    for node in (1, 7, 30):
        browser.click(*place(browser, node))
        assert f"Node {node}" in panel(browser)
        assert f"step {node}" in panel(browser)
        assert f"node={node}" in browser.run("location.hash")


def test_tokens_by_their_probability(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    events = journal(2, say=lambda number: "so 🙂 it is")
    events[1] |= {"tokens": [1, 2, 3, 4, 5], "logprobs": {"token": packed([-0.01, -3.0, -0.7, -0.2, -9.0])}}
    events[1]["generated"] = 5
    events[1]["drafted"] = {"goose": [3], "stand": [0, 1]}
    browser = show(events)
    browser.click(*place(browser, 1))
    assert "tokenizer is not on this machine" in panel(browser)
    assert browser.run("document.querySelectorAll('.spark').length") == 1
    monkeypatch.setattr(view, "_decoder", lambda model: lambda tokens: ["so", " ", "🙂", " it", " is\n\n"])
    browser = show(events)
    browser.click(*place(browser, 1))
    marks = "[...document.querySelectorAll('.text .token')].map((token) => [token.textContent, token.className])"
    doubts = [("so", 0), (" ", 4), ("🙂", 2), (" it", 1), (" is\n\n", 4)]
    classes = [f"token doubt-{doubt}{' drafted' * (place in (0, 1, 3))}" for place, (_, doubt) in enumerate(doubts)]
    assert browser.run(marks) == [[text, shown] for (text, _), shown in zip(doubts, classes, strict=True)]
    assert "3 of 5 tokens drafted (underlined): stand 2, goose 1" in panel(browser)
    titles = browser.run("[...document.querySelectorAll('.text .token')].map((token) => token.title)")
    assert [title.partition("drafted by ")[2] for title in titles] == ["stand", "stand", "", "goose", ""]
    assert '" is\\n\\n"' in panel(browser)  # among the least likely


def test_texts_are_shown_as_they_are(show: Show) -> None:
    events = journal(6, say=lambda number: HOSTILE)
    events[0] |= {"content": HOSTILE, "strategy": HOSTILE, "model": HOSTILE, "fields": {HOSTILE: HOSTILE}}
    for event in events:
        if event["type"] == "measure":
            event["name"] = HOSTILE
        if event["type"] == "tell":
            event["notes"][str(event["node"])][HOSTILE] = HOSTILE
    events[-1]["answer"] = HOSTILE
    browser = show(events, journal(3))
    for tab in ("node", "solutions", "run"):
        browser.run(f"reasonView.panel.turn('{tab}', reasonView.page.run.byId.get(3))")
        browser.run("document.getElementById('runs-open').click()")
        browser.run("document.getElementById('runs').close()")
    browser.click(*place(browser, 3))
    assert "<b>bold</b>" in panel(browser)
    assert browser.run("document.querySelectorAll('img, #panel-body b b').length") == 0
    assert browser.run("window.hacked") is None


def test_the_tree_by_keys(show: Show) -> None:
    events = [begin()]
    for number, parent, end in ((1, 0, "stop"), (2, 0, "stop"), (3, 2, "eos"), (4, 2, "eos")):
        node = {"type": "node", "id": number, "parent": parent, "text": f"text {number}", "finish_reason": end}
        events.append({**node, "stopped_on": None, "generated": 1, "tokens": [1], "usage": {"policy_tokens": number}})
        told = {"type": "tell", "node": number, "end": "step" if end == "stop" else end}
        answer = {"answer": str(number), "answer_class": number} if end == "eos" else {}
        events.append(told | answer | ({"notes": {"1": {"pruned": True}}} if number == 1 else {}))
    events.append({"type": "end", "answer": "4", "confidence": 1, "stopped_by": "done", "usage": {}})
    browser = show(events)
    browser.run("document.getElementById('tree').focus()")
    path = []
    for key in ("ArrowRight", "ArrowUp", "ArrowDown", "ArrowRight", "ArrowUp", "ArrowLeft", "Home", "End"):
        browser.press(key)
        path.append(selected(browser))
    assert path == [2, 1, 2, 4, 3, 2, 0, 4]
    assert "text 4" in browser.run("document.getElementById('announce').textContent")
    browser.press("ArrowLeft")
    browser.press("f")
    assert browser.run("reasonView.page.run.byId.get(4).placed") is False
    browser.press("f")
    assert browser.run("reasonView.page.run.byId.get(4).placed") is True
    width = browser.run("reasonView.tree.view.sy")
    browser.press("-")
    browser.wait(f"reasonView.tree.view.sy < {width}")
    browser.press("0")
    browser.wait(f"reasonView.tree.view.sy === {width}")


def test_a_replay_from_the_problem_to_the_answer(show: Show) -> None:
    browser = show(journal(20))
    count = browser.run("reasonView.page.run.events.length")
    browser.wait("reasonView.tree.drawn.nodes === 21")  # it is drawn with the next frame
    browser.run("document.getElementById('first').click()")
    browser.wait("reasonView.tree.drawn.nodes === 1")
    assert "event 0 of" in browser.run("document.getElementById('status').textContent")
    browser.run("document.getElementById('next').click()")
    browser.wait("reasonView.tree.drawn.nodes === 2")
    assert "node 1 arrived" in browser.run("document.getElementById('status').textContent")
    browser.run("reasonView.timeline.speed = 20; document.getElementById('play').click()")
    browser.wait(f"reasonView.page.run.at === {count} && !reasonView.timeline.playing")
    browser.wait("reasonView.tree.drawn.nodes === 21")
    notes = "JSON.stringify(reasonView.page.run.nodes.map((node) => [node.notes, [...node.known], node.told]))"
    after = browser.run(notes)
    browser.run("reasonView.timeline.jump(7)")
    browser.run(f"reasonView.timeline.jump({count})")
    assert browser.run(notes) == after


def test_dark_and_light(show: Show) -> None:
    browser = show(journal(5))
    background = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(background)
    canvas = "document.getElementById('tree').toDataURL()"
    browser.wait("reasonView.tree.drawn.nodes === 6")
    browser.wait(f"window.before === (window.before = {canvas})")  # nothing is drawn any more
    browser.prefer("dark")
    browser.wait(f"{background} !== '{light}'")
    browser.wait(f"{canvas} !== before")
    browser.run("document.getElementById('theme').click()")
    browser.wait(f"{background} === '{light}'")
    browser.wait(f"{canvas} === before")


@pytest.mark.parametrize("size", [(320, 480), (800, 300), (2400, 1300)])
def test_windows_of_other_sizes(show: Show, size: tuple[int, int]) -> None:
    browser = show(journal(60), size=size)
    assert browser.run("document.documentElement.scrollWidth") <= size[0]
    tree = browser.run(
        "(({width, height}) => [width, height])(document.getElementById('tree').getBoundingClientRect())"
    )
    assert tree[0] >= min(300, size[0] - 20)
    browser.wait("reasonView.tree.drawn.nodes === 61")


def test_five_thousand_nodes_are_drawn_in_a_fraction_of_a_second(show: Show) -> None:
    browser = show(journal(5000))
    browser.wait("reasonView.tree.drawn.nodes === 5001")
    times = []
    for _ in range(5):
        browser.run("reasonView.tree.drawn.nodes = 0; reasonView.tree.draw()")
        browser.wait("reasonView.tree.drawn.nodes === 5001")
        times.append(browser.run("reasonView.tree.drawn.milliseconds"))
    assert sorted(times)[2] < 500
    browser.run("for (let i = 0; i < 14; i += 1) reasonView.tree.zoom(1.4)")
    browser.wait("reasonView.tree.drawn.nodes < 500")
    overlaps = """(() => {
      const levels = reasonView.tree.layout.levels;
      const close = (a, b) => b.y - b.height / 2 - (a.y + a.height / 2) < -1e-9;
      return levels.flatMap((level) => level.slice(1).filter((node, i) => close(level[i], node))).length;
    })()"""
    assert browser.run(overlaps) == 0


def test_several_problems_and_a_link_to_one(show: Show) -> None:
    browser = show(journal(5), journal(9), at="#run=run-1&node=4")
    assert browser.run("reasonView.page.run.nodes.length") == 10
    assert selected(browser) == 4
    browser.press("[")
    browser.wait("reasonView.page.run.nodes.length === 6")
    browser.run("document.getElementById('runs-open').click()")
    browser.run("document.querySelectorAll('#list button')[1].click()")
    browser.wait("reasonView.page.run.nodes.length === 10")


def test_a_problem_whose_trace_is_damaged(show: Show) -> None:
    browser = show(journal(3), [{"type": "weather"}], at="#run=run-1")
    assert "is not a trace" in browser.run("document.getElementById('failure').textContent")
    browser.press("[")
    browser.wait("reasonView.page.run?.nodes.length === 4 && !document.body.classList.contains('failed')")


def test_a_run_that_has_hardly_begun(show: Show) -> None:
    browser = show([begin()])
    browser.wait("reasonView.tree.drawn.nodes === 1")
    for tab in ("solutions", "run", "node"):
        browser.run(f"reasonView.panel.turn('{tab}')")
    assert "What is 6" in panel(browser)


def test_a_run_that_grows_while_it_is_looked_at(chromium: Browser, tmp_path: Path) -> None:
    events = journal(12)
    file = write(tmp_path / "run.jsonl", events[:10])
    with ViewServer(lambda: find_runs(file), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            chromium.open(server.url)
            assert chromium.run("reasonView.page.run.nodes.length") == 4
            chromium.click(*place(chromium, 2))
            write(file, events)
            chromium.wait("reasonView.page.run.nodes.length === 13")
            chromium.wait("document.getElementById('facts').innerText.includes('answer 7')")
            assert selected(chromium) == 2
            assert chromium.errors() == []
        finally:
            server.shutdown()
            thread.join()

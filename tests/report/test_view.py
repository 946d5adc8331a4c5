"""The page: what is in it, what cannot get out of its texts, and how it behaves in a browser, where there is one."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
import zlib
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from reason.errors import ReasonError, UsageError
from reason.report.trace import TraceNode, read_trace
from reason.report.view import find_runs, load_run, page, payload, token_widths, write_page
from tests.report.journals import begin, journal, packed, write

HOSTILE = (
    "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'><!-- \u2028 $title ${x} \ud800"
)


class Scripts(HTMLParser):
    """The scripts of a page by id, and every tag it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.tags: list[str] = []
        self.policy = ""
        self._open: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        self.tags.append(tag)
        assert not any(name.startswith("on") for name in about)
        if tag == "script":
            self._open = about.get("id") or "code"
            self.scripts[self._open] = ""
        if about.get("http-equiv") == "Content-Security-Policy":
            self.policy = about["content"] or ""

    def handle_data(self, data: str) -> None:
        if self._open is not None:
            self.scripts[self._open] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._open = None

    def run(self, place: int) -> Any:
        return json.loads(zlib.decompress(base64.b64decode(self.scripts[f"run-{place}"])))


# -- what is shown -----------------------------------------------------------------------------------------------------


def test_the_payload_of_a_small_run(tmp_path: Path) -> None:
    usage = {"policy_tokens": 4, "unique_kv_tokens_mean": 2.00049, "seconds": 1.23456, "calls": 1}
    one = {"type": "node", "id": 1, "parent": 0, "text": "so 42", "finish_reason": "eos", "stopped_on": 9}
    one |= {"generated": 3, "tokens": [5, 6, 9], "usage": usage, "logprobs": {"token": packed([-0.104, -3.0, 0.0])}}
    one["drafted"] = {"stand": [1]}
    told = {"type": "tell", "node": 1, "end": "eos", "answer": "42", "answer_class": 0, "notes": {"1": {"score": 0.5}}}
    measured = {"type": "measure", "name": "v", "nodes": [1], "values": [[0.5]]}
    end = {"type": "end", "answer": "42", "confidence": 1.0, "stopped_by": "done", "usage": usage}
    shown = payload(
        read_trace(write(tmp_path / "a", [begin(), one, measured, told, end])), lambda tokens: ["so", " 42", ""]
    )
    assert shown["nodes"][0] == {"id": 0, "parent": None, "text": "What is 6 × 7?", "end": "step"}
    about = {"id": 1, "parent": 0, "text": "so 42", "end": "eos", "tokens": 3, "scores": {"v": (0.5,)}, "answer": "42"}
    about |= {"answer_class": 0, "logprobs": [10, 300, 0], "drafted": {"stand": (1,)}, "widths": [2, 3, 0]}
    assert shown["nodes"][1] == about
    ledger = [4, 0, 2.0, 0, 0, 0, 0, 1.235]
    assert shown["events"] == [
        {"kind": "node", "nodes": (1,), "usage": ledger},
        {"kind": "measure", "nodes": (1,), "name": "v"},
        {"kind": "tell", "nodes": (1,), "notes": {1: {"score": 0.5}}},
    ]
    assert shown["end"] == {"answer": "42", "confidence": 1.0, "stopped_by": "done", "usage": ledger, "node": 1}


@pytest.mark.parametrize(
    ("text", "pieces", "widths"),
    [
        ("so 42", ["so", " 4", "2"], [2, 2, 1]),
        ("so", ["so", " 42"], [2, 0]),  # cut before a stop string
        ("a🙂b", ["a", "", "", "🙂", "b"], [1, 0, 0, 2, 1]),  # a character of three tokens
        ("a", ["a", ""], [1, 0]),  # the end of the text
        ("数学", ["数学"], [2]),
        ("\ud800", ["\ud800"], [1]),
        ("so 42", ["so"], None),  # another text's tokens
        ("so 42", [], None),
        ("", [], []),
    ],
)
def test_the_widths_of_tokens(text: str, pieces: list[str], widths: list[int] | None) -> None:
    node = TraceNode(id=1, parent=0, text=text, tokens=tuple(range(len(pieces))))
    assert token_widths(node, lambda tokens: pieces) == widths


def test_the_tokens_of_an_unknown_model_have_no_texts(tmp_path: Path) -> None:
    shown = load_run(find_runs(write(tmp_path / "a.jsonl", journal(3)))[0])
    assert shown["pieces"] is False
    assert not any("widths" in node for node in shown["nodes"])


def test_the_tokenizer_of_a_folder_spells_the_texts(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.BPE(vocab={"a": 0, "b": 1, "ab": 2, "Ġ": 3}, merges=[("a", "b")])
    made = tokenizers.Tokenizer(model)
    made.decoder = tokenizers.decoders.ByteLevel()
    folder = tmp_path / "model"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    node = {"type": "node", "id": 1, "parent": 0, "text": "ab b", "finish_reason": "eos", "stopped_on": None}
    node |= {"generated": 3, "tokens": [2, 3, 1], "usage": {}}
    other = {**node, "id": 2, "tokens": [2, 3, 77]}
    file = write(tmp_path / "a.jsonl", [begin(model=str(folder)), node, other])
    shown = load_run(find_runs(file)[0])
    assert shown["nodes"][1]["widths"] == [2, 1, 1]
    assert "widths" not in shown["nodes"][2]


# -- the page ----------------------------------------------------------------------------------------------------------


def test_no_text_breaks_out_of_the_page(tmp_path: Path) -> None:
    events = journal(4, say=lambda number: HOSTILE)
    events[0] |= {"content": HOSTILE, "strategy": HOSTILE, "model": HOSTILE, "fields": {HOSTILE: HOSTILE}}
    events[2]["name"] = HOSTILE
    events[3]["notes"]["1"][HOSTILE] = HOSTILE
    events[-1]["answer"] = HOSTILE
    out = tmp_path / "page.html"
    write_page(find_runs(write(tmp_path / "a.jsonl", events)), out)
    text = out.read_text(encoding="utf-8")
    read = Scripts(text)
    assert sorted(read.scripts) == ["code", "index", "run-0"]
    assert "img" not in read.tags
    assert read.run(0)["nodes"][1]["text"].startswith(HOSTILE)
    assert json.loads(read.scripts["index"])["runs"][0]["answer"] == HOSTILE
    assert "hacked = 1</script>" not in text
    served = Scripts(page([{"id": HOSTILE, "answer": HOSTILE}]))
    assert sorted(served.scripts) == ["code", "index"]
    assert json.loads(served.scripts["index"]) == {"served": True, "runs": [{"id": HOSTILE, "answer": HOSTILE}]}


def test_the_policy_allows_this_script_only(tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write_page(find_runs(write(tmp_path / "a.jsonl", journal(2))), out)
    read = Scripts(out.read_text(encoding="utf-8"))
    digest = base64.b64encode(hashlib.sha256(read.scripts["code"].encode()).digest()).decode()
    rules = dict(rule.split(" ", 1) for rule in read.policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["connect-src"] == "'none'"
    text = re.sub(r'xmlns|http://www\.w3\.org/2000/svg"', "", out.read_text(encoding="utf-8"))
    assert not re.search(r"https?://|src=|@import|url\(", text), "the page needs something from elsewhere"
    assert Scripts(page([{"id": "a"}])).policy.count("'self'") == 1


def test_the_assets_are_plain_text() -> None:
    for asset in (resources.files("reason.report") / "view_page").iterdir():
        text = asset.read_text(encoding="utf-8")
        assert text.isascii(), f"{asset.name}: it is sent in ASCII, where scripts and styles have no references"
        assert "innerHTML" not in text
        assert "</script" not in text or asset.name == "page.html"


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    events = journal(2)
    events[2]["values"], events[3]["notes"]["1"]["score"] = [[float("nan")]], float("-inf")
    out = tmp_path / "page.html"
    write_page(find_runs(write(tmp_path / "a.jsonl", events)), out)
    shown = Scripts(out.read_text(encoding="utf-8")).run(0)
    assert shown["nodes"][1]["scores"] == {"judge": ["NaN"]}
    assert shown["events"][2]["notes"]["1"]["score"] == "-Infinity"


def test_five_thousand_nodes_are_a_small_page_soon(tmp_path: Path) -> None:
    file = write(tmp_path / "big.jsonl", journal(5000, say=lambda number: f"step {number} says this and that " * 4))
    began = time.process_time()
    size = write_page(find_runs(file), tmp_path / "big.html")
    assert time.process_time() - began < 20
    assert size < 1_500_000 < file.stat().st_size
    assert size == (tmp_path / "big.html").stat().st_size


def test_where_a_page_cannot_go(tmp_path: Path) -> None:
    runs = find_runs(write(tmp_path / "a.jsonl", journal(2)))
    before = (tmp_path / "a.jsonl").read_bytes()
    with pytest.raises(UsageError, match="is the trace itself"):
        write_page(runs, tmp_path / "a.jsonl")
    with pytest.raises(UsageError, match="is a folder"):
        write_page(runs, tmp_path)
    with pytest.raises(ReasonError, match="cannot write"):
        write_page(runs, tmp_path / "none" / "page.html")
    with pytest.raises(ReasonError, match="cannot write"):
        write_page(runs, tmp_path / "a.jsonl" / "page.html")
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.jsonl"]


# -- folders -----------------------------------------------------------------------------------------------------------


def test_the_runs_of_an_evaluation(tmp_path: Path, run: Any) -> None:
    from tests.report.conftest import make_task

    run(make_task(3))
    runs = find_runs(tmp_path / "out")
    assert [each.id for each in runs] == ["sums-001", "sums-002", "sums-003"]
    assert [each.result.correct for each in runs if each.result] == [True, True, False]
    assert [each.id for each in find_runs(tmp_path / "out", ["sums-002"])] == ["sums-002"]
    with pytest.raises(UsageError, match="no trace of sums-9; it has sums-001, sums-002, sums-003"):
        find_runs(tmp_path / "out", ["sums-9"])
    write_page(runs, tmp_path / "page.html")
    read = Scripts((tmp_path / "page.html").read_text(encoding="utf-8"))
    entries = json.loads(read.scripts["index"])["runs"]
    assert [(entry["id"], entry["correct"], entry["reference"]) for entry in entries][2] == ("sums-003", False, "3")
    assert read.run(1)["header"]["problem"] == "sums-002"


def test_a_folder_of_traces_of_which_one_is_damaged(tmp_path: Path) -> None:
    write(tmp_path / "runs" / "b.jsonl", journal(2))
    (tmp_path / "runs" / "a.jsonl").write_text("nothing\n")
    write_page(find_runs(tmp_path / "runs"), tmp_path / "page.html")
    read = Scripts((tmp_path / "page.html").read_text(encoding="utf-8"))
    damaged, whole = json.loads(read.scripts["index"])["runs"]
    assert "is not a trace" in damaged["error"]
    assert read.scripts["run-0"] == ""
    assert (whole["id"], whole["answer"], whole["nodes"]) == ("b", "7", 3)


def test_where_there_is_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no"):
        find_runs(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no traces"):
        find_runs(tmp_path)

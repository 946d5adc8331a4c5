"""`reason view`, its server, and how the live view folds a tree."""

from __future__ import annotations

import asyncio
import http.client
import io
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from reason import api
from reason.cli import live
from reason.cli import view as command
from reason.cli.live import render
from reason.cli.view import ViewServer
from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.report.view import find_runs
from reason.search.tree import Node
from reason.types import Budget, Usage
from tests.report.journals import journal, write

if TYPE_CHECKING:
    from tests.cli.conftest import Reason


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    return write(tmp_path / "traces" / "p.jsonl", journal(6))


# -- the page ----------------------------------------------------------------------------------------------------------


def test_a_trace_of_solve_as_a_page(
    reason: Reason, loads: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert reason("solve", "What is 6 × 7?", "--trace", "mine.jsonl", "--json").exit_code == 0
    result = reason("view", "mine.jsonl")
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert result.stdout.startswith("mine.html  (1 run, 0.")
    assert (tmp_path / "mine.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_folder_as_a_page(reason: Reason, trace: Path, tmp_path: Path) -> None:
    write(trace.with_name("q.jsonl"), journal(3))
    result = reason("view", str(trace.parent), "--out", str(tmp_path / "all.html"))
    assert (result.exit_code, "(2 runs," in result.stdout) == (0, True), result.output
    result = reason("view", str(trace.parent), "--out", str(tmp_path / "all.html"), "--problem", "q")
    assert (result.exit_code, "(1 run," in result.stdout) == (0, True), result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "there is no none.jsonl; give a trace of `reason solve --trace`"),
        (["empty"], "empty holds no traces"),
        (["words.txt"], "words.txt is not a trace: byte 0 begins no JSON object"),
        (["begun.jsonl"], "begun.jsonl holds no run yet"),
        (["traces", "--problem", "x"], "traces has no trace of x; it has p"),
        (["traces/p.jsonl", "--out", "traces/p.jsonl"], "is the trace itself"),
        (["traces/p.jsonl", "--out", "empty"], "empty is a folder"),
        (["traces/p.jsonl", "--out", "a.html", "--serve"], "give --out or --serve, not both"),
        (["traces/p.jsonl", "--serve", "--port", "70000"], "cannot serve on port 70000"),
    ],
)
def test_mistakes(
    reason: Reason, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.txt").write_text("hello\n")
    (tmp_path / "begun.jsonl").write_text('{"type": "run"')
    result = reason("view", *arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.startswith("error: ")
    assert said in result.stderr


def test_what_cannot_be_written(reason: Reason, trace: Path, tmp_path: Path) -> None:
    result = reason("view", str(trace), "--out", str(tmp_path / "none" / "a.html"))
    assert result.exit_code == 1
    assert "cannot write" in result.stderr


# -- the server --------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(trace: Path) -> Iterator[ViewServer]:
    with ViewServer(lambda: find_runs(trace.parent), 0) as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def get(server: ViewServer, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    body = response.read().decode("utf-8")
    connection.close()
    return response.status, dict(response.getheaders()), body


def test_the_page_and_a_run_from_the_server(server: ViewServer, trace: Path) -> None:
    status, headers, body = get(server, "/")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert '"served":true' in body
    status, headers, body = get(server, "/run/p")
    assert status == 200
    assert len(json.loads(body)["nodes"]) == 7
    assert get(server, "/run/p", If_None_Match=headers["ETag"])[0] == 304
    with trace.open("a", encoding="utf-8") as file:
        file.write('{"type": "weather"}\n')
    assert get(server, "/run/p", If_None_Match=headers["ETag"])[0] == 200


def test_a_run_that_began_since_is_listed(server: ViewServer, trace: Path) -> None:
    write(trace.with_name("q v.jsonl"), journal(2))
    assert '"q v"' in get(server, "/")[2]
    assert len(json.loads(get(server, "/run/q%20v")[2])["nodes"]) == 3


@pytest.mark.parametrize("path", ["/run/none", "/run/../p", "/run/%2e%2e%2fp", "/run/", "/run/%00"])
def test_only_runs_that_are_listed(server: ViewServer, path: str) -> None:
    status, _, body = get(server, path)
    assert status == 200
    assert "there is no run" in json.loads(body)["error"]


def test_nothing_else_is_served(server: ViewServer) -> None:
    assert get(server, "/traces/p.jsonl")[0] == 404
    assert get(server, "/run/p", Host="evil.example")[0] == 403
    assert get(server, "/", Host="evil.example:80")[0] == 403
    assert server.server_address[0] == "127.0.0.1"


def test_a_trace_that_is_damaged_or_gone(server: ViewServer, trace: Path) -> None:
    trace.write_text("nothing\n")
    assert "is not a trace" in json.loads(get(server, "/run/p")[2])["error"]
    trace.unlink()
    assert "holds no traces" in get(server, "/")[2]


def test_a_port_that_is_taken(reason: Reason, trace: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot serve on port {port}: .*--port"):
            ViewServer(lambda: find_runs(trace), port)
        result = reason("view", str(trace), "--serve", "--port", str(port))
    assert (result.exit_code, "in use" in result.stderr) == (2, True)


def test_ctrl_c_ends_the_server(reason: Reason, trace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: ViewServer) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.ViewServer, "serve_forever", interrupted)
    result = reason("view", str(trace), "--serve", "--port", "0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("http://127.0.0.1:")


# -- the live view -----------------------------------------------------------------------------------------------------


def frame(nodes: list[Node], rows: int, width: int = 100, usage: Usage | None = None, **more: Any) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=60, color_system=None).print(
        render(nodes, {}, usage or Usage(policy_tokens=500), 10.0, width, rows, **more)
    )
    return [line.rstrip() for line in out.getvalue().splitlines()]


def tree(*rows: tuple[int, int, str, dict[str, Any]]) -> list[Node]:
    """Nodes by (id, parent, how it ended or "" while it is written, notes); an answer is a note here."""
    made: dict[int, Node] = {}
    for number, parent, end, notes in rows:
        depth = made[parent].depth + 1 if parent else 1
        answer = notes.pop("answer", None)
        reason: Any = end or None
        made[number] = Node(id=number, parent=parent, depth=depth, text=f"text {number}", finish_reason=reason)
        made[number].notes, made[number].answer = notes, answer
        made[number].answer_class = None if answer is None else int(answer)
    return list(made.values())


def small() -> list[Node]:
    return tree(
        (1, 0, "step", {"score": 0.5, "kept": 2}),
        (2, 0, "step", {"score": 0.25, "pruned": True}),
        (3, 1, "step", {"score": 0.75, "kept": 2}),
        (4, 1, "step", {"score": 0.1, "pruned": True}),
        (5, 1, "step", {"merged_into": 3}),
        (6, 3, "eos", {"score": 0.9, "answer": "7"}),
        (7, 3, "eos", {"score": 0.8, "answer": "7"}),
        (8, 3, "eos", {"score": 0.3, "answer": "9"}),
        (9, 3, "", {}),
    )


def test_a_tree_that_fits_is_shown_whole() -> None:
    lines = frame(small(), 9)
    assert [line.split()[0] for line in lines[:9]] == ["1", "3", "6", "7", "8", "9", "4", "5", "2"]
    assert [line.split()[1] for line in lines[:9]] == ["→", "→", "✓", "✓", "✓", "·", "✂", "↪", "✂"]
    assert "├─text 3" in lines[1]
    assert "│ └─" in lines[5]
    assert "#3" in lines[7]
    assert lines[10].split() == ["votes", "7", "×2", "9", "×1", "3", "steps", "deep,", "2", "pruned,", "1", "merged"]


def test_what_is_over_is_folded_as_far_as_need_be() -> None:
    lines = frame(small(), 7)
    assert [line.split()[0] for line in lines[:7]] == ["1", "3", "6", "7", "8", "9", "5"]
    assert "[+ 1 pruned] text 1" in lines[0]
    assert "1 not shown" in lines[8]  # 2, which hangs on the problem
    lines = frame(small(), 5)
    assert [line.split()[0] for line in lines[:5]] == ["1", "3", "6", "8", "9"]
    assert "[+ 1 merged, 1 pruned] text 1" in lines[0]
    assert "└─[+ 1 finished] text 3" in lines[1]
    lines = frame(small(), 4)
    assert [line.split()[0] for line in lines[:4]] == ["3", "6", "8", "9"]
    assert "⋯ [+ 1 finished] text 3" in lines[0]
    lines = frame(small(), 2)
    assert [line.split()[0] for line in lines[:2]] == ["8", "9"]


def test_thousands_of_nodes_fit_any_screen_with_what_is_written_in_sight() -> None:
    rows: list[tuple[int, int, str, dict[str, Any]]] = [(1, 0, "step", {})]
    for number in range(2, 3000):
        rows.append((number, number // 2, "step", {"pruned": True} if number % 3 else {}))
    nodes = tree(*rows, (3000, 1000, "", {}))
    for height in (1, 2, 3, 8, 40, 200):
        lines = frame(nodes, height)
        assert len(lines) == height + 3
        assert any(line.split()[:2] == ["3000", "·"] for line in lines)


@pytest.mark.parametrize("width", [20, 40, 80])
@pytest.mark.parametrize("rows", [-3, 0, 1, 5])
def test_no_line_wraps_however_small_the_terminal(width: int, rows: int) -> None:
    usage = Usage(policy_tokens=10**9, drafted_tokens=100, accepted_tokens=40)
    lines = frame(small(), rows, width, usage, budget=Budget(policy_tokens=2 * 10**9, seconds=20, calls=5))
    assert len(lines) == (min(rows, 9) + 4 if rows > 0 else 3)
    assert max(map(len, lines)) <= width


def test_the_budget() -> None:
    usage = Usage(policy_tokens=500, calls=3, unique_kv_tokens_peak=95)
    lines = frame(small(), 9, 120, usage, budget=Budget(policy_tokens=1000, kv_tokens=100, calls=3))
    limits = "budget tokens ━━━━──── 50% of 1,000 KV ━━━━━━━━ 95% of 100 calls ━━━━━━━━ 100% of 3"
    assert " ".join(lines[11].split()) == limits
    assert not any(line.startswith("budget") for line in frame(small(), 9))


def test_samples_that_are_written_stay_in_sight() -> None:
    nodes = tree((1, 0, "", {}), *((number, 0, "eos", {}) for number in range(2, 30)), (30, 0, "", {}))
    assert [line.split()[0] for line in frame(nodes, 4)[:4]] == ["1", "28", "29", "30"]


def test_without_a_terminal_there_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "_LINE_SECONDS", 0.05)
    out = io.StringIO()
    monkeypatch.setattr(live, "Console", lambda **options: Console(file=out, width=80))
    run = api.Solver(engine=ScriptedEngine(["so \\boxed{42}"], delay=0.05)).start("6 × 7?", num_samples=2)
    assert asyncio.run(live.watch(run)).answer == "42"
    lines = out.getvalue().splitlines()
    assert len(lines) >= 2
    assert all(" nodes, " in line and " tokens" in line for line in lines)
    assert "\x1b" not in out.getvalue()


def test_the_last_frame_stays_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    console = Console(file=out, width=80, height=12, force_terminal=True, color_system=None)
    monkeypatch.setattr(live, "Console", lambda **options: console)
    monkeypatch.setenv("TERM", "xterm")
    run = api.Solver(engine=ScriptedEngine(["so \\boxed{42}"], delay=0.01)).start("6 × 7?", num_samples=30)
    asyncio.run(live.watch(run, Budget(calls=60)))
    shown = out.getvalue().rsplit("\x1b[1A", 1)[-1].splitlines()  # after the cursor last went up
    votes, budget, ledger = shown[-4:-1]  # after them comes what shows the cursor again
    assert "42 ×30" in votes
    assert budget.startswith("budget")
    assert "tokens/s" in ledger
    assert len(shown) <= 12

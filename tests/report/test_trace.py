"""Journals as trees: what runs wrote, what kills left of it, and what is no journal."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networkx
import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.report.trace import Trace, graph, read_trace
from reason.search.driver import AnyRun
from reason.types import Problem

RUN = {
    "type": "run",
    "version": 1,
    "problem": "p",
    "content": "What is 6 × 7?",
    "strategy": "beam",
    "model": "scripted",
    "step_delimiter": "\n\n",
    "prompt": [1, 2, 3],
}


def node(number: int, parent: int = 0, text: str = "so", reason: str = "eos", **more: Any) -> dict[str, Any]:
    usage = {"policy_tokens": 10 * number, "seconds": number / 2}
    event = {"type": "node", "id": number, "parent": parent, "text": text, "finish_reason": reason, "stopped_on": None}
    return {**event, "generated": 2, "calls": 1, "tokens": [5, 6], "usage": usage, **more}


def told(number: int, end: str = "eos", **more: Any) -> dict[str, Any]:
    return {"type": "tell", "node": number, "end": end, **more}


def ended(answer: str | None) -> dict[str, Any]:
    return {"type": "end", "answer": answer, "confidence": 0.5, "stopped_by": "done", "usage": {"policy_tokens": 99}}


def write(file: Path, events: Sequence[Any]) -> Path:
    file.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return file


def read(file: Path, *events: Any) -> Trace:
    return read_trace(write(file, [RUN, *events]))


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "run.jsonl"


def steps(prefix: str) -> list[str]:
    """Two steps and an answer, and who writes differently is scored differently."""
    done = prefix.count("\n\n")
    return [f"step {done} {name}\n\n" for name in "abcd"] if done < 3 else ["so \\boxed{7}", "so \\boxed{8}"]


def searched(file: Path, strategy: str, **fields: Any) -> AnyRun:
    async def whole() -> AnyRun:
        solver = Solver(engine=ScriptedEngine(steps))
        run = solver.start(Problem(content="What is 6 + 1?"), strategy, journal=file, verifiers=None, **fields)
        await run.solve()
        return run

    return asyncio.run(whole())


@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("best-of-n", {"num_samples": 4}),
        ("beam", {"width": 4, "beam_width": 2}),
        ("dvts", {"width": 4, "beam_width": 2}),
    ],
)
def test_a_trace_is_the_tree_of_its_run(journal: Path, strategy: str, fields: dict[str, Any]) -> None:
    fields = fields if strategy == "best-of-n" else {**fields, "verifier": "logprob"}
    run = searched(journal, strategy, **fields)
    trace = read_trace(journal)
    assert sorted(trace.nodes) == [each.id for each in run.tree.nodes]
    for each in run.tree.nodes[1:]:
        shown = trace.nodes[each.id]
        assert (shown.parent, shown.depth, shown.end) == (each.parent, each.depth, each.finish_reason)
        assert (shown.answer, shown.answer_class) == (each.answer, each.answer_class)
        assert (shown.scores, shown.notes) == (each.scores, each.notes)
        assert shown.num_tokens == each.num_tokens
        assert "".join(step.text for step in trace.path(each.id)[1:]) == run.tree.text(each.id)
        assert shown.told
    assert trace.nodes[0].text == "What is 6 + 1?"
    assert trace.end is not None
    solution = trace.solution()
    assert solution is not None
    assert trace.nodes[solution].answer == trace.end["answer"]
    assert not trace.lost


def test_what_a_kill_leaves_at_any_byte_is_a_part_of_the_tree(journal: Path) -> None:
    searched(journal, "beam", width=4, beam_width=2, verifier="logprob")
    whole, data = read_trace(journal), journal.read_bytes()
    first = data.index(b"\n") + 1
    before: list[int] = []
    for end in range(0, len(data), 97):
        journal.write_bytes(data[:end])
        if end < first:
            with pytest.raises(UsageError, match="first line is not whole"):
                read_trace(journal)
            continue
        trace = read_trace(journal)
        assert list(trace.nodes)[: len(before)] == before
        before = list(trace.nodes)
        assert all(trace.nodes[number].text == whole.nodes[number].text for number in before)
        assert trace.end is None
        assert trace.solution() is None
    assert len(before) > len(whole.nodes) / 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "first line is not whole"),
        (b"hello\n", "byte 0 begins no JSON object"),
        (b"\x00\xff\xfe\n", "byte 0 begins no JSON object"),
        (b'[{"type": "run"}]\n', "byte 0 begins no JSON object"),
        (b'{"id": "gsm8k-1", "correct": true}\n', "byte 0 begins no JSON object"),
        (b'{"type": "node", "id": 1}\n', "line 1 .*begins with what was asked"),
        (b'{"type": "run"}\n', "line 1 lacks .*content"),
        (b'{"type": "run", "content": 7, "prompt": []}\n', "line 1"),
        (
            b'{"type": "run", "content": "", "prompt": [' + b"[" * 10**5 + b"]" * 10**5 + b"]}\n",
            "nested too deeply|line 1",
        ),
    ],
)
def test_what_is_no_journal(journal: Path, content: bytes, said: str) -> None:
    journal.write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_trace(journal)


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (node(1, parent=7), "line 3 .*node 1 extends 7, which is not there"),
        (node(9), "line 3 .*node 9 is there already"),
        (node(1, parent=1), "extends 1, which is not there"),
        ({**node(1), "tokens": "x"}, "line 3"),
        ({**node(1), "id": float("inf")}, "line 3"),
        ({**node(1), "usage": 3}, "line 3"),
        ({**node(1), "logprobs": {"token": "AAA"}}, "line 3"),
        ({"type": "node", "id": 1}, "line 3 lacks .*parent"),
        ({"type": "measure", "name": "v", "nodes": [4], "values": [[1.0]]}, "line 3"),
        ({"type": "measure", "name": "v", "nodes": [9], "values": []}, "line 3"),
        ({"type": "tell"}, "line 3 lacks .*node"),
        ({"type": "tell", "node": 9, "end": "eos", "notes": {"x": {}}}, "line 3"),
        (told(9, answer="7"), "line 3 lacks .*answer_class"),
        ({"type": "end"}, "line 3 lacks .*answer"),
    ],
)
def test_a_damaged_line_is_named(journal: Path, event: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read(journal, node(9), event)


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no file"):
        read_trace(tmp_path / "none.jsonl")
    with pytest.raises(Exception, match="cannot read"):
        read_trace(tmp_path)


def test_events_of_later_versions_are_passed_over(journal: Path) -> None:
    trace = read(journal, {"type": "weather", "sun": True}, node(1), told(1))
    assert list(trace.nodes) == [0, 1]
    assert [event.kind for event in trace.events] == ["node", "tell"]


def test_what_the_strategy_was_not_told_of_is_as_it_arrived(journal: Path) -> None:
    trace = read(
        journal, node(1, text="one", reason="stop", stopped_on="\n\n"), node(2), told(2, answer="7", answer_class=0)
    )
    one, two = trace.nodes[1], trace.nodes[2]
    assert (one.told, one.end, one.text, one.answer) == (False, "stop", "one\n\n", None)
    assert (two.told, two.end, two.answer, two.answer_class) == (True, "eos", "7", 0)


def test_failed_and_dropped_samples_are_counted(journal: Path) -> None:
    trace = read(
        journal, node(1), told(1), told(2, "error"), told(3, "error"), {"type": "tell", "cancelled": [4, 5, 6]}
    )
    assert trace.lost == {"error": 2, "cancelled": 3}
    assert list(trace.nodes) == [0, 1]


def test_notes_come_together_in_order_also_before_their_node(journal: Path) -> None:
    early = told(1, notes={"1": {"score": 1.0}, "2": {"visits": 1, "lost": False}, "8": {"pruned": True}})
    later = told(2, notes={"2": {"visits": 2}, "1": {"merged_into": 2}})
    trace = read(journal, node(1), early, node(2), later)
    assert trace.nodes[1].notes == {"score": 1.0, "merged_into": 2}
    assert trace.nodes[2].notes == {"visits": 2, "lost": False}
    assert trace.nodes[1].merged_into == 2
    assert trace.nodes[2].merged_into is None
    assert trace.events[1].notes == {1: {"score": 1.0}, 2: {"visits": 1, "lost": False}, 8: {"pruned": True}}


def test_measures_with_and_without_a_ledger_and_embeddings(journal: Path) -> None:
    old = {"type": "measure", "name": "v", "nodes": [1, 2], "values": [[0.25, 0.5], [1]]}
    vectors = {"type": "measure", "name": "e", "nodes": [1], "values": ["AAAA"], "usage": {"policy_tokens": 30}}
    trace = read(journal, node(1), node(2), old, vectors)
    assert trace.nodes[1].scores == {"v": (0.25, 0.5)}
    assert trace.nodes[2].scores == {"v": (1.0,)}
    assert [event.usage.get("policy_tokens") for event in trace.events] == [10, 20, None, 30]


def test_the_problem_as_messages(journal: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "6 × 7?"}]
    trace = read_trace(write(journal, [{**RUN, "content": messages}]))
    assert trace.nodes[0].text == "system: Be brief.\n\nuser: 6 × 7?"


def finished(
    number: int, answer: str, kind: int, parent: int = 0, end: str = "eos", **notes: Any
) -> list[dict[str, Any]]:
    told_of = told(number, end, answer=answer, answer_class=kind, **({"notes": {str(number): notes}} if notes else {}))
    return [node(number, parent), told_of]


def test_the_solution_is_the_best_scored_with_the_answer(journal: Path) -> None:
    leaves = [*finished(1, "7", 0, score=0.5), *finished(2, "7.0", 0, score=0.9), *finished(3, "8", 1, score=1.0)]
    assert read(journal, *leaves, ended("7")).solution() == 2


def test_without_scores_it_is_the_shortest_that_was_not_cut_off(journal: Path) -> None:
    step = [node(1, reason="stop"), told(1, "step")]
    leaves = [*finished(2, "7", 0, parent=1), *finished(3, "7", 0, end="length"), *finished(4, "7", 0)]
    assert read(journal, *step, *leaves, ended("7")).solution() == 4
    assert read(journal, *step, *leaves[:4], ended("7")).solution() == 2


def test_no_answer_and_an_answer_of_nobody(journal: Path) -> None:
    assert read(journal, *finished(1, "7", 0), ended(None)).solution() is None
    assert read(journal, *finished(1, "7", 0), ended("9")).solution() is None
    assert read(journal, *finished(1, "7", 0)).solution() is None


def test_a_failed_sample_that_the_search_went_on_below_has_its_place(journal: Path) -> None:
    cost = {"text": "1. ", "generated": 1, "calls": 1, "tokens": [5]}
    lists = [told(1, "error", error="lost", parent=0, **cost), told(2, "error", error="lost", parent=1, **cost)]
    trace = read(journal, *lists, node(3, 2), told(3), told(4, "error", error="lost", parent=0, **cost))
    assert [(n.id, n.parent, n.depth, n.end, n.text) for n in trace.nodes.values()][1:] == [
        (1, 0, 1, "error", "1. "),
        (2, 1, 2, "error", "1. "),
        (3, 2, 3, "eos", "so"),
    ]
    assert trace.lost == {"error": 3}
    assert [n.id for n in trace.path(3)] == [0, 1, 2, 3]


@pytest.mark.parametrize(("strategy", "failing"), [("rethink-mcts", "Give"), ("tot", "Write each on a line")])
def test_runs_that_lost_a_list_are_read(journal: Path, strategy: str, failing: str) -> None:
    def script(prefix: str) -> list[str]:
        if failing in prefix:
            raise RuntimeError("lost")
        return ["so \\boxed{7}"]

    with Solver(engine=ScriptedEngine(script)) as solver:
        problem = Problem(content="What?", equivalent=lambda a, b: a == b)
        fields = {"rollouts": 1, "verifier": "logprob"} if strategy == "rethink-mcts" else {"steps": 2}
        run = solver.start(problem, strategy, journal=journal, **fields)
        asyncio.run(run.solve())
    trace = read_trace(journal)
    assert trace.lost["error"]
    assert len(trace.nodes) > 2


def test_the_graph(journal: Path, tmp_path: Path) -> None:
    note = {"1": {"score": 0.5, "pruned": True}, "2": {"merged_into": 1, "members": [1, 2]}}
    measure = {"type": "measure", "name": "v", "nodes": [1], "values": [[0.1, 0.25]]}
    answer = told(3, answer="42", answer_class=0)
    made = graph(read(journal, node(1), node(2), measure, told(1, notes=note), node(3, 2), answer, ended("42")))
    assert dict(made.graph) == {"problem": "p", "strategy": "beam", "model": "scripted", "answer": "42"}
    assert sorted(made.edges(data="kind")) == [(0, 1, "step"), (0, 2, "step"), (2, 1, "merged"), (2, 3, "step")]
    about = made.nodes[1]
    assert (about["score.v"], about["note.score"], about["note.pruned"]) == (0.25, 0.5, True)
    assert made.nodes[2]["note.members"] == "[1, 2]"
    assert (made.nodes[3]["answer"], made.nodes[3]["depth"], made.nodes[3]["tokens"]) == ("42", 2, 2)
    networkx.write_graphml(made, tmp_path / "tree.graphml")
    again = networkx.read_graphml(tmp_path / "tree.graphml", node_type=int)
    assert sorted(again.edges) == sorted(made.edges)
    assert json.loads(json.dumps(networkx.node_link_data(made, edges="edges")))["nodes"][3]["answer"] == "42"

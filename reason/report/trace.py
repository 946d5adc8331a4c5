"""A journal as a tree: what viewers show, and a networkx graph.

Reads what a run wrote (``reason.search.journal``), also one that is under way or was killed. The journal has no line
for a sample that failed or was cancelled: ``Trace.lost`` counts them. One that failed is a node only if the search went
on below it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from reason.errors import ReasonError, UsageError
from reason.search.journal import read_journal, unpack_logprobs
from reason.search.tree import ROOT

if TYPE_CHECKING:
    from networkx import DiGraph

__all__ = ["Trace", "TraceEvent", "TraceNode", "graph", "read_trace"]


@dataclass(slots=True, kw_only=True)
class TraceNode:
    """One node; see ``reason.search.tree.Node``. ``text`` ends with the delimiter that ended the step.

    ``end`` is the completion's until the strategy is ``told`` of the node, then the node's own.
    """

    id: int
    parent: int | None
    depth: int = 0
    text: str = ""
    tokens: tuple[int, ...] = ()
    num_tokens: int = 0  # of them generated, not given
    logprobs: tuple[float, ...] = ()  # one a token, where they were recorded
    drafted: Mapping[str, tuple[int, ...]] = field(default_factory=dict)  # by draft source: places in ``tokens``
    begins: bool = False
    aside: bool = False
    given: bool = False  # its text begins with words that were put into the model's mouth
    end: str = "step"
    told: bool = False
    answer: str | None = None
    answer_class: int | None = None
    scores: dict[str, tuple[float, ...]] = field(default_factory=dict)
    feedback: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.end in ("eos", "stop", "length")

    @property
    def merged_into(self) -> int | None:
        """The node that goes on in this one's stead."""
        other = self.notes.get("merged_into")
        return other if isinstance(other, int) and not isinstance(other, bool) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent:
    """A line of the journal: a completion or a measurement that arrived, or what the strategy was told and noted."""

    kind: Literal["node", "measure", "tell"]
    nodes: tuple[int, ...]
    name: str | None = None  # the verifier's or embedder's
    usage: Mapping[str, float] = field(default_factory=dict)  # the ledger when it arrived, if it is known
    notes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Trace:
    """A whole journal.

    Args:
        header: what was asked.
        nodes: by id, in the order of their arrival; the root, whose text is the problem, is ``nodes[0]``.
        lost: how many samples failed ("error") or were dropped ("cancelled").
        end: the answer and the ledger; None while the run is not done.
    """

    header: dict[str, Any]
    nodes: dict[int, TraceNode]
    events: list[TraceEvent]
    lost: Counter[str]
    end: dict[str, Any] | None = None
    failed: dict[int, dict[str, Any]] = field(default_factory=dict)  # what was told of them, but for those in ``nodes``

    def path(self, node: int) -> list[TraceNode]:
        """From the root to ``node``."""
        path = [self.nodes[node]]
        while (parent := path[-1].parent) is not None:
            path.append(self.nodes[parent])
        return path[::-1]

    def solution(self) -> int | None:
        """The finished node whose solution stands for the answer, by the rule of ``reason.search.voting``: the best
        scored or, without scores, the shortest that was not cut off. None if there is no answer, or none of them has
        it."""
        answer = None if self.end is None else self.end["answer"]
        classes = {node.answer_class for node in self.nodes.values() if answer is not None and node.answer == answer}
        leaves = [node for node in self.nodes.values() if node.answer_class in classes - {None}]
        if not leaves:
            return None
        if all(isinstance(leaf.notes.get("score"), (int, float)) for leaf in leaves):
            return max(leaves, key=lambda leaf: (leaf.notes["score"], -leaf.id)).id
        lengths = {leaf.id: sum(node.num_tokens for node in self.path(leaf.id)) for leaf in leaves}
        return min(leaves, key=lambda leaf: (leaf.end == "length", lengths[leaf.id], leaf.id)).id


def read_trace(file: Path) -> Trace:
    """Reads a journal. A last line that a kill tore is left out.

    Raises:
        UsageError: there is no such file, or it is no journal; says where.
        ReasonError: it cannot be read.
    """
    trace: Trace | None = None
    for number, line in enumerate(_lines(file), 1):
        try:
            if trace is None:
                trace = _begin(line)
            else:
                _add(trace, line)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            what = f"{type(error).__name__}: {error}"
            raise UsageError(f"{file} is not a trace: line {number} lacks what belongs there ({what})") from None
    if trace is None:
        raise UsageError(f"{file} holds no run yet: its first line is not whole")
    for event in trace.events:  # a node may be noted before it arrives
        for number, values in event.notes.items():
            if number in trace.nodes:
                trace.nodes[number].notes.update(values)
    return trace


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    if not file.exists():
        raise UsageError(f"there is no file {file}")
    try:
        yield from read_journal(file)
    except RecursionError:
        raise UsageError(f"{file} is not a trace: a line is nested too deeply") from None
    except OSError as error:
        raise ReasonError(f"cannot read {file}: {error.strerror}") from None


def _begin(event: dict[str, Any]) -> Trace:
    if event["type"] != "run":
        raise ValueError(f"a journal begins with what was asked, not with {str(event['type'])[:40]!r}")
    header = {key: value for key, value in event.items() if key not in ("type", "prompt")}
    content = event["content"]
    if not isinstance(content, str):
        content = "\n\n".join(f"{message['role']}: {message['content']}" for message in content)
    prompt = tuple(event["prompt"])
    root = TraceNode(id=ROOT, parent=None, text=content, tokens=prompt, told=True)
    return Trace(header=header, nodes={ROOT: root}, events=[], lost=Counter())


def _add(trace: Trace, event: dict[str, Any]) -> None:
    kind = event["type"]
    if kind == "node":
        node = _node(trace, event)
        trace.nodes[node.id] = node
        trace.events.append(TraceEvent(kind="node", nodes=(node.id,), usage=_usage(event)))
    elif kind == "measure":
        measured = tuple(map(int, event["nodes"]))
        for number, values in zip(measured, event["values"], strict=True):
            if not isinstance(values, str):  # an embedder's vector is nothing to look at
                trace.nodes[number].scores[event["name"]] = tuple(map(float, values))
        for number, said in zip(measured, event.get("feedback", ()), strict=False):
            trace.nodes[number].feedback[event["name"]] = str(said)
        trace.events.append(TraceEvent(kind="measure", nodes=measured, name=str(event["name"]), usage=_usage(event)))
    elif kind == "tell":
        trace.events.append(_tell(trace, event))
    elif kind == "end":
        trace.end = {
            "answer": None if event["answer"] is None else str(event["answer"]),
            "confidence": float(event["confidence"]),
            "stopped_by": str(event["stopped_by"]),
            "usage": _usage(event),
        }


def _node(trace: Trace, event: dict[str, Any]) -> TraceNode:
    number, parent = int(event["id"]), int(event["parent"])
    if number in trace.nodes:
        raise ValueError(f"node {number} is there already")
    _place(trace, parent)
    if parent not in trace.nodes:
        raise ValueError(f"node {number} extends {parent}, which is not there")
    stopped_on = event["stopped_on"]
    delimiter = trace.header.get("step_delimiter")
    step = event["finish_reason"] == "stop" and stopped_on == delimiter and isinstance(stopped_on, str)
    return TraceNode(
        id=number,
        parent=parent,
        depth=trace.nodes[parent].depth + 1,
        text=str(event.get("prompt", "")) + str(event["text"]) + (stopped_on if step else ""),
        tokens=tuple(map(int, event["tokens"])),
        num_tokens=int(event["generated"]),
        given=bool(event.get("prompt")),
        logprobs=tuple(row.token for row in unpack_logprobs(event.get("logprobs"))),
        drafted={str(name): tuple(map(int, places)) for name, places in event.get("drafted", {}).items()},
        begins=bool(event.get("begins")),
        aside=bool(event.get("aside")),
        end=str(event["finish_reason"]),
    )


def _place(trace: Trace, number: int) -> None:
    """Puts a sample into the tree if it failed, below those before it that did; others hang below it, so it was an
    aside, like a list that was asked for."""
    if (event := trace.failed.pop(number, None)) is None:
        return
    parent = int(event["parent"])
    _place(trace, parent)
    trace.nodes[number] = TraceNode(
        id=number,
        parent=parent,
        depth=trace.nodes[parent].depth + 1,
        text=str(event["text"]),
        tokens=tuple(map(int, event["tokens"])),
        num_tokens=int(event["generated"]),
        aside=True,
        end="error",
        told=True,
    )


def _tell(trace: Trace, event: dict[str, Any]) -> TraceEvent:
    told: tuple[int, ...] = ()
    if "cancelled" in event:
        trace.lost["cancelled"] += len(event["cancelled"])
    elif "measured" in event:
        told = tuple(map(int, event["nodes"]))
    else:
        told = (int(event["node"]),)
        if (node := trace.nodes.get(told[0])) is None:
            trace.lost[str(event["end"])] += 1
            if "parent" in event:
                trace.failed[told[0]] = event
        else:
            node.told, node.end = True, str(event["end"])
            if event.get("answer") is not None:
                node.answer, node.answer_class = str(event["answer"]), int(event["answer_class"])
    notes = {int(number): dict(values) for number, values in event.get("notes", {}).items()}
    return TraceEvent(kind="tell", nodes=told, notes=notes)


def _usage(event: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in event.get("usage", {}).items()}


def graph(trace: Trace) -> DiGraph:
    """The tree as a networkx graph, of plain values only, so that every writer of networkx takes it.

    Nodes have ``text``, ``depth``, ``tokens`` (their number), ``end``, ``begins``, ``aside``, and where they are known
    ``answer``, ``answer_class``, ``score.VERIFIER`` (the last step's) and ``note.NAME``. Edges from parents are of
    ``kind`` "step"; those from a merged node to the one that it was merged into, "merged".
    """
    import networkx

    made = networkx.DiGraph(
        problem=str(trace.header.get("problem", "")),
        strategy=str(trace.header.get("strategy", "")),
        model=str(trace.header.get("model", "")),
        answer=str((trace.end or {}).get("answer") or ""),
    )
    for node in trace.nodes.values():
        known: dict[str, str | int | float | None] = {"answer": node.answer, "answer_class": node.answer_class}
        known |= {f"score.{name}": values[-1] for name, values in node.scores.items() if values}
        known |= {f"note.{name}": _plain(value) for name, value in node.notes.items()}
        made.add_node(
            node.id,
            text=node.text,
            depth=node.depth,
            tokens=node.num_tokens,
            end=node.end,
            begins=node.begins,
            aside=node.aside,
            **{name: value for name, value in known.items() if value is not None},
        )
    for node in trace.nodes.values():
        if node.parent is not None:
            made.add_edge(node.parent, node.id, kind="step")
        if node.merged_into in trace.nodes and not made.has_edge(node.id, node.merged_into):
            made.add_edge(node.id, node.merged_into, kind="merged")
    return made


def _plain(value: Any) -> str | int | float | None:
    return value if isinstance(value, (str, int, float, type(None))) else json.dumps(value, ensure_ascii=False)

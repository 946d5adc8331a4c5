"""The journal of one run, as JSON lines: trace, checkpoint and the tree's viewers read the same file.

    {"type": "run", ...}       what was asked: problem, strategy and its fields, seed, budget, model, prompt tokens
    {"type": "node", ...}      a completion as it arrived, in any order
    {"type": "measure", ...}   a verifier's scores, or an embedder's vectors
    {"type": "tell", ...}      what the strategy was told next, and what it annotated
    {"type": "end", ...}       the answer and the ledger

Strategies are pure and are told results in the order asked, so a run is replayed from its first, second and third
kind of line; "tell" lines are for readers, but for samples that failed: those have no line of their own. A kill may
leave half a line, which the next run cuts off.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reason.errors import EngineError, ReasonError, UsageError
from reason.types import Completion, TokenLogprobs

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Journal", "JournalMismatch", "failed_sample", "pack_logprobs", "read_journal", "unpack_logprobs"]

VERSION = 1


class JournalMismatch(UsageError):
    """A journal on disk belongs to another run than the one that is to go on from it."""


class Journal:
    """Appends events of one run to a file, and hands back those of an earlier, interrupted one.

    Args:
        file: made with its folder if it does not exist.

    Raises:
        ReasonError: it cannot be read or written.
    """

    def __init__(self, file: FilePath) -> None:
        self.file = file
        self.header: dict[str, Any] | None = None
        self.end: dict[str, Any] | None = None
        self.usage: dict[str, Any] | None = None  # at the last recorded effect
        self._nodes: dict[int, dict[str, Any]] = {}
        self._measures: dict[tuple[str, tuple[int, ...]], dict[str, Any]] = {}
        self._classes: dict[int, int] = {}
        self._failures: dict[int, tuple[dict[str, Any], int]] = {}  # node -> its line, how many effects came before
        self._effects = 0
        self._full: ReasonError | None = None  # why nothing more can be written
        self.told = 0  # "tell" lines that are there already
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            length = 0
            for event, end in _events(file):
                self._take(event)
                length = end
            self._stream = file.open("ab", buffering=0)  # a failed write must not be tried again on closing
            if self._stream.tell() > length:
                self._stream.truncate(length)
        except OSError as error:
            raise ReasonError(f"cannot use the trace file {file}: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def begin(self, header: Mapping[str, Any]) -> None:
        """Writes what is asked, or checks that it is what the file was begun with.

        Raises:
            JournalMismatch: the file is another run's; says what differs.
        """
        wanted: dict[str, Any] = json.loads(json.dumps({"type": "run", "version": VERSION, **header}))
        if self.header is None:
            self._write(wanted)
            self.header = wanted
            return
        there, here = _flat(self.header), _flat(wanted)
        if different := [key for key in {**there, **here} if there.get(key) != here.get(key)]:
            shown = "; ".join(
                f"{key}: {_brief(there.get(key))} there, {_brief(here.get(key))} here" for key in different
            )
            raise JournalMismatch(f"{self.file} is the trace of another run ({shown}); delete it or choose another")

    def completion(self, node: int, parent: int) -> Completion | None:
        """What an earlier sitting recorded for a node."""
        event = self._nodes.get(node)
        if event is None:
            return None
        if event["parent"] != parent:
            raise JournalMismatch(
                f"{self.file} does not fit this version of the strategy: node {node} extended {event['parent']} there, "
                f"{parent} here"
            )
        return Completion(
            index=0,
            token_ids=tuple(event["tokens"]),
            text=event["text"],
            finish_reason=event["finish_reason"],
            stopped_on=event["stopped_on"],
            logprobs=unpack_logprobs(event.get("logprobs")),
            discarded=event.get("discarded", 0),
        )

    def failure(self, node: int) -> Completion | None:
        """What came of a node that failed, if the search went on from there, or was done: what follows depends on it,
        where a node at which an earlier sitting broke off may be tried again."""
        event, before = self._failures.get(node, ({}, self._effects))
        if before == self._effects and (self.end is None or not event):
            return None
        return Completion(
            index=0,
            token_ids=tuple(event.get("tokens", ())),
            text=event.get("text", ""),
            finish_reason="error",
            error=EngineError(event.get("error", "it failed")),
            discarded=event.get("discarded", 0),
        )

    def counts(self, node: int) -> tuple[int, int]:
        """How many of a recorded node's tokens were generated, not given, and in how many calls."""
        event = self._nodes[node] if node in self._nodes else self._failures[node][0]
        return event.get("generated", 0), event.get("calls", 1)

    def answer_class(self, node: int) -> int | None:
        """What an earlier sitting said of a node's answer."""
        return self._classes.get(node)

    def measured(self, name: str, nodes: Sequence[int]) -> dict[str, Any] | None:
        """What an earlier sitting recorded for a measurement, by the names of ``add_measure``."""
        return self._measures.get((name, tuple(nodes)))

    def add_completion(
        self,
        node: int,
        parent: int,
        completion: Completion,
        counts: tuple[int, int],
        usage: Mapping[str, Any],
        *,
        marks: Mapping[str, Any] | None = None,
    ) -> None:
        """Records what a pending node came to, with its generated tokens and calls. Failed completions are not
        recorded: a resumed run tries again.

        Args:
            marks: what else readers want to know of it: "begins", "aside", the "prompt" put before it.
        """
        if completion.finish_reason in ("error", "cancelled"):
            return
        event = {
            "type": "node",
            "id": node,
            "parent": parent,
            "text": completion.text,
            "finish_reason": completion.finish_reason,
            "stopped_on": completion.stopped_on,
            "generated": counts[0],
            "calls": counts[1],
            "tokens": completion.token_ids,
            "usage": usage,
        }
        if completion.discarded:
            event["discarded"] = completion.discarded
        if completion.logprobs:
            event["logprobs"] = pack_logprobs(completion.logprobs)
        if any(completion.proposers):
            drafted: dict[str, list[int]] = {}
            for place, proposer in enumerate(completion.proposers):
                drafted.setdefault(proposer, []).append(place)
            event["drafted"] = {name: places for name, places in drafted.items() if name}
        self._write({**event, **(marks or {})})

    def add_measure(
        self,
        name: str,
        nodes: Sequence[int],
        values: Sequence[tuple[float, ...] | bytes],
        num_generated: int = 0,
        num_calls: int = 0,
        feedback: Sequence[str] = (),
        *,
        usage: Mapping[str, Any],
    ) -> None:
        """Records a measurement: scores, or packed vectors; what was generated for it; what was said of each node."""
        shown = [base64.b64encode(each).decode("ascii") if isinstance(each, bytes) else each for each in values]
        event: dict[str, Any] = {"type": "measure", "name": name, "nodes": list(nodes), "values": shown, "usage": usage}
        if num_calls:
            event |= {"generated": num_generated, "calls": num_calls}
        if feedback:
            event["feedback"] = list(feedback)
        self._write(event)

    def add_tell(self, number: int, event: Mapping[str, Any]) -> None:
        """Records the ``number``-th thing the strategy was told, unless an earlier sitting did."""
        if number >= self.told:
            self._write({"type": "tell", **event})

    def finish(self, event: Mapping[str, Any]) -> None:
        """Records the end of the run."""
        self._write({"type": "end", **event})

    def close(self) -> None:
        """Idempotent."""
        self._stream.close()

    def _take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        self._effects += kind in ("node", "measure")
        if kind == "run":
            self.header = event
        elif kind == "node":
            self._nodes[event["id"]] = event
            self.usage = event["usage"]
        elif kind == "measure":
            values = [base64.b64decode(each) if isinstance(each, str) else tuple(each) for each in event["values"]]
            took = {"num_generated": event.get("generated", 0), "num_calls": event.get("calls", 0)}
            found = {"values": values, **took, "feedback": event.get("feedback", ())}
            self._measures[event["name"], tuple(event["nodes"])] = found
            self.usage = event["usage"]
        elif kind == "tell":
            self.told += 1
            if event.get("end") == "error":
                self._failures[event["node"]] = (event, self._effects)
            if "answer_class" in event:
                self._classes[event["node"]] = event["answer_class"]
        elif kind == "end":
            self.end = event

    def _write(self, event: Mapping[str, Any]) -> None:
        """One line by one call, so that a kill leaves a line or a part of its beginning."""
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass") + b"\n"
        if self._full is not None:  # a line behind half a line would spoil both
            raise self._full
        written = 0
        try:
            while written < len(line):
                written += self._stream.write(line[written:]) or 0
        except OSError as error:
            self._full = ReasonError(f"cannot write the trace file {self.file}: {error.strerror}")
            raise self._full from error


def failed_sample(parent: int, completion: Completion, counts: tuple[int, int]) -> dict[str, Any]:
    """What a "tell" line says of a sample that failed: what it cost counts, and other nodes may be below it.

    Args:
        counts: its generated tokens and calls.
    """
    return {
        "error": str(completion.error),
        "parent": parent,
        "text": completion.text,
        "generated": counts[0],
        "calls": counts[1],
        "tokens": completion.token_ids,
        **({"discarded": completion.discarded} if completion.discarded else {}),
    }


def read_journal(file: FilePath) -> Iterator[dict[str, Any]]:
    """The events of a journal, its whole lines only."""
    return (event for event, _ in _events(file))


def _events(file: FilePath) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line's event, and where the next line begins."""
    if not file.exists():
        return
    place = 0
    with file.open("rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                return
            place += len(line)
            try:
                event = json.loads(line.decode("utf-8", "surrogatepass"))
                assert isinstance(event, dict) and "type" in event
            except (ValueError, AssertionError):
                raise UsageError(f"{file} is not a trace: byte {place - len(line)} begins no JSON object") from None
            yield event, place


def pack_logprobs(rows: Sequence[TokenLogprobs]) -> dict[str, str]:
    """Recorded rows as base64 of little-endian arrays, exactly; a probe's number that a row lacks, as rows of another
    model do, is nan there."""
    packed = {"token": _pack([row.token for row in rows], "<f8")}
    if any(row.top for row in rows):
        ids = [[i for i, _ in row.top] for row in rows]
        widths = [len(row) for row in ids]
        if all(i < 1 << 31 for row in ids for i in row):
            packed["top_ids"] = _pack([*itertools.chain(*ids)], "<i4")
        else:  # pieces of text, where the model's tokenizer is not here
            packed["top_pieces"] = json.dumps(ids)
        packed["top"] = _pack([p for row in rows for _, p in row.top], "<f8")
        packed["top_k"] = json.dumps(widths[0] if len({*widths}) == 1 else widths)  # servers vary it
    if rows[0].entropy is not None:
        packed["entropy"] = _pack([row.entropy for row in rows], "<f8")
        packed["self_certainty"] = _pack([row.self_certainty for row in rows], "<f8")
    said = [dict(row.values) for row in rows]
    for name in dict.fromkeys(name for values in said for name in values):
        packed[f"value.{name}"] = _pack([values.get(name, math.nan) for values in said], "<f8")
    return packed


def unpack_logprobs(packed: Mapping[str, str] | None) -> tuple[TokenLogprobs, ...]:
    """The rows that ``pack_logprobs`` was given."""
    if packed is None:
        return ()
    tokens: list[float] = _unpack(packed["token"], "<f8").tolist()
    tops: list[tuple[tuple[int, float], ...]] = [()] * len(tokens)
    if "top" in packed:
        k = json.loads(packed["top_k"])
        widths = [k] * len(tokens) if isinstance(k, int) else k
        pieces = packed.get("top_pieces")
        ids = _unpack(packed["top_ids"], "<i4").tolist() if pieces is None else itertools.chain(*json.loads(pieces))
        pairs = zip(ids, _unpack(packed["top"], "<f8").tolist(), strict=True)
        tops = [tuple(itertools.islice(pairs, width)) for width in widths]
    names = [key.removeprefix("value.") for key in packed if key.startswith("value.")]
    numbers = [_unpack(packed[f"value.{name}"], "<f8").tolist() for name in names]
    columns = zip(*numbers, strict=True) if names else [()] * len(tokens)
    values = [tuple((n, v) for n, v in zip(names, row, strict=True) if not math.isnan(v)) for row in columns]
    if "entropy" not in packed:
        plain = zip(tokens, tops, values, strict=True)
        return tuple(TokenLogprobs(token, top, values=said) for token, top, said in plain)
    entropy: list[float] = _unpack(packed["entropy"], "<f8").tolist()
    certainty: list[float] = _unpack(packed["self_certainty"], "<f8").tolist()
    return tuple(TokenLogprobs(*row) for row in zip(tokens, tops, entropy, certainty, values, strict=True))


def _pack(values: Any, kind: str) -> str:
    import numpy as np

    return base64.b64encode(np.asarray(values, dtype=kind).tobytes()).decode("ascii")


def _unpack(text: str, kind: str) -> Any:
    import numpy as np

    return np.frombuffer(base64.b64decode(text), dtype=kind)


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {before + key: value}
    return flat


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

"""Journals as one self-contained page.

The page holds every run compressed beside the scripts of ``view_page`` and needs no network. Texts of models reach it
as data only: its content security policy runs no script but ours, and the scripts set text, never markup.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import html
import json
import math
import os
import string
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from reason.errors import ReasonError, UsageError
from reason.report.results import ProblemResult, ResultsFolder
from reason.report.trace import Trace, TraceEvent, TraceNode, read_trace

__all__ = ["RunFile", "dump", "find_runs", "index_entry", "load_run", "page", "payload", "token_widths", "write_page"]

_SCRIPTS = (
    "state.js",
    "layout.js",
    "paint.js",
    "picture.js",
    "tree.js",
    "text.js",
    "details.js",
    "timeline.js",
    "main.js",
)
_USAGE = (
    "policy_tokens",
    "unique_kv_tokens_peak",
    "unique_kv_tokens_mean",
    "forwards",
    "drafted_tokens",
    "accepted_tokens",
    "verifier_tokens",
    "seconds",
)
_LEAST_LOGPROB = 99.99

Decode = Callable[[Sequence[int]], list[str]]
"""From tokens to the text that each of them completes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """A journal, and what its evaluation says of it."""

    id: str
    file: Path
    result: ProblemResult | None = None


def find_runs(path: Path, problems: Collection[str] = ()) -> list[RunFile]:
    """The journals at ``path``: a file, the folder of an evaluation, or a folder of journals.

    Args:
        problems: only the runs of these; empty is all.

    Raises:
        UsageError: there is nothing to show; says what there is.
    """
    if not path.exists():
        raise UsageError(f"there is no {path}; give a trace of `reason solve --trace` or a folder of `reason eval`")
    results: dict[str, ProblemResult] = {}
    if path.is_dir():
        if (path / "config.json").exists():
            results = ResultsFolder(path).results()
        folder = path / "traces" if (path / "traces").is_dir() else path
        files = {file.stem: file for file in sorted(folder.glob("*.jsonl")) if folder != path or not results}
        files = {name: file for name, file in files.items() if not name.endswith(".screen")}  # a verdict, no search
    else:
        files = {path.stem: path}
    if not files:
        raise UsageError(f"{path} holds no traces (*.jsonl)")
    for name in [name for name in files if name.endswith(".plan") and name.removesuffix(".plan") not in files]:
        files[name.removesuffix(".plan")] = files.pop(name)  # a small model's answer that stood: there was no search
    if missing := [name for name in problems if name not in files]:
        raise UsageError(f"{path} has no trace of {', '.join(missing)}; it has {_some(list(files))}")
    return [
        RunFile(id=name, file=file, result=results.get(name))
        for name, file in files.items()
        if not problems or name in problems
    ]


def load_run(run: RunFile) -> dict[str, Any]:
    """What the page shows of a run.

    Raises:
        UsageError, ReasonError: see ``read_trace``.
    """
    trace = read_trace(run.file)
    return payload(trace, _decoder(str(trace.header.get("model", ""))))


def payload(trace: Trace, decode: Decode | None = None) -> dict[str, Any]:
    """A trace as the page's scripts read it; they say what is in it (state.js).

    Args:
        decode: the tokenizer of the run's model, if it is known.
    """
    ended = None
    if trace.end is not None:
        ended = {**trace.end, "usage": _usage(trace.end["usage"]), "node": trace.solution()}
    return {
        "header": trace.header,
        "prompt_tokens": len(trace.nodes[0].tokens),
        "pieces": decode is not None,
        "nodes": [_node(node, decode) for node in trace.nodes.values()],
        "events": [_event(event) for event in trace.events],
        "lost": dict(trace.lost),
        "end": ended,
    }


def _node(node: TraceNode, decode: Decode | None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": node.id, "parent": node.parent, "text": node.text, "end": node.end}
    if node.id == 0:
        return shown
    shown["tokens"] = node.num_tokens
    shown |= {name: True for name in ("begins", "aside") if getattr(node, name)}
    if node.scores:
        shown["scores"] = node.scores
    if any(node.feedback.values()):
        shown["feedback"] = node.feedback
    if node.answer is not None:
        shown |= {"answer": node.answer, "answer_class": node.answer_class}
    if node.logprobs:  # hundredths of a nat
        shown["logprobs"] = [round(100 * min(_LEAST_LOGPROB, max(0.0, -value))) for value in node.logprobs]
    if node.drafted:
        shown["drafted"] = node.drafted
    if decode is not None and (widths := token_widths(node, decode)) is not None:
        shown["widths"] = widths
    return shown


def _event(event: TraceEvent) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": event.kind, "nodes": event.nodes}
    if event.usage:
        shown["usage"] = _usage(event.usage)
    if event.name is not None:
        shown["name"] = event.name
    if event.notes:
        shown["notes"] = event.notes
    return shown


def _usage(usage: Mapping[str, float]) -> list[float]:
    """The ledger's columns in the order of ``_USAGE``."""
    values = (usage.get(name, 0.0) for name in _USAGE)
    return [round(value, 3) if math.isfinite(value) else 0.0 for value in values]


# -- the texts of tokens -----------------------------------------------------------------------------------------------


def token_widths(node: TraceNode, decode: Decode) -> list[int] | None:
    """How much of the node's text each of its tokens is, in UTF-16 units, as browsers count; 0 for what has no text,
    and for all but the last token of a character. None where the tokens do not spell the text."""
    pieces = decode(node.tokens)
    if not "".join(pieces).startswith(node.text):
        return None
    left = _units(node.text)  # a stop string is cut off the text, not off the tokens
    widths = []
    for piece in pieces:
        widths.append(min(left, _units(piece)))
        left -= widths[-1]
    return widths


def _units(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-16-le", "surrogatepass")) // 2


@functools.lru_cache(maxsize=4)
def _decoder(model: str) -> Decode | None:
    """The tokenizer of a model, if its files are on this machine; nothing is fetched."""
    from tokenizers import Tokenizer
    from tokenizers.decoders import DecodeStream

    from reason.models.load import resolve

    try:
        tokenizer: Any = Tokenizer.from_file(str(resolve(model, pull=False).folder / "tokenizer.json"))
    except Exception:  # the tokenizers package raises nothing narrower; without one, texts of tokens are not shown
        return None

    def decode(tokens: Sequence[int]) -> list[str]:
        stream: Any = DecodeStream(skip_special_tokens=True)
        try:
            return [stream.step(tokenizer, token) or "" for token in tokens]
        except Exception:  # ids that this vocabulary does not have: it is another model's
            return []

    return decode


# -- the page ----------------------------------------------------------------------------------------------------------


def write_page(runs: Sequence[RunFile], out: Path) -> int:
    """Writes all runs as one page, whole or not at all. Returns its size in bytes.

    Raises:
        UsageError: ``out`` is a folder or one of the journals, or the only journal cannot be shown.
        ReasonError: it cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"{out} is a folder; name a file")
    if any(out.exists() and out.samefile(run.file) for run in runs):
        raise UsageError(f"{out} is the trace itself; write the page elsewhere")
    index, packed = [], []
    for run in runs:
        entry = index_entry(run)
        try:
            shown = load_run(run)
            entry |= {"nodes": len(shown["nodes"]), "answer": entry.get("answer") or (shown["end"] or {}).get("answer")}
            packed.append(base64.b64encode(zlib.compress(dump(shown).encode("ascii"))).decode("ascii"))
        except ReasonError as error:
            if len(runs) == 1:
                raise
            entry["error"] = str(error)
            packed.append("")
        index.append(entry)
    content = page(index, packed).encode("ascii", "xmlcharrefreplace")
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, out)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise ReasonError(f"cannot write {out}: {error.strerror}") from None
    return len(content)


def index_entry(run: RunFile) -> dict[str, Any]:
    """What the list of problems says of a run."""
    entry: dict[str, Any] = {"id": run.id}
    if (result := run.result) is not None:
        entry |= {
            "answer": result.answer,
            "reference": result.reference,
            "correct": result.correct,
            "tokens": result.usage.get("policy_tokens"),
            "seconds": result.usage.get("seconds"),
            "failure": result.error,
        }
    return entry


def page(index: Sequence[dict[str, Any]], packed: Sequence[str] = ()) -> str:
    """The page's HTML.

    Args:
        index: an entry for each run.
        packed: each run's payload as JSON, deflated, in base64; empty for a page that fetches them.
    """
    folder = resources.files("reason.report") / "view_page"

    def asset(name: str) -> str:
        return (folder / name).read_text(encoding="utf-8")

    script = '(() => {\n"use strict";\n' + "\n".join(map(asset, _SCRIPTS)) + "\n})();\n"
    style = asset("view.css")
    title = index[0]["id"] if len(index) == 1 else f"{len(index)} runs"
    runs = (f'<script type="text/plain" id="run-{i}">{text}</script>' for i, text in enumerate(packed))
    return string.Template(asset("page.html")).substitute(
        policy=security_policy(script, style, fetches=not packed),
        title=html.escape(title),
        style=style,
        script=script,
        index=dump({"served": not packed, "runs": index}).replace("<", "\\u003c"),
        runs="\n".join(runs),
    )


def security_policy(script: str, style: str, *, fetches: bool) -> str:
    """No script and no style but these, and no other source of anything."""
    rules = [
        "default-src 'none'",
        f"script-src 'sha256-{_digest(script)}'",
        f"style-src 'sha256-{_digest(style)}'",
        "img-src data:",
        "connect-src 'self'" if fetches else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return "; ".join(rules)


def dump(value: Any) -> str:
    """JSON that every browser reads, in ASCII; numbers that JSON does not have become text."""
    text = json.dumps(value, separators=(",", ":"))
    if "NaN" in text or "Infinity" in text:
        text = json.dumps(json.loads(text, parse_constant=str), separators=(",", ":"))
    return text


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

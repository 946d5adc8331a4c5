"""The live view of `reason solve --live`: samples or a tree of steps growing, votes, budget, and what it costs.

Where the tree has more nodes than the screen has lines, what is over is folded into the line it hangs on: old prunings
first, then all of them, then solutions but one of each answer, then chains without a branch, then the oldest lines.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from reason.search.driver import AnyRun
from reason.search.tree import Node
from reason.types import Budget, Solution, Usage

__all__ = ["plain", "render", "watch"]

_REFRESH_SECONDS = 0.15
_LINE_SECONDS = 15.0  # between lines where there is no terminal
_FOOT = 4  # lines below the tree: a rule, the votes, the ledger, and the cursor's
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {*map(ord, "\t\n\r")}, "\ufffd")
_MARKS = {"step": "→", "eos": "✓", "stop": "✓", "length": "…", "error": "✗", "cancelled": "–"}
_NO_BUDGET = Budget()


def plain(text: str) -> str:
    """The text without control characters: a sample must not steer the terminal."""
    return text.translate(_CONTROLS)


async def watch(run: AnyRun, budget: Budget = _NO_BUDGET) -> Solution:
    """Runs to the end and shows the tree while it grows, on standard error, so that pipes stay clean. Without a
    terminal there is a line now and then."""
    console = Console(stderr=True)
    began = time.perf_counter()
    work = asyncio.ensure_future(run.solve())

    def frame() -> RenderableType:
        ended = work.done() and not work.cancelled() and work.exception() is None
        usage = work.result().usage if ended else run.engine.usage(run.owner)  # an ended run's row is gone
        limited = any(limit is not None for limit in (budget.policy_tokens, budget.seconds, budget.kv_tokens))
        rows = console.height - _FOOT - (limited or budget.calls is not None)
        seconds = time.perf_counter() - began
        return render(run.tree.nodes[1:], run.progress(), usage, seconds, console.width, rows, budget)

    try:
        if console.is_terminal and not console.is_dumb_terminal:
            with Live(console=console, auto_refresh=False, vertical_overflow="crop") as view:
                pause = _REFRESH_SECONDS
                while not work.done():
                    await asyncio.wait({work}, timeout=pause)
                    started = time.perf_counter()
                    view.update(frame(), refresh=True)
                    pause = max(_REFRESH_SECONDS, 10 * (time.perf_counter() - started))  # the engine needs the time
        else:
            while not (await asyncio.wait({work}, timeout=_LINE_SECONDS))[0]:
                usage = run.engine.usage(run.owner)
                console.print(_line(run.tree.nodes[1:], usage, time.perf_counter() - began), soft_wrap=True)
            if console.is_terminal:
                console.print(frame())
    finally:
        if not work.done():
            work.cancel()
    return await work


def render(
    nodes: Sequence[Node],
    progress: Mapping[int, str],
    usage: Usage,
    seconds: float,
    width: int,
    max_rows: int,
    budget: Budget = _NO_BUDGET,
) -> RenderableType:
    """One frame: a line for each sample, or for each step of a tree, then the votes, the budget and the ledger. With
    less room than one line for the tree, only those."""
    deep = any(node.depth > 1 for node in nodes)
    rows = (_tree_rows(nodes, max_rows) if deep else _sample_rows(nodes, max_rows)) if max_rows > 0 else []
    parts: list[RenderableType] = [_table(rows, progress, width, deep), Rule(style="dim")] if max_rows > 0 else []
    parts.append(_votes(nodes, len(nodes) - len(rows) - sum(row.hidden.total() for row in rows)))
    if spent := _budget(budget, usage, seconds):
        parts.append(spent)
    rate = usage.policy_tokens / seconds if seconds else 0.0
    ledger = Text(
        f"{usage.policy_tokens:,} tokens  {rate:.0f} tokens/s  {usage.forwards:,} forwards  "
        f"KV peak {usage.unique_kv_tokens_peak:,}  {seconds:.1f} s",
        style="dim",
    )
    if usage.drafted_tokens:
        ledger.append(f"  drafts {usage.accepted_tokens / usage.drafted_tokens:.0%}")
    parts.append(ledger)
    for part in parts:
        if isinstance(part, Text):  # a line that wraps would push the frame off the screen
            part.no_wrap, part.overflow = True, "ellipsis"
    return Group(*parts)


# -- the lines below the tree ------------------------------------------------------------------------------------------


def _votes(nodes: Sequence[Node], out_of_sight: int) -> Text:
    votes = Counter(node.answer_class for node in nodes if node.answer_class is not None)
    names = {node.answer_class: node.answer for node in reversed(nodes) if node.answer_class is not None}
    tally = Text("votes  ", style="bold")
    for answer_class, count in votes.most_common(5):
        tally.append(f"{_one_line(names[answer_class] or '')} ", style="green").append(f"×{count}   ", style="dim")
    facts = []
    if (depth := max((node.depth for node in nodes), default=0)) > 1:
        facts.append(f"{depth} steps deep")
        facts.append(f"{sum('pruned' in node.notes for node in nodes)} pruned")
    if merged := sum("merged_into" in node.notes for node in nodes):
        facts.append(f"{merged} merged")
    if out_of_sight > 0:
        facts.append(f"{out_of_sight} not shown")
    return tally.append(", ".join(facts), style="dim")


def _budget(budget: Budget, usage: Usage, seconds: float) -> Text | None:
    """How much of each limit is used; None without limits."""
    spent = (
        ("tokens", usage.policy_tokens, budget.policy_tokens),
        ("seconds", seconds, budget.seconds),
        ("KV", usage.unique_kv_tokens_peak, budget.kv_tokens),
        ("calls", usage.calls, budget.calls),
    )
    line = Text("budget ", style="bold")
    for name, used, limit in spent:
        if limit is None:
            continue
        share = min(1.0, used / limit) if limit else 1.0
        full = round(8 * share)
        line.append(f" {name} ", style="dim").append("━" * full, style="cyan" if share < 0.9 else "yellow")
        line.append("─" * (8 - full), style="dim").append(f" {share:.0%} of {limit:,.10g}  ", style="dim")
    return line if len(line) > len("budget ") else None


def _line(nodes: Sequence[Node], usage: Usage, seconds: float) -> Text:
    """The state in one line of text."""
    done = sum(node.finished and not node.aside for node in nodes)
    votes = _votes(nodes, 0).plain.removeprefix("votes").strip()
    said = f"{seconds:.0f} s: {len(nodes):,} nodes, {done:,} finished, {usage.policy_tokens:,} tokens"
    return Text(f"{said}; {votes}" if votes else said)


# -- the tree ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Row:
    """A node's line, with what is drawn before it, and how many nodes are folded into it, by what became of them."""

    node: Node
    prefix: str = ""
    hidden: Counter[str] = field(default_factory=Counter)


def _table(rows: Sequence[_Row], progress: Mapping[int, str], width: int, deep: bool) -> Table:
    table = Table(box=None, show_header=False, expand=True, pad_edge=False)
    table.add_column(width=4, justify="right", style="dim")
    table.add_column(width=1)
    table.add_column(width=7 if deep else 12, no_wrap=True, style="green")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        node = row.node
        line = _one_line(progress.get(node.id, "") if node.pending else node.text)
        tail = line[-max(10, width - 20 - len(row.prefix)) :] if node.pending or not deep else line
        shown = Text(row.prefix, style="dim")
        if row.hidden:
            folded = ", ".join(f"{count} {what}" for what, count in sorted(row.hidden.items()))
            shown.append(f"[+ {folded}] ", style="italic")
        shown.append(tail, style="" if node.pending or "kept" in node.notes else "dim")
        table.add_row(str(node.id), _mark(node), _figure(node), shown)
    return table


def _mark(node: Node) -> str:
    if "merged_into" in node.notes:
        return "↪"
    if "pruned" in node.notes:
        return "✂"
    return "·" if node.pending else _MARKS.get(node.finish_reason or "", "?")


def _figure(node: Node) -> Text:
    """The answer, where the node went, or what its strategy thinks of it."""
    if node.answer is not None:
        return Text(_one_line(node.answer))
    if "merged_into" in node.notes:
        return Text(f"#{node.notes['merged_into']}", style="magenta")
    for name in ("score", "value", "f", "confidence"):
        if isinstance(value := node.notes.get(name), (int, float)):
            return Text(f"{value:.4g}", style="cyan")
    return Text()


def _one_line(text: str) -> str:
    return " ".join(plain(text).split())


def _sample_rows(nodes: Sequence[Node], max_rows: int) -> list[_Row]:
    """The samples that are being written, and as many of the newest others as there is room for."""
    if len(nodes) > max_rows:
        ranked = sorted(nodes, key=lambda node: (node.pending, node.id))[-max_rows:]
        nodes = sorted(ranked, key=lambda node: node.id)
    return [_Row(node) for node in nodes]


def _tree_rows(nodes: Sequence[Node], max_rows: int) -> list[_Row]:
    """The tree's lines, depth first, each with its branch drawn before it."""
    more: list[Node] = []
    shown: list[Node] = []
    for shown in _views(nodes):
        if len(shown) <= max_rows:
            break
        more = shown
    kept = {node.id for node in shown[-max_rows:]}
    spare = [node for node in more if node.id not in kept]  # the newest of what need not all be folded
    shown = [node for node in nodes if node.id in kept] + spare[max(0, len(spare) - (max_rows - len(kept))) :]
    rows = {node.id: _Row(node) for node in sorted(shown, key=lambda node: node.id)}
    parents = {node.id: node.parent for node in nodes}

    def nearest(node: int) -> int | None:
        """The nearest node above that has a line."""
        above = parents.get(node)
        while above is not None and above not in rows:
            above = parents.get(above)
        return above

    children: dict[int | None, list[_Row]] = {}
    for node in nodes:
        above = nearest(node.id)
        if node.id in rows:
            children.setdefault(above, []).append(rows[node.id])
        elif above is not None:
            rows[above].hidden[_fate(node)] += 1
    lines: list[_Row] = []
    for row in children.get(None, []):
        row.prefix = "⋯ " if row.node.depth > 1 else ""  # what is above it has no line
    waiting = list(reversed(children.get(None, [])))
    while waiting:
        row = waiting.pop()
        lines.append(row)
        below = children.get(row.node.id, [])
        stem = row.prefix.replace("├─", "│ ").replace("└─", "  ").replace("⋯ ", "  ")
        for child in below:
            child.prefix = stem + ("└─" if child is below[-1] else "├─")
        waiting += reversed(below)
    return lines


def _views(nodes: Sequence[Node]) -> Iterator[list[Node]]:
    """The nodes that get a line, ever fewer."""
    newest = max(node.depth for node in nodes)
    alive: set[int] = set()  # it or something below is neither pruned nor lost
    growing: set[int] = set()  # something below is being written or may be extended
    seen: set[int | None] = set()  # answer classes
    for node in reversed(nodes):  # children before their parents
        lost = "pruned" in node.notes or "merged_into" in node.notes or node.failed
        leaf = node.pending or (node.open and not lost)
        if not lost or node.id in alive:
            alive |= {node.id, node.parent or 0}
        if leaf or node.id in growing:
            growing |= {node.id, node.parent or 0}
    best = sorted((node for node in nodes if node.finished), key=lambda node: -_score(node))
    for node in best:
        if node.answer_class not in seen and node.id in alive:
            seen.add(node.answer_class)
            growing.add(node.id)
    for node in reversed(nodes):
        if node.id in growing and node.parent:
            growing.add(node.parent)
    yield list(nodes)
    yield [node for node in nodes if node.id in alive or node.depth == newest]
    yield [node for node in nodes if node.id in alive]
    chosen = [node for node in nodes if node.id in growing]
    yield chosen
    branches = Counter(node.parent for node in chosen)
    yield [node for node in chosen if branches[node.id] != 1]


def _score(node: Node) -> float:
    score = node.notes.get("score")
    return float(score) if isinstance(score, (int, float)) else 0.0


def _fate(node: Node) -> str:
    if "merged_into" in node.notes:
        return "merged"
    if "pruned" in node.notes:
        return "pruned"
    if node.failed:
        return "lost"
    return "finished" if node.finished else "steps"

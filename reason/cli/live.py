"""The live view of `reason solve --live`: samples growing, votes, and what it costs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from reason.search.driver import Run
from reason.search.tree import Node
from reason.types import Solution, Usage

__all__ = ["plain", "render", "watch"]

_REFRESH_SECONDS = 0.15
_CONTROLS = dict.fromkeys({*range(32), *range(127, 160)} - {*map(ord, "\t\n\r")}, "\ufffd")
_MARKS = {"eos": "✓", "stop": "✓", "length": "…", "error": "✗", "cancelled": "–"}


def plain(text: str) -> str:
    """The text without control characters: a sample must not steer the terminal."""
    return text.translate(_CONTROLS)


async def watch(run: Run) -> Solution:
    """Runs to the end and shows the tree while it grows (on standard error, so that pipes stay clean)."""
    console = Console(stderr=True)
    began = time.perf_counter()
    work = asyncio.ensure_future(run.solve())
    try:
        with Live(console=console, auto_refresh=False, transient=not console.is_terminal) as view:
            while not work.done():
                await asyncio.wait({work}, timeout=_REFRESH_SECONDS)
                progress = run.engine.progress(run.owner)
                usage = await asyncio.to_thread(run.engine.usage, run.owner)
                room = max(3, console.height - 4)
                picture = render(run.tree.nodes[1:], progress, usage, time.perf_counter() - began, console.width, room)
                view.update(picture, refresh=True)
    finally:
        if not work.done():
            work.cancel()
    return await work


def render(
    nodes: list[Node], progress: Mapping[int, str], usage: Usage, seconds: float, width: int, max_rows: int
) -> RenderableType:
    """One frame: a line for each sample (as many as fit), then the votes and the ledger."""
    table = Table(box=None, show_header=False, expand=True, pad_edge=False)
    table.add_column(width=3, justify="right", style="dim")
    table.add_column(width=1)
    table.add_column(width=12, no_wrap=True, style="green")
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
    for node in nodes[-max_rows:]:
        text = progress.get(node.id, "") if node.pending else node.text
        tail = " ".join(plain(text).split())[-max(10, width - 24) :]
        mark = "·" if node.pending else _MARKS.get(node.finish_reason or "", "?")
        answer = " ".join(plain(node.answer or "").split())
        table.add_row(str(node.id), mark, Text(answer), Text(tail, style="" if node.pending else "dim"))
    votes = Counter(node.answer_class for node in nodes if node.answer_class is not None)
    names = {node.answer_class: node.answer for node in reversed(nodes) if node.answer_class is not None}
    tally = Text("votes  ", style="bold")
    for answer_class, count in votes.most_common(5):
        name = " ".join(plain(names[answer_class] or "").split())
        tally.append(f"{name} ", style="green").append(f"×{count}   ", style="dim")
    rate = usage.policy_tokens / seconds if seconds else 0.0
    ledger = Text(
        f"{usage.policy_tokens:,} tokens   {rate:.0f} tokens/s   {usage.forwards:,} forwards   "
        f"KV peak {usage.unique_kv_tokens_peak:,}   {seconds:.1f} s",
        style="dim",
    )
    return Group(table, Rule(style="dim"), tally, ledger)

"""The table of what speculation saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from reason.report.grains import grains

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_grains"]


def print_grains(console: Console, usage: Mapping[str, float], *, planned: int = 0) -> None:
    """Prints it where anything was proposed; see ``grains``."""
    from rich.table import Table

    rows = grains(usage, planned=planned)
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("speculation", style="dim")
    table.add_column("proposed", justify="right")
    table.add_column("stood", justify="right")
    table.add_column("saved")
    for row in rows:
        table.add_row(*row.cells)
    console.print(table)

"""Tables of figures on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reason.report.tables import Table

__all__ = ["print_tables"]


def print_tables(tables: Sequence[Table], *, bright: int = 0) -> None:
    """Tables as people read them, on the terminal.

    Args:
        bright: how many columns behind the names stand out; the others are dimmed.
    """
    from rich.console import Console
    from rich.table import Table as Grid
    from rich.text import Text

    console = Console()
    for table in tables:
        console.print(Text(table.title, style="bold"), soft_wrap=True)
        grid = Grid(box=None, pad_edge=False)
        for number, heading in enumerate(table.headings):
            justify: Any = "left" if number < table.names else "right"
            grid.add_column(heading, justify=justify, style="dim" if number >= table.names + bright else "")
        for row in table.rows:
            grid.add_row(*(Text(cell) for cell in row))
        console.print(grid)
        if table.note:
            console.print(Text(table.note, style="dim"), soft_wrap=True)
        console.print()

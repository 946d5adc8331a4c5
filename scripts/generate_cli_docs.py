"""Writes what `reason ... --help` says into docs/cli.md: the block after each mark is made anew, the rest stays.

    .venv/bin/python scripts/generate_cli_docs.py

A mark is a line `<!-- help: reason models pull -->`. The text is that of the terminal without colours and boxes, at a
fixed width.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from reason.cli.main import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
WIDTH = 100
BLOCK = re.compile(r"(<!-- help: (reason[\w -]*?) -->\n)(?:```text\n.*?\n```\n)?", re.DOTALL)


def commands() -> dict[str, str]:
    """The help of every command and group by what is typed, "reason models pull", in the order of the app."""
    return dict(_walk(typer.main.get_command(app), "reason", None))


def _walk(command: Any, name: str, parent: Any) -> Iterator[tuple[str, str]]:
    command.rich_markup_mode = None  # plain text
    context = command.context_class(
        command,
        info_name=name.rpartition(" ")[2],
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    yield name, command.get_help(context).strip()
    for word, child in getattr(command, "commands", {}).items():
        yield from _walk(child, f"{name} {word}", context)


def render(page: str) -> str:
    """The page with every block as it should be.

    Raises:
        ValueError: a command has no mark, or a mark no command; says which.
    """
    texts = commands()
    marked = [found[2] for found in BLOCK.finditer(page)]
    if sorted(marked) != sorted(texts):
        lacking, unknown = sorted(set(texts) - set(marked)), sorted(set(marked) - set(texts))
        raise ValueError(f"docs/cli.md needs one mark for each command; without: {lacking}; of no command: {unknown}")
    return BLOCK.sub(lambda found: f"{found[1]}```text\n{texts[found[2]]}\n```\n", page)


def main() -> None:
    try:
        page = render(PAGE.read_text(encoding="utf-8"))
    except ValueError as error:
        sys.exit(f"error: {error}")
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

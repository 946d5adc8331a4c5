"""`reason strategies`: what there is to search with, and each strategy's fields."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields
from typing import Annotated, Any

import typer

from reason.cli.errors import exit_on_error

__all__ = ["field_docs", "markdown_table", "strategies"]


@exit_on_error()
def strategies(
    name: Annotated[
        str | None, typer.Argument(help="A strategy, to see its fields.", show_default="list them all")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the README's table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the strategies, or the fields of one."""
    from reason.errors import UnknownName
    from reason.search.strategies import STRATEGIES

    if name is not None and name.lower() not in STRATEGIES:
        raise UnknownName("strategy", name, STRATEGIES)
    if markdown:
        typer.echo(markdown_table())
    elif name is None:
        _list(as_json)
    else:
        _show(name.lower(), as_json)


def markdown_table() -> str:
    """All strategies as a table in Markdown."""
    from reason.search.strategies.about import ABOUT

    rows = ["| name | what | source |", "|---|---|---|"]
    for name, (what, source, link) in ABOUT.items():
        rows.append(f"| `{name}` | {what} | {f'[{source}]({link})' if link else source} |")
    return "\n".join(rows)


def field_docs(kind: type[Any]) -> dict[str, str]:
    """What the docstrings of a dataclass and its bases say of its fields."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = base.__dict__.get("__doc__") or ""
        _, args, listed = text.partition("Args:")
        if not args:
            continue
        lines = [line for line in listed.splitlines() if line.strip()]
        indent = len(lines[0]) - len(lines[0].lstrip())
        names: list[str] = []
        for line in lines:
            here = len(line) - len(line.lstrip())
            if here < indent:
                break
            if here == indent:
                before, _, line = line.partition(":")
                names = [name.strip() for name in before.split(",")]
            for name in names:
                found[name] = f"{found.get(name, '') if here > indent else ''} {line.strip()}".strip()
    return found


def _list(as_json: bool) -> None:
    from reason.search.strategies.about import ABOUT

    if as_json:
        typer.echo(json.dumps([{"name": name, **about._asdict()} for name, about in ABOUT.items()], indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("what")
    table.add_column("source", style="dim", no_wrap=True)
    for name, about in ABOUT.items():
        table.add_row(name, Text(about.what.replace("`", "")), about.source)
    console = Console()
    console.print(table)
    console.print("reason strategies NAME lists the fields of one; -S FIELD=VALUE sets them", style="dim")


def _show(name: str, as_json: bool) -> None:
    from reason.search.strategies import STRATEGIES
    from reason.search.strategies.about import ABOUT

    kind, about = STRATEGIES[name], ABOUT[name]
    docs = field_docs(kind)
    known = [
        {"name": each.name, "type": each.type, "default": _default(each), "what": docs.get(each.name, "")}
        for each in fields(kind)
        if each.init
    ]
    if as_json:
        typer.echo(json.dumps({"name": name, **about._asdict(), "fields": known}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(f"{name}: {about.what}", style="bold"), soft_wrap=True)
    console.print(Text(f"{about.source} {about.link}".strip(), style="dim"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("field", no_wrap=True)
    table.add_column("default", no_wrap=True)
    table.add_column("what", style="dim")
    for each in known:
        table.add_row(each["name"], Text(str(each["default"])), Text(each["what"]))
    console.print(table)


def _default(field: Any) -> Any:
    """JSON-able."""
    value = field.default if field.default is not MISSING else field.default_factory()
    return value if isinstance(value, (str, int, float, bool, type(None))) else type(value).__name__

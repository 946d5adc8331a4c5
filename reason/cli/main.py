"""`reason`: the command line."""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from reason.cli import (
    bench,
    compare,
    compress,
    eval,
    mcp,
    models,
    serve,
    solve,
    strategies,
    train,
    train_gate,
    train_router,
    view,
)

__all__ = ["app"]

app = typer.Typer(
    name="reason",
    help="Better answers from a language model for the compute you can spend.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("solve")(solve.solve)
app.command("eval")(eval.evaluate)
app.command("compare")(compare.compare)
app.command("view")(view.view)
app.command("compress")(compress.compress)
app.command("serve")(serve.serve)
app.command("mcp")(mcp.mcp)
app.command("strategies")(strategies.strategies)
app.add_typer(models.app, name="models")
train.app.command("gate")(train_gate.gate)
train.app.command("router")(train_router.router)
app.add_typer(train.app, name="train")
app.add_typer(bench.app, name="bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        from reason import __version__

        typer.echo(f"reason {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Better answers from a language model for the compute you can spend."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what a terminal cannot show is shown escaped
            stream.reconfigure(errors="backslashreplace")

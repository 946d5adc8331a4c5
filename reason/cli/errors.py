"""Errors as people want them on a command line: what went wrong on stderr, an exit code, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from reason.errors import ReasonError, UsageError

__all__ = ["exit_on_error"]


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Ends the process on this package's errors: 2 for ``UsageError``, 1 for the others, 130 for Ctrl-C.

    A context manager and, called, a decorator: ``@exit_on_error()`` below ``@app.command()``. Other exceptions are bugs
    and keep their traceback.
    """
    try:
        yield
    except ReasonError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr, flush=True)
        raise typer.Exit(130) from None

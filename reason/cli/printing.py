"""JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer

__all__ = ["print_json"]


def print_json(content: Any) -> None:
    """One line, in letters that the stream can show."""
    typer.echo(json.dumps(content, ensure_ascii=getattr(sys.stdout, "encoding", "") != "utf-8"))

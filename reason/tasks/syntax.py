"""Python text to syntax trees, from any thread."""

from __future__ import annotations

import ast
import threading
import warnings
from typing import Any

__all__ = ["parse", "parse_expression", "parse_literal"]

_PARSING = threading.Lock()
"""CPython 3.11 counts how deep the tree is that it builds in one place for all threads, and fails where two build at
the same time (python/cpython#106905)."""


def parse(code: str) -> ast.Module:
    """As ``ast.parse``, without warnings."""
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code)


def parse_expression(text: str) -> ast.expr:
    """The tree of one expression; raises as ``ast.parse`` does."""
    with _PARSING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text, mode="eval").body


def parse_literal(text: str) -> Any:
    """As ``ast.literal_eval`` of a text."""
    return ast.literal_eval(parse_expression(text.lstrip(" \t")))

"""How a model calls a tool: ``<python>…</python>``, where its writing stops until the tool has answered."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["CLOSINGS", "TOOLS", "Call", "closing", "find_call"]

TOOLS = ("python", "calc", "search")

_OPENING = re.compile(rf"<({'|'.join(TOOLS)})>")
_FENCE = re.compile(r"\A\s*```(?:python|py)?\s*\n(.*?)(?:\n```\s*)?\Z", re.DOTALL)


class Call(NamedTuple):
    """A tool and what it is asked."""

    tool: str
    argument: str


def closing(tool: str) -> str:
    """What ends a call."""
    return f"</{tool}>"


CLOSINGS = tuple(map(closing, TOOLS))


def find_call(text: str) -> Call | None:
    """The call that a text ends in the middle of: with its opening, and without its closing or anything after it."""
    openings = list(_OPENING.finditer(text))
    if not openings:
        return None
    tool, argument = openings[-1][1], text[openings[-1].end() :]
    if closing(tool) in argument:
        return None
    fenced = _FENCE.match(argument) if tool == "python" else None
    return Call(tool, (fenced[1] if fenced else argument).strip("\n") if tool == "python" else argument.strip())

"""A fixed template: every branch drafts the same shape, whatever it costs (Medusa, Token Recycling, STAND).

A template is a set of paths of ranks: (0,) is the best candidate for the next token, (1, 0) the best after the second
best. ``data_driven`` makes one from measurements, ``balanced`` is Token Recycling's kind of shape.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reason.errors import UsageError
from reason.speculate.draft import Source, Stream, Template
from reason.speculate.policy.growing import Growth
from reason.speculate.policy.ranking import Ranking

__all__ = ["Fixed", "check_template", "load_template", "save_template"]

CHAIN: Template = tuple((0,) * depth for depth in range(1, 8))


class Fixed:
    """See the module's docstring.

    Args:
        template: its paths; a path's parent is a path as well.
    """

    name = "fixed"

    def __init__(self, template: Template = CHAIN) -> None:
        self.template = check_template(template)

    def grow(self, streams: Sequence[Stream], source: Source, ranking: Ranking) -> Growth:
        growth = Growth(streams, source, ranking, max_depth=len(self.template[-1]), floor=0.0)
        growth.follow(self.template)
        return growth


def check_template(template: Sequence[Sequence[Any]]) -> Template:
    """The paths, parents first, by depth and then rank.

    Raises:
        UsageError: a path is no list of ranks, or its parent or an earlier sibling is missing.
    """
    paths = {tuple(path) for path in template}
    for path in paths:
        if not path or not all(type(rank) is int and rank >= 0 for rank in path):
            raise UsageError(f"a template's path is a list of ranks from 0, got {list(path)}")
        if len(path) > 1 and path[:-1] not in paths:
            raise UsageError(f"the template has {list(path)} but not its parent {list(path[:-1])}")
        if path[-1] and (*path[:-1], path[-1] - 1) not in paths:
            raise UsageError(f"the template has {list(path)} but not the sibling of the rank before")
    if not paths:
        raise UsageError("the template is empty")
    return tuple(sorted(paths, key=lambda path: (len(path), path)))


def load_template(file: Path) -> Template:
    """A template that ``save_template`` wrote.

    Raises:
        UsageError: the file cannot be read, or is no template.
    """
    try:
        return check_template(json.loads(file.read_text(encoding="utf-8"))["paths"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not a draft tree: {error}") from error


def save_template(file: Path, template: Template, made_from: str) -> None:
    """Writes a template as JSON, with a line on what it was measured on."""
    text = json.dumps({"made_from": made_from, "paths": [list(path) for path in template]})
    file.write_text(text + "\n", encoding="utf-8")

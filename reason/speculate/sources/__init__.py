"""The draft sources by name. A new one is a file here, a line below, and it is in ``solve``, the CLI and the docs."""

from __future__ import annotations

from collections.abc import Callable

from reason.errors import UnknownName, UsageError
from reason.speculate.draft import Source
from reason.speculate.sources.goose import Goose
from reason.speculate.sources.lookup import Lookup
from reason.speculate.sources.retrieval import Retrieval
from reason.speculate.sources.stand import Stand
from reason.speculate.sources.suffix import Suffix
from reason.speculate.sources.token_recycling import TokenRecycling
from reason.speculate.sources.union import Union

__all__ = ["AUTO", "DRAFT_MODEL", "SOURCES", "make_source"]

SOURCES: dict[str, Callable[[], Source]] = {
    "stand": Stand,
    "token-recycling": TokenRecycling,
    "suffix": Suffix,
    "lookup": Lookup,
    "goose": Goose,
    "retrieval": Retrieval,
}

AUTO = "suffix+goose"
"""What "auto" drafts with, whatever models are at hand."""

DRAFT_MODEL = "draft-model"
"""A smaller model of the same tokenizer, "draft-model:NAME" and options (``sources.draft_shapes``). It is no line of
``SOURCES``, because whoever loads models has to make it: its maker comes in ``others``."""


def make_source(name: str, others: dict[str, Callable[[str], Source]] | None = None) -> Source:
    """A source by name, or the union of several joined by "+".

    Args:
        others: makers of sources that need an argument, which follows a colon in their name ("draft-model:NAME").

    Raises:
        UnknownName: no source of that name.
        UsageError: a source is named twice.
    """
    names = [part.strip() for part in name.split("+")]
    if len({part.lower() for part in names}) < len(names):
        raise UsageError(f"a draft source is named twice in {name!r}")
    made: list[Source] = []
    for part in names:
        kind, colon, argument = part.partition(":")
        if colon and others and kind in others:
            made.append(others[kind](argument))
        elif part.lower() in SOURCES:
            made.append(SOURCES[part.lower()]())
        else:
            alone = ["auto", "none"] if len(names) == 1 else []
            raise UnknownName("draft source", part, [*alone, *SOURCES, *(f"{other}:NAME" for other in others or ())])
    return made[0] if len(made) == 1 else Union(made)

"""Embedders: vectors of steps, for strategies that ask which steps say the same. A new one is a file here and a line
below."""

from __future__ import annotations

from typing import Any

from reason.verifiers.embeddings.hidden import HiddenStates

__all__ = ["DEFAULT_EMBEDDER", "EMBEDDERS"]

EMBEDDERS: dict[str, type[Any]] = {
    "hidden": HiddenStates,
}

DEFAULT_EMBEDDER = "hidden"

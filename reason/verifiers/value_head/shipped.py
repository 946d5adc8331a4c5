"""The value heads that come with the package, by the model whose states they read."""

from __future__ import annotations

from functools import cache
from pathlib import Path as FilePath

from reason.verifiers.value_head.head import ValueHead

__all__ = ["SHIPPED", "find_shipped"]

SHIPPED: dict[str, str] = {
    "qwen2.5-coder-0.5b-instruct": "qwen2.5-coder-0.5b-instruct.safetensors",
    "qwen2.5-coder-1.5b-instruct": "qwen2.5-coder-1.5b-instruct.safetensors",
}
"""File names by model. Beside each lies its card."""

_FOLDER = FilePath(__file__).parent / "heads"


@cache
def _load(file: str) -> ValueHead:
    return ValueHead.load(_FOLDER / file)


def find_shipped(model: str) -> ValueHead | None:
    """The head of a model, by its catalogue name or its publisher's repository; None if there is none."""
    from reason.models.catalogue import known_name

    name = known_name(model)
    return _load(SHIPPED[name]) if name in SHIPPED else None

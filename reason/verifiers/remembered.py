"""What was found out of paths, so that a longer one costs its new tokens alone."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

from reason.types import Path

__all__ = ["Remembered"]

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """Values by path; those used last are kept.

    Args:
        size: so many.
    """

    def __init__(self, size: int = 4096) -> None:
        self._size = size
        self._known: OrderedDict[Path, Value] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, path: Path) -> Value | None:
        if path not in self._known:
            return None
        self._known.move_to_end(path)
        return self._known[path]

    def put(self, path: Path, value: Value) -> None:
        self._known[path] = value
        self._known.move_to_end(path)
        while len(self._known) > self._size:
            self._known.popitem(last=False)

    def longest(self, path: Path, lengths: Iterable[int]) -> tuple[int, Value] | None:
        """The longest known beginning of a path, of some lengths, and its value."""
        for length in sorted(set(lengths), reverse=True):
            if 0 < length <= len(path) and (value := self.get(path[:length])) is not None:
                return length, value
        return None

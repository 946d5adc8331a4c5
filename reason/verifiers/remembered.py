"""What was found out of paths, so that a longer one costs its new tokens alone."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

from reason.types import Path

__all__ = ["Remembered"]

Value = TypeVar("Value")


class Remembered(Generic[Value]):
    """Values by path; those used last are kept. Threads may share it.

    Args:
        size: tokens of all paths together.
    """

    def __init__(self, size: int = 1 << 20) -> None:
        self._size = size
        self._tokens = 0
        self._known: OrderedDict[Path, Value] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Tokens of all paths."""
        return self._tokens

    def get(self, path: Path) -> Value | None:
        with self._lock:
            if path not in self._known:
                return None
            self._known.move_to_end(path)
            return self._known[path]

    def put(self, path: Path, value: Value) -> None:
        with self._lock:
            if path not in self._known:
                self._tokens += len(path)
            self._known[path] = value
            self._known.move_to_end(path)
            while self._tokens > self._size:
                gone, _ = self._known.popitem(last=False)
                self._tokens -= len(gone)

    def longest(self, path: Path, lengths: Iterable[int]) -> tuple[int, Value] | None:
        """The longest known beginning of a path, of some lengths, and its value."""
        for length in sorted(set(lengths), reverse=True):
            if 0 < length <= len(path) and (value := self.get(path[:length])) is not None:
                return length, value
        return None

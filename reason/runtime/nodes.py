"""What the KV forest is made of: runs of tokens, and cursors on them. See ``reason.runtime.forest``."""

from __future__ import annotations

import numpy as np

from reason.runtime.slots import Slots

__all__ = ["Branch", "Node"]


class Node:
    """One run of tokens. ``slots[: len(tokens)]`` are theirs; the array has spare room to grow in place."""

    __slots__ = (
        "children",
        "committed",
        "computed",
        "cursors",
        "last_used",
        "locks",
        "parent",
        "slots",
        "start",
        "tokens",
    )

    def __init__(self, parent: Node | None, start: int, tokens: list[int], slots: Slots, *, committed: bool) -> None:
        self.parent = parent
        self.start = start  # position of tokens[0] in the path
        self.tokens = tokens
        self.slots = slots  # [capacity >= len(tokens)] int32
        self.children: dict[int, Node] = {}  # by first token
        self.computed = 0  # tokens[:computed] have valid KV
        self.committed = committed
        self.locks = 0  # cursors on this node or below it
        self.cursors: dict[Branch, None] = {}  # cursors on this node, in insertion order
        self.last_used = 0

    def __len__(self) -> int:
        return len(self.tokens)

    def grow(self, slot: int) -> None:
        """Puts ``slot`` behind the last one, doubling the array when it is full."""
        size = len(self.tokens)
        if size == len(self.slots):
            self.slots = np.concatenate([self.slots, np.empty(max(16, size), dtype=np.int32)])
        self.slots[size] = slot


class Branch:
    """A cursor into the forest: the path that ends with ``node.tokens[offset - 1]``. Made by ``KVForest`` only."""

    __slots__ = ("_closed", "draft", "node", "offset", "owner")

    def __init__(self, node: Node, offset: int, owner: str, *, draft: bool) -> None:
        self.node = node
        self.offset = offset
        self.owner = owner
        self.draft = draft
        self._closed = False

    @property
    def length(self) -> int:
        """Tokens in the path."""
        return self.node.start + self.offset

    @property
    def closed(self) -> bool:
        return self._closed

    def runs(self) -> list[tuple[Node, int]]:
        """The path as (node, tokens of it that belong to the path), root side first."""
        runs: list[tuple[Node, int]] = []
        node: Node | None = self.node
        length = self.offset
        while node is not None and node.parent is not None:
            runs.append((node, length))
            node = node.parent
            length = len(node.tokens)
        runs.reverse()
        return runs

    def tokens(self) -> list[int]:
        """The whole path."""
        return [token for node, length in self.runs() for token in node.tokens[:length]]

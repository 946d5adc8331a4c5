"""The KV forest's invariants, checked from scratch: what every engine test ends with."""

from __future__ import annotations

import numpy as np

from reason.runtime.forest import KVForest
from reason.runtime.nodes import Branch
from reason.runtime.slots import SCRATCH_SLOT, Slots

__all__ = ["check_forest"]


def check_forest(forest: KVForest) -> None:
    """Raises AssertionError at the first invariant that does not hold. O(cached tokens)."""
    used: list[Slots] = []
    locked = cached = 0
    cursors: set[Branch] = set()
    for root in forest._roots.values():
        assert not root.tokens
        assert root.locks == len(root.cursors) + sum(c.locks for c in root.children.values()), "root locks"
        cursors |= set(root.cursors)
    for node in forest.nodes():
        parent = node.parent
        assert parent is not None
        assert node.tokens, "empty node"
        assert parent.children.get(node.tokens[0]) is node, "child key"
        assert node.start == parent.start + len(parent), "start"
        assert node.locks == len(node.cursors) + sum(c.locks for c in node.children.values()), "locks"
        assert 0 <= node.computed <= len(node), "computed"
        assert node.computed == len(node) or all(c.computed == 0 for c in node.children.values()), "pending suffix"
        assert node.committed or not any(c.committed for c in node.children.values()), "committed below a draft"
        assert node.locks or (node.committed and node.computed == len(node)), "unlocked node not worth keeping"
        assert all(c.node is node and 0 < c.offset <= len(node) and not c.closed for c in node.cursors), "cursor"
        assert all(c.draft or node.committed for c in node.cursors), "branch on an uncommitted node"
        used.append(node.slots[: len(node)])
        cached += len(node)
        locked += len(node) if node.locks else 0
        cursors |= set(node.cursors)
    slots = np.concatenate([*used, forest.pool.free_slots()])
    assert len(slots) == forest.pool.capacity and len(np.unique(slots)) == len(slots), "slots lost or held twice"
    assert SCRATCH_SLOT not in slots, "the scratch slot was handed out"
    assert cached == forest._cached_tokens and locked == forest._locked_tokens, "token counters"
    owned = [b for branches in forest._owners.values() for b in branches]
    assert set(owned) == cursors and len(owned) == len(cursors), "owner registry"

"""The KV forest: KV addressed by content.

A radix trie of token runs over a pool of KV slots, one root per namespace (adapter). A *node* holds a run of tokens
and the slot of each; a *branch* is a cursor (node, offset) that somebody extends. Whatever path a branch spells, its
KV is stored once: extending walks into an existing run where the tokens agree, splits it where they part, and
takes a new slot only for a token that nobody else has at that place.

Locks. Every branch locks the nodes on its path. Unlocked nodes stay as cache and are evicted from the leaves, least
recently used first. ``available`` answers in O(1) how many slots could be had.

States of a token. *pending*: it has a slot but no KV yet (``index >= node.computed``); the next forward computes it.
*computed*: its KV is valid. Pending tokens are always a suffix of a path.

Claims. A draft token is a node that is not *committed*. ``claim`` gives a cursor on it; several branches may claim
one node. A branch that appends the same token commits the node (no copy, no crop); a node that loses its last cursor
uncommitted is freed at once. Committed and uncommitted tokens never share a node.

Take note: offsets move when a run is split or joined; the forest fixes every cursor, so hold branches, not nodes.
Contract after mini-sglang's radix cache (lock, insert with dedup, integrity check); claims are ours.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator, Sequence

import numpy as np

from reason.runtime.nodes import Branch, Node
from reason.runtime.slots import SlotPool, Slots

__all__ = ["Branch", "KVForest", "Node", "PoolExhausted"]


class PoolExhausted(Exception):
    """No free slot and nothing left to evict. The engine preempts; users never see this."""


class KVForest:
    """See the module's docstring. Not thread-safe: the engine's loop owns it."""

    def __init__(self, num_slots: int) -> None:
        self.pool = SlotPool(num_slots)
        self.structure = 0
        """Changes whenever a run is added, split or joined; while it is the same, locked runs have only grown."""
        self._roots: dict[Hashable, Node] = {}
        self._owners: dict[str, dict[Branch, None]] = {}
        self._clock = 0
        self._locked_tokens = 0  # tokens in nodes with locks > 0
        self._cached_tokens = 0  # tokens in all nodes
        self._evictable: list[tuple[int, int, Node]] = []  # heap of (last_used, tie, node), checked when popped
        self._tie = 0
        self._heap_limit = 1024

    # -- capacity ------------------------------------------------------------------------------------------------

    @property
    def cached_tokens(self) -> int:
        """Tokens that hold a slot, locked or not."""
        return self._cached_tokens

    @property
    def locked_tokens(self) -> int:
        """Tokens in nodes that some branch locks; these cannot be evicted."""
        return self._locked_tokens

    @property
    def available(self) -> int:
        """Slots that could be had now: free ones and those of unlocked nodes."""
        return self.pool.num_free + self._cached_tokens - self._locked_tokens

    def evict(self, count: int) -> int:
        """Frees at least ``count`` slots if unlocked nodes hold that many, oldest leaves first and from the end of
        a run; returns how many. Evicting 0 is always safe; locked nodes are never touched."""
        freed = 0
        while freed < count and self._evictable:
            entry = heapq.heappop(self._evictable)
            if not _is_current(entry):
                continue
            node = entry[2]
            surplus = len(node) - (count - freed)
            if surplus > 0:
                freed += self._trim(node, surplus)
                self._push_evictable(node)
            else:
                freed += len(node)
                self._remove(node)
        return freed

    def clear(self) -> int:
        """Drops every unlocked node; returns how many slots that freed."""
        return self.evict(self._cached_tokens)

    # -- branches ------------------------------------------------------------------------------------------------

    def match(self, tokens: Sequence[int], namespace: Hashable = None, *, pending: bool = False) -> int:
        """How many leading tokens have computed, committed KV (with ``pending``: hold a slot at all). No lock."""
        node = self._roots.get(namespace)
        matched = 0
        while node is not None:
            node = node.children.get(tokens[matched]) if matched < len(tokens) else None
            if node is None or not (node.committed or pending):
                break
            usable = len(node) if pending else node.computed
            length = min(usable, _common_prefix(node.tokens, tokens, matched))
            matched += length
            if length < len(node):
                break
        return matched

    def open(self, tokens: Sequence[int], owner: str = "", namespace: Hashable = None) -> Branch:
        """A branch for the path ``tokens``: what is cached is locked, the rest becomes pending tokens.

        Raises:
            PoolExhausted: the missing tokens do not fit; nothing is kept locked.
        """
        root = self._roots.get(namespace)
        if root is None:
            root = self._roots[namespace] = Node(None, 0, [], np.empty(0, dtype=np.int32), committed=True)
        branch = Branch(root, 0, owner, draft=True)  # commits nothing before everything fits
        self._attach(branch)
        walked = self._walk(branch, tokens, 0)
        branch.draft = False
        if walked < len(tokens):
            try:
                self._add(branch, tokens[walked:])
            except PoolExhausted:
                self.close(branch)
                raise
        for node, _ in branch.runs():
            node.committed = True
        return branch

    def fork(self, branch: Branch, owner: str | None = None) -> Branch:
        """Another branch at the same place. Costs no KV."""
        assert not branch.closed and not branch.draft, "fork of a closed branch or a claim"
        twin = Branch(branch.node, branch.offset, branch.owner if owner is None else owner, draft=False)
        self._attach(twin)
        return twin

    def append(self, branch: Branch, token: int) -> None:
        """Extends the branch by one token, which is pending unless somebody already computed it there. Appending a
        token that is claimed as a draft commits it.

        Raises:
            PoolExhausted: a slot was needed and none could be had; the branch is unchanged.
        """
        assert not branch.closed and not branch.draft, "append to a closed branch or a claim"
        node, offset = branch.node, branch.offset
        if offset == len(node.tokens) and not node.children and node.parent is not None and node.committed:
            self._extend_in_place(branch, token)  # the common case: a leaf grows
        elif not self._walk(branch, (token,), 0):
            self._add(branch, (token,))

    def claim(self, branch: Branch, token: int) -> Branch:
        """A draft cursor one token beyond ``branch`` (a branch, or a claim to draft deeper). The token is shared
        with whoever has or claims it there. ``available`` falls by one at most. Close the claim when the draft is
        decided.

        Raises:
            PoolExhausted: a slot was needed and none could be had.
        """
        assert not branch.closed, "claim on a closed branch"
        if branch.offset == len(branch.node):
            child = branch.node.children.get(token)
            if child is not None and not child.locks and len(child) > 1:
                self._split(child, 1)  # the rest of a cached run can still be evicted
        draft = Branch(branch.node, branch.offset, branch.owner, draft=True)
        self._attach(draft)
        try:
            if not self._walk(draft, (token,), 0):
                self._add(draft, (token,))
        except PoolExhausted:
            self.close(draft)
            raise
        return draft

    def tidy(self, branch: Branch) -> None:
        """Makes one run again of the end of the path where claims had parted it and nobody else branches off."""
        assert not branch.closed
        parent = branch.node.parent
        while parent is not None and parent.parent is not None and len(parent.children) == 1:
            above = parent.parent
            self._join(parent)
            if branch.node is not parent:
                return
            parent = above

    def close(self, branch: Branch) -> None:
        """Unlocks the branch's path. Computed KV stays cached; pending and uncommitted tokens that nobody else
        holds are freed. Closing twice is an error."""
        assert not branch.closed, "branch closed twice"
        branch._closed = True
        node: Node | None = branch.node
        del branch.node.cursors[branch]
        owned = self._owners[branch.owner]
        del owned[branch]
        if not owned:
            del self._owners[branch.owner]
        self._clock += 1
        while node is not None:
            parent = node.parent
            node.locks -= 1
            node.last_used = self._clock
            if node.locks == 0 and parent is not None:
                self._locked_tokens -= len(node)
                self._release(node)
            node = parent

    # -- what the forward needs -----------------------------------------------------------------------------------

    def mark_computed(self, node: Node, upto: int) -> None:
        """KV of ``node.tokens[:upto]`` is valid from now on."""
        assert upto <= len(node)
        node.computed = max(node.computed, upto)

    def slot_runs(self, branch: Branch) -> Slots:
        """The slots of the whole path, in order."""
        runs = [node.slots[:length] for node, length in branch.runs()]
        return np.concatenate(runs) if runs else np.empty(0, dtype=np.int32)

    def unique_tokens(self, owner: str) -> int:
        """Committed, computed tokens on the paths of ``owner``'s branches, shared ones once."""
        longest: dict[Node, int] = {}
        for branch in self._owners.get(owner, ()):
            node, length = branch.node, branch.offset
            while node.parent is not None:
                seen = longest.get(node, -1)
                if length > seen:
                    longest[node] = length
                if seen >= 0:
                    break  # the ancestors were counted in full when this node was first met
                node = node.parent
                length = len(node.tokens)
        return sum(min(length, node.computed) for node, length in longest.items() if node.committed)

    def owners(self) -> list[str]:
        """Who has branches open."""
        return list(self._owners)

    # -- internals ------------------------------------------------------------------------------------------------

    def _attach(self, branch: Branch) -> None:
        branch.node.cursors[branch] = None
        self._owners.setdefault(branch.owner, {})[branch] = None
        node: Node | None = branch.node
        while node is not None:
            self._lock(node)
            node = node.parent

    def _lock(self, node: Node) -> None:
        node.locks += 1
        if node.locks == 1:
            self._locked_tokens += len(node)

    def _descend(self, branch: Branch, child: Node, offset: int) -> None:
        """Moves the cursor into a child of its node; the path above stays locked by the same cursor."""
        del branch.node.cursors[branch]
        branch.node, branch.offset = child, offset
        child.cursors[branch] = None
        self._lock(child)

    def _walk(self, branch: Branch, tokens: Sequence[int], position: int) -> int:
        """Moves the cursor along existing tokens that equal ``tokens[position:]``; returns how many. A committed
        branch commits the uncommitted nodes that it walks into."""
        walked = 0
        while position + walked < len(tokens):
            node, offset = branch.node, branch.offset
            if offset < len(node.tokens):
                step = _common_prefix(node.tokens, tokens, position + walked, offset)
                if step == 0:
                    break
                branch.offset += step
            else:
                child = node.children.get(tokens[position + walked])
                if child is None:
                    break
                if not branch.draft:
                    child.committed = True
                step = _common_prefix(child.tokens, tokens, position + walked)
                self._descend(branch, child, step)
            walked += step
        return walked

    def _add(self, branch: Branch, tokens: Sequence[int]) -> None:
        """Adds ``tokens``, which part from what exists, below the cursor and moves it to their end."""
        if branch.offset < len(branch.node):
            self._split(branch.node, branch.offset)  # first: it may unlock the rest of the run, to be evicted
        slots = self._take(len(tokens))
        self.structure += 1
        parent = branch.node  # read after evicting, which may join runs
        child = Node(parent, parent.start + len(parent), list(tokens), slots, committed=not branch.draft)
        parent.children[tokens[0]] = child
        self._cached_tokens += len(child)
        self._descend(branch, child, len(child))
        if not branch.draft and parent.parent is not None and len(parent.children) == 1:
            self._join(parent)

    def _extend_in_place(self, branch: Branch, token: int) -> None:
        if self.pool.num_free == 0 and not self.evict(1):
            raise PoolExhausted
        node = branch.node  # read after evicting, which may join runs
        node.grow(self.pool.take_one())
        node.tokens.append(token)
        branch.offset += 1
        self._cached_tokens += 1
        self._locked_tokens += 1

    def _take(self, count: int) -> Slots:
        missing = count - self.pool.num_free
        if missing > 0 and (self.available < count or self.evict(missing) < missing):
            raise PoolExhausted
        return self.pool.take(count)

    def _split(self, node: Node, at: int) -> None:
        """Cuts a run in two; ``node`` keeps the first ``at`` tokens and a new child gets the rest."""
        assert 0 < at < len(node)
        self.structure += 1
        lower = Node(
            node, node.start + at, node.tokens[at:], node.slots[at : len(node)].copy(), committed=node.committed
        )
        lower.children, node.children = node.children, {node.tokens[at]: lower}
        for child in lower.children.values():
            child.parent = lower
        lower.computed, node.computed = max(0, node.computed - at), min(node.computed, at)
        lower.last_used = node.last_used
        lower.locks = sum(child.locks for child in lower.children.values())
        for cursor in [c for c in node.cursors if c.offset > at]:
            del node.cursors[cursor]
            cursor.node, cursor.offset = lower, cursor.offset - at
            lower.cursors[cursor] = None
            lower.locks += 1
        del node.tokens[at:]
        node.slots = node.slots[:at]
        if node.locks and not lower.locks:  # only the upper part stays locked
            self._locked_tokens -= len(lower)
            self._release(lower)
        elif not lower.children:
            self._push_evictable(lower)

    def _join(self, node: Node) -> None:
        """Makes a node and its only child one run again, where both are committed."""
        (child,) = node.children.values()
        if not (node.committed and child.committed) or node.computed < len(node):
            return
        if node.locks and not child.locks:  # joining would lock what can now be evicted
            return
        self.structure += 1
        old = len(node)
        for cursor in child.cursors:
            cursor.node, cursor.offset = node, cursor.offset + old
            node.cursors[cursor] = None
        child.cursors = {}
        node.slots = np.concatenate([node.slots[:old], child.slots[: len(child)]])
        node.tokens += child.tokens
        node.computed = old + child.computed
        node.last_used = max(node.last_used, child.last_used)
        node.children = child.children
        for grandchild in node.children.values():
            grandchild.parent = node
        child.parent, child.tokens, child.children = None, [], {}
        if not node.locks and not node.children:
            self._push_evictable(node)

    def _release(self, node: Node) -> None:
        """A node lost its last lock: drop what is not worth caching, else offer it for eviction."""
        assert node.locks == 0
        if not node.committed or node.computed == 0:
            for child in list(node.children.values()):
                self._release(child)
            assert not node.children
            self._remove(node)
        else:
            if node.computed < len(node):
                assert not node.children
                self._trim(node, node.computed)
            self._push_evictable(node)

    def _trim(self, node: Node, keep: int) -> int:
        """Frees ``node.tokens[keep:]`` of an unlocked leaf."""
        freed = len(node) - keep
        self.pool.give_back(node.slots[keep : len(node)])
        del node.tokens[keep:]
        node.slots = node.slots[:keep]
        node.computed = min(node.computed, keep)
        self._cached_tokens -= freed
        return freed

    def _remove(self, node: Node) -> None:
        """Takes an unlocked leaf out of the trie."""
        parent = node.parent
        assert parent is not None and not node.children and not node.locks
        del parent.children[node.tokens[0]]
        self._trim(node, 0)
        node.parent = None
        if parent.parent is not None and len(parent.children) == 1 and not parent.cursors:
            self._join(parent)
        elif not parent.children and parent.parent is not None and not parent.locks:
            self._push_evictable(parent)

    def _push_evictable(self, node: Node) -> None:
        if node.children or node.locks:
            return
        if len(self._evictable) >= self._heap_limit:  # entries that went stale would pile up where nothing is evicted
            self._evictable = [entry for entry in self._evictable if _is_current(entry)]
            heapq.heapify(self._evictable)
            self._heap_limit = 2 * len(self._evictable) + 1024
        self._tie += 1
        heapq.heappush(self._evictable, (node.last_used, self._tie, node))

    # -- integrity -------------------------------------------------------------------------------------------------

    def nodes(self) -> Iterator[Node]:
        """Every node but the roots, parents before children."""
        stack = list(self._roots.values())
        while stack:
            node = stack.pop()
            if node.parent is not None:
                yield node
            stack.extend(node.children.values())

    def check_integrity(self) -> None:
        """Checks every invariant of the forest from scratch; raises AssertionError. O(cached tokens)."""
        from reason.runtime.integrity import check_forest

        check_forest(self)


def _is_current(entry: tuple[int, int, Node]) -> bool:
    """Whether an entry of the eviction heap still speaks of an unlocked leaf that was not used since."""
    stamp, _, node = entry
    return node.parent is not None and not node.locks and not node.children and node.last_used == stamp


def _common_prefix(run: Sequence[int], tokens: Sequence[int], position: int, offset: int = 0) -> int:
    """How many of ``run[offset:]`` equal ``tokens[position:]``."""
    limit = min(len(run) - offset, len(tokens) - position)
    if limit and run[offset : offset + limit] == list(tokens[position : position + limit]):
        return limit
    for i in range(limit):
        if run[offset + i] != tokens[position + i]:
            return i
    return limit

"""``KVForest.tidy``: what drafts have parted is one run again, and nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reason.runtime.forest import Branch, KVForest, PoolExhausted


def compute(forest: KVForest, branch: Branch) -> None:
    """What a forward does to a path."""
    for node, length in branch.runs():
        forest.mark_computed(node, length)


def opened(forest: KVForest, *tokens: int) -> Branch:
    branch = forest.open(tokens)
    compute(forest, branch)
    return branch


def draft(forest: KVForest, branch: Branch, *tokens: int) -> list[Branch]:
    """A chain of claims, computed."""
    claims: list[Branch] = []
    for token in tokens:
        claims.append(forest.claim(claims[-1] if claims else branch, token))
        compute(forest, claims[-1])
    return claims


def drop(forest: KVForest, claims: list[Branch]) -> None:
    for claim in reversed(claims):
        forest.close(claim)


def runs(branch: Branch) -> list[list[int]]:
    return [node.tokens[:length] for node, length in branch.runs()]


@pytest.mark.parametrize("accepted", range(5))
def test_a_draft_that_is_decided_leaves_one_run(accepted: int) -> None:
    forest = KVForest(40)
    branch = opened(forest, 1, 2, 3)
    claims = draft(forest, branch, 4, 5, 6, 7)
    slots = forest.slot_runs(claims[-1])[: 3 + accepted].tolist()
    assert len(claims[-1].runs()) > 1
    for token in (4, 5, 6, 7)[:accepted]:
        forest.append(branch, token)
    forest.append(branch, 99)
    drop(forest, claims)
    forest.tidy(branch)
    assert runs(branch) == [[1, 2, 3, *(4, 5, 6, 7)[:accepted], 99]]
    assert forest.slot_runs(branch).tolist()[:-1] == slots
    assert branch.node.computed == 3 + accepted
    assert forest.cached_tokens == 4 + accepted
    forest.check_integrity()
    forest.append(branch, 100)  # a leaf again, which grows in place
    assert len(branch.runs()) == 1


def test_many_drafts_leave_one_run() -> None:
    forest = KVForest(200)
    branch, rng = opened(forest, 1, 2, 3), random.Random(0)
    expected = [1, 2, 3]
    for _ in range(30):
        tokens = [rng.randrange(50) for _ in range(4)]
        claims = draft(forest, branch, *tokens)
        for token in (*tokens[: rng.randrange(5)], 60 + rng.randrange(9)):
            forest.append(branch, token)
            expected.append(token)
        compute(forest, branch)
        drop(forest, claims)
        forest.tidy(branch)
        assert runs(branch) == [expected]
        forest.check_integrity()


def test_another_branch_keeps_the_runs_apart() -> None:
    forest = KVForest(40)
    branch, other = opened(forest, 1, 2, 3, 4), opened(forest, 1, 2, 9)
    claims = draft(forest, branch, 5, 6)
    for token in (5, 6, 7):
        forest.append(branch, token)
    drop(forest, claims)
    forest.tidy(branch)
    assert runs(branch) == [[1, 2], [3, 4, 5, 6, 7]]
    assert runs(other) == [[1, 2], [9]]
    forest.close(other)
    forest.evict(1)  # the leaf that the other left
    forest.tidy(branch)
    assert runs(branch) == [[1, 2, 3, 4, 5, 6, 7]]
    forest.check_integrity()


def test_cursors_in_the_middle_move_along() -> None:
    forest = KVForest(40)
    branch = opened(forest, 1, 2, 3)
    early = forest.fork(branch)
    claims = draft(forest, branch, 4, 5)
    forest.append(branch, 4)
    middle = forest.fork(branch)
    forest.append(branch, 5)
    draft_below = forest.claim(branch, 8)
    drop(forest, claims)
    forest.tidy(branch)
    assert [cursor.tokens() for cursor in (early, middle, branch)] == [[1, 2, 3], [1, 2, 3, 4], [1, 2, 3, 4, 5]]
    assert draft_below.tokens() == [1, 2, 3, 4, 5, 8]
    assert early.node is middle.node is branch.node
    assert draft_below.node is not branch.node, "drafts never join"
    forest.check_integrity()
    forest.append(early, 7)  # parts what was joined
    assert early.tokens() == [1, 2, 3, 7]
    assert branch.tokens() == [1, 2, 3, 4, 5]
    forest.check_integrity()


def test_what_is_pending_stays_pending() -> None:
    forest = KVForest(40)
    branch = opened(forest, 1, 2)
    claims = [forest.claim(branch, 3)]
    forest.append(branch, 3)  # not computed
    forest.append(branch, 4)
    drop(forest, claims)
    forest.tidy(branch)
    assert branch.tokens() == [1, 2, 3, 4]
    assert sum(min(length, node.computed) for node, length in branch.runs()) == 2
    forest.check_integrity()


def test_joining_locks_nothing_that_could_be_evicted() -> None:
    """The branch ends where an unlocked run of the cache begins."""
    forest = KVForest(8)
    long = opened(forest, 1, 2, 3, 4, 5, 6)
    branch = opened(forest, 1, 2, 3)
    claims = draft(forest, branch, 9)
    drop(forest, claims)
    forest.close(long)
    before = forest.available
    forest.tidy(branch)
    assert forest.available >= before
    assert branch.tokens() == [1, 2, 3]
    forest.check_integrity()


def test_a_branch_at_the_root_has_nothing_to_tidy() -> None:
    forest = KVForest(4)
    branch = forest.open([])
    forest.tidy(branch)
    forest.append(branch, 1)
    forest.tidy(branch)
    assert runs(branch) == [[1]]
    forest.close(branch)
    with pytest.raises(AssertionError):
        forest.tidy(branch)


# -- any order of things -------------------------------------------------------------------------------------------


@dataclass
class Held:
    """A cursor and the path that it must spell, with each token's slot."""

    cursor: Branch
    path: list[int]
    slots: list[int]


class Bench:
    """A forest beside the paths that its cursors must spell."""

    def __init__(self, num_slots: int) -> None:
        self.forest = KVForest(num_slots)
        self.held: list[Held] = []
        self.committed: set[tuple[int, ...]] = set()  # every path that a branch ever spelled

    def pick(self, index: int, *, drafts: bool) -> Held | None:
        choice = [held for held in self.held if drafts or not held.cursor.draft]
        return choice[index % len(choice)] if choice else None

    def open(self, index: int, tokens: list[int]) -> None:
        self.add(lambda: self.forest.open(tokens), tokens)

    def fork(self, index: int, tokens: list[int]) -> None:
        held = self.pick(index, drafts=False)
        if held is not None:
            self.add(lambda: self.forest.fork(held.cursor), held.path)

    def claim(self, index: int, tokens: list[int]) -> None:
        for token in tokens[:3]:
            held = self.pick(index, drafts=True)
            if held is not None:
                self.add(lambda held=held, token=token: self.forest.claim(held.cursor, token), [*held.path, token])  # type: ignore[misc]
            index = len(self.held) - 1

    def add(self, make: Callable[[], Branch], path: list[int]) -> None:
        try:
            cursor = make()
        except PoolExhausted:
            return
        self.held.append(Held(cursor, list(path), self.forest.slot_runs(cursor).tolist()))

    def append(self, index: int, tokens: list[int]) -> None:
        held = self.pick(index, drafts=False)
        for token in tokens[:3] if held is not None else ():
            assert held is not None
            try:
                self.forest.append(held.cursor, token)
            except PoolExhausted:
                return
            held.path.append(token)
            held.slots.append(int(self.forest.slot_runs(held.cursor)[-1]))

    def compute(self, index: int, tokens: list[int]) -> None:
        held = self.pick(index, drafts=True)
        if held is not None:
            compute(self.forest, held.cursor)

    def close(self, index: int, tokens: list[int]) -> None:
        held = self.pick(index, drafts=True)
        if held is not None:
            self.held.remove(held)
            self.forest.close(held.cursor)

    def tidy(self, index: int, tokens: list[int]) -> None:
        held = self.pick(index, drafts=False)
        if held is None:
            return
        forest = self.forest
        counts = forest.cached_tokens, forest.pool.num_free
        available, runs_before = forest.available, len(held.cursor.runs())
        forest.tidy(held.cursor)
        assert counts == (forest.cached_tokens, forest.pool.num_free), "tidying takes and frees nothing"
        assert forest.available >= available, "tidying locked something"
        assert len(held.cursor.runs()) <= runs_before

    def check(self) -> None:
        self.forest.check_integrity()
        for held in self.held:
            if not held.cursor.draft:
                self.committed.update(tuple(held.path[: i + 1]) for i in range(len(held.path)))
        for held in self.held:
            assert not held.cursor.node.committed or tuple(held.path) in self.committed | {()}, "a draft was committed"
            assert held.cursor.tokens() == held.path
            assert held.cursor.length == len(held.path)
            assert self.forest.slot_runs(held.cursor).tolist() == held.slots, "KV moved"


operations = st.tuples(
    st.sampled_from(
        ["open", "fork", "claim", "claim", "append", "append", "compute", "close", "close", "tidy", "tidy"]
    ),
    st.integers(0, 31),
    st.lists(st.integers(0, 2), min_size=1, max_size=6),
)


@settings(max_examples=250, deadline=None)
@given(num_slots=st.integers(8, 60), steps=st.lists(operations, min_size=10, max_size=50))
def test_any_order_of_things(num_slots: int, steps: list[tuple[str, int, list[int]]]) -> None:
    bench = Bench(num_slots)
    for name, index, tokens in steps:
        getattr(bench, name)(index, tokens)
        bench.check()
    for held in bench.held:
        bench.forest.close(held.cursor)
    bench.forest.check_integrity()
    bench.forest.clear()
    assert bench.forest.pool.num_free == bench.forest.pool.capacity, "slots leaked"


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3)), min_size=5, max_size=40))
def test_a_lonely_branch_is_always_one_run(steps: list[tuple[int, int]]) -> None:
    """As the engine does it: draft, take some of it in, drop the claims, tidy."""
    forest = KVForest(400)
    branch = opened(forest, 1)
    path = [1]
    for seed, accepted in steps:
        tokens = [(seed + depth) % 5 for depth in range(3)]
        trees = [draft(forest, branch, *tokens), draft(forest, branch, tokens[0], 9)]
        for token in (*tokens[:accepted], 7):
            forest.append(branch, token)
            path.append(token)
        for claims in trees:
            drop(forest, claims)
        compute(forest, branch)
        forest.tidy(branch)
        assert runs(branch) == [path]
        forest.check_integrity()

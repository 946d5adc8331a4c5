"""The forest's promises one by one; every operation mixed with every other is in ``test_runtime_forest_machine.py``."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from reason.runtime.forest import Branch, KVForest, Node, PoolExhausted
from reason.runtime.slots import SCRATCH_SLOT, SlotPool


def compute(forest: KVForest) -> None:
    """A forward over everything pending."""
    for node in forest.nodes():
        forest.mark_computed(node, len(node))


def cache(forest: KVForest, *paths: Sequence[int]) -> None:
    """Puts paths into the cache, one after the other."""
    for path in paths:
        branch = forest.open(path)
        compute(forest)
        forest.close(branch)


# -- the pool of slots ---------------------------------------------------------------------------------------------


def test_pool_hands_out_neighbours_and_never_the_scratch_slot() -> None:
    pool = SlotPool(9)
    first, second = pool.take(3), pool.take(5)
    assert np.diff(first).tolist() == [1, 1]
    assert np.diff(second).tolist() == [1, 1, 1, 1]
    assert sorted([*first, *second]) == list(range(1, 9))
    assert pool.num_free == 0
    pool.give_back(first)
    assert pool.take(3).tolist() == first.tolist(), "returned slots come back in the same order"


def test_pool_refuses_what_it_cannot_do() -> None:
    pool = SlotPool(4)
    with pytest.raises(AssertionError, match="free slots"):
        pool.take(4)
    with pytest.raises(AssertionError, match="more slots returned"):
        pool.give_back(np.array([1], dtype=np.int32))
    for _ in range(3):
        assert pool.take_one() != SCRATCH_SLOT
    with pytest.raises(AssertionError, match="empty pool"):
        pool.take_one()
    with pytest.raises(ValueError, match="at least 2 slots"):
        SlotPool(1)


# -- sharing -------------------------------------------------------------------------------------------------------


def test_what_two_paths_share_is_stored_once() -> None:
    forest = KVForest(64)
    first = forest.open([1, 2, 3, 4], "a")
    second = forest.open([1, 2, 3, 5, 6], "b")
    assert forest.cached_tokens == 6
    assert forest.slot_runs(first)[:3].tolist() == forest.slot_runs(second)[:3].tolist()
    compute(forest)
    assert forest.unique_tokens("a") == 4
    assert forest.unique_tokens("b") == 5
    forest.check_integrity()


def test_namespaces_share_nothing() -> None:
    forest = KVForest(64)
    plain, adapted = forest.open([1, 2, 3]), forest.open([1, 2, 3], namespace="adapter")
    assert not set(forest.slot_runs(plain).tolist()) & set(forest.slot_runs(adapted).tolist())
    compute(forest)
    assert forest.match([1, 2, 3], "adapter") == 3
    assert forest.match([1, 2, 3], "other") == 0


def test_appending_what_somebody_computed_costs_nothing() -> None:
    forest = KVForest(64)
    cache(forest, [1, 2, 3, 4])
    branch = forest.open([1, 2])
    free = forest.pool.num_free
    forest.append(branch, 3)
    forest.append(branch, 4)
    assert forest.pool.num_free == free
    assert branch.node.computed == branch.offset, "the tokens are computed already"


def test_a_branch_grows_in_one_run_with_neighbouring_slots() -> None:
    forest = KVForest(512)
    branch = forest.open([1])
    for token in range(300):
        forest.append(branch, token)
    assert len(list(forest.nodes())) == 1
    assert np.diff(forest.slot_runs(branch)).tolist() == [1] * 300


def test_fork_at_the_same_place_then_each_its_own_way() -> None:
    forest = KVForest(64)
    branch = forest.open([1, 2, 3], "a")
    compute(forest)
    twin = forest.fork(branch, "b")
    assert forest.cached_tokens == 3
    forest.append(branch, 4)
    assert twin.tokens() == [1, 2, 3], "the twin stays where it was"
    forest.append(twin, 5)
    assert branch.tokens() == [1, 2, 3, 4]
    assert twin.tokens() == [1, 2, 3, 5]
    assert forest.owners() == ["a", "b"]
    forest.check_integrity()


def test_split_and_join_move_no_slot() -> None:
    forest = KVForest(64)
    long = forest.open([1, 2, 3, 4, 5, 6])
    compute(forest)
    before = forest.slot_runs(long).tolist()
    other = forest.open([1, 2, 3, 9])
    assert len(long.runs()) == 2, "the run was split where the paths part"
    assert forest.slot_runs(long).tolist() == before
    compute(forest)
    forest.close(other)
    assert forest.evict(1) == 1  # only the 9 can go
    assert len(long.runs()) == 1, "and joined when the other way was gone"
    assert forest.slot_runs(long).tolist() == before
    assert long.tokens() == [1, 2, 3, 4, 5, 6]
    forest.check_integrity()


def test_a_pending_token_is_shared_too() -> None:
    forest = KVForest(64)
    first = forest.open([1, 2])
    second = forest.open([1, 2])
    assert forest.cached_tokens == 2
    forest.close(first)
    assert forest.cached_tokens == 2, "the second branch still waits for it"
    forest.close(second)
    assert forest.cached_tokens == 0, "without KV there is nothing to cache"


def test_closing_keeps_what_was_computed_and_drops_the_rest() -> None:
    forest = KVForest(64)
    branch = forest.open([1, 2, 3, 4, 5])
    forest.mark_computed(branch.node, 2)
    forest.close(branch)
    assert forest.match([1, 2, 3, 4, 5], pending=True) == 2
    assert forest.available == forest.pool.capacity
    forest.check_integrity()


def test_match_stops_at_what_is_not_computed_or_not_committed() -> None:
    forest = KVForest(64)
    branch = forest.open([1, 2, 3])
    assert (forest.match([1, 2, 3]), forest.match([1, 2, 3], pending=True)) == (0, 3)
    forest.mark_computed(branch.node, 2)
    assert (forest.match([1, 2, 3]), forest.match([1, 2, 3], pending=True)) == (2, 3)
    compute(forest)
    draft = forest.claim(branch, 4)
    compute(forest)
    assert (forest.match([1, 2, 3, 4]), forest.match([1, 2, 3, 4], pending=True)) == (3, 4)
    forest.append(branch, 4)
    assert forest.match([1, 2, 3, 4, 5]) == 4
    assert forest.match([1, 9]) == 1
    assert forest.match([]) == 0
    forest.close(draft)


# -- claims --------------------------------------------------------------------------------------------------------


def test_two_branches_claim_one_token_one_accepts_one_rejects() -> None:
    forest = KVForest(64)
    yes = forest.open([1, 2], "yes")
    no = forest.fork(yes, "no")
    compute(forest)
    claims = [forest.claim(yes, 3), forest.claim(no, 3)]
    assert claims[0].node is claims[1].node
    assert forest.cached_tokens == 3, "one slot for both"
    compute(forest)
    slot = forest.slot_runs(claims[0])[-1]
    assert forest.unique_tokens("yes") == 2, "a draft token is nobody's yet"
    forest.append(yes, 3)
    assert forest.slot_runs(yes)[-1] == slot, "accepted without a copy"
    forest.append(no, 7)
    for claim in claims:
        forest.close(claim)
    compute(forest)
    assert (yes.tokens(), no.tokens()) == ([1, 2, 3], [1, 2, 7])
    assert (forest.unique_tokens("yes"), forest.unique_tokens("no")) == (3, 3)
    assert forest.cached_tokens == 4
    forest.check_integrity()


@pytest.mark.parametrize("computed", [False, True])
def test_a_draft_is_freed_with_its_last_claim(computed: bool) -> None:
    forest = KVForest(64)
    branch = forest.open([1, 2])
    compute(forest)
    first, second = forest.claim(branch, 3), forest.claim(branch, 3)
    deep = forest.claim(first, 4)
    if computed:
        compute(forest)
    forest.close(first)
    assert forest.cached_tokens == 4, "the deeper claim holds the token above it"
    forest.close(deep)
    assert forest.cached_tokens == 3, "a rejected leaf goes at once"
    forest.close(second)
    assert forest.cached_tokens == 2
    assert branch.tokens() == [1, 2]
    forest.check_integrity()


def test_a_chain_of_claims_is_accepted_up_to_a_point() -> None:
    forest = KVForest(64)
    branch = forest.open([1])
    compute(forest)
    claims: list[Branch] = []
    for token in (2, 3, 4, 5):
        claims.append(forest.claim(claims[-1] if claims else branch, token))
    other = forest.claim(claims[0], 8)
    compute(forest)
    slots = forest.slot_runs(claims[-1]).tolist()
    for token in (2, 3):
        forest.append(branch, token)
    for claim in (*claims, other):
        forest.close(claim)
    assert forest.slot_runs(branch).tolist() == slots[:3]
    assert branch.node.computed == branch.offset
    assert forest.cached_tokens == 3
    forest.append(branch, 9)
    assert branch.tokens() == [1, 2, 3, 9]
    forest.check_integrity()


def test_a_claim_on_a_cached_token_takes_no_slot_and_rejecting_it_keeps_the_token() -> None:
    forest = KVForest(64)
    cache(forest, [1, 2, 3])
    branch = forest.open([1, 2])
    draft = forest.claim(branch, 3)
    assert forest.cached_tokens == 3
    forest.close(draft)
    assert forest.match([1, 2, 3]) == 3


def test_a_claim_on_a_cached_run_locks_its_own_token_only() -> None:
    """So that a number of claims fits wherever there is room for so many tokens, whatever tokens they are."""
    forest = KVForest(9)
    cache(forest, [1, 2, 3, 4, 5, 6, 7], [1, 2, 9])
    branch = forest.open([1, 2])
    assert forest.available == 6
    claims = [forest.claim(branch, 3)]
    assert forest.available == 5
    claims.append(forest.claim(claims[0], 4))
    claims += [forest.claim(branch, token) for token in (5, 6, 7, 8)]
    assert forest.available == 0
    assert forest.match([1, 2, 3, 4, 5, 6, 7]) == 4, "the rest of the run made room"
    for claim in claims:
        forest.close(claim)
    assert forest.available == 6
    forest.check_integrity()


def test_a_cached_run_that_was_claimed_and_walked_is_one_again() -> None:
    forest = KVForest(64)
    cache(forest, [1, 2, 3, 4, 5, 6], [1, 2, 9])
    branch = forest.open([1, 2])
    claims = [forest.claim(branch, 3)]
    for token in (4, 5):
        claims.append(forest.claim(claims[-1], token))
    for token in (3, 4, 5, 6):
        forest.append(branch, token)
    for claim in reversed(claims):
        forest.close(claim)
    forest.tidy(branch)
    assert [length for _, length in branch.runs()] == [2, 4]
    forest.check_integrity()


def test_opening_a_path_through_a_claim_commits_it() -> None:
    forest = KVForest(64)
    branch = forest.open([1], "a")
    draft = forest.claim(branch, 2)
    other = forest.open([1, 2, 3], "b")
    compute(forest)
    forest.close(draft)
    assert forest.unique_tokens("b") == 3
    assert other.tokens() == [1, 2, 3]
    forest.check_integrity()


def test_an_open_that_does_not_fit_commits_nothing() -> None:
    forest = KVForest(4)
    branch = forest.open([1])
    draft = forest.claim(branch, 2)
    compute(forest)
    with pytest.raises(PoolExhausted):
        forest.open([1, 2, 3, 4])
    assert not draft.node.committed
    forest.close(draft)
    assert forest.cached_tokens == 1, "a draft that nobody accepted stayed"


# -- eviction ------------------------------------------------------------------------------------------------------


def test_eviction_takes_the_least_recently_used_leaf_first() -> None:
    forest = KVForest(64)
    cache(forest, [1, 1, 1], [2, 2], [3, 3, 3, 3])
    forest.close(forest.open([1, 1, 1]))  # used again
    order = [[2, 2], [3, 3, 3, 3], [1, 1, 1]]
    for i, path in enumerate(order):
        assert [forest.match(p) for p in order[:i]] == [0] * i
        assert forest.match(path) == len(path)
        assert forest.evict(len(path)) == len(path)
    assert forest.cached_tokens == 0


def test_eviction_trims_a_run_from_its_end() -> None:
    forest = KVForest(64)
    cache(forest, [1, 2, 3, 4, 5])
    kept = forest.open([1, 2, 3])
    slots = forest.slot_runs(kept).tolist()
    forest.close(kept)
    assert forest.evict(2) == 2
    assert forest.match([1, 2, 3, 4, 5]) == 3
    again = forest.open([1, 2, 3])
    assert forest.slot_runs(again).tolist() == slots
    forest.check_integrity()


def test_eviction_never_touches_a_path_that_is_held() -> None:
    forest = KVForest(64)
    cache(forest, [1, 2, 3, 4], [1, 2, 7, 8])
    held = forest.open([1, 2, 3, 4])
    assert forest.evict(0) == 0
    assert forest.evict(100) == 2
    assert held.tokens() == [1, 2, 3, 4]
    assert forest.match([1, 2, 7, 8]) == 2
    forest.close(held)
    assert forest.clear() == 4
    assert forest.pool.num_free == forest.pool.capacity


def test_parents_outlive_their_children() -> None:
    forest = KVForest(64)
    cache(forest, [1, 2, 3, 4], [1, 2, 5, 6])
    assert forest.evict(3) == 3
    assert forest.match([1, 2, 3, 4]) == 2
    assert forest.match([1, 2, 5, 6]) == 3
    forest.check_integrity()


def test_eviction_survives_many_uses_of_the_same_leaves() -> None:
    """Entries of the eviction order that went stale are thrown away, and none that is current."""
    forest = KVForest(64)
    for i in range(3000):
        cache(forest, [i % 5, 1, 2])
    assert len(forest._evictable) < 2500
    assert forest.available == forest.pool.capacity
    assert forest.evict(64) == 15
    forest.check_integrity()


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("held", [0, 3])
def test_available_is_exact(held: int, extra: int) -> None:
    forest = KVForest(16)
    cache(forest, [1, 2, 3], [1, 2, 4, 5], [6, 7])
    if held:
        forest.open([1, 2, 3])
    path = [9] * (forest.available + extra)
    before = forest.cached_tokens, forest.pool.num_free
    if extra:
        with pytest.raises(PoolExhausted):
            forest.open(path)
        assert (forest.cached_tokens, forest.pool.num_free) == before, "nothing was evicted in vain"
    else:
        assert forest.open(path).length == len(path)
        assert forest.available == 0
    forest.check_integrity()


@pytest.mark.parametrize("operation", ["open", "append", "append elsewhere", "claim"])
def test_exhaustion_leaves_everything_as_it_was(operation: str) -> None:
    forest = KVForest(7)
    branch = forest.open([1, 2, 3, 4], "a")
    compute(forest)
    inner = forest.open([1, 2], "a")
    forest.open([1, 2, 8, 9], "b")
    before = {id(node): (list(node.tokens), node.locks, node.committed, node.computed) for node in forest.nodes()}
    operations: dict[str, Callable[[], object]] = {
        "open": lambda: forest.open([1, 2, 3, 4, 5], "c"),
        "append": lambda: forest.append(branch, 5),
        "append elsewhere": lambda: forest.append(inner, 5),
        "claim": lambda: forest.claim(branch, 5),
    }
    with pytest.raises(PoolExhausted):
        operations[operation]()
    after = {id(node): (list(node.tokens), node.locks, node.committed, node.computed) for node in forest.nodes()}
    assert after == before
    assert branch.tokens() == [1, 2, 3, 4]
    assert inner.tokens() == [1, 2]
    assert set(forest.owners()) == {"a", "b"}
    forest.check_integrity()


def test_the_rest_of_a_cached_run_makes_room_for_a_branch_that_leaves_it() -> None:
    """A prompt with a long cached completion must not fill the pool for the next request with that prompt."""
    forest = KVForest(9)
    cache(forest, [1, 2, 3, 4, 5, 6, 7, 8])
    branch = forest.open([1, 2])
    for token in (9, 9, 9, 9, 9, 9):
        forest.append(branch, token)
    assert branch.tokens() == [1, 2, 9, 9, 9, 9, 9, 9]
    forest.check_integrity()


# -- misuse --------------------------------------------------------------------------------------------------------


def test_a_closed_branch_cannot_be_used() -> None:
    forest = KVForest(16)
    branch = forest.open([1, 2])
    forest.close(branch)
    assert branch.closed
    with pytest.raises(AssertionError, match="twice"):
        forest.close(branch)
    with pytest.raises(AssertionError, match="closed"):
        forest.append(branch, 3)
    with pytest.raises(AssertionError, match="closed"):
        forest.claim(branch, 3)
    with pytest.raises(AssertionError, match="closed"):
        forest.fork(branch)
    forest.check_integrity()


def test_a_claim_neither_grows_nor_becomes_a_branch() -> None:
    forest = KVForest(16)
    draft = forest.claim(forest.open([1, 2]), 3)
    with pytest.raises(AssertionError, match="claim"):
        forest.append(draft, 4)
    with pytest.raises(AssertionError, match="claim"):
        forest.fork(draft)
    forest.check_integrity()


def test_mark_computed_stays_within_the_run() -> None:
    forest = KVForest(16)
    branch = forest.open([1, 2])
    with pytest.raises(AssertionError):
        forest.mark_computed(branch.node, 3)
    forest.mark_computed(branch.node, 2)
    forest.mark_computed(branch.node, 1)
    assert branch.node.computed == 2, "KV does not become invalid again"


# -- the integrity check itself ------------------------------------------------------------------------------------


class Scene:
    """A forest with a shared run, two ways down, a draft, pending tokens and an unlocked leaf."""

    def __init__(self) -> None:
        self.forest = KVForest(32)
        cache(self.forest, [1, 2, 6])
        self.branch = self.forest.open([1, 2, 3, 4], "a")
        self.other = self.forest.open([1, 2, 5], "b")
        compute(self.forest)
        self.draft = self.forest.claim(self.branch, 7)
        self.root = self.forest._roots[None]
        self.shared: Node = self.root.children[1]
        self.unlocked: Node = self.shared.children[6]


def _drop_cursor(scene: Scene) -> None:
    del scene.branch.node.cursors[scene.branch]


def _wrong_key(scene: Scene) -> None:
    scene.shared.children[9] = scene.shared.children.pop(5)


def _duplicate_slot(scene: Scene) -> None:
    scene.other.node.slots[0] = scene.branch.node.slots[0]


def _lose_slot(scene: Scene) -> None:
    scene.forest.pool.take(1)


def _scratch_slot(scene: Scene) -> None:
    scene.other.node.slots[0] = SCRATCH_SLOT


def _empty_node(scene: Scene) -> None:
    scene.draft.node.tokens.clear()


def _swap_owner(scene: Scene) -> None:
    del scene.forest._owners["a"][scene.branch]


def _add(owner: Callable[[Scene], object], name: str, amount: int) -> Callable[[Scene], None]:
    def corrupt(scene: Scene) -> None:
        thing = owner(scene)
        setattr(thing, name, getattr(thing, name) + amount)

    return corrupt


def _set(owner: Callable[[Scene], object], name: str, value: object) -> Callable[[Scene], None]:
    return lambda scene: setattr(owner(scene), name, value)


CORRUPTIONS: dict[str, Callable[[Scene], None]] = {
    "root locks": _add(lambda s: s.root, "locks", 1),
    "root tokens": _set(lambda s: s.root, "tokens", [1]),
    "node locks": _add(lambda s: s.shared, "locks", 1),
    "lost cursor": _drop_cursor,
    "child under a wrong key": _wrong_key,
    "start": _add(lambda s: s.other.node, "start", 1),
    "computed beyond the run": _add(lambda s: s.other.node, "computed", 1),
    "pending above computed": _set(lambda s: s.shared, "computed", 1),
    "draft above committed": _set(lambda s: s.shared, "committed", False),
    "branch on a draft": _set(lambda s: s.other.node, "committed", False),
    "unlocked draft": _set(lambda s: s.unlocked, "committed", False),
    "unlocked pending": _set(lambda s: s.unlocked, "computed", 0),
    "empty node": _empty_node,
    "cursor beyond the run": _add(lambda s: s.branch, "offset", 1),
    "cursor before the run": _set(lambda s: s.branch, "offset", 0),
    "cursor elsewhere": _set(lambda s: s.other, "node", None),
    "closed cursor": _set(lambda s: s.branch, "_closed", True),
    "slot held twice": _duplicate_slot,
    "slot lost": _lose_slot,
    "scratch slot in use": _scratch_slot,
    "cached counter": _add(lambda s: s.forest, "_cached_tokens", 1),
    "locked counter": _add(lambda s: s.forest, "_locked_tokens", -1),
    "owner registry": _swap_owner,
}


def test_the_scene_is_sound() -> None:
    Scene().forest.check_integrity()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_check_integrity_sees(name: str) -> None:
    scene = Scene()
    CORRUPTIONS[name](scene)
    with pytest.raises(AssertionError):
        scene.forest.check_integrity()

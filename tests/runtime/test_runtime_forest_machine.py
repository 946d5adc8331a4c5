"""The KV forest against a naive model: a dictionary from every prefix that holds a slot to that slot and its state.

The model knows what each operation must do to the set of prefixes; which cached prefixes are evicted is the forest's
choice, so that is observed and only its limits are checked (unheld, no more than needed).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reason.runtime.forest import Branch, KVForest, Node, PoolExhausted

Prefix = tuple[Hashable, tuple[int, ...]]  # (namespace, tokens)


@dataclass(frozen=True)
class Token:
    """The last token of a prefix."""

    slot: int
    computed: bool
    committed: bool


@dataclass
class Cursor:
    """What the model knows of one branch or claim."""

    branch: Branch
    namespace: Hashable
    tokens: tuple[int, ...]
    owner: str
    draft: bool

    def prefixes(self) -> list[Prefix]:
        return prefixes_of(self.namespace, self.tokens)


def prefixes_of(namespace: Hashable, tokens: Sequence[int]) -> list[Prefix]:
    return [(namespace, tuple(tokens[:length])) for length in range(1, len(tokens) + 1)]


def runs_of(forest: KVForest) -> list[tuple[Node, list[Prefix]]]:
    """Every node with the prefixes that end in it."""
    spelled: dict[int, Prefix] = {id(root): (namespace, ()) for namespace, root in forest._roots.items()}
    runs: list[tuple[Node, list[Prefix]]] = []
    for node in forest.nodes():
        assert node.parent is not None
        namespace, above = spelled[id(node.parent)]
        path = (*above, *node.tokens)
        spelled[id(node)] = namespace, path
        runs.append((node, [(namespace, path[: len(above) + i + 1]) for i in range(len(node))]))
    return runs


def observe(forest: KVForest) -> dict[Prefix, Token]:
    """Every prefix that holds a slot."""
    seen: dict[Prefix, Token] = {}
    for node, prefixes in runs_of(forest):
        for i, prefix in enumerate(prefixes):
            assert prefix not in seen, "one prefix stored twice"
            seen[prefix] = Token(int(node.slots[i]), i < node.computed, node.committed)
    return seen


tokens = st.integers(0, 3)
paths = st.lists(tokens, max_size=9)
picks = st.integers(0, 63)
owners = st.sampled_from(["a", "b"])
namespaces = st.sampled_from([None, "adapter"])


class ForestMachine(RuleBasedStateMachine):
    """Rules first update ``self.model`` to what must be true of the prefixes that survive, then call ``settle``."""

    def __init__(self) -> None:
        super().__init__()
        self.forest = KVForest(2)
        self.vocab = 2
        self.cursors: list[Cursor] = []
        self.model: dict[Prefix, Token] = {}

    @initialize(num_slots=st.integers(3, 16) | st.integers(24, 64), vocab=st.integers(2, 4))
    def begin(self, num_slots: int, vocab: int) -> None:
        self.forest = KVForest(num_slots)
        self.vocab = vocab

    # -- the model --------------------------------------------------------------------------------------------------

    def held(self) -> set[Prefix]:
        return {prefix for cursor in self.cursors for prefix in cursor.prefixes()}

    def loose(self, held: set[Prefix]) -> set[Prefix]:
        """Prefixes that nobody holds but whose run somebody holds in part: the forest locks runs, not tokens."""
        return {
            prefix
            for _, prefixes in runs_of(self.forest)
            if not held.isdisjoint(prefixes)
            for prefix in prefixes
            if prefix not in held
        }

    def commit(self, prefixes: Sequence[Prefix]) -> None:
        for prefix in prefixes:
            self.model[prefix] = replace(self.model[prefix], committed=True)

    def settle(self, *, new: Sequence[Prefix] = (), committed: bool = True, may_evict: int = 0) -> None:
        """Compares the forest with the model: ``new`` prefixes came, at most ``may_evict`` cached ones went."""
        now, held = observe(self.forest), self.held()
        assert held <= now.keys(), "a held prefix is gone"
        assert now.keys() - self.model.keys() == set(new), "other prefixes came than were asked for"
        for prefix, token in now.items():
            expected = self.model.get(prefix, Token(token.slot, computed=False, committed=committed))
            assert token == expected, "a slot moved, or a state is wrong"
        gone = {prefix: token for prefix, token in self.model.items() if prefix not in now}
        evicted = [prefix for prefix, token in gone.items() if token.computed and token.committed]
        assert len(evicted) <= may_evict, "more was evicted than was needed"
        worthless = {p for p, token in now.items() if p not in held and not (token.computed and token.committed)}
        assert all(now[p].committed for p in worthless), "an unheld draft token was kept"
        assert worthless <= self.loose(held), "an unheld pending token was kept"
        self.model = now

    def check_exhausted(self, path: Sequence[Prefix], *, raised: bool) -> None:
        """``path``: the prefixes that the operation wanted. Raising must be necessary, and not raising possible."""
        needed = sum(prefix not in self.model for prefix in path)
        held = self.held() | {prefix for prefix in path if prefix in self.model}
        room = self.forest.pool.capacity - len(held)
        if raised:
            assert needed > room - len(self.loose(held)), "PoolExhausted although the tokens fit"
            now = observe(self.forest)
            gone = self.model.keys() - now.keys()
            assert now.items() <= self.model.items(), "PoolExhausted changed the forest"
            assert not any(p in held or self.model[p].computed for p in gone), "PoolExhausted dropped useful KV"
            self.model = now
        else:
            assert needed <= room

    def missing(self, path: Sequence[Prefix]) -> list[Prefix]:
        return [prefix for prefix in path if prefix not in self.model]

    def must_evict(self, new: Sequence[Prefix]) -> int:
        return max(0, len(new) - (self.forest.pool.capacity - len(self.model)))

    def has_slots(self) -> bool:
        return bool(self.model)

    def has_cursors(self) -> bool:
        return bool(self.cursors)

    def has_branches(self) -> bool:
        return any(not cursor.draft for cursor in self.cursors)

    def has_claims(self) -> bool:
        return any(cursor.draft for cursor in self.cursors)

    def pick(self, index: int, *, drafts: bool) -> Cursor:
        """A cursor to work on; only branches, unless ``drafts``."""
        choice = [cursor for cursor in self.cursors if drafts or not cursor.draft]
        return choice[index % len(choice)]

    # -- rules ------------------------------------------------------------------------------------------------------

    @rule(path=paths, owner=owners, namespace=namespaces)
    def open(self, path: list[int], owner: str, namespace: Hashable) -> None:
        self.open_path(namespace, tuple(token % self.vocab for token in path), owner)

    @precondition(has_slots)
    @rule(index=st.integers(0, 999), path=st.lists(tokens, max_size=3), owner=owners)
    def open_near(self, index: int, path: list[int], owner: str) -> None:
        """A path that begins with something cached, held or claimed."""
        namespace, known = list(self.model)[index % len(self.model)]
        self.open_path(namespace, (*known, *(token % self.vocab for token in path)), owner)

    def open_path(self, namespace: Hashable, spelled: tuple[int, ...], owner: str) -> None:
        wanted = prefixes_of(namespace, spelled)
        new = self.missing(wanted)
        try:
            branch = self.forest.open(spelled, owner, namespace)
        except PoolExhausted:
            self.check_exhausted(wanted, raised=True)
            return
        self.check_exhausted(wanted, raised=False)
        self.commit([prefix for prefix in wanted if prefix in self.model])
        may_evict = self.must_evict(new)
        self.cursors.append(Cursor(branch, namespace, spelled, owner, draft=False))
        self.settle(new=new, may_evict=may_evict)

    @rule(path=st.lists(tokens, min_size=1, max_size=9), namespace=namespaces)
    def cache(self, path: list[int], namespace: Hashable) -> None:
        """A path that was computed and that nobody holds."""
        place = len(self.cursors)
        self.open_path(namespace, tuple(token % self.vocab for token in path), "a")
        if len(self.cursors) > place:
            self.compute(place, 100)
            self.close(place)

    @precondition(has_branches)
    @rule(index=picks, token=tokens)
    def append(self, index: int, token: int) -> None:
        self.extend(self.pick(index, drafts=False), token % self.vocab)

    @precondition(has_branches)
    @rule(index=picks, path=paths)
    def append_many(self, index: int, path: list[int]) -> None:
        cursor = self.pick(index, drafts=False)
        for token in path:
            self.extend(cursor, token % self.vocab)

    def extend(self, cursor: Cursor, token: int) -> None:
        longer = (*cursor.tokens, token)
        prefix = (cursor.namespace, longer)
        new = self.missing([prefix])
        try:
            self.forest.append(cursor.branch, token)
        except PoolExhausted:
            self.check_exhausted([prefix], raised=True)
            assert tuple(cursor.branch.tokens()) == cursor.tokens, "PoolExhausted moved the branch"
            return
        self.check_exhausted([prefix], raised=False)
        if not new:
            self.commit([prefix])
        may_evict = self.must_evict(new)
        cursor.tokens = longer
        self.settle(new=new, may_evict=may_evict)

    @precondition(has_claims)
    @rule(index=picks)
    def accept(self, index: int) -> None:
        """A branch that stands before a claimed token appends it: nothing may be allocated."""
        drafts = [cursor for cursor in self.cursors if cursor.draft]
        draft = drafts[index % len(drafts)]
        for cursor in self.cursors:
            before = cursor.namespace == draft.namespace and cursor.tokens == draft.tokens[:-1]
            if before and not cursor.draft and draft.tokens:
                free = self.forest.pool.num_free
                self.extend(cursor, draft.tokens[-1])
                assert self.forest.pool.num_free == free
                return

    @precondition(has_cursors)
    @rule(index=picks, token=tokens)
    def claim(self, index: int, token: int) -> None:
        self.claim_token(self.pick(index, drafts=True), token % self.vocab)

    @precondition(has_cursors)
    @rule(index=picks, which=picks)
    def claim_what_is_there(self, index: int, which: int) -> None:
        """A token that somebody has behind a cursor at the end of its run."""
        cursor = self.pick(index, drafts=True)
        below = list(cursor.branch.node.children)
        if below and cursor.branch.offset == len(cursor.branch.node):
            self.claim_token(cursor, below[which % len(below)])

    def claim_token(self, cursor: Cursor, token: int) -> None:
        prefix = (cursor.namespace, (*cursor.tokens, token))
        new = self.missing([prefix])
        room = self.forest.available
        try:
            draft = self.forest.claim(cursor.branch, token)
        except PoolExhausted:
            assert room == 0
            self.check_exhausted([prefix], raised=True)
            return
        assert self.forest.available >= room - 1, "a claim took more than its own token"
        self.check_exhausted([prefix], raised=False)
        may_evict = self.must_evict(new)
        self.cursors.append(Cursor(draft, cursor.namespace, prefix[1], cursor.owner, draft=True))
        self.settle(new=new, committed=False, may_evict=may_evict)

    @precondition(has_branches)
    @rule(index=picks, owner=st.none() | owners)
    def fork(self, index: int, owner: str | None) -> None:
        cursor = self.pick(index, drafts=False)
        twin = self.forest.fork(cursor.branch, owner)
        self.cursors.append(replace(cursor, branch=twin, owner=cursor.owner if owner is None else owner))
        self.settle()

    @precondition(has_cursors)
    @rule(index=picks)
    def close(self, index: int) -> None:
        cursor = self.pick(index, drafts=True)
        self.cursors.remove(cursor)
        self.forest.close(cursor.branch)
        self.settle()

    @precondition(has_cursors)
    @rule(index=picks, count=st.integers(1, 4) | st.just(100))
    def compute(self, index: int, count: int) -> None:
        """A forward computes the next ``count`` pending tokens of one path."""
        cursor = self.pick(index, drafts=True)
        pending = [prefix for prefix in cursor.prefixes() if not self.model[prefix].computed][:count]
        left = len(pending)
        for node, length in cursor.branch.runs():
            upto = min(length, node.computed + left)
            if upto > node.computed:
                left -= upto - node.computed
                self.forest.mark_computed(node, upto)
        for prefix in pending:
            self.model[prefix] = replace(self.model[prefix], computed=True)
        self.settle()

    @rule(count=st.integers(0, 20))
    def evict(self, count: int) -> None:
        expected = min(count, self.forest.available - self.forest.pool.num_free)
        assert self.forest.evict(count) == expected
        size = len(self.model)
        self.settle(may_evict=expected)
        assert len(self.model) == size - expected

    @rule()
    def clear(self) -> None:
        self.forest.clear()
        self.settle(may_evict=len(self.model))
        assert self.forest.cached_tokens == self.forest.locked_tokens

    @rule(path=paths, namespace=namespaces)
    def match(self, path: list[int], namespace: Hashable) -> None:
        wanted = prefixes_of(namespace, [token % self.vocab for token in path])
        held = [prefix in self.model for prefix in wanted]
        usable = [p in self.model and self.model[p].computed and self.model[p].committed for p in wanted]
        spelled = wanted[-1][1] if wanted else ()
        assert self.forest.match(spelled, namespace, pending=True) == (*held, False).index(False)
        assert self.forest.match(spelled, namespace) == (*usable, False).index(False)

    # -- always -----------------------------------------------------------------------------------------------------

    @invariant()
    def is_sound(self) -> None:
        self.forest.check_integrity()

    @invariant()
    def counts_agree(self) -> None:
        held = self.held()
        forest = self.forest
        assert forest.cached_tokens == len(self.model)
        assert forest.locked_tokens == len(held) + len(self.loose(held))
        assert forest.available == forest.pool.capacity - forest.locked_tokens
        assert set(forest.owners()) == {cursor.owner for cursor in self.cursors}
        for owner in ("a", "b"):
            paths_held = {p for cursor in self.cursors if cursor.owner == owner for p in cursor.prefixes()}
            kept = [p for p in paths_held if self.model[p].computed and self.model[p].committed]
            assert forest.unique_tokens(owner) == len(kept)

    @invariant()
    def branches_spell_their_paths(self) -> None:
        for cursor in self.cursors:
            assert tuple(cursor.branch.tokens()) == cursor.tokens
            assert cursor.branch.length == len(cursor.tokens)
            slots = [self.model[prefix].slot for prefix in cursor.prefixes()]
            assert self.forest.slot_runs(cursor.branch).tolist() == slots

    def teardown(self) -> None:
        for cursor in self.cursors:
            self.forest.close(cursor.branch)
        self.cursors.clear()
        self.settle()
        self.forest.clear()
        self.forest.check_integrity()
        assert self.forest.pool.num_free == self.forest.pool.capacity, "slots leaked"


TestForestMachine = ForestMachine.TestCase
TestForestMachine.settings = settings(max_examples=250, stateful_step_count=40, deadline=None)

"""The three parts put together: what a draft is made of, and who is told what became of it."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import numpy as np
import pytest

from reason.speculate.draft import CONTEXT, NOTHING, TOP, Distribution, DraftTree, Rows, State, Stream
from reason.speculate.policy import Fixed, ForwardTimes, Goodput, NodeCounts, Ranking
from reason.speculate.rules import Verdict, follow
from reason.speculate.sources import make_source
from reason.speculate.speculator import Speculator, contexts
from tests.speculate.toy import ANY, BUSH, REJECTION, Toy, free_times, stream_of

# -- drafts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", REJECTION)
def test_drawn_trees_fill_what_the_template_grants(rule: str) -> None:
    speculator = Speculator(Toy(), rule=rule, policy=Fixed(BUSH))
    streams = [stream_of(1, 2, key=key, room=room) for key, room in enumerate([100, 2, 1, 0])]
    drafts, again = speculator.draft(streams), speculator.draft(streams)
    assert drafts is not None
    assert again is not None
    assert [tree.tokens for tree in drafts.trees] == [tree.tokens for tree in again.trees]
    assert drafts.nodes == sum(map(len, drafts.trees))
    assert [max(tree.depths) for tree in drafts.trees[1:]] == [2, 1, 0]
    widths = {path[:-1]: 0 for path in BUSH}
    for path in BUSH:
        widths[path[:-1]] += 1
    tree = drafts.trees[0]
    ranks: dict[int, tuple[int, ...]] = {0: ()}
    for node in range(len(tree.tokens)):
        for rank, child in enumerate(tree.children[node]):
            ranks[child] = (*ranks[node], rank)
        tokens = [tree.tokens[child] for child in tree.children[node]]
        lost = any(tree.tokens[child] == 9 for child in _line(tree, node))  # the source ends there
        wanted = 0 if lost else widths.get(ranks[node], 0)
        assert len(tokens) == wanted
        if tokens:
            q = tree.drawn_from[node]
            assert set(tokens) <= set(q.tokens)
            assert sum(q.probabilities) == pytest.approx(1.0)
        if speculator.rule.draws == "without-replacement":
            assert len(set(tokens)) == len(tokens)
    others = [stream_of(1, 2, key=key) for key in range(100, 108)]
    more = speculator.draft(others)
    assert more is not None
    assert len({tuple(tree.tokens) for tree in more.trees}) > 4  # a tree of its own for each


def _line(tree: DraftTree, node: int) -> list[int]:
    line: list[int] = []
    while node:
        line.append(node)
        node = tree.parents[node]
    return line


def test_mixed_trees_put_one_and_draw_the_others() -> None:
    union = make_source("a:x+b:y", {"a": lambda name: Toy("put"), "b": lambda name: Toy("drawn", shift=1)})
    speculator = Speculator(union, rule="mixed", policy=Fixed(BUSH))
    drafts = speculator.draft([stream_of(1, key=key) for key in range(30)])
    assert drafts is not None
    second = set[int]()
    for tree in drafts.trees:
        for node, children in enumerate(tree.children):
            if not children:
                continue
            put, *drawn = [tree.tokens[child] for child in children]
            assert tree.fixed[node] == 1
            assert put == tree.tokens[node] * 3 % 10
            assert tree.proposers[children[0]] == "put"
            assert put not in drawn
            assert len(set(drawn)) == len(drawn)
            if drawn:
                assert set(drawn) <= set(tree.drawn_from[node].tokens)
            if node == 0:
                second |= set(drawn)
    assert len(second) > 1


def test_grown_trees_come_with_their_states() -> None:
    speculator = Speculator(Toy(), policy=Goodput(nodes=6))
    drafts = speculator.draft([stream_of(1), stream_of(1, 2, room=0)])
    assert drafts is not None
    assert drafts.growth is not None
    assert [len(tree) for tree in drafts.trees] == [12, 0]
    assert isinstance(speculator.source, Toy)
    assert speculator.source.heard == ["prepare 2"]


# -- what became of it ---------------------------------------------------------------------------------------------


class Noted(Ranking):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__(coupled=False)
        self.told: list[tuple[str, bool]] = []

    def settle(self, proposer: str, bucket: int, accepted: bool) -> None:
        self.told.append((proposer, accepted))
        super().settle(proposer, bucket, accepted)


def test_the_verdict_is_told_along_the_accepted_path() -> None:
    source = Toy()
    speculator = Speculator(source, rule="match", policy=Fixed(((0,), (1,), (0, 0), (0, 1), (0, 0, 0))))
    speculator._ranking = ranking = Noted()
    speculator.counts = NodeCounts()
    drafts = speculator.draft([stream_of(7), stream_of(1)])  # 1, 2 | 3, 4 | 9; and 3, 4 | 9, 0 (nothing after 9)
    assert drafts is not None
    tree, other = drafts.trees
    assert tree.path(5) == (1, 3, 9)
    speculator.settle(drafts, 0, follow(tree, {0: 1, 1: 4}.get))  # type: ignore[arg-type]
    assert source.settled == [((7,), 1), ((7, 1), 4), ((7, 1, 4), None)]
    assert ranking.told == [("", True), ("", False), ("", False), ("", True)]
    source.settled.clear()
    ranking.told.clear()
    nine = other.child(other.child(0, 3) or 0, 9)
    assert nine is not None
    speculator.settle(drafts, 1, Verdict((1, nine), 8))
    assert source.settled == [((1,), 3), ((1, 3), 9)]  # it had nothing to say after 9
    assert ranking.told == [("", True), ("", False), ("", True), ("", False)]
    assert speculator.counts.drafts == 2
    assert speculator.counts.best(3) == ((0,), (0, 0), (0, 1))


def test_drawn_drafts_are_counted_too() -> None:
    speculator = Speculator(Toy(), rule="iid", policy=Fixed(BUSH))
    speculator.counts = NodeCounts()
    drafts = speculator.draft([stream_of(1)])
    assert drafts is not None
    speculator.settle(drafts, 0, Verdict((drafts.trees[0].children[0][0],), 5))
    assert speculator.counts.drafts == 1
    assert isinstance(speculator.source, Toy)
    assert speculator.source.settled == []


def test_calibration_changes_the_next_draft() -> None:
    speculator = Speculator(Toy(), rule="match", policy=Goodput(free_times(), floor=0.3))
    first = speculator.draft([stream_of(1)])
    assert first is not None
    assert len(first.trees[0]) > 0
    for _ in range(100):
        drafts = speculator.draft([stream_of(1)])
        assert drafts is not None
        speculator.settle(drafts, 0, Verdict((), 7))
    last = speculator.draft([stream_of(1)])
    assert last is None or len(last.trees[0]) == 0
    speculator.reset()
    fresh = speculator.draft([stream_of(1)])
    assert fresh is not None
    assert fresh.trees[0].tokens == first.trees[0].tokens
    assert isinstance(speculator.source, Toy)
    assert "reset" in speculator.source.heard


def test_drafting_that_loses_pauses_and_comes_back() -> None:
    speculator = Speculator(Toy(), times=free_times())
    drafted: list[bool] = []
    for _ in range(60):
        drafts = speculator.draft([stream_of(1)])
        drafted.append(drafts is not None)
        nodes = 0 if drafts is None else drafts.nodes
        speculator.account(branches=1, nodes=nodes, accepted=0, forward_seconds=2.0, overhead_seconds=0.0)
    assert drafted[0]
    assert not all(drafted)
    assert any(drafted[drafted.index(False) :])
    fixed = Speculator(Toy(), times=free_times(), policy=Goodput(nodes=2))
    for _ in range(60):
        assert fixed.draft([stream_of(1)]) is not None
        fixed.account(branches=1, nodes=2, accepted=0, forward_seconds=2.0, overhead_seconds=0.0)


def test_what_drafting_costs_beside_its_rows_is_learnt() -> None:
    speculator = Speculator(Toy(), times=free_times())
    before = speculator.draft([stream_of(1)])
    assert before is not None
    assert before.nodes > 3
    for _ in range(200):
        speculator.account(branches=1, nodes=0, accepted=0, forward_seconds=1.0, overhead_seconds=1.0)
    after = speculator.draft([stream_of(1)])
    assert after is None or after.nodes < before.nodes


def test_what_preparing_takes_is_not_charged_to_each_node() -> None:
    class Slow(Toy):
        def prepare(self, streams: Sequence[Stream]) -> None:
            time.sleep(0.02)

    times = ForwardTimes()
    times.set({1: 0.02, 100: 0.02})
    speculator = Speculator(Slow(), times=times)
    nodes: list[int] = []
    for _ in range(40):
        began = time.perf_counter()
        drafts = speculator.draft([stream_of(1)])
        assert drafts is not None
        nodes.append(drafts.nodes)
        speculator.account(
            branches=1,
            nodes=drafts.nodes,
            accepted=drafts.nodes,
            forward_seconds=0.02,
            overhead_seconds=time.perf_counter() - began,
        )
    assert nodes[-1] >= nodes[0] > 0


def test_rows_go_to_the_source() -> None:
    speculator = Speculator(Toy())
    assert isinstance(speculator.source, Toy)
    for count in (2, 0):
        speculator.observe(Rows(np.zeros((count, CONTEXT), np.int64), np.zeros((count, TOP), np.int64), np.zeros(0)))
    assert speculator.source.heard == ["observe 2"]


@pytest.mark.parametrize("seed", range(8))
def test_contexts_are_the_paths_last_tokens(seed: int) -> None:
    rng = random.Random(seed)
    stream = stream_of(*(rng.randrange(100) for _ in range(rng.randrange(1, 8))))
    tree = DraftTree([stream.tokens[-1]])
    for _ in range(rng.randrange(0, 20)):
        tree.add(rng.randrange(len(tree.tokens)), rng.randrange(100))
    expected = []
    for node in range(len(tree.tokens)):
        path = [*stream.tokens, *tree.path(node)]
        expected.append(([-1] * CONTEXT + path)[-CONTEXT:])
    assert contexts(stream.tokens, tree) == expected
    assert contexts(stream.tokens, None) == expected[:1]


def test_a_source_with_nothing_to_say_drafts_nothing() -> None:
    class Silent(Toy):
        def distribution(self, state: State) -> Distribution:
            return NOTHING

    for rule in (*ANY, *REJECTION):
        speculator = Speculator(Silent(), rule=rule, times=free_times())
        drafts = speculator.draft([stream_of(1), stream_of(2)])
        assert drafts is not None
        assert drafts.nodes == 0
        for index in range(2):
            speculator.settle(drafts, index, Verdict((), 5))

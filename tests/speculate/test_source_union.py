"""The union of sources: one distribution, weights that learn, and states that some sources have none of."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from reason.speculate.draft import CONTEXT, NOTHING, TOP, Distribution, Rows, Source, State, Stream
from reason.speculate.sources import SOURCES, make_source
from reason.speculate.sources.union import Union


class Table(Source):
    """Says what a dictionary has for a token; None where it has nothing."""

    def __init__(self, name: str, table: dict[int, dict[int, float]]) -> None:
        self.name = name
        self.table = table
        self.settled: list[tuple[int, int]] = []
        self.heard: list[str] = []

    def state(self, stream: Stream) -> State:
        return self._at(stream.tokens[-1])

    def step(self, state: State, token: int) -> State:
        assert state is not None, f"{self.name} was stepped from where it had nothing to say"
        return self._at(token)

    def distribution(self, state: State) -> Distribution:
        assert state is not None, f"{self.name} was asked where it had nothing to say"
        row = self.table[state]
        ordered = sorted(row, key=row.__getitem__, reverse=True)
        return Distribution(ordered, [row[token] for token in ordered])

    def settle(self, state: State, token: int) -> None:
        assert state is not None
        self.settled.append((state, token))

    def prepare(self, streams: Sequence[Stream]) -> None:
        self.heard.append(f"prepare {len(streams)}")

    def observe(self, rows: Rows) -> None:
        self.heard.append(f"observe {len(rows.tokens)}")

    def begin(self, stream: Stream) -> None:
        self.heard.append("begin")

    def extend(self, stream: Stream, count: int) -> None:
        self.heard.append(f"extend {count}")

    def end(self, stream: Stream) -> None:
        self.heard.append("end")

    def reset(self) -> None:
        self.heard.append("reset")

    def _at(self, token: int) -> int | None:
        return token if token in self.table else None


def stream_of(*tokens: int) -> Stream:
    return Stream(list(tokens), 1, temperature=0.0)


def asked(union: Union, *tokens: int) -> dict[int, float]:
    answer = union.distribution(union.state(stream_of(*tokens)))
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    assert len(set(answer.tokens)) == len(answer.tokens) == len(answer.probabilities) == len(answer.proposers)
    assert sum(answer.probabilities) <= 1.0 + 1e-9
    return dict(zip(answer.tokens, answer.probabilities, strict=True))


def came(union: Union, token: int, following: int) -> None:
    state = union.state(stream_of(token))
    union.distribution(state)
    union.settle(state, following)


def test_equal_tokens_are_one_token() -> None:
    union = Union([Table("a", {1: {5: 0.6, 6: 0.2}}), Table("b", {1: {6: 0.5, 7: 0.4}})])
    answer = union.distribution(union.state(stream_of(1)))
    first, second = 1.0 / 1.8, 0.8 / 1.8  # the first is trusted a little more
    assert asked(union, 1) == pytest.approx(
        {5: first * 0.6, 6: first * 0.2 + second * 0.5, 7: second * 0.4},
    )
    vouching = dict(zip(answer.tokens, answer.proposers, strict=True))
    assert vouching == {5: "a", 6: "b", 7: "b"}


def test_who_is_silent_has_no_weight() -> None:
    union = Union([Table("a", {1: {5: 0.6}}), Table("b", {2: {6: 0.5}}), Table("c", {3: {}})])
    assert asked(union, 1) == {5: 0.6}
    assert asked(union, 2) == {6: 0.5}
    state = union.state(stream_of(3))
    assert union.distribution(state) == NOTHING
    assert union.distribution(union.state(stream_of(9))) == NOTHING
    union.settle(union.state(stream_of(9)), 5)


def test_states_that_some_sources_lost_stay_lost() -> None:
    """The sources' own assertions hold that nobody is asked, stepped or told at None."""
    inner = Union([Table("a", {1: {2: 0.5}, 2: {3: 0.5}}), Table("b", {1: {4: 0.4}})])
    outer = Union([inner, Table("c", {1: {2: 0.3}, 4: {5: 0.2}})])
    state = outer.state(stream_of(1))
    assert set(outer.distribution(state).tokens) == {2, 4}
    along = outer.step(state, 2)  # b and c end here
    assert list(outer.distribution(along).tokens) == [3]
    outer.settle(along, 3)
    lost = outer.step(outer.step(along, 3), 1)  # a ended too, and none comes back
    assert outer.distribution(lost) == NOTHING
    outer.settle(lost, 2)
    assert set(outer.distribution(state).tokens) == {2, 4}  # the old state is as good as ever


def test_sources_are_settled_where_they_stood() -> None:
    a, b = Table("a", {1: {2: 0.5}, 2: {3: 0.5}}), Table("b", {1: {4: 0.4}})
    union = Union([a, b])
    state = union.state(stream_of(1))
    union.settle(state, 2)
    union.settle(union.step(state, 2), 7)
    assert a.settled == [(1, 2), (2, 7)]
    assert b.settled == [(1, 2)]


@pytest.mark.parametrize("right", [0, 1])
def test_weights_go_to_the_source_that_is_right(right: int) -> None:
    sources = [Table("a", {1: {5: 0.6, 6: 0.1}}), Table("b", {1: {6: 0.6, 5: 0.1}})]
    union = Union(sources)
    wanted, other = (5, 6) if right == 0 else (6, 5)
    for _ in range(300):
        came(union, 1, wanted)
        assert sum(asked(union, 1).values()) == pytest.approx(0.7)  # the weights add up to 1
    answer = asked(union, 1)
    assert answer[wanted] > 0.55
    assert answer[other] < 0.15


def test_weights_come_to_the_share_that_explains_what_came() -> None:
    """Expectation maximisation: for disjoint answers the best weight is the share of tokens that each explains."""
    union = Union([Table("a", {1: {5: 0.9}}), Table("b", {1: {6: 0.9}})])
    rng = random.Random(0)
    for _ in range(4000):
        came(union, 1, 5 if rng.random() < 0.3 else 6)
    assert asked(union, 1) == pytest.approx({5: 0.3 * 0.9, 6: 0.7 * 0.9}, abs=0.12)


def test_tokens_that_nobody_expected_teach_no_weight() -> None:
    union = Union([Table("a", {1: {5: 0.6}}), Table("b", {1: {6: 0.6}})])
    before = asked(union, 1)
    for _ in range(50):
        came(union, 1, 99)
    assert asked(union, 1) == before


def test_weights_are_apart_for_how_sure_the_sources_are() -> None:
    union = Union([Table("a", {1: {5: 0.99}, 2: {5: 0.1}}), Table("b", {1: {6: 0.3}, 2: {6: 0.3}})])
    for _ in range(200):
        came(union, 1, 5)
        came(union, 2, 6)
    assert asked(union, 1)[5] > 0.9
    assert asked(union, 2)[6] > 0.28


def test_settle_judges_the_answer_that_was_drafted_from() -> None:
    """Between the draft and its verdict a source may change its mind."""
    a, b = Table("a", {1: {5: 0.6}}), Table("b", {1: {6: 0.6}})
    told, fresh = Union([a, b]), Union([Table("a", {1: {5: 0.6}}), Table("b", {1: {6: 0.6}})])
    state = told.state(stream_of(1))
    told.distribution(state)
    a.table, b.table = {1: {6: 0.6}}, {1: {5: 0.6}}
    told.settle(state, 5)
    a.table, b.table = {1: {5: 0.6}}, {1: {6: 0.6}}
    came(fresh, 1, 5)
    assert asked(told, 1) == asked(fresh, 1)
    assert asked(told, 1)[5] > asked(Union([a, b]), 1)[5]


def test_mass_is_never_more_than_one() -> None:
    rng = random.Random(3)
    union = Union([Table(name, {}) for name in "abc"])
    for _ in range(400):
        for source in union.sources:
            assert isinstance(source, Table)
            tokens = rng.sample(range(6), rng.randrange(0, 5))
            weights = [rng.random() for _ in tokens]
            total = sum(weights) * rng.uniform(1.0, 2.0) or 1.0
            source.table = {1: {token: weight / total for token, weight in zip(tokens, weights, strict=True)}}
            if rng.random() < 0.2:
                source.table = {}
        asked(union, 1)
        came(union, 1, rng.randrange(6))


def test_every_source_hears_everything() -> None:
    a, b = Table("a", {}), Table("b", {})
    union = Union([Union([a]), b])
    stream = stream_of(1)
    union.begin(stream)
    union.prepare([stream, stream])
    union.extend(stream, 3)
    union.observe(Rows(np.zeros((2, CONTEXT), np.int64), np.zeros((2, TOP), np.int64), np.zeros((2, TOP))))
    union.end(stream)
    union.reset()
    assert a.heard == b.heard == ["begin", "prepare 2", "extend 3", "observe 2", "end", "reset"]
    assert union.name == "a+b"
    assert not union.stochastic


def test_reset_forgets_the_weights() -> None:
    union = Union([Table("a", {1: {5: 0.6}}), Table("b", {1: {6: 0.6}})])
    before = asked(union, 1)
    for _ in range(20):
        came(union, 1, 6)
    assert asked(union, 1) != before
    union.reset()
    assert asked(union, 1) == before


@pytest.mark.parametrize("name", ["+".join(SOURCES), "stand+token-recycling", "goose+suffix", "lookup+retrieval+stand"])
def test_any_sources_go_together(name: str) -> None:
    union = make_source(name)
    assert union.name == name
    rng = random.Random(1)
    stream = stream_of(*(rng.randrange(4) for _ in range(6)))
    union.begin(stream)
    talked = 0
    for _ in range(150):
        state = union.state(stream)
        answer = union.distribution(state)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert sum(answer.probabilities) <= 1.0 + 1e-9
        assert all(proposer in name.split("+") for proposer in answer.proposers)
        talked += bool(answer.tokens)
        deeper = union.step(state, answer.tokens[0]) if answer.tokens else None
        if deeper is not None:
            union.distribution(deeper)
        token = rng.randrange(4)
        union.settle(state, token)
        stream.tokens.append(token)
        union.extend(stream, 1)
        context = ([-1] * CONTEXT + stream.tokens)[-CONTEXT:]
        likely = sorted(((rng.random() / TOP, t) for t in range(TOP)), reverse=True)
        tokens, probabilities = [t for _, t in likely], [p for p, _ in likely]
        union.observe(Rows(np.array([context]), np.array([tokens]), np.array([probabilities])))
    union.end(stream)
    assert talked > 100

"""STAND's table against a dictionary that does the same one visit at a time."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from reason.speculate.draft import CONTEXT, NOTHING, TOP, Distribution, Rows, Stream
from reason.speculate.sources.stand import Stand, _key, _keys
from reason.types import Path

Visit = tuple[Sequence[int], dict[int, float]]  # (the path's end, what comes next)


def rows(*visits: Visit) -> Rows:
    """Entries that a visit lacks are tokens of probability 0, and -1 as in a vocabulary that has no more."""
    contexts = [([-1] * CONTEXT + list(end))[-CONTEXT:] for end, _ in visits]
    tokens = [[*row, *(900 + i if i % 2 else -1 for i in range(TOP - len(row)))] for _, row in visits]
    probabilities = [[*row.values(), *[0.0] * (TOP - len(row))] for _, row in visits]
    return Rows(np.array(contexts, np.int64), np.array(tokens, np.int64), np.array(probabilities, np.float64))


def visits_of(given: Rows) -> Iterator[tuple[Path, dict[int, float]]]:
    for context, tokens, probabilities in zip(given.contexts, given.tokens, given.probabilities, strict=True):
        row = {int(t): float(p) for t, p in zip(tokens, probabilities, strict=True) if t >= 0 and p > 0.0}
        yield tuple(int(t) for t in context), row


class Reference:
    """The same table as dictionaries."""

    def __init__(self, *, max_order: int = 4, min_order: int = 2, capacity: int = 1 << 30) -> None:
        self.orders = range(max_order, min_order - 1, -1)
        self.capacity = capacity
        self.table: dict[Path, tuple[int, dict[int, float]]] = {}  # key -> (visits, mean), oldest key first

    def observe(self, given: Rows) -> None:
        for order in self.orders:
            for context, row in visits_of(given):
                if context[-order] >= 0:
                    self.visit(context[-order:], row)

    def visit(self, key: Path, row: dict[int, float]) -> None:
        if key not in self.table and len(self.table) == self.capacity:
            del self.table[next(iter(self.table))]
        visits, mean = self.table.get(key, (0, {}))
        merged = {
            token: (mean.get(token, 0.0) * visits + row.get(token, 0.0)) / (visits + 1)
            for token in dict.fromkeys((*mean, *row))
        }
        best = sorted(merged, key=merged.__getitem__, reverse=True)[:TOP]
        self.table[key] = visits + 1, {token: merged[token] for token in best}

    def distribution(self, tokens: Sequence[int]) -> dict[int, float]:
        for order in self.orders:
            if order <= len(tokens) and tuple(tokens[-order:]) in self.table:
                return self.table[tuple(tokens[-order:])][1]
        return {}


def asked(source: Stand, tokens: Sequence[int]) -> Distribution:
    return source.distribution(source.state(Stream(list(tokens), 1, temperature=1.0)))


def shown(source: Stand, tokens: Sequence[int]) -> dict[int, float]:
    answer = asked(source, tokens)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    assert len(set(answer.tokens)) == len(answer.tokens) == len(answer.probabilities) <= TOP
    assert min(answer.tokens, default=0) >= 0
    assert sum(answer.probabilities) <= 1.0 + 1e-12
    return dict(zip(answer.tokens, answer.probabilities, strict=True))


def random_rows(rng: random.Random, vocab: int, count: int) -> Rows:
    """Contexts of few tokens, so that many come twice; rows over more tokens than a place keeps."""
    visits: list[Visit] = []
    for _ in range(count):
        support = rng.sample(range(30), rng.randrange(1, TOP + 1))
        weights = sorted((rng.random() for _ in support), reverse=True)
        total = sum(weights) * rng.uniform(1.0, 1.3)
        row = {token: weight / total for token, weight in zip(support, weights, strict=True)}
        visits.append(([rng.randrange(vocab) for _ in range(rng.randrange(1, CONTEXT + 1))], row))
    return rows(*visits)


def assert_equal(source: Stand, reference: Reference, paths: Sequence[Sequence[int]]) -> None:
    assert len(source) == len(reference.table)
    for path in paths:
        answer, expected = shown(source, path), reference.distribution(path)
        assert answer == pytest.approx(expected, abs=1e-12), path
        assert list(answer) == list(expected)


def paths_over(vocab: int) -> list[Path]:
    every: list[Path] = [()]
    for _ in range(CONTEXT):
        every += [(*path, token) for path in every if len(path) == len(every[-1]) for token in range(vocab)]
    return sorted({path for path in every if path})


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("max_order", "min_order"), [(4, 2), (4, 1), (3, 3), (1, 1)])
def test_equals_the_reference(max_order: int, min_order: int, seed: int) -> None:
    rng = random.Random(seed)
    source = Stand(max_order=max_order, min_order=min_order)
    reference = Reference(max_order=max_order, min_order=min_order)
    paths = paths_over(3)
    for _ in range(12):
        given = random_rows(rng, 3, rng.choice([1, 2, 7, 40]))
        source.observe(given)
        reference.observe(given)
        assert_equal(source, reference, paths)


@pytest.mark.parametrize("capacity", [1, 7, 12])
def test_the_oldest_keys_make_room(capacity: int) -> None:
    rng = random.Random(capacity)
    source = Stand(max_order=2, min_order=2, capacity=capacity)
    reference = Reference(max_order=2, min_order=2, capacity=capacity)
    forgotten = 0
    for _ in range(200):
        before = set(reference.table)
        given = random_rows(rng, 4, 1)  # one key a call
        source.observe(given)
        reference.observe(given)
        forgotten += len(before - set(reference.table))
        assert_equal(source, reference, paths_over(4))
        assert len(source) <= capacity
    assert forgotten > 20


@pytest.mark.parametrize("capacity", [1, 5, 20])
def test_a_key_that_is_forgotten_takes_its_visits_along(capacity: int) -> None:
    """One call may visit a key, forget it, and give its place to another key."""
    rng = random.Random(capacity)
    source, reference = Stand(capacity=capacity), Reference(capacity=capacity)
    for _ in range(20):
        given = random_rows(rng, 3, 12)
        source.observe(given)
        reference.observe(given)
        assert_equal(source, reference, paths_over(3))


def test_the_table_grows_beyond_its_first_size() -> None:
    source, reference = Stand(min_order=4), Reference(min_order=4)
    given = rows(*(([i, i + 1, i + 2, i + 3], {i % 50: 0.5, 60: 0.25}) for i in range(9000)))
    source.observe(given)
    reference.observe(given)
    assert len(source) == 9000
    assert_equal(source, reference, [(i, i + 1, i + 2, i + 3) for i in range(0, 9000, 97)])


def test_missing_entries_count_as_nothing() -> None:
    source = Stand()
    source.observe(rows(([1, 2], {5: 0.8, 6: 0.2})))
    source.observe(rows(([1, 2], {6: 0.6, 7: 0.3})))
    assert shown(source, [1, 2]) == pytest.approx({5: 0.4, 6: 0.4, 7: 0.15})
    source.observe(rows(([1, 2], {7: 0.9}), ([1, 2], {7: 0.9})))  # twice in one call: two visits
    assert shown(source, [1, 2]) == pytest.approx({7: 0.525, 5: 0.2, 6: 0.2})


def test_the_best_ten_stay() -> None:
    source = Stand()
    source.observe(rows(([1, 2], {token: (20 - token) / 200 for token in range(TOP)})))
    source.observe(rows(([1, 2], {token: (40 - token) / 400 for token in range(5, 5 + TOP)})))
    answer = shown(source, [1, 2])
    merged = {token: (20 - token) / 400 * (token < 10) + (40 - token) / 800 * (token >= 5) for token in range(15)}
    assert list(answer) == sorted(merged, key=merged.__getitem__, reverse=True)[:TOP]
    assert answer == pytest.approx({token: merged[token] for token in answer})


def test_longer_keys_are_asked_first() -> None:
    source = Stand()
    source.observe(rows(([1, 2, 3, 4], {10: 0.9}), ([9, 2, 3, 4], {11: 0.9}), ([9, 9, 3, 4], {12: 0.9})))
    assert list(shown(source, [1, 2, 3, 4])) == [10]
    assert list(shown(source, [7, 2, 3, 4])) == [10, 11]  # the mean of both visits
    assert shown(source, [7, 7, 3, 4]) == pytest.approx({10: 0.3, 11: 0.3, 12: 0.3})
    assert asked(source, [7, 7, 7, 4]) == NOTHING
    assert asked(source, [4]) == NOTHING


def test_rows_at_a_paths_start_have_short_keys_only() -> None:
    source = Stand(min_order=1)
    source.observe(rows(([5], {1: 0.5}), ([5, 6], {2: 0.5})))
    assert len(source) == 3  # (5), (6), (5, 6)
    assert list(shown(source, [5])) == [1]
    assert list(shown(source, [7, 6])) == [2]


def test_states_are_values() -> None:
    source = Stand()
    stream = Stream([1, 2, 3, 4, 5], 2, temperature=1.0)
    state = source.state(stream)
    before = pickle.dumps(state)
    after = source.step(state, 6)
    assert after == source.state(Stream([9, 9, 3, 4, 5, 6], 2, temperature=1.0))
    assert pickle.dumps(state) == before
    short = source.step(source.state(Stream([1], 1, temperature=1.0)), 2)
    assert short == source.state(Stream([1, 2], 1, temperature=1.0))
    assert Stand(max_order=1, min_order=1).step((4,), 5) == (5,)


def test_what_was_asked_is_frozen() -> None:
    """A rejection rule judges what was drawn by this very distribution."""
    source = Stand()
    source.observe(rows(([1, 2], {5: 0.8, 6: 0.1})))
    answer = asked(source, [1, 2])
    before = pickle.dumps(answer)
    source.observe(rows(([1, 2], {7: 0.9})))
    assert pickle.dumps(answer) == before
    assert source.stochastic


def test_reset_forgets() -> None:
    source = Stand(capacity=4)
    given = random_rows(random.Random(0), 3, 30)
    source.observe(given)
    source.reset()
    assert len(source) == 0
    assert asked(source, [1, 1, 1, 1]) == NOTHING
    fresh, one = Stand(capacity=4), rows(([1, 2], {5: 0.8}))
    source.observe(one)
    fresh.observe(one)
    assert asked(source, [1, 2]) == asked(fresh, [1, 2])


@pytest.mark.parametrize("order", range(1, CONTEXT + 1))
def test_both_hashes_are_one(order: int) -> None:
    rng = np.random.default_rng(order)
    contexts = np.concatenate([rng.integers(0, 1 << 18, (500, order)), rng.integers(0, 3, (100, order))])
    contexts[0], contexts[1] = 0, (1 << 31) - 1
    keys = _keys(contexts)
    assert keys == [_key(context) for context in contexts.tolist()]
    assert all(0 <= key < 1 << 64 for key in keys)
    distinct = {tuple(context) for context in contexts.tolist()}
    assert len(set(keys)) == len(distinct)


def test_orders_do_not_share_keys() -> None:
    keys = {_key(path) for path in paths_over(3)}
    assert len(keys) == len(paths_over(3))

"""Goodput: which nodes are drafted, against a search over everything that could be."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

from reason.speculate.policy import (
    Fixed,
    ForwardTimes,
    Goodput,
    Growth,
    Policy,
    Ranking,
    wide_template,
)
from reason.speculate.policy.goodput import _slopes
from tests.speculate.trees import Chain, Place, Toy, check_growth, drafted, greedy_streams, places, times_of


def random_times(rng: random.Random) -> ForwardTimes:
    """Steps and slopes of any size, also none."""
    seconds, value = dict[int, float](), 1.0
    for rows in (1, 4, 5, 8, 9, 16, 17, 32):
        seconds[rows] = value
        value += rng.choice([0.0, 0.01, 0.1, 0.5, 2.0]) * rng.random()
    return times_of(seconds)


def goodput_of(chosen: Sequence[Place], branches: int, times: ForwardTimes) -> float:
    rows = branches + len(chosen)
    return (branches + sum(place.probability for place in chosen)) / float(times.upto(rows)[rows])


@pytest.mark.parametrize("block", range(6))
def test_goodput_is_the_best_that_candidates_allow(block: int) -> None:
    """The best n nodes are the best tree of n nodes, as a node is never likelier than its parent."""
    some, none = 0, 0
    for seed in range(60 * block, 60 * (block + 1)):
        rng = random.Random(seed)
        times, source, streams = random_times(rng), Toy(seed), greedy_streams(rng.randrange(1, 4))
        policy = Goodput(times, max_nodes=16, max_depth=3)
        growth = policy.grow(streams, source, Ranking())
        chosen = drafted(growth)
        if growth is not None:
            check_growth(growth, streams, source)
        every = sorted(places(streams, source, 3, 0.02), key=lambda place: -place.probability)
        best = max(goodput_of(every[:n], len(streams), times) for n in range(min(16, len(every)) + 1))
        assert goodput_of(chosen, len(streams), times) == pytest.approx(best, rel=0.03), f"seed {seed}"
        expected = sum(place.probability for place in chosen)
        assert policy.expected == pytest.approx(expected)
        some, none = some + bool(chosen), none + (not chosen)
    assert some > 10
    assert none > 3


@pytest.mark.parametrize("seed", range(25))
def test_no_subtree_is_better(seed: int) -> None:
    rng = random.Random(seed)
    streams, source, times = greedy_streams(1 + seed % 2), Toy(seed, width=2), random_times(rng)
    every = places(streams, source, 3, 0.05)[:11]
    slots = {(place.tree, place.path): i for i, place in enumerate(every)}
    parents = [slots[place.tree, place.path[:-1]] if len(place.path) > 1 else None for place in every]
    best = 0.0
    for taken in product([False, True], repeat=len(every)):
        if all(not here or parent is None or taken[parent] for here, parent in zip(taken, parents, strict=True)):
            subtrees = [place for place, here in zip(every, taken, strict=True) if here]
            best = max(best, goodput_of(subtrees, len(streams), times))
    growth = Goodput(times, max_nodes=30, max_depth=3, floor=0.05).grow(streams, source, Ranking())
    assert goodput_of(drafted(growth), len(streams), times) >= best * 0.97


def test_a_step_is_climbed_for_all_that_fits_on_it() -> None:
    """Where rows cost nothing once a step is taken, it is all of them together that must pay for it."""
    times = times_of({1: 1.0, 16: 1.0, 17: 1.6, 32: 1.6, 33: 3.0, 48: 3.0})
    sixteen = Goodput(times).grow(greedy_streams(16), Chain(0.75), Ranking())
    assert len(drafted(sixteen)) == 16  # 0.75 each is 12 for 0.6 seconds, where 16 a second is had without
    eight = Goodput(times).grow(greedy_streams(8), Chain(0.8), Ranking())
    assert len(drafted(eight)) == 24  # up to the next step: 8 of 0.8, of 0.64 and of 0.51
    twelve = times_of({1: 1.0, 12: 1.0, 13: 1.5, 32: 1.5, 33: 3.0})
    assert len(drafted(Goodput(twelve).grow(greedy_streams(12), Chain(0.5), Ranking()))) == 20  # 12 of 0.5, 8 of 0.25


def test_never_below_plain_decoding_by_the_estimates() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        times, streams = random_times(rng), greedy_streams(rng.randrange(1, 5))
        chosen = drafted(Goodput(times).grow(streams, Toy(seed), Ranking()))
        assert goodput_of(chosen, len(streams), times) >= goodput_of([], len(streams), times)


def test_nothing_is_drafted_where_rows_are_expensive() -> None:
    linear = times_of({1: 1.0, 100: 100.0})
    assert not drafted(Goodput(linear).grow(greedy_streams(2), Chain(0.99), Ranking()))
    dear = times_of({1: 1.0, 2: 1.7, 100: 1.0 + 0.7 * 99})
    assert not drafted(Goodput(dear).grow(greedy_streams(1), Chain(0.6), Ranking()))
    assert len(drafted(Goodput(dear).grow(greedy_streams(1), Chain(0.9), Ranking()))) == 2  # 0.9, 0.81 for 0.7 each


def test_overhead_counts() -> None:
    times = times_of({1: 1.0, 100: 1.0})
    policy = Goodput(times)
    assert len(drafted(policy.grow(greedy_streams(1), Chain(0.8), Ranking()))) == 16
    for _ in range(200):
        policy.overhead(1.0, 0.05)
    assert not drafted(policy.grow(greedy_streams(1), Chain(0.8), Ranking()))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("sure", [0.9, 0.7])
def test_a_floor_stops_where_a_rejection_is_likely(threshold: float, sure: float) -> None:
    """SpecDec++: a chain goes on as long as P(some token of it is rejected) is at most h; rows cost nothing here."""
    free = times_of({1: 1.0, 100: 1.0})
    growth = Goodput(free, floor=1.0 - threshold, max_depth=30).grow(greedy_streams(1), Chain(sure), Ranking())
    assert len(drafted(growth)) == int(math.log(1.0 - threshold) / math.log(sure))


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("nodes", [1, 2, 7, 20])
def test_a_number_of_nodes_is_kept_exactly(branches: int, nodes: int) -> None:
    source, streams = Toy(nodes, least=1), greedy_streams(branches)
    policy = Goodput(nodes=nodes, max_depth=6)
    assert not policy.decides
    growth = policy.grow(streams, source, Ranking())
    assert growth is not None
    check_growth(growth, streams, source)
    chosen = drafted(growth)
    assert len(chosen) == nodes * branches
    assert policy.expected == pytest.approx(sum(place.probability for place in chosen))
    best = sorted((place.probability for place in places(streams, source, 6, 0.004)), reverse=True)[: len(chosen)]
    assert sorted((place.probability for place in chosen), reverse=True) == pytest.approx(best)


def test_a_number_of_nodes_ends_with_the_candidates() -> None:
    streams = greedy_streams(2, room=2)
    growth = Goodput(nodes=50).grow(streams, Chain(0.9), Ranking())
    assert growth is not None
    assert [len(tree) for tree in growth.trees] == [2, 2]


@pytest.mark.parametrize("policy", ["goodput", "nodes", "fixed"])
def test_room_is_respected(policy: str) -> None:
    policies: dict[str, Policy] = {
        "goodput": Goodput(times_of({1: 1.0, 100: 1.0})),
        "nodes": Goodput(nodes=9),
        "fixed": Fixed(wide_template(nodes=30, depth=6, width=3)),
    }
    for seed in range(20):
        source, streams = Toy(seed, least=1), greedy_streams(4)
        for room, stream in enumerate(streams):
            stream.room = room
        growth = policies[policy].grow(streams, source, Ranking())
        assert growth is not None
        check_growth(growth, streams, source)
        assert [max(tree.depths) for tree in growth.trees[:2]] == [0, 1]
        assert max(growth.trees[2].depths) == 2


@pytest.mark.parametrize("seed", range(10))
def test_cutting_back_leaves_trees(seed: int) -> None:
    source, streams = Toy(seed), greedy_streams(3)
    growth = Growth(streams, source, Ranking(), max_depth=5, floor=0.0)
    taken: list[float] = []
    while growth.best and len(taken) < 40:
        best = growth.best
        taken.append(growth.take())
        assert taken[-1] == best
    assert taken == sorted(taken, reverse=True)
    whole = [list(tree.tokens) for tree in growth.trees]
    for count in range(len(taken), -1, -1):
        growth.cut(count)
        check_growth(growth, streams, source)
        assert len(growth.order) == count
        assert sorted((place.probability for place in drafted(growth)), reverse=True) == pytest.approx(taken[:count])
        assert all(tree.tokens == tokens[: len(tree.tokens)] for tree, tokens in zip(growth.trees, whole, strict=True))


@pytest.mark.parametrize("seed", range(40))
def test_the_least_that_more_nodes_can_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 90))
    steps = (rng.random(count), rng.choice([0.0, 0.1, 1.0], count), np.full(count, 0.01), np.zeros(count))[seed % 4]
    seconds = 1.0 + np.cumsum(steps)
    least = [min((seconds[j] - seconds[i]) / (j - i) for j in range(i + 1, count)) for i in range(count - 1)]
    assert _slopes(seconds).tolist() == least

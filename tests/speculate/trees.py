"""Toy sources and greedy streams, and every node that a policy could draft for them."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from reason.speculate.draft import Distribution, DraftTree, Source, State, Stream
from reason.speculate.policy import (
    ForwardTimes,
    Growth,
)
from reason.types import Path


class Toy(Source):
    """Random distributions, a function of the path; some places have nothing, or no state."""

    name = "toy"

    def __init__(self, seed: int, *, width: int = 3, least: int = 0) -> None:
        self.seed, self.width, self.least = seed, width, least

    def state(self, stream: Stream) -> State:
        return (stream.key, *stream.tokens)

    def step(self, state: State, token: int) -> State:
        after = (*state, token)
        return None if self.least == 0 and random.Random(f"{self.seed} none {after}").random() < 0.1 else after

    def distribution(self, state: State) -> Distribution:
        rng = random.Random(f"{self.seed} {state}")
        count = rng.randrange(self.least, self.width + 1)
        weights = sorted((rng.random() ** 2 + 0.02 for _ in range(count)), reverse=True)
        total = sum(weights) * rng.uniform(1.0, 1.5)
        return Distribution(rng.sample(range(50), count), [weight / total for weight in weights])


class Chain(Source):
    """One token of probability ``sure`` after another."""

    name = "chain"

    def __init__(self, sure: float) -> None:
        self.sure = sure

    def state(self, stream: Stream) -> State:
        return 0

    def step(self, state: State, token: int) -> State:
        return state + 1

    def distribution(self, state: State) -> Distribution:
        return Distribution([state], [self.sure])


class Place(NamedTuple):
    """A node that may be drafted."""

    tree: int
    path: Path
    probability: float  # of the whole path


def greedy_streams(count: int, room: int = 1 << 30) -> list[Stream]:
    return [Stream([1, 2, key], 2, temperature=0.0, key=key, room=room) for key in range(count)]


def places(streams: Sequence[Stream], source: Source, depth: int, floor: float) -> list[Place]:
    """Every node that is at least as likely as ``floor``, for greedy requests without calibration (by q)."""
    found: list[Place] = []
    for tree, stream in enumerate(streams):
        waiting: list[tuple[Path, float, State]] = [((), 1.0, source.state(stream))]
        for path, probability, state in waiting:  # grows as it is read
            if state is None or len(path) == min(depth, stream.room):
                continue
            expected = source.distribution(state)
            for token, q in zip(expected.tokens, expected.probabilities, strict=True):
                if probability * q >= floor:
                    found.append(Place(tree, (*path, token), probability * q))
                    waiting.append(((*path, token), probability * q, source.step(state, token)))
    return found


def drafted(growth: Growth | None) -> list[Place]:
    return (
        []
        if growth is None
        else [
            Place(index, tree.path(node), math.prod(tree.estimates[i] for i in line_to(tree, node)))
            for index, tree in enumerate(growth.trees)
            for node in range(1, len(tree.tokens))
        ]
    )


def line_to(tree: DraftTree, node: int) -> list[int]:
    line: list[int] = []
    while node:
        line.append(node)
        node = tree.parents[node]
    return line


def check_growth(growth: Growth, streams: Sequence[Stream], source: Source) -> None:
    """Trees whose columns agree, with the states that the source has there."""
    assert len(growth.trees) == len(streams)
    assert sorted(growth.order) == [i for i, tree in enumerate(growth.trees) for _ in range(len(tree))]
    for index, (tree, stream) in enumerate(zip(growth.trees, streams, strict=True)):
        size = len(tree.tokens)
        columns: list[Sequence[object]] = [tree.parents, tree.depths, tree.estimates, tree.proposers, tree.children]
        columns += [growth.states[index], growth.buckets[index]]
        assert all(len(column) == size for column in columns)
        assert tree.tokens[0] == stream.tokens[-1]
        assert tree.parents[0] == -1
        for node in range(1, size):
            parent = tree.parents[node]
            assert 0 <= parent < node
            assert tree.depths[node] == tree.depths[parent] + 1 <= stream.room
            state = growth.states[index][parent]
            assert tree.tokens[node] in source.distribution(state).tokens
            assert growth.states[index][node] == source.step(state, tree.tokens[node])
        for node in range(size):
            below = [child for child in range(1, size) if tree.parents[child] == node]
            assert tree.children[node] == below
            assert len({tree.tokens[child] for child in below}) == len(below)


def times_of(seconds: dict[int, float]) -> ForwardTimes:
    times = ForwardTimes()
    times.set(seconds)
    return times

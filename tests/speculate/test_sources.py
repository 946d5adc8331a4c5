"""What is promised to every source, and what every source keeps to."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from reason.speculate.draft import CONTEXT, TOP, Distribution, Rows, Source, State, Stream
from reason.speculate.policy import Fixed, Goodput
from reason.speculate.rules import RULES
from reason.speculate.sources import SOURCES, make_source
from reason.speculate.sources.union import Union
from reason.speculate.speculator import Speculator


class Batched(Source):
    """Two tokens everywhere, for streams that it is prepared for."""

    stochastic = True

    def __init__(self, name: str = "batched") -> None:
        self.name = name
        self.prepared: list[Stream] = []

    def prepare(self, streams: Sequence[Stream]) -> None:
        self.prepared = list(streams)

    def state(self, stream: Stream) -> State:
        assert stream in self.prepared
        return True

    def step(self, state: State, token: int) -> State:
        return True

    def distribution(self, state: State) -> Distribution:
        return Distribution([4, 5], [0.6, 0.3])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("branches", [1, 20])
def test_sources_are_prepared_for_what_is_asked_under_every_rule(rule: str, branches: int) -> None:
    """In a crowd a union asks its first source only, but under the rule that needs two."""
    source = Batched()
    joint = Union([Batched("other"), source]) if rule == "mixed" else source
    policy = Goodput(nodes=3) if RULES[rule].draws == "any" else Fixed()
    drafts = Speculator(joint, rule=rule, policy=policy).draft([Stream([1, key], 1, 0.8) for key in range(branches)])
    assert drafts is not None
    assert all(len(tree) for tree in drafts.trees)


def rows_of(rng: random.Random, tokens: Sequence[int]) -> Rows:
    """What a model might say at each of the last places of a path."""
    ends = range(len(tokens) - 3, len(tokens) + 1)
    contexts = [([-1] * CONTEXT + list(tokens[:end]))[-CONTEXT:] for end in ends]
    named = [rng.sample(range(TOP + 2), TOP) for _ in ends]
    falling = np.array([0.5**i for i in range(1, TOP + 1)])
    return Rows(np.array(contexts), np.array(named), np.tile(falling, (len(contexts), 1)))


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("seed", range(4))
def test_settling_needs_no_asking(name: str, seed: int) -> None:
    """Nobody asks where a draft ends: a source that is asked everywhere and one that never is learn the same."""
    rng = random.Random(seed)
    asked, silent = make_source(name), make_source(name)
    begun = [0, 1, 2, 3] * 3
    streams = [Stream(list(begun), len(begun), 0.0) for _ in range(2)]
    for source, stream in zip((asked, silent), streams, strict=True):
        source.begin(stream)
    for _ in range(120):
        new = [(streams[0].tokens[-1] + 1) % 4 if rng.random() < 0.7 else rng.randrange(6) for _ in range(2)]
        told = rows_of(rng, [*streams[0].tokens, *new])
        for source, stream in zip((asked, silent), streams, strict=True):
            root = source.state(stream)
            along = None if root is None else source.step(root, new[0])
            for state, token in ((root, new[0]), (along, new[1])):
                if state is not None:
                    if source is asked:
                        source.distribution(state)
                    source.settle(state, token)
            stream.tokens.extend(new)
            source.extend(stream, 2)
            source.observe(told)
    ends = [source.state(stream) for source, stream in zip((asked, silent), streams, strict=True)]
    assert asked.distribution(ends[0]) == silent.distribution(ends[1])

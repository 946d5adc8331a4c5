"""A draft model's places and distributions are its own, whatever was accepted; and what decides where they are."""

from __future__ import annotations

import itertools
import random

import pytest

from reason.speculate.draft import Stream
from reason.speculate.policy import Fixed
from reason.speculate.sources.draft_model import DraftModel
from reason.speculate.sources.draft_shapes import make_shape
from reason.speculate.sources.lookup import Lookup
from reason.speculate.sources.union import Union
from reason.speculate.speculator import Speculator
from tests.speculate.draft_models import (
    ALL_SHAPES,
    PROMPT,
    VOCAB,
    MakeRunner,
    at,
    begun,
    candidates,
    check_distribution,
    computed,
    count_rows,
    expect,
    make_model,
    sample,
    told,
)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_distributions_are_the_models_own_whatever_was_accepted(
    make_runner: MakeRunner, shape: str, temperature: float
) -> None:
    model, rng = make_model(0), random.Random(1)
    source = DraftModel(make_runner(0), shape=make_shape(shape), length=3)
    streams = [begun(source, [*PROMPT, key % 2], temperature=temperature, key=key) for key in range(4)]
    places = 0
    for _ in range(4):
        source.prepare(streams)
        for stream in streams:
            found = computed(source, stream)
            places += len(found)
            for path, expected in found.items():
                check_distribution(model, [*stream.tokens, *path], temperature, expected)
            # Some of what was drafted is accepted, and then another token comes.
            accepted = rng.choice(sorted(found))
            told(source, stream, [*accepted, rng.randrange(VOCAB)])
    assert places >= 4 * 4 * 3
    for stream in streams:
        source.end(stream)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("ngram", [False, True])
def test_its_own_target_accepts_the_whole_chain_and_nothing_is_computed_twice(
    make_runner: MakeRunner, temperature: float, ngram: bool
) -> None:
    model, runner = make_model(0), make_runner(0)
    rows = count_rows(runner)
    source = DraftModel(runner, length=4, ngram=ngram)
    stream = begun(source, PROMPT, temperature=temperature)
    agreed = emitted = 0
    for _ in range(12):
        source.prepare([stream])
        path: tuple[int, ...] = ()
        state = source.state(stream)
        new: list[int] = []
        while state is not None:
            expected = source.distribution(state)
            best = candidates(stream, path, expected)[0].token
            new.append(sample(model, [*stream.tokens, *new], stream))
            if new[-1] != best:
                assert temperature > 0.0
                assert new[-1] not in expected.tokens[:8]  # ranking looks no further
                break
            path = (*path, best)
            state = source.step(state, best)
        else:
            new.append(sample(model, [*stream.tokens, *new], stream))
            assert len(path) == 4
        agreed += len(path)
        emitted += len(new)
        told(source, stream, new)
    assert agreed >= 0.8 * 12 * 4
    if not temperature and not ngram:
        assert emitted == 12 * 5
        assert sum(rows) == len(PROMPT) + 3 + 11 * 5  # one row for each token
    source.end(stream)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_the_places_are_those_that_the_shape_says(make_runner: MakeRunner, shape: str, temperature: float) -> None:
    source = DraftModel(make_runner(0), shape=make_shape(shape), length=3)
    oracle = DraftModel(make_runner(0), on_demand=True)
    for key in range(5):
        stream, twin = (begun(each, PROMPT, temperature=temperature, key=key) for each in (source, oracle))
        source.prepare([stream])
        level: dict[tuple[int, ...], float] = {(): 1.0}
        places = dict(level)
        for depth in range(2):
            offered: list[list[tuple[tuple[int, ...], float]]] = []
            for path, value in level.items():
                found = candidates(twin, path, at(oracle, twin, path))
                offered.append([((*path, c.token), value * c.estimate) for c in found])
            merged = sorted(itertools.chain(*offered), key=lambda entry: -entry[1])
            level = dict(
                {
                    "chain": [entries[0] for entries in offered],
                    "rsd-c:3,2,1": [entry for entries in offered for entry in entries[: (3, 2)[depth]]],
                    "rsd-s:3": merged[:3],
                    "dyspec:24": [entry for entry in merged if entry[1] > 1 / 24],
                }[shape]
            )
            places |= level
        assert computed(source, stream).keys() == places.keys()
        source.end(stream)
        oracle.end(twin)


def test_constant_branching_ends_with_its_last_number(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0), shape=make_shape("rsd-c:2,2"), length=5)
    stream = begun(source, PROMPT)
    source.prepare([stream])
    assert sorted(map(len, computed(source, stream))) == [0, 1, 1, 2, 2, 2, 2]
    source.end(stream)


def test_nothing_is_computed_behind_a_likely_rejection(make_runner: MakeRunner) -> None:
    lengths: list[int] = []
    for stop in (None, 0.9, 0.5, 0.1):
        source = DraftModel(make_runner(0), length=6, stop=stop)
        total = 0
        for key in range(6):
            stream = begun(source, PROMPT, temperature=0.8, key=key)
            source.prepare([stream])
            found = computed(source, stream)
            for path in found:
                value = 1.0
                for depth in range(len(path)):
                    (own,) = (
                        c for c in candidates(stream, path[:depth], found[path[:depth]]) if c.token == path[depth]
                    )
                    value *= own.estimate
                assert stop is None or value >= 1.0 - stop
            total += len(found)
            source.end(stream)
        lengths.append(total)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 36
    assert lengths[-1] < 12


def test_one_forward_a_level_over_all_streams(make_runner: MakeRunner) -> None:
    runner = make_runner(0)
    told_of: list[int] = []
    source = DraftModel(runner, length=4)
    source.watch_forwards(lambda streams: told_of.append(len(streams)))
    streams = [begun(source, [*PROMPT, key]) for key in range(6)]
    streams[0].room = 2
    streams[1].room = 0
    source.prepare(streams)
    assert runner.forwards == 4
    assert told_of == [5, 5, 4, 4]
    assert [len(computed(source, stream)) for stream in streams] == [2, 0, 4, 4, 4, 4]
    source.prepare(streams)  # nobody's end has moved
    assert runner.forwards == 4
    for stream in streams:
        source.end(stream)


def test_copies_save_forwards_and_change_nothing(make_runner: MakeRunner) -> None:
    model = make_model(0)
    tokens = list(PROMPT)
    for _ in range(60):  # greedy text of a small model runs in circles
        tokens.append(int(expect(model, tokens, 0.0).argmax()))
    forwards: dict[bool, int] = {}
    drafted: dict[bool, list[list[tuple[int, ...]]]] = {}
    for ngram in (False, True):
        runner = make_runner(0)
        source = DraftModel(runner, length=8, ngram=ngram)
        stream = begun(source, PROMPT)
        drafted[ngram] = []
        for start in range(len(PROMPT), 50, 9):
            source.prepare([stream])
            chain = [path for path in computed(source, stream) if list(path) == tokens[start : start + len(path)]]
            drafted[ngram].append(sorted(chain, key=len))
            told(source, stream, tokens[start : start + 9])
        forwards[ngram] = runner.forwards
        source.end(stream)
    assert [chain[:8] for chain in drafted[True]] == drafted[False]
    assert all(len(chain) == 8 for chain in drafted[False])
    assert forwards[False] == 5 * 8
    assert forwards[True] <= 0.75 * forwards[False]  # it does not run in circles from the start


def test_on_demand_computes_what_is_asked_about(make_runner: MakeRunner) -> None:
    model, runner = make_model(0), make_runner(0)
    source = DraftModel(runner, on_demand=True)
    stream = begun(source, PROMPT, temperature=1.3)
    state = source.state(stream)  # nobody prepared anything
    assert runner.forwards == 0
    for path in [(4,), (4, 5), (4, 6), (7, 8, 9), ()]:
        check_distribution(model, [*PROMPT, *path], 1.3, at(source, stream, path))
    forwards = runner.forwards
    assert forwards == 5
    assert at(source, stream, (4, 5)) == at(source, stream, (4, 5))
    assert runner.forwards == forwards
    assert source.state(stream).place is state.place
    told(source, stream, [7, 8, 1])
    check_distribution(model, [*PROMPT, 7, 8, 1], 1.3, source.distribution(source.state(stream)))
    source.end(stream)


@pytest.mark.parametrize("rule", ["iid", "mixed"])
def test_rules_that_draw_ask_about_all_ends_in_one_forward(make_runner: MakeRunner, rule: str) -> None:
    runner = make_runner(0)
    source = DraftModel(runner, on_demand=True)
    joint = Union([Lookup(), source], crowd=2) if rule == "mixed" else source
    speculator = Speculator(joint, rule=rule, policy=Fixed(((0,), (1,))))
    streams = [Stream([*PROMPT, key], len(PROMPT) + 1, 0.8, seed=5, key=key) for key in range(6)]
    for stream in streams:
        joint.begin(stream)
    drafts = speculator.draft(streams)
    assert drafts is not None
    assert drafts.nodes == 12
    assert runner.forwards == 1
    for stream in streams:
        joint.end(stream)

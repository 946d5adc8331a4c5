"""A draft model whose pool, positions or tokens end, and what it forgets and learns."""

from __future__ import annotations

import random

import pytest

from reason.speculate.sources.draft_model import DraftModel
from reason.speculate.sources.draft_shapes import MAX_LEVELS, make_shape
from tests.speculate.draft_models import (
    PROMPT,
    VOCAB,
    MakeRunner,
    begun,
    check_distribution,
    computed,
    count_rows,
    make_model,
    told,
)


def test_a_pool_too_small_for_all_streams(make_runner: MakeRunner) -> None:
    model, runner = make_model(0), make_runner(0, kv_tokens=30)
    source = DraftModel(runner, length=3, shape=make_shape("rsd-s:2"))
    # Two paths of 12 fit, the third does not; what is left is too small for all drafts.
    streams = [begun(source, [key, *PROMPT, 1, 2, 3, 4]) for key in range(3)]
    rng = random.Random(0)
    for iteration in range(12):
        source.prepare(streams)
        runner.forest.check_integrity()
        found = [computed(source, stream) for stream in streams]
        assert any(found)
        assert iteration >= 3 or list(map(bool, found)) == [True, True, False]
        for stream, places in zip(streams, found, strict=True):
            for path, expected in places.items():
                check_distribution(model, [*stream.tokens, *path], 0.0, expected)
            told(source, stream, [rng.randrange(VOCAB)])
    source.prepare(streams[2:])  # the others make room
    assert len(computed(source, streams[2])) == 5
    for stream in streams:
        source.end(stream)
    assert runner.forest.locked_tokens == 0
    long = begun(source, [1] * 31)
    source.prepare([long])
    assert source.state(long) is None
    source.end(long)


def test_a_prompt_longer_than_a_forward_is_computed_in_parts(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason.speculate.sources.draft_model._MAX_ROWS", 20)
    model, runner = make_model(0), make_runner(0)
    rows = count_rows(runner)
    source = DraftModel(runner, length=1)
    rng = random.Random(0)
    streams = [begun(source, [rng.randrange(VOCAB) for _ in range(length)]) for length in (50, 30, 1)]
    told_of: list[list[int]] = []
    source.watch_forwards(lambda present: told_of.append([streams.index(stream) for stream in present]))
    source.prepare(streams)
    for stream in streams:
        check_distribution(model, stream.tokens, 0.0, source.distribution(source.state(stream)))
        source.end(stream)
    assert max(rows) <= 26
    assert len(rows) == len(told_of) >= 4
    assert told_of[0] == [0, 2]  # there was no row left for the second
    assert told_of[-1] == [0, 1, 2]


def test_the_end_of_the_models_positions(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0, max_positions=10), length=6)
    stream = begun(source, PROMPT)
    source.prepare([stream])
    assert len(computed(source, stream)) == 3  # at 7, 8 and 9 tokens
    told(source, stream, [1, 2, 3])
    source.prepare([stream])
    assert source.state(stream) is None
    source.end(stream)


def test_tokens_that_only_one_of_the_models_has(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0), length=2, vocab_size=20)
    stream = begun(source, PROMPT)
    source.prepare([stream])
    found = computed(source, stream)
    assert len(found) == 2
    assert all(token < 20 for expected in found.values() for token in expected.tokens)
    told(source, stream, [VOCAB])  # padding of a larger vocabulary
    source.prepare([stream])
    assert source.state(stream) is None
    told(source, stream, [1, 2])
    source.prepare([stream])
    assert source.state(stream) is None
    source.end(stream)
    other = begun(source, [1, VOCAB + 3, 2])
    source.prepare([other])
    assert source.state(other) is None
    source.end(other)


def test_reset_closes_everything_and_streams_go_on(make_runner: MakeRunner) -> None:
    model, runner = make_model(0), make_runner(0)
    source = DraftModel(runner, length=3, ngram=True)
    streams = [begun(source, [*PROMPT, key]) for key in range(3)]
    source.prepare(streams)
    source.acceptance = 0.1
    source.reset()
    assert source.acceptance > 0.5
    assert runner.forest.cached_tokens == 0
    assert [source.state(stream) for stream in streams] == [None] * 3
    for stream in streams:
        told(source, stream, [1])
    source.prepare(streams)
    for stream in streams:
        check_distribution(model, stream.tokens, 0.0, source.distribution(source.state(stream)))
        source.end(stream)


def test_what_was_drafted_and_came_makes_the_acceptance(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0), length=2)
    stream = begun(source, PROMPT)
    before = source.acceptance
    for good in (True, True, False, False, False):
        source.prepare([stream])
        expected = source.distribution(source.state(stream)).tokens
        told(source, stream, [expected[0] if good else expected[3]])
        assert (source.acceptance > before) == good
        before = source.acceptance
    stream.tokens.append(1)
    source.extend(stream, 1)  # nothing was drafted there
    assert source.acceptance == before
    source.end(stream)


def test_levels_follow_what_both_models_cost(make_runner: MakeRunner) -> None:
    seconds = 10.0
    source = DraftModel(make_runner(0), target_seconds=lambda rows: seconds)
    source.acceptance = 0.9
    assert source.levels(1) == MAX_LEVELS
    seconds = 1e-7
    assert source.levels(1) == 0
    stream = begun(source, PROMPT)
    source.prepare([stream])
    assert source.state(stream) is None
    source.acceptance = 0.0
    for _ in range(100):  # what looked bad is tried again
        source.prepare([stream])
    assert source.acceptance > 0.4
    source.end(stream)
    many = DraftModel(make_runner(0), target_seconds=lambda rows: 0.001 * rows)  # rows are all that costs
    assert many.levels(64) == 0
    assert DraftModel(make_runner(0), shape=make_shape("rsd-c:2,1"), target_seconds=lambda rows: 9.0).levels(1) == 2

"""Prompt lookup, on examples by hand and against a scan of the text."""

from __future__ import annotations

import pickle
import random

import pytest

from reason.speculate.draft import Stream
from reason.speculate.sources.lookup import Lookup


def begun(source: Lookup, tokens: list[int]) -> Stream:
    stream = Stream(list(tokens), len(tokens), temperature=0.0)
    source.begin(stream)
    return stream


def generate(source: Lookup, stream: Stream, tokens: list[int]) -> None:
    stream.tokens += tokens
    source.extend(stream, len(tokens))


def copied(source: Lookup, stream: Stream, count: int) -> list[int]:
    """The first ``count`` tokens of the copy."""
    state, tokens = source.state(stream), list[int]()
    while state is not None and len(tokens) < count:
        (token,) = source.distribution(state).tokens
        tokens.append(token)
        state = source.step(state, token)
    return tokens


def test_copies_what_followed_the_latest_occurrence() -> None:
    source = Lookup()
    stream = begun(source, [1, 2, 3, 7, 1, 2, 4, 8, 1, 2])
    assert copied(source, stream, 3) == [4, 8, 1]


def test_the_longest_ngram_counts() -> None:
    source = Lookup(max_ngram=3, min_ngram=2)
    stream = begun(source, [9, 1, 2, 3, 7, 1, 2, 4, 9, 1, 2])
    assert copied(source, stream, 2) == [3, 7]  # after 9 1 2, though 1 2 occurred later


def test_a_copy_goes_on_beyond_the_texts_end() -> None:
    source = Lookup()
    stream = begun(source, [1, 2, 3, 1, 2, 3])
    assert copied(source, stream, 8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_nothing_where_the_shortest_ngram_is_new() -> None:
    source = Lookup()
    assert source.state(begun(source, [1, 2, 3])) is None
    assert source.state(begun(source, [1])) is None
    assert source.state(begun(source, [1, 2, 3, 9, 3])) is None  # one token is fewer than min_ngram
    shorter = Lookup(min_ngram=1)
    assert shorter.state(begun(shorter, [1])) is None


def test_step_refuses_another_token_and_leaves_the_old_state_good() -> None:
    source = Lookup()
    stream = begun(source, [1, 2, 3, 4, 1, 2])
    state = source.state(stream)
    before = pickle.dumps(state)
    assert source.step(state, 9) is None
    after = source.step(state, 3)
    assert source.distribution(after).tokens == (4,)
    assert source.distribution(state).tokens == (3,)
    assert pickle.dumps(state) == before


@pytest.mark.parametrize("seed", range(6))
def test_answers_as_a_scan_of_the_text_does(seed: int) -> None:
    rng = random.Random(seed)
    source = Lookup(max_ngram=4, min_ngram=1 + seed % 3)
    stream = begun(source, [rng.randrange(3) for _ in range(rng.randrange(1, 6))])
    for _ in range(80):
        tokens = stream.tokens
        expected = None
        for n in range(4, seed % 3, -1):
            places = [i for i in range(n, len(tokens)) if tokens[i - n : i] == tokens[-n:]]
            if places:
                expected = places[-1]
                break
        if expected is None:
            assert source.state(stream) is None
        else:
            period = len(tokens) - expected
            assert copied(source, stream, 12) == [tokens[expected + i % period] for i in range(12)]
        generate(source, stream, [rng.randrange(3) for _ in range(rng.randrange(1, 4))])


def test_the_match_is_counted_back_and_grows_along_the_copy() -> None:
    source = Lookup(max_ngram=2)
    run = list(range(10, 20))
    stream = begun(source, [*run, 5, 6, *run])
    state = source.state(stream)
    assert source.distribution(state).tokens == (5,)
    long = source.distribution(state).probabilities[0]
    short = source.distribution(source.state(begun(source, [1, 2, 3, 1, 2]))).probabilities[0]
    assert 0.0 < short < long < 1.0
    assert source.distribution(source.step(source.step(state, 5), 6)).probabilities[0] > long  # 12 tokens agree


def test_learns_how_often_copies_are_right() -> None:
    source = Lookup()
    stream = begun(source, [1, 2, 3, 4, 1, 2])
    state = source.state(stream)
    (start,) = source.distribution(state).probabilities
    for _ in range(50):
        source.settle(state, 9)
    (low,) = source.distribution(state).probabilities
    for _ in range(200):
        source.settle(state, 3)
    (high,) = source.distribution(state).probabilities
    assert low < start < high <= 1.0
    source.reset()
    assert source.distribution(state).probabilities == (start,)


def test_only_the_latest_places_stay() -> None:
    source = Lookup(max_ngram=2, min_ngram=2, max_tokens=8)
    stream = begun(source, [1, 2, 3])
    generate(source, stream, [*range(100, 110), 1, 2])
    assert source.state(stream) is None
    generate(source, stream, [4, 5, 1, 2])
    assert copied(source, stream, 1) == [4]
    rng = random.Random(0)
    for _ in range(40):
        generate(source, stream, [rng.randrange(5) for _ in range(3)])
        assert len(source._indexes[stream].after) <= 8


def test_a_long_prompt_is_indexed_within_the_bound() -> None:
    source = Lookup(max_ngram=2, min_ngram=2, max_tokens=8)
    stream = begun(source, list(range(1000)))
    assert len(source._indexes[stream].after) == 8


def test_streams_do_not_see_each_other_and_leave_nothing_behind() -> None:
    source = Lookup()
    first = begun(source, [1, 2, 3, 4])
    second = begun(source, [8, 1, 2])
    assert source.state(second) is None
    source.end(first)
    source.end(second)
    assert not source._indexes

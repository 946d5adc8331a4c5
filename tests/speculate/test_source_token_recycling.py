"""Token Recycling: the matrix, and how often each of its ranks comes true."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from reason.speculate.draft import CONTEXT, NOTHING, TOP, Distribution, Rows, Stream
from reason.speculate.sources.token_recycling import TokenRecycling

WIDTH = 8


def rows(*entries: tuple[int, Sequence[int]]) -> Rows:
    """Rows from (the token they were computed at, the likeliest tokens)."""
    contexts = [[-1] * (CONTEXT - 1) + [token] for token, _ in entries]
    tokens = [[*row, *range(1000, 1000 + TOP)][:TOP] for _, row in entries]
    return Rows(
        np.array(contexts, np.int64).reshape(-1, CONTEXT), np.array(tokens, np.int64), np.full((len(tokens), TOP), 0.1)
    )


def asked(source: TokenRecycling, token: int) -> Distribution:
    return source.distribution(source.state(Stream([3, token], 1, temperature=0.0)))


def test_gives_the_last_rows_best_eight() -> None:
    source = TokenRecycling()
    source.observe(rows((7, range(10, 20)), (8, range(30, 40))))
    assert list(asked(source, 7).tokens) == list(range(10, 18))
    assert list(asked(source, 8).tokens) == list(range(30, 38))
    source.observe(rows((7, range(50, 60))))
    assert list(asked(source, 7).tokens) == list(range(50, 58))
    assert list(asked(source, 8).tokens) == list(range(30, 38))


def test_the_last_of_several_rows_at_one_token_wins() -> None:
    rng = random.Random(0)
    source = TokenRecycling()
    last: dict[int, list[int]] = {}
    for _ in range(30):
        entries = [(rng.randrange(6), rng.sample(range(100), TOP)) for _ in range(rng.randrange(1, 20))]
        source.observe(rows(*entries))
        last.update(entries)
        for token, row in last.items():
            assert list(asked(source, token).tokens) == row[:WIDTH]


def test_nothing_at_tokens_that_were_never_seen() -> None:
    source = TokenRecycling()
    for token in (0, 7, 1023, 1024, 200_000):
        assert asked(source, token) == NOTHING
        source.settle(token, 5)
    source.observe(rows((1023, range(8))))
    assert asked(source, 1024) == NOTHING
    assert asked(source, 1022) == NOTHING
    source.observe(rows())


def test_the_matrix_grows_with_the_vocabulary() -> None:
    source = TokenRecycling()
    source.observe(rows((5, range(10, 20))))
    source.observe(rows((150_000, range(20, 30)), (6, range(30, 40))))
    assert list(asked(source, 5).tokens) == list(range(10, 18))
    assert list(asked(source, 6).tokens) == list(range(30, 38))
    assert list(asked(source, 150_000).tokens) == list(range(20, 28))
    assert asked(source, 149_999) == NOTHING


def test_a_vocabulary_of_fewer_tokens_gives_no_token_that_does_not_exist() -> None:
    source = TokenRecycling()
    source.observe(rows((1, [2, 0, 1, *[-1] * (TOP - 3)])))
    answer = asked(source, 1)
    assert list(answer.tokens) == [2, 0, 1]
    assert len(answer.probabilities) == 3


def test_a_step_is_a_look_at_the_next_token() -> None:
    source = TokenRecycling()
    source.observe(rows((7, range(10, 20)), (10, range(30, 40))))
    state = source.state(Stream([1, 7], 1, temperature=0.0))
    after = source.step(state, 10)
    assert list(source.distribution(after).tokens) == list(range(30, 38))
    assert list(source.distribution(state).tokens) == list(range(10, 18))


def test_probabilities_are_how_often_a_rank_came_true() -> None:
    source = TokenRecycling()
    source.observe(rows((7, range(10, 20))))
    start = list(asked(source, 7).probabilities)
    assert start == sorted(start, reverse=True)
    rng = random.Random(0)
    shares = [0.4, 0.3, 0.1, 0.05, 0.0, 0.0, 0.05, 0.0]
    for _ in range(6000):
        (rank,) = rng.choices(range(9), [*shares, 0.1])
        source.settle(7, 10 + rank if rank < 8 else 999)
        assert sum(asked(source, 7).probabilities) <= 1.0
    found = dict(zip(asked(source, 7).tokens, asked(source, 7).probabilities, strict=True))
    assert [found[10 + rank] for rank in range(8)] == pytest.approx(shares, abs=0.08)
    source.observe(rows((8, range(30, 40))))
    assert list(asked(source, 8).probabilities) == list(asked(source, 7).probabilities)  # ranks, not tokens


def test_the_likeliest_comes_first_whatever_the_ranks_say() -> None:
    source = TokenRecycling()
    source.observe(rows((7, range(10, 20))))
    for _ in range(1000):
        source.settle(7, 11)  # the second
    answer = asked(source, 7)
    assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
    assert answer.tokens[0] == 11


def test_what_was_asked_does_not_change() -> None:
    source = TokenRecycling()
    source.observe(rows((7, range(10, 20))))
    answer = asked(source, 7)
    tokens, probabilities = list(answer.tokens), list(answer.probabilities)
    source.settle(7, 10)
    source.observe(rows((7, range(20, 30))))
    assert (list(answer.tokens), list(answer.probabilities)) == (tokens, probabilities)


def test_reset_forgets() -> None:
    source = TokenRecycling()
    source.observe(rows((7, range(10, 20))))
    start = list(asked(source, 7).probabilities)
    for _ in range(100):
        source.settle(7, 11)
    source.reset()
    assert asked(source, 7) == NOTHING
    source.observe(rows((7, range(10, 20))))
    assert list(asked(source, 7).probabilities) == start

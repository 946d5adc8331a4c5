"""The sorted texts, against a scan of all of them."""

from __future__ import annotations

import pickle
import random

import pytest

from reason.speculate.archive import Archive
from reason.speculate.occurrences import ladder


def scan(texts: list[list[int]], tokens: list[int], lengths: tuple[int, ...]) -> tuple[int, list[list[int]]]:
    """The longest length of the ladder that is found, and what follows each occurrence, to its text's end."""
    for n in reversed(lengths):
        rest = [text[i:] for text in texts for i in range(n, len(text)) if text[i - n : i] == tokens[-n:]]
        if rest and n <= len(tokens):
            return n, rest
    return 0, []


def read(archive: Archive, position: int) -> list[int]:
    """All that follows a position."""
    tokens: list[int] = []
    positions: tuple[int, ...] = (position,)
    while positions:
        tokens += archive.tokens(positions)
        positions = archive.step(positions, tokens[-1])
    return tokens


@pytest.mark.parametrize("alphabet", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_answers_as_a_scan_does(seed: int, alphabet: int) -> None:
    rng = random.Random(seed)
    lengths = ladder(1 + seed % 2, 5 + 4 * (seed // 2))
    texts = [[rng.randrange(alphabet) for _ in range(rng.randrange(25))] for _ in range(6)]
    archive = Archive(texts, lengths=lengths, max_hits=1000)
    assert len(archive) == sum(max(0, len(text) - 1) for text in texts)
    for _ in range(60):
        tokens = [rng.randrange(alphabet) for _ in range(rng.randrange(1, 14))]
        length, rest = scan(texts, tokens, lengths)
        found = archive.find(tokens)
        if found is None:
            assert not rest
            continue
        assert found.length == length
        assert sorted(read(archive, position) for position in found.positions) == sorted(rest)


def test_step_keeps_those_that_agree_and_go_on() -> None:
    archive = Archive([[1, 2, 3], [1, 2, 3, 4], [1, 2, 5]], lengths=(2,), max_hits=10)
    found = archive.find([1, 2])
    assert found is not None
    assert sorted(archive.tokens(found.positions)) == [3, 3, 5]
    assert archive.tokens(archive.step(found.positions, 3)) == [4]  # the first text ends there
    assert archive.step(found.positions, 9) == ()


def test_too_many_hits_are_spread_over_all_of_them() -> None:
    archive = Archive([[7, token] for token in range(100)], lengths=(1,), max_hits=10)
    found = archive.find([7])
    assert found is not None
    tokens = archive.tokens(found.positions)
    assert len(set(tokens)) == 10
    assert max(tokens) - min(tokens) >= 90


def test_texts_do_not_run_into_each_other() -> None:
    archive = Archive([[1, 2], [3, 4]], lengths=(1, 2), max_hits=10)
    assert archive.find([2]) is None
    found = archive.find([2, 3])
    assert found is not None
    assert found.length == 1
    assert read(archive, found.positions[0]) == [4]


def test_nothing_at_all() -> None:
    assert Archive([], lengths=(1, 2), max_hits=10).find([1, 2]) is None
    assert Archive([[], [5]], lengths=(1, 2), max_hits=10).find([5]) is None


def test_survives_pickling() -> None:
    archive = Archive([[1, 2, 3]], lengths=(1, 2), max_hits=10)
    assert pickle.loads(pickle.dumps(archive)).find([1, 2]) == archive.find([1, 2])

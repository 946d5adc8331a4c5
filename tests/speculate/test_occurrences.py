"""The index of n-grams in growing texts, against a scan of all of them."""

from __future__ import annotations

import pickle
import random

import pytest

from reason.speculate.occurrences import NONE, Found, Occurrences, agreeing, ladder, shares


class Scan:
    """What ``Occurrences`` should answer: every token with all that stood before it, in the order of adding."""

    def __init__(self, lengths: tuple[int, ...], max_tokens: int, max_hits: int) -> None:
        self.lengths, self.max_tokens, self.max_hits = lengths, max_tokens, max_hits
        self.added: list[tuple[int, list[int]]] = []  # whose, and the path up to the token itself

    def extend(self, whose: int, tokens: list[int], count: int) -> None:
        self.added += [(whose, tokens[: end + 1]) for end in range(len(tokens) - count, len(tokens))]

    def kept(self) -> range:
        return range(max(0, len(self.added) - self.max_tokens), len(self.added))

    def find(self, tokens: list[int]) -> Found | None:
        for n in reversed(self.lengths):
            if n <= len(tokens):
                paths = ((p, self.added[p][1]) for p in self.kept())
                places = [p for p, path in paths if len(path) > n and path[-n - 1 : -1] == tokens[-n:]]
                if places:
                    return Found(n, tuple(places[::-1][: self.max_hits]))
        return None

    def step(self, positions: tuple[int, ...], token: int) -> tuple[int, ...]:
        after = []
        for position in positions:
            whose, path = self.added[position]
            if path[-1] == token:
                after += [p for p in self.kept() if self.added[p][0] == whose and self.added[p][1][:-1] == path]
        return tuple(after)


@pytest.mark.parametrize("max_tokens", [7, 40, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_answers_as_a_scan_of_interleaved_texts_does(seed: int, max_tokens: int) -> None:
    rng = random.Random(seed)
    lengths = ladder(1 + seed % 2, 6)
    index = Occurrences(lengths, max_tokens=max_tokens, max_hits=5)
    scan = Scan(lengths, max_tokens, max_hits=5)
    texts = [[rng.randrange(3) for _ in range(rng.randrange(4))] for _ in range(3)]
    last = [NONE] * len(texts)
    for _ in range(60):
        whose = rng.randrange(len(texts))
        count = rng.randrange(1, 4)
        texts[whose] += [rng.randrange(3) for _ in range(count)]
        last[whose] = index.extend(texts[whose], count, last[whose])
        scan.extend(whose, texts[whose], count)
        asked = rng.choice(texts)
        found = index.find(asked)
        assert found == scan.find(asked)
        positions = found.positions if found else ()
        while positions:
            assert index.tokens(positions) == [scan.added[p][1][-1] for p in positions]
            token = rng.choice(index.tokens(positions))
            expected = scan.step(positions, token)
            positions = index.step(positions, token)
            assert positions == expected


def test_holds_no_more_than_its_bound() -> None:
    rng = random.Random(0)
    lengths = ladder(2, 8)
    index = Occurrences(lengths, max_tokens=50, max_hits=4)
    text: list[int] = []
    last = NONE
    for _ in range(400):
        text.append(rng.randrange(1000))
        last = index.extend(text, 1, last)
        assert len(index) == min(len(text), 50)
        assert index.num_keys <= 50 * len(lengths)
    assert index.find(text[:100]) is None
    assert index.find(text[:-1]) == Found(8, (last,))


def test_a_text_larger_than_the_ring_forgets_its_own_beginning() -> None:
    index = Occurrences((2,), max_tokens=5, max_hits=4)
    index.extend([1, 2, 3, 4, 5, 6, 7], 7)
    assert index.find([1, 2]) == Found(2, (2,))  # 3 is the oldest that is kept, with what led to it
    index.extend([8, 9], 1)
    assert index.find([1, 2]) is None
    assert index.find([5, 6]) == Found(2, (6,))


def test_tokens_before_those_added_are_context_only() -> None:
    index = Occurrences((1, 2), max_tokens=100, max_hits=4)
    position = index.extend([1, 2, 3], 1)
    assert index.find([1, 2]) == Found(2, (position,))
    assert index.tokens((position,)) == [3]
    assert index.find([1]) is None


def test_survives_pickling() -> None:
    index = Occurrences((1, 2), max_tokens=10, max_hits=4)
    index.extend([1, 2, 1, 2], 4)
    again = pickle.loads(pickle.dumps(index))
    assert again.find([1, 2]) == index.find([1, 2]) == Found(2, (2,))


def test_ladder_has_its_bounds() -> None:
    assert ladder(2, 16) == (2, 3, 4, 6, 8, 12, 16)
    assert ladder(5, 7) == (5, 6, 7)
    assert ladder(3, 3) == (3,)


def test_shares_are_ordered_by_count_then_by_place() -> None:
    assert shares([5]) == ([5], [1.0])
    assert shares([7, 5, 9, 5]) == ([5, 7, 9], [0.5, 0.25, 0.25])


def test_agreeing_counts_back_to_the_limit_or_the_start() -> None:
    tokens = [9, 1, 2, 3, 0, 8, 1, 2, 3]
    assert agreeing(tokens, 4, 1, 10) == 3
    assert agreeing(tokens, 4, 1, 2) == 2
    assert agreeing([1, 1, 1], 1, 1, 10) == 1

"""Where n-grams occurred in texts that grow: a bounded index that several token sequences may share.

Texts lie interleaved in one ring of ``max_tokens`` places, linked from each token to the next of its sequence; the
oldest tokens make room for new ones. A token is found by what stood before it: for each length n of a fixed ladder a
hash of the n tokens before leads to the latest such token, and a link from there to the one before that.

A suffix tree knows the matches of every length. The ladder knows those of some, so a match of 11 tokens is found as
one of 8: among more occurrences than the longest match has, and by as many dictionary look-ups as the ladder has
steps, with nothing to rebuild and with eviction for free. Keys are 64-bit hashes; a collision costs a wrong draft.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NONE", "Found", "Occurrences", "agreeing", "ladder", "shares"]

NONE = -1
"""No position."""

_LADDER = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def ladder(min_match: int, max_match: int) -> tuple[int, ...]:
    """The match lengths that are told apart between two bounds, which are both among them."""
    assert 1 <= min_match <= max_match
    return tuple(sorted({min_match, max_match, *(n for n in _LADDER if min_match < n < max_match)}))


def shares(tokens: Sequence[int]) -> tuple[list[int], list[float]]:
    """The distinct ones among ``tokens`` and each one's share, most frequent first, ties as they come."""
    if len(tokens) == 1:
        return [tokens[0]], [1.0]
    counts: dict[int, int] = {}
    for token in tokens:
        counts[token] = counts.get(token, 0) + 1
    ordered = sorted(counts, key=counts.__getitem__, reverse=True)
    return ordered, [counts[token] / len(tokens) for token in ordered]


def agreeing(tokens: Sequence[int], place: int, known: int, limit: int) -> int:
    """How many tokens before ``place`` are also the last of ``tokens``. ``known`` of them are; none are counted beyond
    ``limit``."""
    end, length = len(tokens), known
    while length < limit and length < place and tokens[place - 1 - length] == tokens[end - 1 - length]:
        length += 1
    return length


class Found(NamedTuple):
    """The longest match: how many tokens agree, and the positions of the tokens that came next, latest first."""

    length: int
    positions: tuple[int, ...]


class Occurrences:
    """See the module's docstring.

    Args:
        lengths: the ladder, ascending.
        max_tokens: places in the ring. A token takes 12 bytes, 16 more for each length and about
            100 for each length at which it is the only one with these tokens before it.
        max_hits: the most positions that a look-up returns: the latest ones.
    """

    def __init__(self, lengths: Sequence[int], *, max_tokens: int, max_hits: int) -> None:
        assert list(lengths) == sorted(set(lengths)) and lengths[0] >= 1 and max_tokens >= 1 and max_hits >= 1
        self._lengths = tuple(lengths)
        self._max_tokens = max_tokens
        self._max_hits = max_hits
        self._total = 0  # tokens ever added: the next position
        self._tokens = array("i")  # [place]
        self._following = array("q")  # [place], the position of the sequence's next token
        self._earlier = array("q")  # [place * lengths], the position before this one with the same tokens before it
        self._keys = array("q")  # [place * lengths]
        self._latest: list[dict[int, int]] = [{} for _ in lengths]  # by length: hash of the tokens before -> position

    def __len__(self) -> int:
        """Tokens held."""
        return len(self._tokens)

    @property
    def num_keys(self) -> int:
        """N-grams held, of all lengths."""
        return sum(map(len, self._latest))

    def extend(self, tokens: list[int], count: int, last: int = NONE) -> int:
        """Adds the last ``count`` of ``tokens``; those before are context to find them by.

        Args:
            last: what the call before for the same sequence returned; ``NONE`` for a new one.

        Returns:
            The position of the last token.
        """
        depth, width = self._lengths[-1], len(self._lengths)
        for end in range(len(tokens) - count, len(tokens)):
            position = self._total
            place = position % self._max_tokens
            if position < self._max_tokens:
                self._tokens.append(0)
                self._following.append(NONE)
                self._earlier.extend([NONE] * width)
                self._keys.extend([0] * width)
            else:
                self._forget(position - self._max_tokens)
            self._total += 1
            self._tokens[place] = tokens[end]
            self._following[place] = NONE
            if last >= 0 and last >= self._total - self._max_tokens:
                self._following[last % self._max_tokens] = position
            last = position
            before = tuple(tokens[max(0, end - depth) : end])
            at = place * width
            for latest, n in zip(self._latest, self._lengths, strict=True):
                if n > len(before):
                    break
                key = hash(before[-n:])
                self._earlier[at] = latest.get(key, NONE)
                self._keys[at] = key
                latest[key] = position
                at += 1
        return last

    def find(self, tokens: Sequence[int]) -> Found | None:
        """Where the longest possible end of ``tokens`` occurred with something after it."""
        end = tuple(tokens[-self._lengths[-1] :])
        oldest = self._total - self._max_tokens
        for level in range(len(self._lengths) - 1, -1, -1):
            n = self._lengths[level]
            if n > len(end):
                continue
            position = self._latest[level].get(hash(end[-n:]))
            if position is None:
                continue
            positions = [position]
            while len(positions) < self._max_hits:
                position = self._earlier[position % self._max_tokens * len(self._lengths) + level]
                if position < 0 or position < oldest:
                    break
                positions.append(position)
            return Found(n, tuple(positions))
        return None

    def tokens(self, positions: Sequence[int]) -> list[int]:
        """The tokens at ``positions``."""
        held, size = self._tokens, self._max_tokens
        return [held[position % size] for position in positions]

    def step(self, positions: Sequence[int], token: int) -> tuple[int, ...]:
        """The positions after those of ``positions`` that hold ``token``."""
        held, following, size = self._tokens, self._following, self._max_tokens
        after = [following[place] for position in positions if held[place := position % size] == token]
        return tuple([position for position in after if position >= 0])

    def _forget(self, position: int) -> None:
        """Drops the keys that lead to the oldest token."""
        at = position % self._max_tokens * len(self._lengths)
        for level, latest in enumerate(self._latest):
            key = self._keys[at + level]
            if latest.get(key) == position:
                del latest[key]
            self._earlier[at + level] = NONE
            self._keys[at + level] = 0

"""Texts that do not change, sorted by what stands before each token: the suffix array of the reversed texts.

Asked for the longest end of a path that occurs anywhere, it answers by bisection; all places where that end occurs are
one range of the array. Sorting is by prefix doubling, so only as deep as matches are told apart
(Manber and Myers 1993).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reason.speculate.occurrences import Found

__all__ = ["Archive"]

_BOUNDARY = -1  # stands between texts; no token


class Archive:
    """See the module's docstring. Answers as ``Occurrences`` does, with positions of its own.

    Args:
        texts: token ids; matches do not go from one text into another. Eight bytes a token are kept.
        lengths: the match lengths that are told apart, ascending.
        max_hits: the most positions that a look-up returns, spread evenly over those there are.
    """

    def __init__(self, texts: Sequence[Sequence[int]], *, lengths: Sequence[int], max_hits: int) -> None:
        self._lengths = tuple(lengths)
        self._max_hits = max_hits
        parts = [np.array([_BOUNDARY], dtype=np.int32)]
        for text in texts:
            parts += [np.array(text, dtype=np.int32)[::-1], parts[0]]
        joined = np.concatenate(parts)  # each text's last token first
        order = _sorted_suffixes(joined, self._lengths[-1])
        order = order[joined[order] != _BOUNDARY]
        order = order[joined[order - 1] != _BOUNDARY]  # something comes next
        self._text = array("i", joined.tobytes())
        self._order = array("i", order.astype(np.int32).tobytes())

    def __len__(self) -> int:
        """Places that a look-up may find."""
        return len(self._order)

    def find(self, tokens: Sequence[int]) -> Found | None:
        """Where the longest possible end of ``tokens`` occurs with something after it."""
        text, order, depth = self._text, self._order, self._lengths[-1]
        end = array("i", tokens[: -depth - 1 : -1])
        at = bisect_left(order, end, key=lambda place: text[place : place + depth])
        longest = max((_common(end, text, place) for place in order[max(0, at - 1) : at + 1]), default=0)
        n = max((n for n in self._lengths if n <= longest), default=0)
        if not n:
            return None
        end = end[:n]
        first = bisect_left(order, end, hi=at, key=lambda place: text[place : place + n])
        last = bisect_right(order, end, lo=at, key=lambda place: text[place : place + n])
        stride = -(-(last - first) // self._max_hits)
        return Found(n, tuple([place - 1 for place in order[first:last:stride]]))

    def tokens(self, positions: Sequence[int]) -> list[int]:
        """The tokens at ``positions``."""
        text = self._text
        return [text[position] for position in positions]

    def step(self, positions: Sequence[int], token: int) -> tuple[int, ...]:
        """The positions after those of ``positions`` that hold ``token``."""
        text = self._text
        return tuple(
            [position - 1 for position in positions if text[position] == token and text[position - 1] != _BOUNDARY]
        )


def _common(end: array[int], text: array[int], place: int) -> int:
    """How many tokens from ``place`` on are those of ``end``."""
    for i, token in enumerate(end):
        if place + i == len(text) or text[place + i] != token:
            return i
    return len(end)


def _sorted_suffixes(text: npt.NDArray[np.int32], depth: int) -> npt.NDArray[np.int64]:
    """The places of ``text`` in the order of the ``depth`` (or a few more) tokens from there on."""
    rank = np.unique(text, return_inverse=True)[1].astype(np.int64)
    compared = 1
    while compared < depth:
        after = np.zeros_like(rank)  # 0 is beyond the text's end
        after[: max(0, len(rank) - compared)] = rank[compared:] + 1
        rank = np.unique(rank * (len(rank) + 1) + after, return_inverse=True)[1].astype(np.int64)
        compared *= 2
    return np.argsort(rank, kind="stable")

"""BM25 over the few passages of one problem (Robertson and Zaragoza 2009, https://doi.org/10.1561/1500000019).

    score(q, d) = sum over words t of q of  idf(t) f(t, d) (k1 + 1) / (f(t, d) + k1 (1 - b + b |d| / mean |d|))
    idf(t) = log(1 + (N - n(t) + 1/2) / (n(t) + 1/2))

N passages, n(t) of them with the word t, f(t, d) times in the passage d of |d| words. The idf is Lucene's, which is
never negative: in the original's a word that most passages have counts against them. A word that a query has twice
counts twice.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["BM25", "words"]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Runs of letters and digits, without case. Nothing is stemmed, nor left out."""
    return _WORD.findall(text.casefold())


class BM25:
    """An index of passages.

    Args:
        k1: how soon more of the same word stops counting more.
        b: how much a passage's length counts against it, from 0 to 1.
    """

    def __init__(self, passages: Sequence[str], *, k1: float = 1.2, b: float = 0.75) -> None:
        self._counts = [Counter(words(passage)) for passage in passages]
        lengths = [counts.total() for counts in self._counts]
        mean = sum(lengths) / len(lengths) if any(lengths) else 1.0
        self._damping = [k1 * (1 - b + b * length / mean) for length in lengths]
        self._k1 = k1
        self._having = Counter(word for counts in self._counts for word in counts)

    def scores(self, query: str) -> list[float]:
        """Of each passage, at least 0."""
        asked = words(query)
        return [
            sum(self._idf(t) * counts[t] * (self._k1 + 1) / (counts[t] + damping) for t in asked if counts[t])
            for counts, damping in zip(self._counts, self._damping, strict=True)
        ]

    def best(self, query: str, count: int | None = None) -> list[int]:
        """The places of the best passages, best first; all of them without a ``count``. Ties go to the first."""
        scores = self.scores(query)
        return sorted(range(len(scores)), key=lambda place: (-scores[place], place))[:count]

    def _idf(self, word: str) -> float:
        having = self._having[word]
        return math.log(1 + (len(self._counts) - having + 0.5) / (having + 0.5))

"""Goose: a spine copied from the context, with branches from the target's own rows (Jin, Nguyen and Inoue, COLM 2026,
https://arxiv.org/abs/2604.02047).

    on the spine     p(copied token) = c,   p(x) = branch_share * (1 - c) * b(x) for the others
    beside it        p(x) = b(x)

The spine goes on from the first occurrence of the stream's last n tokens, n = 5, 4, 3. Its confidence c starts at
Goose's figures: nearly 1 by consensus (the n-gram occurred at least twice, always followed by the same token), else
0.6 * length / 8 below 8 tokens, 0.7 + 0.2 * (length - 8) / 12 and at most 0.9 above. Branches b are the last row that
was computed after the same two tokens, else after the same one, drafted and rejected places included, as a softmax over
the row's best ten.

Departures. Goose fills a budget: it shares nodes between spine and branches (``branch_share`` is its rho) and lengthens
the spine when sure of it. Here policies spend the budget in order of probability, so sources only give probabilities:
c and how often a row's ten have the token are corrected by what came lately. The length in c is the match's, counted
back beyond the n-gram and growing along the spine; Goose takes the copy's, which is 20 nearly always. A copy that
reaches the text's end goes on with what it copied first, where Goose matches again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import NOTHING, TOP, Distribution, Rows, Source, State, Stream
from reason.speculate.estimates import LENGTHS, Acceptance, length_bucket
from reason.speculate.occurrences import agreeing

__all__ = ["Goose"]


def _confidence(length: int) -> float:
    return min(0.9, 0.7 + 0.2 * (length - 8) / 12) if length >= 8 else 0.6 * length / 8


_SPINE_PRIORS = [*map(_confidence, LENGTHS), *[0.95] * len(LENGTHS)]  # without and with consensus
_TIER_PRIORS = (0.9, 0.8)  # bigrams, unigrams


class _Spine(NamedTuple):
    """Where a copy stands."""

    tokens: list[int]  # the stream's own
    start: int  # the first copied place
    at: int  # the next place to copy
    length: int  # tokens that agreed so far
    agreed: bool  # consensus where it began


class _Place(NamedTuple):
    """A state: the spine, if on it, and the last two tokens."""

    spine: _Spine | None
    previous: int  # -1 before a stream's start
    token: int


class _Index:
    """One stream's n-grams that have something after them."""

    __slots__ = ("agreed", "first", "indexed")

    def __init__(self) -> None:
        self.first: dict[tuple[int, ...], int] = {}  # the place after its first occurrence
        self.agreed: dict[tuple[int, ...], bool] = {}  # of those that came again: the same token always came next
        self.indexed = 0  # places that are in ``first``, or are too old to be


class _Adjacency:
    """The last row of each key, for at most ``capacity`` keys: the first to come is the first to go."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._place: dict[int, int] = {}
        self._keys: list[int] = []
        self._next = 0  # the place that is overwritten next, once all are taken
        self._tokens = np.zeros((0, TOP), dtype=np.int32)  # [keys, TOP]
        self._scores = np.zeros((0, TOP))  # [keys, TOP], adding up to 1

    def __len__(self) -> int:
        return len(self._place)

    def __contains__(self, key: int) -> bool:
        return key in self._place

    def put(self, keys: Sequence[int], tokens: npt.NDArray[np.int64], scores: npt.NDArray[np.float64]) -> None:
        """Rows [keys, TOP]; where a key comes twice, its last one counts."""
        last = {key: row for row, key in enumerate(keys)}
        places = [self._place_of(key) for key in last]
        if len(self._keys) > len(self._tokens):
            more = min(max(1024, len(self._keys)), self._capacity - len(self._tokens))
            self._tokens = np.concatenate([self._tokens, np.zeros((more, TOP), dtype=np.int32)])
            self._scores = np.concatenate([self._scores, np.zeros((more, TOP))])
        rows = list(last.values())
        self._tokens[places] = tokens[rows]
        self._scores[places] = scores[rows]

    def get(self, key: int) -> tuple[list[int], list[float]] | None:
        place = self._place.get(key)
        return None if place is None else (self._tokens[place].tolist(), self._scores[place].tolist())

    def _place_of(self, key: int) -> int:
        place = self._place.get(key)
        if place is not None:
            return place
        if len(self._keys) < self._capacity:
            place = len(self._keys)
            self._keys.append(key)
        else:
            place = self._next
            self._next = (place + 1) % self._capacity
            del self._place[self._keys[place]]
            self._keys[place] = key
        self._place[key] = place
        return place


class Goose(Source):
    """See the module's docstring.

    Args:
        max_ngram: the longest n-gram that is looked up for the spine.
        min_ngram: the shortest.
        branch_share: the weight of branches beside a spine, in [0, 1].
        min_score: entries of a row below this are no branches.
        max_tokens: places of a stream that are indexed, the latest ones; up to about 200 bytes a place and n.
        max_rows: rows that are kept of each of the two tables, about 250 bytes each.
    """

    name = "goose"

    def __init__(
        self,
        *,
        max_ngram: int = 5,
        min_ngram: int = 3,
        branch_share: float = 0.5,
        min_score: float = 0.01,
        max_tokens: int = 65_536,
        max_rows: int = 200_000,
    ) -> None:
        assert 1 <= min_ngram <= max_ngram and 0.0 <= branch_share <= 1.0 and max_tokens >= 1 and max_rows >= 1
        self._orders = range(max_ngram, min_ngram - 1, -1)
        self._branch_share = branch_share
        self._min_score = min_score
        self._max_tokens = max_tokens
        self._max_rows = max_rows
        self._indexes: dict[Stream, _Index] = {}
        self._spine_acceptance = Acceptance(_SPINE_PRIORS)
        self._tier_acceptance = Acceptance(_TIER_PRIORS)
        self.reset()

    def reset(self) -> None:
        self._bigrams = _Adjacency(self._max_rows)
        self._unigrams = _Adjacency(self._max_rows)
        self._spine_acceptance.reset()
        self._tier_acceptance.reset()

    def begin(self, stream: Stream) -> None:
        self._indexes[stream] = _Index()
        self._add(stream)

    def extend(self, stream: Stream, count: int) -> None:
        self._add(stream)

    def end(self, stream: Stream) -> None:
        del self._indexes[stream]

    def observe(self, rows: Rows) -> None:
        scores = np.where(rows.tokens >= 0, rows.probabilities, 0.0)
        total = scores.sum(axis=1)
        kept = total > 0.0
        scores, tokens, contexts = scores[kept] / total[kept, None], rows.tokens[kept], rows.contexts[kept]
        self._unigrams.put(contexts[:, -1].tolist(), tokens, scores)
        kept = contexts[:, -2] >= 0
        self._bigrams.put(_pairs(contexts[kept]), tokens[kept], scores[kept])

    def state(self, stream: Stream) -> State:
        tokens = stream.tokens
        return self._place(self._spine(stream), tokens[-2] if len(tokens) > 1 else -1, tokens[-1])

    def step(self, state: State, token: int) -> State:
        spine = state.spine
        if spine is not None:
            tokens, start, at, length, agreed = spine
            if tokens[at] == token:
                at += 1
                spine = _Spine(tokens, start, at if at < len(tokens) else start, length + 1, agreed)
            else:
                spine = None
        return self._place(spine, state.token, token)

    def distribution(self, state: State) -> Distribution:
        spine = state.spine
        tier, tokens, scores = self._branches(state)
        weight = self._tier_acceptance.rate(tier)
        if spine is None:
            return Distribution(tokens, [weight * score for score in scores]) if tokens else NOTHING
        copied = spine.tokens[spine.at]
        confidence = self._spine_acceptance.rate(_bucket(spine))
        weight *= self._branch_share * (1.0 - confidence)
        merged = {token: weight * score for token, score in zip(tokens, scores, strict=True)}
        merged[copied] = confidence
        ordered = sorted(merged, key=merged.__getitem__, reverse=True)
        return Distribution(ordered, [merged[token] for token in ordered])

    def settle(self, state: State, token: int) -> None:
        spine = state.spine
        if spine is not None:
            self._spine_acceptance.update(_bucket(spine), spine.tokens[spine.at] == token)
        tier, tokens, _ = self._branches(state)
        if tokens:
            self._tier_acceptance.update(tier, token in tokens)

    def _place(self, spine: _Spine | None, previous: int, token: int) -> _Place | None:
        if spine is None and _pair(previous, token) not in self._bigrams and token not in self._unigrams:
            return None
        return _Place(spine, previous, token)

    def _branches(self, state: _Place) -> tuple[int, list[int], list[float]]:
        """The tier (0 bigrams, 1 unigrams) and its row."""
        tier, row = 0, self._bigrams.get(_pair(state.previous, state.token))
        if row is None:
            tier, row = 1, self._unigrams.get(state.token)
        if row is None:
            return tier, [], []
        tokens, scores = row
        if scores[-1] >= self._min_score:
            return tier, tokens, scores
        kept = sum(score >= self._min_score for score in scores)
        return tier, tokens[:kept], scores[:kept]

    def _spine(self, stream: Stream) -> _Spine | None:
        index, tokens = self._indexes[stream], stream.tokens
        for n in self._orders:
            ngram = tuple(tokens[-n:])
            start = index.first.get(ngram)
            if start is not None:
                length = agreeing(tokens, start, n, LENGTHS[-1])
                return _Spine(tokens, start, start, length, index.agreed.get(ngram, False))
        return None

    def _add(self, stream: Stream) -> None:
        """Indexes the places that are new, and drops as many old ones where there are too many."""
        index, tokens, size = self._indexes[stream], stream.tokens, self._max_tokens
        first, agreed = index.first, index.agreed
        for place in range(max(index.indexed, len(tokens) - size), len(tokens)):
            for n in self._orders:
                if n <= place:
                    ngram = tuple(tokens[place - n : place])
                    start = first.setdefault(ngram, place)
                    if start != place:
                        agreed[ngram] = agreed.get(ngram, True) and tokens[start] == tokens[place]
        for place in range(max(0, index.indexed - size), len(tokens) - size):
            for n in self._orders:
                if n <= place and first.get(ngram := tuple(tokens[place - n : place])) == place:
                    del first[ngram]
                    agreed.pop(ngram, None)
        index.indexed = len(tokens)


def _bucket(spine: _Spine) -> int:
    return length_bucket(spine.length) + len(LENGTHS) * spine.agreed


def _pair(previous: int, token: int) -> int:
    return previous << 32 | token


def _pairs(contexts: npt.NDArray[np.int64]) -> list[int]:
    """``_pair`` of each row's last two tokens."""
    keys: list[int] = (contexts[:, -2] << 32 | contexts[:, -1]).tolist()
    return keys

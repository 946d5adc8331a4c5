"""Prompt lookup: copy what followed the last tokens when they occurred before
(Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding).

    draft = tokens[i:],   i after the latest earlier place where the last n tokens stand, n = max_ngram ... min_ngram

The index is positional, one for each stream, over prompt and generated tokens. A copied token's probability is how
often copies of such a match length were right lately; the length is counted back beyond the n-gram, and each copied
token that agrees adds one.

Departures: the original (and Goose) takes the first occurrence, which has the longest continuation. The latest one is
likelier to go on in the same way, and its end is none: a copy that reaches the end of the text goes on with what it
copied first, as the text would if it repeats itself. There is no draft length; the policy stops where it does not pay.
"""

from __future__ import annotations

from typing import NamedTuple

from reason.speculate.draft import Distribution, Source, State, Stream
from reason.speculate.estimates import LENGTHS, Acceptance, length_bucket
from reason.speculate.occurrences import agreeing

__all__ = ["Lookup"]

_PRIORS = (0.2, 0.35, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 0.95, 0.95)  # by length bucket


class _Copy(NamedTuple):
    """Where a copy stands."""

    tokens: list[int]  # the stream's own
    start: int  # the first copied place
    at: int  # the next place to copy
    length: int  # tokens that agreed so far


class _Index:
    """One stream's n-grams, and the place after the latest occurrence of each that has something after it."""

    __slots__ = ("after", "indexed")

    def __init__(self) -> None:
        self.after: dict[tuple[int, ...], int] = {}
        self.indexed = 0  # places that are in ``after``, or are too old to be


class Lookup(Source):
    """See the module's docstring.

    Args:
        max_ngram: the longest n-gram that is looked up.
        min_ngram: the shortest.
        max_tokens: places of a stream that are indexed, the latest ones; up to about 170 bytes a place and n.
    """

    name = "lookup"
    reads_rows = False

    def __init__(self, *, max_ngram: int = 5, min_ngram: int = 2, max_tokens: int = 65_536) -> None:
        assert 1 <= min_ngram <= max_ngram and max_tokens >= 1
        assert len(_PRIORS) == len(LENGTHS)
        self._orders = range(max_ngram, min_ngram - 1, -1)
        self._max_tokens = max_tokens
        self._indexes: dict[Stream, _Index] = {}
        self._acceptance = Acceptance(_PRIORS)

    def begin(self, stream: Stream) -> None:
        self._indexes[stream] = _Index()
        self._add(stream)

    def extend(self, stream: Stream, count: int) -> None:
        self._add(stream)

    def end(self, stream: Stream) -> None:
        del self._indexes[stream]

    def reset(self) -> None:
        self._acceptance.reset()

    def state(self, stream: Stream) -> State:
        tokens = stream.tokens
        after = self._indexes[stream].after
        for n in self._orders:
            place = after.get(tuple(tokens[-n:]))
            if place is not None:
                return _Copy(tokens, place, place, agreeing(tokens, place, n, LENGTHS[-1]))
        return None

    def step(self, state: State, token: int) -> State:
        tokens, start, at, length = state
        if tokens[at] != token:
            return None
        at += 1
        return _Copy(tokens, start, at if at < len(tokens) else start, length + 1)

    def distribution(self, state: State) -> Distribution:
        return Distribution((state.tokens[state.at],), (self._acceptance.rate(length_bucket(state.length)),))

    def settle(self, state: State, token: int) -> None:
        self._acceptance.update(length_bucket(state.length), state.tokens[state.at] == token)

    def _add(self, stream: Stream) -> None:
        """Indexes the places that are new, and drops as many old ones where there are too many."""
        index, tokens, size = self._indexes[stream], stream.tokens, self._max_tokens
        for place in range(max(index.indexed, len(tokens) - size), len(tokens)):
            for n in self._orders:
                if n <= place:
                    index.after[tuple(tokens[place - n : place])] = place
        for place in range(max(0, index.indexed - size), len(tokens) - size):
            for n in self._orders:
                if n <= place and index.after.get(key := tuple(tokens[place - n : place])) == place:
                    del index.after[key]
        index.indexed = len(tokens)

"""SuffixDecoding: what followed the longest known suffix, by count (Oliaro et al., NeurIPS 2025; the code is in
https://github.com/snowflakedb/ArcticInference).

    D(path) = product of count(child) / count(all children),   depth <= max_spec_factor * match + max_spec_offset

Two indices: one of each stream's prompt and output, one of the outputs of all streams, both growing token by token.
At each node the better of the two speaks: the one that is likelier to have the next token, of equal ones the longer
match.

Departures. The suffix trees are n-gram hashes of a ladder of lengths (``Occurrences``), so a match of 7 tokens counts
as one of 6, and at most ``max_hits`` occurrences are counted, the latest. The longest match counts alone, where the
paper tries all lengths and keeps the best score. Count ratios are shrunk by how often any continuation of such a match
(by its length and number of occurrences) came lately. A generated token is found by the end of the prompt too, so
samples of one prompt know how the others began. The shared index is bounded in tokens and forgets the oldest first. The
paper's factor is 1; here it is 4, because policies stop where probabilities say so and 1 stopped them too early.
"""

from __future__ import annotations

from typing import NamedTuple

from reason.speculate.draft import Distribution, Source, State, Stream
from reason.speculate.estimates import MATCH_PRIORS, Acceptance, match_bucket
from reason.speculate.occurrences import NONE, Occurrences, ladder, shares

__all__ = ["Suffix"]


class _Match(NamedTuple):
    """The occurrences that still agree, in one of the indices."""

    occurrences: Occurrences
    positions: tuple[int, ...]  # of the next tokens
    length: int  # tokens that agree
    probability: float  # D of the path from the stream's end
    left: int  # how many tokens more may be drafted


class _Pair(NamedTuple):
    own: _Match | None
    shared: _Match | None


class _Answer(NamedTuple):
    score: float  # the probability that one of the tokens comes
    length: int
    tokens: list[int]
    probabilities: list[float]


class _Entry:
    """What is held for a stream under way."""

    __slots__ = ("last", "last_shared", "occurrences")

    def __init__(self, occurrences: Occurrences, last: int) -> None:
        self.occurrences = occurrences
        self.last = last  # the stream's last position in its own index
        self.last_shared = NONE  # and in the shared one


class Suffix(Source):
    """See the module's docstring.

    Args:
        max_depth: the longest match that is told from shorter ones.
        min_match: the shortest match that counts.
        max_hits: occurrences of a match that are counted.
        max_spec_factor: drafted tokens per token of the match.
        max_spec_offset: drafted tokens beyond that.
        min_probability: paths of less D are not drafted.
        max_tokens: bound of the shared index, whose tokens take about half a kilobyte each.
        max_stream_tokens: bound of each stream's own, likewise.
    """

    name = "suffix"
    reads_rows = False

    def __init__(
        self,
        *,
        max_depth: int = 8,
        min_match: int = 1,
        max_hits: int = 16,
        max_spec_factor: float = 4.0,
        max_spec_offset: int = 0,
        min_probability: float = 0.1,
        max_tokens: int = 250_000,
        max_stream_tokens: int = 65_536,
    ) -> None:
        self._lengths = ladder(min_match, max_depth)
        self._max_hits = max_hits
        self._factor = max_spec_factor
        self._offset = max_spec_offset
        self._min_probability = min_probability
        self._max_tokens = max_tokens
        self._max_stream_tokens = max_stream_tokens
        self._entries: dict[Stream, _Entry] = {}
        self._own_acceptance = Acceptance(MATCH_PRIORS)
        self._shared_acceptance = Acceptance(MATCH_PRIORS)
        self.reset()

    def reset(self) -> None:
        self._shared = Occurrences(self._lengths, max_tokens=self._max_tokens, max_hits=self._max_hits)
        for entry in self._entries.values():
            entry.last_shared = NONE
        self._own_acceptance.reset()
        self._shared_acceptance.reset()

    def begin(self, stream: Stream) -> None:
        own = Occurrences(self._lengths, max_tokens=self._max_stream_tokens, max_hits=self._max_hits)
        self._entries[stream] = _Entry(own, own.extend(stream.tokens, len(stream.tokens)))

    def extend(self, stream: Stream, count: int) -> None:
        entry = self._entries[stream]
        entry.last = entry.occurrences.extend(stream.tokens, count, entry.last)
        entry.last_shared = self._shared.extend(stream.tokens, count, entry.last_shared)

    def end(self, stream: Stream) -> None:
        del self._entries[stream]

    def state(self, stream: Stream) -> State:
        return _pair(self._root(self._entries[stream].occurrences, stream), self._root(self._shared, stream))

    def step(self, state: State, token: int) -> State:
        own, shared = state
        return _pair(own and self._deeper(own, token), shared and self._deeper(shared, token))

    def distribution(self, state: State) -> Distribution:
        own, shared = state
        best = own and self._answer(own, self._own_acceptance)
        if shared is not None:
            other = self._answer(shared, self._shared_acceptance)
            if best is None or (other.score, other.length) > (best.score, best.length):
                best = other
        return Distribution(best.tokens, best.probabilities)

    def settle(self, state: State, token: int) -> None:
        for match, acceptance in zip(state, (self._own_acceptance, self._shared_acceptance), strict=True):
            if match is not None:
                acceptance.update(_bucket(match), token in match.occurrences.tokens(match.positions))

    def _root(self, occurrences: Occurrences, stream: Stream) -> _Match | None:
        found = occurrences.find(stream.tokens)
        if found is None:
            return None
        left = int(self._factor * found.length) + self._offset
        return _Match(occurrences, found.positions, found.length, 1.0, left) if left > 0 else None

    def _deeper(self, match: _Match, token: int) -> _Match | None:
        occurrences, positions, length, probability, left = match
        if left <= 1:
            return None
        agreeing = occurrences.tokens(positions).count(token)
        probability *= agreeing / len(positions)
        if not agreeing or probability < self._min_probability:
            return None
        after = occurrences.step(positions, token)
        return _Match(occurrences, after, length + 1, probability, left - 1) if after else None

    def _answer(self, match: _Match, acceptance: Acceptance) -> _Answer:
        tokens, ratios = shares(match.occurrences.tokens(match.positions))
        kept = sum(match.probability * ratio >= self._min_probability for ratio in ratios)
        rate = acceptance.rate(_bucket(match))
        probabilities = [rate * ratio for ratio in ratios[:kept]]
        return _Answer(sum(probabilities), match.length, tokens[:kept], probabilities)


def _pair(own: _Match | None, shared: _Match | None) -> _Pair | None:
    return None if own is None and shared is None else _Pair(own, shared)


def _bucket(match: _Match) -> int:
    return match_bucket(match.length, len(match.positions))

"""A union of sources: one merged distribution, and so one merged trie.

    p(token) = sum over sources of weight[source] * q_source(token),   the weights adding up to 1

Interpolated as n-gram language models are (Jelinek and Mercer 1980): the weights are learnt online by expectation
maximisation from the tokens that came, apart for each pattern of how sure the sources are (a copied run of text that is
nearly certain counts for more when the table is vague). A token proposed by several sources is one token, and
remembers which of them vouches most for it.
"""

from __future__ import annotations

from collections.abc import Sequence

from reason.speculate.draft import NOTHING, Distribution, Rows, Source, State, Stream

__all__ = ["Union"]

_SURE = (0.25, 0.5, 0.8, 0.95)  # borders of how sure a source is of its best token
_SLOWEST = 0.01  # the smallest step of the weights


class _Joint:
    """Every source's state, and what they answered there, so that ``settle`` judges what was drafted from."""

    __slots__ = ("asked", "states")

    def __init__(self, states: list[State]) -> None:
        self.states = states
        self.asked: list[Distribution] | None = None


class Union(Source):
    """See the module's docstring.

    Args:
        sources: at least one; the first is trusted a little more until something is learnt.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        assert sources
        self.sources = tuple(sources)
        self.name = "+".join(source.name for source in sources)
        self._learnt: dict[tuple[int, ...], list[float]] = {}  # pattern -> weights, and visits last

    def state(self, stream: Stream) -> State:
        return _Joint([source.state(stream) for source in self.sources])

    def step(self, state: State, token: int) -> State:
        return _Joint(
            [
                None if own is None else source.step(own, token)
                for source, own in zip(self.sources, state.states, strict=True)
            ]
        )

    def distribution(self, state: State) -> Distribution:
        asked = self._ask(state)
        weights = self._weights(asked)
        mixed: dict[int, float] = {}
        strongest: dict[int, tuple[float, str]] = {}
        for source, weight, (tokens, probabilities, _) in zip(self.sources, weights, asked, strict=False):
            for token, probability in zip(tokens, probabilities, strict=True):
                share = weight * probability
                mixed[token] = mixed.get(token, 0.0) + share
                if share > strongest.get(token, (0.0, ""))[0]:
                    strongest[token] = (share, source.name)
        if not mixed:
            return NOTHING
        ordered = sorted(mixed, key=mixed.__getitem__, reverse=True)
        proposers = [strongest[token][1] if token in strongest else "" for token in ordered]
        return Distribution(ordered, [mixed[token] for token in ordered], proposers)

    def settle(self, state: State, token: int) -> None:
        asked = self._ask(state)
        shares = [
            weight * next((p for t, p in zip(*answer[:2], strict=True) if t == token), 0.0)
            for weight, answer in zip(self._weights(asked), asked, strict=False)
        ]
        total = sum(shares)
        if total > 0.0:
            learnt = self._learnt.setdefault(pattern := _pattern(asked), [*self._weights(asked)[: len(asked)], 0.0])
            learnt[-1] += 1.0
            step = max(_SLOWEST, 1.0 / (learnt[-1] + 4.0))
            for i, share in enumerate(shares):
                learnt[i] += step * (share / total - learnt[i])
            assert len(learnt) == len(pattern) + 1
        for source, own in zip(self.sources, state.states, strict=True):
            if own is not None:
                source.settle(own, token)

    def prepare(self, streams: Sequence[Stream]) -> None:
        for source in self.sources:
            source.prepare(streams)

    def observe(self, rows: Rows) -> None:
        for source in self.sources:
            source.observe(rows)

    def begin(self, stream: Stream) -> None:
        for source in self.sources:
            source.begin(stream)

    def extend(self, stream: Stream, count: int) -> None:
        for source in self.sources:
            source.extend(stream, count)

    def end(self, stream: Stream) -> None:
        for source in self.sources:
            source.end(stream)

    def reset(self) -> None:
        self._learnt.clear()
        for source in self.sources:
            source.reset()

    def _ask(self, state: _Joint) -> list[Distribution]:
        if state.asked is None:
            state.asked = [
                NOTHING if own is None else source.distribution(own)
                for source, own in zip(self.sources, state.states, strict=True)
            ]
        return state.asked

    def _weights(self, asked: Sequence[Distribution]) -> Sequence[float]:
        """One weight a source (a learnt list has its visits behind them)."""
        learnt = self._learnt.get(_pattern(asked))
        if learnt is not None:
            return learnt
        raw = [1.0 / (1.0 + 0.25 * i) if answer.tokens else 0.0 for i, answer in enumerate(asked)]
        total = sum(raw) or 1.0
        return [weight / total for weight in raw]


def _pattern(asked: Sequence[Distribution]) -> tuple[int, ...]:
    """How sure each source is, in steps; 0 where it says nothing."""
    return tuple(
        1 + sum(answer.probabilities[0] > border for border in _SURE) if answer.tokens else 0 for answer in asked
    )

"""A union of sources: one merged distribution, and so one merged trie.

    p(token) = sum over sources of weight[source] * q_source(token),   the weights adding up to 1

Interpolated as n-gram language models are (Jelinek and Mercer 1980): the weights are learnt online by expectation
maximisation from the tokens that came, apart for each pattern of how sure the sources are (a copied run of text that is
nearly certain counts for more when the table is vague). A token proposed by several sources is one token, and
remembers which of them vouches most for it.

Where many branches share a forward only near certainties pay for their rows, and asking about each branch has its
price: beyond ``crowd`` branches the first source alone is asked. All of them always learn.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from reason.speculate.draft import NOTHING, Distribution, Rows, Source, State, Stream

if TYPE_CHECKING:
    from reason.runtime.runner import ModelRunner
    from reason.speculate.tables import Table

__all__ = ["Union"]

_SURE = (0.25, 0.5, 0.8, 0.95)  # borders of the steps in which a source is sure of its best token; step 0 is silence
_SLOWEST = 0.01  # the smallest step of the weights


class _Joint:
    """Every source's state, and what they answered there, so that ``settle`` judges what was drafted from."""

    __slots__ = ("asked", "pattern", "states")

    def __init__(self, states: list[State]) -> None:
        self.states = states
        self.asked: list[Distribution] | None = None
        self.pattern: tuple[int, ...] = ()


class Union(Source):
    """See the module's docstring.

    Args:
        sources: at least one; the first is trusted a little more until something is learnt.
        crowd: branches beyond which only the first is asked.
    """

    def __init__(self, sources: Sequence[Source], *, crowd: int = 12) -> None:
        assert sources
        self.crowd = crowd
        self._asked = self.sources = tuple(sources)
        self.name = "+".join(source.name for source in sources)
        self.reads_rows = any(source.reads_rows for source in sources)
        self.tables = tuple(table for source in sources for table in source.tables)
        self._learnt: dict[tuple[int, ...], list[float]] = {}  # how sure each source is -> weights, and visits last

    def state(self, stream: Stream) -> State:
        return _Joint([source.state(stream) for source in self._asked])

    def step(self, state: State, token: int) -> State:
        return _Joint(
            [
                None if own is None else source.step(own, token)
                for source, own in zip(self.sources, state.states, strict=False)
            ]
        )

    def distribution(self, state: State) -> Distribution:
        asked = self._ask(state)
        weights = self._weights(state.pattern)
        mixed: dict[int, float] = {}
        strongest: dict[int, tuple[float, str]] = {}
        for source, weight, (tokens, probabilities, _) in zip(self.sources, weights, asked, strict=False):
            for token, probability in zip(tokens, probabilities, strict=True):
                share = weight * probability
                if token in mixed:
                    mixed[token] += share
                    if share > strongest[token][0]:
                        strongest[token] = (share, source.name)
                else:
                    mixed[token] = share
                    strongest[token] = (share, source.name)
        if not mixed:
            return NOTHING
        ordered = sorted(mixed, key=mixed.__getitem__, reverse=True)
        return Distribution(ordered, [mixed[token] for token in ordered], [strongest[token][1] for token in ordered])

    def settle(self, state: State, token: int) -> None:
        asked = self._ask(state)
        weights = self._weights(state.pattern)
        shares = [0.0] * len(asked)
        for i, (tokens, probabilities, _) in enumerate(asked):
            if token in tokens:
                shares[i] = weights[i] * probabilities[tokens.index(token)]
        total = sum(shares)
        if total > 0.0:
            learnt = self._learnt.get(state.pattern)
            if learnt is None:
                learnt = self._learnt[state.pattern] = [*weights, 0.0]
            learnt[-1] += 1.0
            step = max(_SLOWEST, 1.0 / (learnt[-1] + 4.0))
            for i, share in enumerate(shares):
                learnt[i] += step * (share / total - learnt[i])
        for source, own in zip(self.sources, state.states, strict=False):
            if own is not None:
                source.settle(own, token)

    def prepare(self, streams: Sequence[Stream]) -> None:
        self._asked = self.sources if len(streams) <= self.crowd else self.sources[:1]
        for source in self._asked:
            source.prepare(streams)

    def asked_tables(self) -> Sequence[Table]:
        return [table for source in self._asked for table in source.asked_tables()]

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

    def runners(self) -> Sequence[ModelRunner]:
        return [runner for source in self.sources for runner in source.runners()]

    def watch_forwards(self, watcher: Callable[[Sequence[Stream]], None]) -> None:
        for source in self.sources:
            source.watch_forwards(watcher)

    def _ask(self, state: _Joint) -> list[Distribution]:
        if state.asked is None:
            state.asked = [
                NOTHING if own is None else source.distribution(own)
                for source, own in zip(self.sources, state.states, strict=False)  # in a crowd there are fewer states
            ]
            state.pattern = tuple(
                [1 + bisect_left(_SURE, answer.probabilities[0]) if answer.tokens else 0 for answer in state.asked]
            )
        return state.asked

    def _weights(self, pattern: tuple[int, ...]) -> Sequence[float]:
        """One weight a source (a learnt list has its visits behind them)."""
        learnt = self._learnt.get(pattern)
        if learnt is not None:
            return learnt
        raw = [1.0 / (1.0 + 0.25 * i) if sure else 0.0 for i, sure in enumerate(pattern)]
        total = sum(raw) or 1.0
        return [weight / total for weight in raw]

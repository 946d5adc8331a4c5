"""Goodput: over all branches of an iteration, as many draft nodes as pay for themselves. The default policy.

    maximise (branches + sum of path probabilities) / (seconds(branches + nodes) + overhead * nodes)

Nodes are added best first; ``seconds`` is the table of measured forward times, the path probability a product of
calibrated estimates. No node at all is one of the choices. SmartSpec's choice of a length
(https://arxiv.org/abs/2406.14066) is this with one chain a branch; SpecDec++'s rule, to stop drafting once a rejection
on the path is likelier than h (https://arxiv.org/abs/2405.19715), is ``floor = 1 - h``; ``nodes`` fixes the number of
nodes a branch, which comparisons at equal budgets want.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import Source, Stream
from reason.speculate.policy.cost import ForwardTimes
from reason.speculate.policy.growing import Growth
from reason.speculate.policy.ranking import Ranking

__all__ = ["Goodput"]


class Goodput:
    """See the module's docstring.

    Args:
        times: what a forward costs.
        max_nodes: draft nodes of one iteration.
        max_depth: tokens beyond the end of a branch.
        floor: path probabilities below this are not drafted.
        nodes: draft exactly so many nodes a branch on average, the best over all branches, as far as there are
            candidates, whatever they cost.
    """

    name = "goodput"

    def __init__(
        self,
        times: ForwardTimes | None = None,
        *,
        max_nodes: int = 64,
        max_depth: int = 16,
        floor: float = 0.02,
        nodes: int | None = None,
    ) -> None:
        assert times is not None or nodes is not None
        self._times = times
        self._max_nodes = max_nodes
        self._max_depth = max_depth
        self._floor = floor
        self._nodes = nodes
        self._overhead = 0.0  # seconds that drafting and learning take for each branch and node, beside its row
        self.expected = 0.0  # tokens beyond one a branch that the last trees promise

    @property
    def decides(self) -> bool:
        """Whether the number of nodes is up to the policy."""
        return self._nodes is None

    def overhead(self, seconds: float, step: float) -> None:
        """Learns what a branch or a node cost beside its row; ``step`` is the exponential average's."""
        self._overhead += step * (seconds - self._overhead)

    def grow(self, streams: Sequence[Stream], source: Source, ranking: Ranking) -> Growth | None:
        """The trees for an iteration's branches; None if drafting cannot pay."""
        if self._nodes is not None:
            return self._fixed_number(streams, source, ranking)
        assert self._times is not None
        branches = len(streams)
        seconds = self._times.upto(branches + self._max_nodes)[branches:]  # by nodes
        seconds = seconds + self._overhead * (branches + np.arange(len(seconds)))
        plain = branches / float(self._times.upto(branches)[branches])
        slopes = _slopes(seconds)
        self.expected = 0.0
        if plain * float(slopes[0]) >= 1.0:  # not even sure tokens would pay
            return None
        growth = Growth(streams, source, ranking, max_depth=self._max_depth, floor=self._floor)
        tokens, best, best_count, best_tokens = float(branches), plain, 0, float(branches)
        for count in range(1, self._max_nodes + 1):
            if growth.best <= max(0.0, best * float(slopes[count - 1])):
                break
            tokens += growth.take()
            goodput = tokens / float(seconds[count])
            if goodput > best:
                best, best_count, best_tokens = goodput, count, tokens
        growth.cut(best_count)
        self.expected = best_tokens - branches
        return growth

    def _fixed_number(self, streams: Sequence[Stream], source: Source, ranking: Ranking) -> Growth:
        assert self._nodes is not None
        growth = Growth(streams, source, ranking, max_depth=self._max_depth, floor=0.0)
        self.expected = 0.0
        for _ in range(self._nodes * len(streams)):
            if not growth.best:
                break
            self.expected += growth.take()
        return growth


def _slopes(seconds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """For each number of nodes the least that one more can cost on average, however many follow; [nodes]."""
    fewer, more, steps, starts = _pairs(len(seconds))
    slopes: npt.NDArray[np.float64] = np.minimum.reduceat((seconds.take(more) - seconds.take(fewer)) / steps, starts)
    return slopes


class _Pairs(NamedTuple):
    """Every two of so many numbers of nodes, by the smaller one."""

    fewer: npt.NDArray[np.intp]  # [pairs]
    more: npt.NDArray[np.intp]  # [pairs]
    steps: npt.NDArray[np.float64]  # [pairs], more - fewer
    starts: npt.NDArray[np.intp]  # by the smaller one: its first pair


@lru_cache(maxsize=16)
def _pairs(count: int) -> _Pairs:
    fewer, more = np.triu_indices(count, 1)
    return _Pairs(fewer, more, (more - fewer).astype(np.float64), np.flatnonzero(np.diff(fewer, prepend=-1)))

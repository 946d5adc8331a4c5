"""Token Recycling: what followed each token last time (Luo et al., https://arxiv.org/abs/2408.08696).

    matrix[token] = the 8 likeliest tokens of the last row that was computed at that token

One matrix for the whole process; every processed row writes to it, rejected ones too. It has ranks and no
probabilities; a rank's probability here is how often that rank came true (the paper needs none, as its tree is fixed).

Departure: among several rows of one forward at the same token the last one wins; the paper's scatter leaves it open.
"""

from __future__ import annotations

import numpy as np

from reason.speculate.draft import NOTHING, Distribution, Rows, Source, State, Stream

__all__ = ["TokenRecycling"]

_WIDTH = 8
_PRIOR = (0.5, 0.15, 0.08, 0.05, 0.03, 0.02, 0.015, 0.01)
_HORIZON = 500.0  # visits over which the ranks' frequencies are averaged


class TokenRecycling(Source):
    """See the module's docstring."""

    name = "token-recycling"
    ranks = _PRIOR
    """How often each rank comes true, as long as nothing was learnt."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._matrix = np.full((1024, _WIDTH), -1, dtype=np.int64)  # [vocab so far, WIDTH]
        self._frequency = list(_PRIOR)
        self._order = list(range(_WIDTH))  # ranks by frequency

    def state(self, stream: Stream) -> State:
        return stream.tokens[-1]

    def step(self, state: State, token: int) -> State:
        return token

    def row(self, state: State) -> list[int]:
        """What followed at a state, likeliest first; -1 behind the last."""
        row: list[int] = self._matrix[state].tolist() if state < len(self._matrix) else [-1]
        return row

    def distribution(self, state: State) -> Distribution:
        row = self.row(state)
        if row[0] < 0:
            return NOTHING
        ranks = [rank for rank in self._order if row[rank] >= 0]
        return Distribution([row[rank] for rank in ranks], [self._frequency[rank] for rank in ranks])

    def settle(self, state: State, token: int) -> None:
        row = self.row(state)
        if row[0] < 0:
            return
        for rank, recycled in enumerate(row):
            self._frequency[rank] += ((recycled == token) - self._frequency[rank]) / _HORIZON
        self._order.sort(key=self._frequency.__getitem__, reverse=True)

    def observe(self, rows: Rows) -> None:
        last = rows.contexts[:, -1]
        if not len(last):
            return
        if (size := int(last.max()) + 1) > len(self._matrix):
            more = max(size, 2 * len(self._matrix)) - len(self._matrix)
            self._matrix = np.concatenate([self._matrix, np.full((more, _WIDTH), -1, dtype=np.int64)])
        self._matrix[last] = rows.tokens[:, :_WIDTH]  # numpy writes in order: the last occurrence stays

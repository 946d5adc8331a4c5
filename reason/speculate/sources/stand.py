"""STAND: an n-gram table of the target's own distributions (Song et al., https://arxiv.org/abs/2506.04708).

    table[last n tokens] = mean over visits of the row's top 10,   n = 4, 3, 2; asked longest first

The k-th visit of a key merges with weight 1 / k, entries that a row lacks counting as 0, and the best 10 stay. Rows of
drafted and rejected places are visits too, and the table is shared by everything that the engine runs, which is where
the gain over samples of one problem comes from. Children are drawn by Gumbel-top-k (under ``coupled`` with the
position's own noise, else by the rejection rule's draws).

Departures: a row is at the request's temperature, as it was verified; keys are hashed to 64 bits, and a collision costs
a wrong draft; the oldest keys make room when ``capacity`` is reached.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import CONTEXT, NOTHING, TOP, Distribution, Rows, Source, State, Stream

__all__ = ["Stand"]

_MULTIPLIER = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class Stand(Source):
    """See the module's docstring.

    Args:
        max_order: the longest key, at most ``CONTEXT`` tokens.
        min_order: the shortest key.
        capacity: keys that are kept, about 130 bytes each.
    """

    name = "stand"
    stochastic = True

    def __init__(self, *, max_order: int = 4, min_order: int = 2, capacity: int = 400_000) -> None:
        assert 1 <= min_order <= max_order <= CONTEXT
        self.orders = range(max_order, min_order - 1, -1)
        self.capacity = capacity
        self._max_order = max_order
        self.reset()

    def reset(self) -> None:
        self._place: dict[int, int] = {}
        self._keys: list[int] = []
        self._next = 0  # the place that is overwritten next, once all are taken
        size = min(self.capacity, 4096)
        self._tokens = np.full((size, TOP), -1, dtype=np.int64)  # [keys, TOP]
        self._probabilities = np.zeros((size, TOP))  # [keys, TOP]
        self._visits = np.zeros(size)  # [keys]

    def __len__(self) -> int:
        """Keys in the table."""
        return len(self._place)

    def state(self, stream: Stream) -> State:
        return tuple(stream.tokens[-self._max_order :])

    def step(self, state: State, token: int) -> State:
        return (*state[-self._max_order + 1 :], token) if self._max_order > 1 else (token,)

    def distribution(self, state: State) -> Distribution:
        for order in self.orders:
            if order > len(state):
                continue
            place = self._place.get(_key(state[-order:]))
            if place is not None:
                tokens = self._tokens[place].tolist()
                probabilities = self._probabilities[place].tolist()
                if tokens[-1] < 0:
                    count = tokens.index(-1)
                    return Distribution(tokens[:count], probabilities[:count])
                return Distribution(tokens, probabilities)
        return NOTHING

    def observe(self, rows: Rows) -> None:
        places: list[int] = []
        used: list[int] = []
        valid: dict[int, int] = {}  # by place that a new key took: the first of ``places`` that means this key
        for order in self.orders:
            known = (rows.contexts[:, -order] >= 0).tolist()
            for row, key in enumerate(_keys(rows.contexts[:, -order:])):
                if known[row]:
                    place = self._place.get(key)
                    if place is None:
                        place = self._new_place(key)
                        valid[place] = len(places)
                    places.append(place)
                    used.append(row)
        tokens, probabilities = _clean(rows)
        # A key that comes twice is two visits, one after the other; visits of a key that is gone again are none.
        kept = [i for i, place in enumerate(places) if i >= valid.get(place, 0)]
        at, of = np.array(places, dtype=np.int64)[kept], np.array(used, dtype=np.int64)[kept]
        while len(at):
            _, first = np.unique(at, return_index=True)
            self._merge(at[first], tokens[of[first]], probabilities[of[first]])
            if len(first) == len(at):
                break
            later = np.ones(len(at), dtype=bool)
            later[first] = False
            at, of = at[later], of[later]

    def _new_place(self, key: int) -> int:
        """Where a key goes that is not there yet: the next free place, or that of the oldest key."""
        if len(self._keys) < self.capacity:
            place = len(self._keys)
            self._keys.append(key)
            if place == len(self._visits):
                self._grow()
        else:
            place = self._next
            self._next = (self._next + 1) % self.capacity
            del self._place[self._keys[place]]
            self._keys[place] = key
            self._visits[place] = 0
        self._place[key] = place
        return place

    def _grow(self) -> None:
        more = min(len(self._visits), self.capacity - len(self._visits))
        self._tokens = np.concatenate([self._tokens, np.full((more, TOP), -1, dtype=np.int64)])
        self._probabilities = np.concatenate([self._probabilities, np.zeros((more, TOP))])
        self._visits = np.concatenate([self._visits, np.zeros(more)])

    def _merge(
        self, places: npt.NDArray[np.int64], tokens: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]
    ) -> None:
        """One visit to each of ``places``, which are distinct, with rows [places, TOP]."""
        visits = self._visits[places]
        share = (1.0 / (visits + 1.0))[:, None]
        old_tokens, old = self._tokens[places], self._probabilities[places] * (1.0 - share)
        old[visits == 0] = 0.0
        old_tokens[visits == 0] = -1
        new = probabilities * share
        same = (old_tokens[:, :, None] == tokens[:, None, :]) & (tokens[:, None, :] >= 0)  # [places, old, new]
        old += (same * new[:, None, :]).sum(axis=2)
        new = np.where(same.any(axis=1), -1.0, new)
        both = np.concatenate([old, np.where(tokens >= 0, new, -1.0)], axis=1)
        both_tokens = np.concatenate([old_tokens, tokens], axis=1)
        both[both_tokens < 0] = -1.0
        best = np.argsort(-both, axis=1, kind="stable")[:, :TOP]
        kept = np.take_along_axis(both, best, axis=1)
        self._tokens[places] = np.where(kept > 0.0, np.take_along_axis(both_tokens, best, axis=1), -1)
        self._probabilities[places] = np.maximum(kept, 0.0)
        self._visits[places] = visits + 1.0


def _clean(rows: Rows) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The rows' entries, with token -1 for impossible ones."""
    return np.where(rows.probabilities > 0.0, rows.tokens, -1), rows.probabilities


def _key(tokens: Sequence[int]) -> int:
    key = len(tokens)
    for token in tokens:
        key = (key * _MULTIPLIER + token + 1) & _MASK
        key ^= key >> 29
    return key


def _keys(contexts: npt.NDArray[np.int64]) -> list[int]:
    """``_key`` of each row of [rows, order]."""
    with np.errstate(over="ignore"):
        keys = np.full(len(contexts), contexts.shape[1], dtype=np.uint64)
        for column in range(contexts.shape[1]):
            keys = keys * np.uint64(_MULTIPLIER) + (contexts[:, column] + 1).astype(np.uint64)
            keys ^= keys >> np.uint64(29)
    out: list[int] = keys.tolist()
    return out

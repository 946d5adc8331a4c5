"""Sources whose tables lie on the model's device: what they say at a stream's end came with its last token."""

from __future__ import annotations

from typing import NamedTuple

import torch

from reason.speculate.draft import NOTHING, Distribution, Rows, Source, State, Stream
from reason.speculate.sources.stand import Stand
from reason.speculate.sources.token_recycling import TokenRecycling
from reason.speculate.sources.union import Union
from reason.speculate.tables import Ahead, RecyclingTable, StandTable, Table

__all__ = ["TabledRecycling", "TabledStand", "tabled"]


class _Place(NamedTuple):
    """A state."""

    ahead: Ahead
    number: int


def _at_end(stream: Stream, table: Table) -> State:
    ahead = stream.ahead.get(table)
    return None if ahead is None else _Place(ahead, 0)


def _further(place: _Place, token: int) -> State:
    number = place.ahead.step(place.number, token)
    return None if number is None else _Place(place.ahead, number)


class TabledStand(Source):
    """``Stand``, but for where its table is."""

    name = Stand.name
    stochastic = True
    reads_rows = False

    def __init__(self, table: StandTable) -> None:
        self.tables = (table,)

    def state(self, stream: Stream) -> State:
        return _at_end(stream, self.tables[0])

    def step(self, state: State, token: int) -> State:
        return _further(state, token)

    def distribution(self, state: State) -> Distribution:
        tokens, probabilities = state.ahead.said(state.number)
        return Distribution(tokens, probabilities) if tokens else NOTHING

    def reset(self) -> None:
        self.tables[0].reset()


class TabledRecycling(TokenRecycling):
    """``TokenRecycling``, but for where its matrix is. How often each rank came true is learnt on the host."""

    reads_rows = False

    def __init__(self, table: RecyclingTable) -> None:
        self.tables = (table,)
        super().__init__()

    def reset(self) -> None:
        super().reset()
        self.tables[0].reset()

    def state(self, stream: Stream) -> State:
        return _at_end(stream, self.tables[0])

    def step(self, state: State, token: int) -> State:
        return _further(state, token)

    def row(self, state: State) -> list[int]:
        recycled: list[int] = state.ahead.tokens[state.number].tolist()
        return recycled

    def observe(self, rows: Rows) -> None:
        """The table has seen them."""


def tabled(source: Source, device: torch.device, vocab: int) -> Source:
    """The source with its tables on ``device``, where it is one that has any; what it has learnt is not taken along."""
    if isinstance(source, Union):
        return Union([tabled(each, device, vocab) for each in source.sources], crowd=source.crowd)
    if type(source) is Stand:
        return TabledStand(StandTable(device, source.orders, source.capacity))
    if type(source) is TokenRecycling:
        return TabledRecycling(RecyclingTable(device, vocab, source.ranks))
    return source

"""What draft sources learn from rows, as tables on the model's device: written and read in batch, without the host.

Under one forward's rows lie the ends of all branches, one of which each draft's walk comes to; which, only the host
will know. So beyond every row, whose token is drawn already, the table is read as far as a draft may go, a few of the
likeliest places on each level, and what it says comes to the host in the iteration's one copy. There a source answers
from it (``sources.tabled``), so that policies and rules are the ones of every other source.

Nothing here waits for the device: sizes depend on nothing that is computed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from reason.runtime.gpu.kernels import can_launch, launch
from reason.runtime.gpu.work import power_of_two
from reason.speculate.draft import CONTEXT, TOP

__all__ = ["LEVELS", "WIDTH", "Ahead", "RecyclingTable", "StandTable", "Table", "look_ahead"]

LEVELS = 6
"""Tokens beyond a row's own that are looked up."""
WIDTH = 4
"""Places of a level, but for the first, which is one."""

_WAYS = 8  # keys of a bucket
_ROUNDS = 2  # visits to one bucket that an iteration counts
_NO_SIGN = (1 << 62) - 1
_FACTORS = np.random.default_rng(0).integers(-(1 << 63), 1 << 63, (CONTEXT + 1, CONTEXT)).tolist()
"""Of the hash of each length of key: a sum of tokens by random numbers."""


class Table(Protocol):
    """Learns rows and says what may come next. Contexts are [rows, n] int64, the last token last, -1 before a start."""

    def observe(
        self, contexts: torch.Tensor, tokens: torch.Tensor, probabilities: torch.Tensor, counted: torch.Tensor
    ) -> None:
        """Learns rows: the likeliest ``tokens`` [rows, n] int64 and their ``probabilities``, as far as they are
        ``counted`` [rows] bool."""
        ...

    def look_up(self, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What may follow: tokens [rows, n] int64, likeliest first and -1 behind the last, and probabilities
        float32."""
        ...

    def reset(self) -> None:
        """Forgets everything."""
        ...

    def arrays(self) -> Arrays:
        """Itself, for a kernel."""
        ...


class Arrays(NamedTuple):
    """A table as ``runtime.gpu.table_kernels`` reads it."""

    tokens: torch.Tensor  # [places, n] int32
    probabilities: torch.Tensor  # [places, n] float32; [n] where they are the ranks'
    keys: torch.Tensor | None = None  # [places] int64; None where a place is the last token
    factors: torch.Tensor | None = None  # [orders, 1, CONTEXT] int64
    longest: int = 1
    buckets: int = 0


class StandTable:
    """``sources.stand`` in buckets: a key lies in one of the eight places of its bucket, whose oldest key makes room.

    Departures: float32; keys are hashed otherwise; a bucket's third visit in an iteration is none.

    Args:
        orders: lengths of the keys, longest first, each by one shorter than the one before.
        capacity: keys, about 100 bytes each.
    """

    def __init__(self, device: torch.device, orders: Sequence[int], capacity: int) -> None:
        assert list(orders) == list(range(orders[0], orders[-1] - 1, -1)) and orders[0] <= CONTEXT
        self._device = device
        self._orders = tuple(orders)
        self._buckets = max(1, capacity // _WAYS)
        self._ways = torch.arange(_WAYS, device=device)
        factors = [[0] * (CONTEXT - order) + list(_FACTORS[order][:order]) for order in orders]
        self._factors = torch.tensor(factors, dtype=torch.int64, device=device)[:, None]  # [orders, 1, CONTEXT]
        self.reset()

    def reset(self) -> None:
        places = (self._buckets + 1) * _WAYS  # the last bucket is nobody's: what does not count is written there
        self._keys = torch.zeros(places, dtype=torch.int64, device=self._device)  # 0: none
        self._since = torch.zeros(places, dtype=torch.int64, device=self._device)  # when its key came
        self._visits = torch.zeros(places, dtype=torch.float32, device=self._device)
        self._tokens = torch.full((places, TOP), -1, dtype=torch.int32, device=self._device)
        self._probabilities = torch.zeros((places, TOP), dtype=torch.float32, device=self._device)
        self._now = 0

    def observe(
        self, contexts: torch.Tensor, tokens: torch.Tensor, probabilities: torch.Tensor, counted: torch.Tensor
    ) -> None:
        keys, known = self._find(contexts)
        keys, buckets = keys.flatten(), self._bucket(keys, known & counted).flatten()
        missing = TOP - tokens.shape[1]
        tokens = torch.where(probabilities > 0.0, tokens, -1)
        tokens = torch.nn.functional.pad(tokens, (0, missing), value=-1).repeat(len(self._orders), 1)
        new = torch.nn.functional.pad(probabilities.float(), (0, missing)).repeat(len(self._orders), 1)
        turns = _turns(buckets)
        for turn in range(_ROUNDS):  # the buckets of a round are different ones
            self._now += 1
            self._visit(keys, torch.where(turns == turn, buckets, self._buckets), tokens, new)

    def look_up(self, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys, there = self._find(contexts)  # [orders, rows]
        buckets = self._bucket(keys, there)
        same = self._keys[buckets[..., None] * _WAYS + self._ways] == keys[..., None]
        known, way = same.max(dim=-1)
        known &= there
        found, order = known.max(dim=0, keepdim=True)  # the longest one
        place = (buckets * _WAYS + way).gather(0, order)[0]
        tokens = torch.where(found[0, :, None], self._tokens[place], -1)
        return tokens.long(), self._probabilities[place]

    def arrays(self) -> Arrays:
        return Arrays(
            self._tokens, self._probabilities, self._keys, self._factors, self._orders[0], buckets=self._buckets
        )

    def _find(self, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys, and whether there is as much context, both [orders, rows]."""
        mixed = ((contexts + 1) * self._factors).sum(dim=-1)
        keys = (mixed ^ (mixed >> 32)) | 1
        first = CONTEXT - self._orders[0]
        return keys, contexts[:, first : first + len(self._orders)].T >= 0

    def _bucket(self, keys: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
        """Each key's bucket; nobody's where it is not to count."""
        return torch.where(there, ((keys >> 1) & _NO_SIGN) % self._buckets, self._buckets)

    def _visit(self, keys: torch.Tensor, buckets: torch.Tensor, tokens: torch.Tensor, new: torch.Tensor) -> None:
        """One visit to each of ``keys`` [n] in ``buckets`` [n] with a row each, [n, TOP]: weights 1 / visits."""
        places = buckets[:, None] * _WAYS + self._ways
        known, way = (self._keys[places] == keys[:, None]).max(dim=1)
        place = buckets * _WAYS + torch.where(known, way, self._since[places].argmin(dim=1))
        visits = torch.where(known, self._visits[place], 0.0)
        share = (1.0 / (visits + 1.0))[:, None]
        old_tokens = torch.where(known[:, None], self._tokens[place], -1).long()
        old = self._probabilities[place] * (1.0 - share)
        new = new * share
        in_both = (old_tokens[:, :, None] == tokens[:, None, :]) & (tokens >= 0)[:, None, :]  # [n, old, new]
        old = old + (in_both * new[:, None, :]).sum(dim=2)
        new = torch.where(in_both.any(dim=1), -1.0, new)
        all_tokens = torch.cat([old_tokens, tokens], dim=1)
        merged = torch.where(all_tokens >= 0, torch.cat([old, new], dim=1), -1.0)
        merged, order = merged.sort(dim=1, descending=True, stable=True)
        kept = merged[:, :TOP]
        self._tokens[place] = torch.where(kept > 0.0, all_tokens.gather(1, order[:, :TOP]), -1).int()
        self._probabilities[place] = kept.clamp(min=0.0)
        self._visits[place] = visits + 1.0
        self._keys[place] = keys
        self._since[place] = torch.where(known, self._since[place], self._now)


class RecyclingTable:
    """``sources.token_recycling``'s matrix.

    Args:
        vocab: tokens there are.
        ranks: how likely each rank is thought to be; what it decides is which places are looked up.
    """

    def __init__(self, device: torch.device, vocab: int, ranks: Sequence[float]) -> None:
        self._device = device
        self._vocab = vocab
        self._ranks = torch.tensor(ranks, dtype=torch.float32, device=device)
        self.reset()

    def reset(self) -> None:
        size = (self._vocab + 1, len(self._ranks))  # the last row is nobody's
        self._matrix = torch.full(size, -1, dtype=torch.int32, device=self._device)

    def observe(
        self, contexts: torch.Tensor, tokens: torch.Tensor, probabilities: torch.Tensor, counted: torch.Tensor
    ) -> None:
        last = torch.where(counted & (contexts[:, -1] >= 0), contexts[:, -1], self._vocab)
        ordered, places = last.sort(stable=True)
        ends = torch.ones_like(ordered, dtype=torch.bool)
        ends[:-1] = ordered[1:] != ordered[:-1]  # of several rows of a token the last one stays
        width = min(tokens.shape[1], len(self._ranks))
        self._matrix[torch.where(ends, ordered, self._vocab), :width] = tokens[places, :width].int()

    def look_up(self, contexts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        last = contexts[:, -1]
        tokens = torch.where((last >= 0)[:, None], self._matrix[last.clamp(min=0)].long(), -1)
        return tokens, torch.where(tokens >= 0, self._ranks, 0.0)

    def arrays(self) -> Arrays:
        return Arrays(self._matrix, self._ranks)


def look_ahead(table: Table, contexts: torch.Tensor) -> list[torch.Tensor]:
    """What a table says beyond the ends of ``contexts`` [rows, CONTEXT], as ``Ahead`` has it, with rows before."""
    return _launched(table.arrays(), contexts) if _trusted(contexts.device) else _looked_up(table, contexts)


@cache
def _trusted(device: torch.device) -> bool:
    """Whether the kernel says what torch's operations say, on small tables."""
    if not can_launch(device):
        return False
    generator = torch.Generator().manual_seed(0)
    contexts = torch.randint(-1, 12, (24, CONTEXT), generator=generator).to(device)
    tokens = torch.stack([torch.randperm(12, generator=generator)[:TOP] for _ in contexts]).to(device)
    probabilities = torch.rand(tokens.shape, generator=generator).to(device)
    try:
        for table in (StandTable(device, (4, 3, 2), 256), RecyclingTable(device, 12, [0.5**n for n in range(1, 9)])):
            table.observe(contexts, tokens, probabilities, torch.ones_like(contexts[:, 0], dtype=torch.bool))
            said, wanted = _launched(table.arrays(), contexts), _looked_up(table, contexts)
            if not (torch.equal(said[0], wanted[0]) and torch.equal(said[2], wanted[2])):
                warnings.warn(
                    "the Triton kernel of draft tables disagrees with torch; going on with torch", stacklevel=2
                )
                return False
    except Exception as error:  # a compiler's errors are of many types, and none of them is worth a process
        warnings.warn(f"the Triton kernel of draft tables does not compile: {error}; going on with torch", stacklevel=2)
        return False
    return True


def _launched(table: Arrays, contexts: torch.Tensor) -> list[torch.Tensor]:
    """``look_ahead`` by the kernel."""
    from reason.runtime.gpu import table_kernels

    rows, top = len(contexts), table.tokens.shape[1]
    places = 1 + (LEVELS - 1) * WIDTH
    said = table.tokens.new_empty((rows, places, top))
    likely = table.probabilities.new_empty((rows, places, top))
    chosen = table.tokens.new_empty((rows, places - 1))
    none = table.tokens  # never read
    keys, factors = (none if part is None else part for part in (table.keys, table.factors))
    options = {
        "HASHED": table.keys is not None,
        "CONTEXT": CONTEXT,
        "LONGEST": table.longest,
        "ORDERS": 1 if table.factors is None else len(table.factors),
        "WAYS": _WAYS,
        "TOP": top,
        "BLOCK": power_of_two(top),
        "LEVELS": LEVELS,
        "WIDTH": WIDTH,
        "num_warps": 1,
    }
    tensors = (contexts.contiguous(), factors, keys, table.tokens, table.probabilities, said, likely, chosen)
    launch(table_kernels.look_ahead, (rows,), tensors, (table.buckets,), options)
    return [said, likely, chosen]


def _looked_up(table: Table, contexts: torch.Tensor) -> list[torch.Tensor]:
    """``look_ahead`` by torch's operations."""
    rows, length = contexts.shape
    tokens, probabilities = (each[:, None] for each in table.look_up(contexts))  # [rows, places, n]
    at, values = contexts[:, None], torch.ones((rows, 1), device=contexts.device)
    said, likely, chosen = [tokens], [probabilities], []
    for _ in range(LEVELS - 1):
        width = tokens.shape[2]
        candidates = torch.where(tokens >= 0, values[..., None] * probabilities, 0.0).flatten(1)
        values, index = (part[:, :WIDTH] for part in candidates.sort(dim=1, descending=True, stable=True))
        parents = (index // width)[..., None].expand(-1, -1, length)
        drafted = tokens.flatten(1).gather(1, index)
        at = torch.cat([at.gather(1, parents)[..., 1:], drafted[..., None]], dim=2)
        tokens, probabilities = (each.view(rows, WIDTH, -1) for each in table.look_up(at.view(-1, length)))
        tokens = torch.where((values > 0.0)[..., None], tokens, -1)
        said.append(tokens)
        likely.append(probabilities)
        chosen.append(torch.where(values > 0.0, index, -1))
    return [torch.cat(said, dim=1).int(), torch.cat(likely, dim=1).float(), torch.cat(chosen, dim=1).int()]


class Ahead(NamedTuple):
    """What a table said beyond one end. Place 0 is the end; each further level has ``WIDTH`` places, the w-th of which
    lies behind the ``chosen``-th of the tokens of the level before, counted place by place."""

    tokens: npt.NDArray[np.int32]  # [places, n], -1: none
    probabilities: npt.NDArray[np.float32]  # [places, n]
    chosen: npt.NDArray[np.int32]  # [places - 1], -1: nothing lies there

    def said(self, place: int) -> tuple[list[int], list[float]]:
        """What may come at a place, likeliest first."""
        tokens: list[int] = self.tokens[place].tolist()
        probabilities: list[float] = self.probabilities[place].tolist()
        known = [i for i, token in enumerate(tokens) if token >= 0]
        return [tokens[i] for i in known], [probabilities[i] for i in known]

    def step(self, place: int, token: int) -> int | None:
        """The place one token further on; None where nothing was looked up."""
        level, number = (0, 0) if place == 0 else (1 + (place - 1) // WIDTH, (place - 1) % WIDTH)
        tokens: list[int] = self.tokens[place].tolist()
        if token < 0 or token not in tokens:
            return None
        following: list[int] = self.chosen[level * WIDTH : (level + 1) * WIDTH].tolist()
        wanted = number * len(tokens) + tokens.index(token)
        return 1 + level * WIDTH + following.index(wanted) if wanted in following else None


def _turns(values: torch.Tensor) -> torch.Tensor:
    """How many equal ones stand before each, [n] int64."""
    ordered, places = values.sort(stable=True)
    numbers = torch.arange(len(values), device=values.device)
    begins = torch.zeros_like(numbers)
    begins[1:] = torch.where(ordered[1:] != ordered[:-1], numbers[1:], 0)
    return torch.empty_like(numbers).scatter_(0, places, numbers - begins.cummax(0).values)

"""An attention plan as the device reads it: flat arrays of int32 in one buffer, copied once, used by every layer.

Work is split by KV run. A *piece* is a run of keys and the range of rows that read it: a shared run, or the keys that
one row has to itself. A piece of many keys is cut into splits, one of many rows into tiles; each tile of a split is an
*item*, one program per key head. An item leaves one partial result for each of its rows, and a row's partial results,
always in the same order, are merged by log-sum-exp. Items of few rows (private keys, mostly) come first: they run with
a small tile, so that a lone row wastes 16 - heads/kv_heads lanes of a matrix product and not 64.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reason.runtime.attention.plan import num_keys_of
from reason.runtime.slots import SCRATCH_SLOT

if TYPE_CHECKING:
    from reason.runtime.attention.plan import AttentionPlan, RowBatch

__all__ = [
    "ITEM_FIELDS",
    "Capacity",
    "DeviceWork",
    "Tiling",
    "Work",
    "WorkAhead",
    "make_work",
    "make_work_ahead",
    "pack",
    "power_of_two",
    "upload",
    "upload_into",
]

ITEM_FIELDS = 6
"""Of an item: first entry in ``slots``, keys, first row, rows, first partial result, position of the first key."""

_BEFORE_ALL = -(1 << 30)  # the first position of keys that every row of the item sees
_MIN_SPLIT, _MAX_SPLIT = 128, 2048

Index = npt.NDArray[np.int32]

_NOT_YET = np.array([SCRATCH_SLOT], dtype=np.int32)


class Tiling(NamedTuple):
    """How pieces are cut.

    Args:
        narrow_rows, wide_rows: rows of one item, of the two kinds.
        programs: about how many programs per key head fill the device; splits get as long as that allows.
        split_keys: keys of one item at most; None decides by ``programs``.
    """

    narrow_rows: int
    wide_rows: int
    programs: int = 64
    split_keys: int | None = None


class Capacity(NamedTuple):
    """What a buffer has room for: rows, items of the two kinds, partial results, keys."""

    rows: int
    narrow: int
    wide: int
    parts: int
    keys: int

    def holds(self, other: Capacity) -> bool:
        return all(mine >= theirs for mine, theirs in zip(self, other, strict=True))

    @property
    def lengths(self) -> tuple[int, ...]:
        """Of a buffer's sections: token ids, positions, write slots, items, where each row's parts begin, parts, slots,
        key positions."""
        items = ITEM_FIELDS * (self.narrow + self.wide)
        return self.rows, self.rows, self.rows, items, self.rows + 1, self.parts, self.keys, self.keys

    @property
    def sections(self) -> tuple[int, ...]:
        """The lengths rounded up to 16 bytes: Triton compiles a pointer that is not aligned as another kernel."""
        return tuple(-(-length // 4) * 4 for length in self.lengths)


class Work(NamedTuple):
    """The flat form of a plan, on the host."""

    items: Index  # [narrow + wide, ITEM_FIELDS]
    num_narrow: int
    part_begins: Index  # [rows + 1]: where a row's entries of ``parts`` begin
    parts: Index  # [parts]: numbers of partial results, by row
    slots: Index  # [keys]
    key_positions: Index  # [keys]

    @property
    def size(self) -> Capacity:
        narrow = self.num_narrow
        return Capacity(len(self.part_begins) - 1, narrow, len(self.items) - narrow, len(self.parts), len(self.slots))


class WorkAhead(NamedTuple):
    """The flat form of a plan whose rows' tokens are to come: only their slots are missing."""

    work: Work
    holes: Index  # [rows], the entries of ``slots`` that are the rows' own

    def filled(self, slots: npt.NDArray[np.int64]) -> Work:
        """With the slots [rows] that the tokens got."""
        self.work.slots[self.holes] = slots
        return self.work


class DeviceWork(NamedTuple):
    """A packed buffer on the device, by sections."""

    capacity: Capacity
    token_ids: torch.Tensor  # [rows] int32, as all of them
    positions: torch.Tensor  # [rows]
    write_slots: torch.Tensor  # [rows]
    items: torch.Tensor  # [(narrow + wide) * ITEM_FIELDS]
    part_begins: torch.Tensor  # [rows + 1]
    parts: torch.Tensor  # [parts]
    slots: torch.Tensor  # [keys]
    key_positions: torch.Tensor  # [keys]

    @classmethod
    def of(cls, buffer: torch.Tensor, capacity: Capacity) -> DeviceWork:
        """Views of ``buffer`` [sum of the capacity's sections] int32."""
        sections = torch.split(buffer, list(capacity.sections))
        views = (section[:length] for section, length in zip(sections, capacity.lengths, strict=True))
        return cls(capacity, *views)


def make_work(plan: AttentionPlan, tiling: Tiling) -> Work:
    """Cuts a plan's runs into items and lists each row's partial results."""
    return _work(plan, tiling, *_pieces(plan)[:3])


def make_work_ahead(plan: AttentionPlan, tiling: Tiling) -> WorkAhead:
    """What ``make_work`` will say of a plan (``RowBatch.grown``) once its rows' tokens are there."""
    slots, key_positions, pieces, holes = _pieces(plan, to_come=True)
    return WorkAhead(_work(plan, tiling, slots, key_positions, pieces), holes)


def _work(
    plan: AttentionPlan, tiling: Tiling, slots: Index, key_positions: Index, pieces: npt.NDArray[np.int64]
) -> Work:
    begin, end, first_key, keys, position = pieces.T
    rows = end - begin
    narrow = rows <= tiling.narrow_rows
    tile = np.where(narrow, tiling.narrow_rows, tiling.wide_rows)
    tiles = -(-rows // tile)
    split = tiling.split_keys or _split_keys(int((keys * tiles).sum()), tiling.programs)
    splits = -(-keys // split)
    # one entry for each (piece, split), in order: its partial results are numbered from ``base``
    piece = np.repeat(np.arange(len(rows)), splits)
    number = np.arange(len(piece)) - np.repeat(np.cumsum(splits) - splits, splits)
    base = np.cumsum(rows[piece]) - rows[piece]
    total = int(rows[piece].sum())
    row_of_part = np.arange(total) - np.repeat(base, rows[piece]) + np.repeat(begin[piece], rows[piece])
    parts = np.argsort(row_of_part, kind="stable")
    part_begins = np.zeros(plan.num_rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row_of_part, minlength=plan.num_rows), out=part_begins[1:])
    # one item for each (piece, split, tile); the tiles of a split are neighbours, so that its keys are still near
    entry = np.repeat(np.arange(len(piece)), tiles[piece])
    of = piece[entry]
    tile_number = np.arange(len(entry)) - np.repeat(np.cumsum(tiles[piece]) - tiles[piece], tiles[piece])
    skipped_rows = tile_number * tile[of]
    skipped_keys = number[entry] * split
    items = np.empty((len(entry), ITEM_FIELDS), dtype=np.int64)
    items[:, 0] = first_key[of] + skipped_keys
    items[:, 1] = np.minimum(keys[of] - skipped_keys, split)
    items[:, 2] = begin[of] + skipped_rows
    items[:, 3] = np.minimum(rows[of] - skipped_rows, tile[of])
    items[:, 4] = base[entry] + skipped_rows
    items[:, 5] = np.where(position[of] == _BEFORE_ALL, _BEFORE_ALL, position[of] + skipped_keys)
    _drop_unseen_keys(items, plan.positions)
    order = np.argsort(~narrow[of], kind="stable")
    return Work(
        items[order].astype(np.int32),
        int(narrow[of].sum()),
        part_begins.astype(np.int32),
        parts.astype(np.int32),
        slots,
        key_positions,
    )


def _pieces(plan: AttentionPlan, *, to_come: bool = False) -> tuple[Index, Index, npt.NDArray[np.int64], Index]:
    """All keys, their positions, [pieces, (first row, last row + 1, first key, keys, position of the first key)], and
    which keys are ``to_come``: the rows' own, for which room is left."""
    slots: list[Index] = []
    starts: list[int] = []  # position of each run's first key
    pieces: list[tuple[int, int, int, int, int]] = []
    holes: list[int] = []
    filled = 0
    for node, keys, begin, end in plan.shared:
        slots.append(node.slots[:keys])
        starts.append(node.start)
        whole = int(plan.positions[begin:end].min()) >= node.start + keys - 1
        pieces.append((begin, end, filled, keys, _BEFORE_ALL if whole else node.start))
        filled += keys
    for row, (nodes, position) in enumerate(zip(plan.own, plan.positions.tolist(), strict=True)):
        first = filled
        for node in nodes:
            keys = num_keys_of(node, position)
            slots.append(node.slots[:keys])
            starts.append(node.start)
            filled += keys
        if to_come:
            slots.append(_NOT_YET)
            starts.append(position)
            holes.append(filled)
            filled += 1
        if filled > first:
            pieces.append((row, row + 1, first, filled - first, _BEFORE_ALL))
    lengths = np.array([len(run) for run in slots])
    ends = np.cumsum(lengths)
    positions = np.arange(filled) + np.repeat(np.array(starts) - (ends - lengths), lengths)
    return (
        np.concatenate(slots),
        positions.astype(np.int32),
        np.array(pieces, dtype=np.int64),
        np.array(holes, np.int32),
    )


def _split_keys(total: int, programs: int) -> int:
    """A power of two, so that it does not change with every token."""
    split = _MIN_SPLIT
    while split < _MAX_SPLIT and split * programs < total:
        split *= 2
    return split


def _drop_unseen_keys(items: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> None:
    """Keys behind the last row of an item, as a prefill has them, are not read. The item stays, for its partials."""
    causal = items[:, 5] != _BEFORE_ALL
    if not causal.any():
        return
    begin = items[causal, 2]
    edges = np.stack([begin, begin + items[causal, 3]], axis=1).reshape(-1)
    last = np.maximum.reduceat(np.append(positions, 0), edges)[::2]
    items[causal, 1] = np.clip(last + 1 - items[causal, 5], 0, items[causal, 1])


def pack(batch: RowBatch | None, work: Work, capacity: Capacity, out: Index) -> None:
    """Writes the rows and the work into ``out`` [sum of the capacity's sections], padded with rows and items that do
    nothing: a padded row is token 0 at position 0, written to the scratch slot, without keys."""
    size = work.size
    assert capacity.holds(size), f"{size} does not fit {capacity}"
    out[:] = 0
    ends = list(itertools.accumulate(capacity.sections))
    sections = [out[begin:end] for begin, end in itertools.pairwise([0, *ends])]
    if batch is not None:
        for section, values in zip(sections, (batch.token_ids, batch.positions, batch.write_slots), strict=False):
            section[: size.rows] = values.numpy()
    items = sections[3][: capacity.lengths[3]].reshape(-1, ITEM_FIELDS)
    items[: size.narrow] = work.items[: size.narrow]
    items[capacity.narrow : capacity.narrow + size.wide] = work.items[size.narrow :]
    sections[4][: size.rows + 1] = work.part_begins
    sections[4][size.rows + 1 :] = work.part_begins[-1]
    sections[5][: size.parts] = work.parts
    sections[6][: size.keys] = work.slots
    sections[7][: size.keys] = work.key_positions


def upload(batch: RowBatch | None, work: Work, device: torch.device, capacity: Capacity | None = None) -> DeviceWork:
    """Packs and copies: one buffer, pinned where the device is a GPU, in one transfer. Its ``capacity`` is by default
    what is needed."""
    capacity = capacity or work.size
    return DeviceWork.of(_packed(batch, work, device, capacity).to(device, non_blocking=True), capacity)


def upload_into(buffer: torch.Tensor, batch: RowBatch | None, work: Work, capacity: Capacity) -> None:
    """``upload`` to a buffer that is there, of that capacity."""
    buffer.copy_(_packed(batch, work, buffer.device, capacity), non_blocking=True)


def _packed(batch: RowBatch | None, work: Work, device: torch.device, capacity: Capacity) -> torch.Tensor:
    host = torch.empty(sum(capacity.sections), dtype=torch.int32, pin_memory=device.type == "cuda")
    pack(batch, work, capacity, host.numpy())
    return host


def power_of_two(number: int) -> int:
    """The least power of two that is no less than ``number``, and at least 1: what buckets and blocks are sized by."""
    return 1 << max(0, number - 1).bit_length()

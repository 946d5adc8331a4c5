"""Which queries read which KV slots: computed once per forward, used by every layer.

A forward computes *rows*: one query token each, named (node, offset). A row attends to its whole path: all tokens of
the node's ancestors and ``node.tokens[: offset + 1]``. Rows are ordered depth first through the trie, so the rows
beneath any node are one range ``[begin, end)`` of the packed batch, and "this run, these queries" needs no index.

Two kinds of work come out of it:

- a ``Group``: one run of KV, read once for all rows of a range (the shared runs, and runs that are being prefilled);
- the ``PrivateBatch``: for each remaining row, the KV that no group covers, gathered and padded to one batch.

Torch and the compiled CPU kernels take them as such; ``runtime.gpu`` makes a flat form of its own of the same runs.

A run becomes a group when reading it once saves enough over copying it for each row; below that, one more group
costs more calls than it saves reads (``MIN_SAVED_TOKENS`` and its native twin, measured by
``benchmarks/attention_grouping.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from reason.runtime.forest import Branch, Node
from reason.runtime.slots import SCRATCH_SLOT

if TYPE_CHECKING:
    from reason.runtime.gpu.kernels import GpuKernels
    from reason.runtime.gpu.work import DeviceWork, Work

__all__ = [
    "GPU_MIN_SAVED_TOKENS",
    "MIN_SAVED_TOKENS",
    "NATIVE_MIN_SAVED_TOKENS",
    "AttentionPlan",
    "Group",
    "Mask",
    "PrivateBatch",
    "Row",
    "RowBatch",
    "SharedRun",
    "advance_rows",
    "num_keys_of",
    "plan_rows",
]

MIN_SAVED_TOKENS = 2560
"""A run shared by R rows becomes a group of its own when (R - 1) * tokens reaches this."""
NATIVE_MIN_SAVED_TOKENS = 10_000
"""The same where the compiled kernels read private KV in place."""
GPU_MIN_SAVED_TOKENS = 128
"""The same for the Triton kernels, where a group costs a partial result a row and no call. Not measured yet."""

_MASKED = -1e30  # finite: a row whose every key in one group is masked keeps a weight of exp(-1e30) = 0, never NaN

Index = npt.NDArray[np.int64]


class Row(NamedTuple):
    """One query token: ``node.tokens[offset]``."""

    node: Node
    offset: int


@dataclass(slots=True)
class Mask:
    """Which keys each query may see: those at its own position or before, and inside the layer's window.

    ``key_positions`` [keys] (a group) or [batch, keys] (the private batch; padding has position -1).
    """

    row_positions: Index  # [rows]
    key_positions: Index
    full: bool  # every row sees every key, windows aside
    _made: dict[tuple[int | None, torch.dtype], torch.Tensor | None] = field(default_factory=dict)
    _visible: torch.Tensor | None = None

    def visible(self) -> torch.Tensor | None:
        """How many of a group's keys, which are in order, each row sees, [rows] int64; None where it is all."""
        if self.full:
            return None
        if self._visible is None:
            self._visible = torch.from_numpy(np.searchsorted(self.key_positions, self.row_positions, side="right"))
        return self._visible

    def cut_by(self, window: int | None) -> bool:
        """Whether the window hides a key from some row that causality would show."""
        return window is not None and int(self.row_positions.max()) - int(self.key_positions.min()) >= window

    def additive(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        """The mask as something to add to the scores, [rows, keys]; None where nothing is hidden. Made when a layer
        first asks, kept for the others."""
        if (window, dtype) not in self._made:
            self._made[window, dtype] = self._additive(window, dtype, device)
        return self._made[window, dtype]

    def _additive(self, window: int | None, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
        keys = self.key_positions if self.key_positions.ndim == 2 else self.key_positions[None, :]
        rows = self.row_positions[:, None]
        if self.full and not self.cut_by(window):
            return None
        visible = (keys <= rows) & (keys >= 0)
        if window is not None:
            visible &= keys > rows - window
        hidden = max(_MASKED, torch.finfo(dtype).min)  # float16 would turn _MASKED into -inf
        return torch.from_numpy(np.where(visible, 0.0, hidden).astype(np.float32)).to(device=device, dtype=dtype)


@dataclass(slots=True)
class Group:
    """One run of KV and the range of rows that read it."""

    begin: int
    end: int
    slots: torch.Tensor  # [keys] int64
    first_slot: int | None  # set when the slots are consecutive: the run can be read without a copy
    mask: Mask

    @property
    def num_keys(self) -> int:
        return int(self.slots.shape[0])


@dataclass(slots=True)
class PrivateBatch:
    """Rows that read KV of their own, padded to the longest."""

    rows: torch.Tensor | None  # [batch] int64 row numbers; None when it is all rows in order
    slots: torch.Tensor  # [batch, keys] int64, padded with the scratch slot
    lengths: torch.Tensor  # [batch] int64: keys that are not padding
    mask: Mask


class SharedRun(NamedTuple):
    """The first ``num_keys`` tokens of a node, and the range of rows beneath them."""

    node: Node
    num_keys: int
    begin: int
    end: int


@dataclass(slots=True)
class AttentionPlan:
    """The attention work of one forward: runs that are read for many rows at once, and each row's others.

    ``groups`` and ``private`` are made when somebody asks, from the forest as it stands: the forward's time, not later.
    Parts are taken in the order private batches, groups.
    """

    positions: Index  # [rows]
    shared: list[SharedRun]
    own: list[list[Node]]  # by row: the runs above it that are not shared, root side first, as far as its position
    device: torch.device
    kernels: GpuKernels | None = None  # the flat form's, once it is uploaded
    work: Work | None = None  # the flat form, where it was made before
    on_device: DeviceWork | None = None
    _groups: list[Group] | None = None
    _private: list[PrivateBatch] | None = None

    @property
    def num_rows(self) -> int:
        return len(self.positions)

    @property
    def unique_keys(self) -> int:
        """KV tokens read if each were read once."""
        read = {id(run.node): run.num_keys for run in self.shared}
        for nodes, position in zip(self.own, self.positions.tolist(), strict=True):
            for node in nodes:
                read[id(node)] = max(read.get(id(node), 0), num_keys_of(node, position))
        return sum(read.values())

    @property
    def groups(self) -> list[Group]:
        if self._groups is None:
            self._groups = [_group(run, self.positions, self.device) for run in self.shared]
        return self._groups

    @property
    def private(self) -> list[PrivateBatch]:
        if self._private is None:
            self._private = _private_batches(self.own, self.positions, self.device)
        return self._private

    @property
    def covering_first(self) -> bool:
        """Whether the first part has every row."""
        if self.private:
            return self.private[0].rows is None
        return self.groups[0].begin == 0 and self.groups[0].end == self.num_rows

    @property
    def num_parts(self) -> int:
        """Partial results of one layer."""
        return len(self.groups) + len(self.private)


@dataclass(slots=True)
class RowBatch:
    """The rows of one forward, in the order in which they are packed.

    ``write_slots`` is where a row's K and V go: its own slot if it is pending, the scratch slot if its KV is cached
    and only its logits are wanted again.
    """

    rows: list[Row]
    number: dict[tuple[int, int], int]  # (id(node), index) -> row number
    token_ids: torch.Tensor  # [rows] int64
    positions: torch.Tensor  # [rows] int64
    write_slots: torch.Tensor  # [rows] int64
    plan: AttentionPlan

    def grown(self) -> AttentionPlan | None:
        """The plan that follows if every row's run grows by a token, as far as it can be told before that; None where a
        row is not the end of a run of its own. See ``advance_rows``."""
        runs = {id(node) for node, _ in self.rows}
        if len(runs) < len(self.rows):
            return None
        for (node, index), own in zip(self.rows, self.plan.own, strict=True):
            if node.children or index != len(node.tokens) - 1 or not own or own[-1] is not node:
                return None
        return AttentionPlan(self.plan.positions + 1, self.plan.shared, self.plan.own, self.plan.device)

    def row_number(self, branch: Branch) -> int:
        """Where the row of the branch's last token is."""
        return self.number[id(branch.node), branch.offset - 1]


def num_keys_of(node: Node, position: int) -> int:
    """How many of a run's tokens a row beneath it sees."""
    return min(len(node.tokens), position + 1 - node.start)


class _Segment:
    """A node's part in this forward: its own rows and, after them, those of its descendants."""

    __slots__ = ("begin", "children", "end", "indices", "node", "num_keys")

    def __init__(self, node: Node) -> None:
        self.node = node
        self.indices: set[int] | list[int] = set()  # own rows
        self.children: list[_Segment] = []
        self.begin = self.end = 0
        self.num_keys = 0


def plan_rows(
    rows: Sequence[Row], device: torch.device | str = "cpu", min_saved_tokens: int = MIN_SAVED_TOKENS
) -> RowBatch:
    """Orders the rows, drops duplicates (branches at one place share a row) and plans their attention.

    Every pending ancestor token of a row must itself be among the rows.
    """
    device = torch.device(device)
    roots = _segments(rows)
    ordered: list[Row] = []
    segments: list[_Segment] = []
    for root in roots:
        _number(root, ordered, segments)
    count = len(ordered)
    token_ids = np.empty(count, dtype=np.int64)
    positions = np.empty(count, dtype=np.int64)
    write_slots = np.empty(count, dtype=np.int64)
    number: dict[tuple[int, int], int] = {}
    for segment in segments:
        node, place = segment.node, segment.begin
        for index in segment.indices:
            token_ids[place] = node.tokens[index]
            positions[place] = node.start + index
            write_slots[place] = node.slots[index] if index >= node.computed else SCRATCH_SLOT
            number[id(node), index] = place
            place += 1
    plan = _plan(segments, positions, count, device, min_saved_tokens)
    return RowBatch(
        rows=ordered,
        number=number,
        token_ids=torch.from_numpy(token_ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        write_slots=torch.from_numpy(write_slots).to(device),
        plan=plan,
    )


def advance_rows(batch: RowBatch, rows: Sequence[Row]) -> RowBatch | None:
    """The batch that follows ``batch`` where every run it computed a row of, one row each, has grown by one token and
    nothing else has changed: no run was added, split or joined. What ``plan_rows`` gives, for less work; None where
    ``rows`` are others."""
    number, own = batch.number, batch.plan.own
    if len(rows) != len(own):
        return None
    ordered: list[Row | None] = [None] * len(own)
    for row in rows:
        place = number.get((id(row.node), row.offset - 1))
        if place is None:
            return None
        if not own[place] or own[place][-1] is not row.node:
            return None  # it was above other rows
        ordered[place] = row
    following = [row for row in ordered if row is not None]
    if len(following) < len(own) or len({id(row.node) for row in following}) < len(own):
        return None  # some run has two rows
    device = batch.plan.device
    positions = batch.plan.positions + 1
    token_ids = np.array([node.tokens[index] for node, index in following], dtype=np.int64)
    write_slots = np.array(
        [node.slots[index] if index >= node.computed else SCRATCH_SLOT for node, index in following], dtype=np.int64
    )
    return RowBatch(
        rows=following,
        number={(id(node), index): place for place, (node, index) in enumerate(following)},
        token_ids=torch.from_numpy(token_ids).to(device),
        positions=torch.from_numpy(positions).to(device),
        write_slots=torch.from_numpy(write_slots).to(device),
        plan=AttentionPlan(positions, batch.plan.shared, own, device),
    )


def _segments(rows: Sequence[Row]) -> list[_Segment]:
    """The part of the trie above the rows; returns its topmost segments in order of first appearance."""
    by_node: dict[int, _Segment] = {}
    tops: list[_Segment] = []
    for node, index in rows:
        segment = by_node.get(id(node))
        if segment is None:
            segment = by_node[id(node)] = _Segment(node)
            below, parent = segment, node.parent
            while parent is not None and parent.parent is not None:
                above = by_node.get(id(parent))
                known = above is not None
                if above is None:
                    above = by_node[id(parent)] = _Segment(parent)
                above.children.append(below)
                if known:
                    break
                below, parent = above, parent.parent
            else:
                tops.append(below)
        assert isinstance(segment.indices, set)
        segment.indices.add(index)
    return tops


def _number(top: _Segment, ordered: list[Row], segments: list[_Segment]) -> None:
    """Gives the rows of one tree their places, depth first, own rows before those of the children."""
    stack: list[tuple[_Segment, bool]] = [(top, False)]
    while stack:
        segment, leaving = stack.pop()
        if leaving:
            segment.end = len(ordered)
            continue
        segment.begin = len(ordered)
        segment.indices = sorted(segment.indices)
        ordered.extend(Row(segment.node, index) for index in segment.indices)
        segment.num_keys = len(segment.node) if segment.children else segment.indices[-1] + 1
        segments.append(segment)
        stack.append((segment, True))
        stack.extend((child, False) for child in reversed(segment.children))


def _plan(
    segments: list[_Segment], positions: Index, count: int, device: torch.device, min_saved_tokens: int
) -> AttentionPlan:
    shared: list[SharedRun] = []
    own: list[list[Node]] = [[] for _ in range(count)]
    for segment in segments:
        run = SharedRun(segment.node, segment.num_keys, segment.begin, segment.end)
        num_rows = run.end - run.begin
        if num_rows == 1 or (num_rows - 1) * run.num_keys < min_saved_tokens:
            for row in range(run.begin, run.end):
                own[row].append(run.node)
        else:
            shared.append(run)
    return AttentionPlan(positions, shared, own, device)


def _group(run: SharedRun, positions: Index, device: torch.device) -> Group:
    node, keys = run.node, run.num_keys
    slots = node.slots[:keys].astype(np.int64)
    consecutive = bool(slots[-1] - slots[0] == keys - 1 and (keys < 2 or (np.diff(slots) == 1).all()))
    key_positions = np.arange(node.start, node.start + keys)
    rows = positions[run.begin : run.end]
    return Group(
        begin=run.begin,
        end=run.end,
        slots=torch.from_numpy(slots).to(device),
        first_slot=int(slots[0]) if consecutive else None,
        mask=Mask(rows, key_positions, full=bool(rows.min() >= key_positions[-1])),
    )


def _private_batches(own: list[list[Node]], positions: Index, device: torch.device) -> list[PrivateBatch]:
    """Rows with KV of their own, batched with rows of similar length so that padding stays below about half."""
    at = positions.tolist()
    lengths = np.array(
        [sum(num_keys_of(node, position) for node in nodes) for nodes, position in zip(own, at, strict=True)],
        dtype=np.int64,
    )
    remaining = np.nonzero(lengths)[0]
    batches: list[PrivateBatch] = []
    while len(remaining):
        longest = int(lengths[remaining].max())
        chosen = remaining[lengths[remaining] * 4 > longest] if longest > 128 else remaining
        batches.append(_private_batch(chosen, lengths, own, positions, device, all_rows=len(chosen) == len(own)))
        remaining = np.setdiff1d(remaining, chosen, assume_unique=True)
    return batches


def _private_batch(
    rows: Index,
    lengths: Index,
    own: list[list[Node]],
    positions: Index,
    device: torch.device,
    *,
    all_rows: bool,
) -> PrivateBatch:
    longest = int(lengths[rows].max())
    slots = np.full((len(rows), longest), SCRATCH_SLOT, dtype=np.int64)
    key_positions = np.full((len(rows), longest), -1, dtype=np.int64)
    for i, row in enumerate(rows.tolist()):
        filled = 0
        for node in own[row]:
            keys = num_keys_of(node, int(positions[row]))
            slots[i, filled : filled + keys] = node.slots[:keys]
            key_positions[i, filled : filled + keys] = np.arange(node.start, node.start + keys)
            filled += keys
    full = bool((lengths[rows] == longest).all())
    return PrivateBatch(
        rows=None if all_rows else torch.from_numpy(rows).to(device),
        slots=torch.from_numpy(slots).to(device),
        lengths=torch.from_numpy(lengths[rows]).to(device),
        mask=Mask(positions[rows], key_positions, full=full),
    )

"""The pool of KV slots: which of the ``num_slots`` token places in the KV tensors are free.

Slot 0 is never handed out: it is the scratch place that rows write to when their KV is already cached.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["SCRATCH_SLOT", "SlotPool", "Slots"]

SCRATCH_SLOT = 0

Slots = npt.NDArray[np.int32]


class SlotPool:
    """A stack of free slots. Slots taken together are neighbours for as long as the pool is not fragmented, so that
    a long run can be read as one slice."""

    def __init__(self, num_slots: int) -> None:
        if num_slots < 2:
            raise ValueError(f"a KV pool needs at least 2 slots (one is scratch), got {num_slots}")
        self.num_slots = num_slots
        self._free: Slots = np.arange(num_slots - 1, SCRATCH_SLOT, -1, dtype=np.int32)  # [num_slots - 1], top at end
        self._num_free = num_slots - 1

    @property
    def num_free(self) -> int:
        return self._num_free

    @property
    def capacity(self) -> int:
        """Slots that can hold tokens."""
        return self.num_slots - 1

    def take(self, count: int) -> Slots:
        """Takes ``count`` slots; the caller has made sure that so many are free."""
        assert 0 <= count <= self._num_free, f"take({count}) of {self._num_free} free slots"
        taken = self._free[self._num_free - count : self._num_free][::-1].copy()
        self._num_free -= count
        return taken

    def take_one(self) -> int:
        """``take(1)`` without the array."""
        assert self._num_free > 0, "take_one() of an empty pool"
        self._num_free -= 1
        return int(self._free[self._num_free])

    def give_back(self, slots: Slots) -> None:
        """Returns slots to the pool, in the order in which they would be taken again."""
        count = len(slots)
        assert self._num_free + count <= self.capacity, "more slots returned than taken"
        self._free[self._num_free : self._num_free + count] = slots[::-1]
        self._num_free += count

    def free_slots(self) -> Slots:
        """A copy of the free slots, for integrity checks."""
        return self._free[: self._num_free].copy()

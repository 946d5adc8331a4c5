"""What a forward of so many rows costs: measured once, then kept in step with what iterations really take.

    seconds(rows) = scale * probed(rows) + each * rows

Forwards are steps rather than slopes (on a CPU with AMX rows go 16 at a time, so 17 cost a step more than 16 and 32
little more than 17), which is why sizes on both sides of the steps are probed. The probe's path is short; what
attention over real paths adds goes with the rows, and a busy machine makes everything slower: ``scale`` and ``each``
follow the iterations by least squares that forget.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["PROBED_ROWS", "ForwardTimes"]

PROBED_ROWS = (1, 16, 17, 32, 33, 48, 49, 64, 65, 96)
"""Sizes that are measured before drafting begins."""

_FORGET = 0.98  # weight of what was, an iteration
_PRIOR = 6.0  # iterations that the probe itself counts as
_OUTLIER = 3.0  # times the expected seconds, beyond which a time says more about the machine's other work
_ODD = 8  # such times in a row; after more of them the machine is what it is
_LONGEST = 512  # rows of the table


class ForwardTimes:
    """See the module's docstring."""

    def __init__(self) -> None:
        self._probed: npt.NDArray[np.float64] | None = None  # [rows + 1] seconds
        self._products = np.zeros((2, 2))
        self._targets = np.zeros(2)
        self._scale, self._each = 1.0, 0.0
        self._outliers = 0  # in a row

    @property
    def measured(self) -> bool:
        """Whether forwards were probed."""
        return self._probed is not None

    def probe(self, measure: Callable[[int], float], most: int) -> None:
        """Fills the table for up to ``most`` rows; ``measure(rows)`` runs one forward and gives its seconds."""
        sizes = [rows for rows in PROBED_ROWS if rows <= max(1, most)]
        measure(sizes[-1])  # the first forward pays for the memory
        self.set({rows: measure(rows) for rows in sizes})

    def set(self, seconds: dict[int, float]) -> None:
        """Takes the times of some sizes as probed; between them it interpolates, beyond them it goes on as steeply as
        from the first to the last."""
        sizes = np.array(sorted(seconds))
        values = np.maximum.accumulate([seconds[int(rows)] for rows in sizes])
        rows = np.arange(_LONGEST + 1)
        table = np.interp(rows, sizes, values)
        if len(sizes) > 1:
            slope = (values[-1] - values[0]) / (sizes[-1] - sizes[0])
            table = np.where(rows > sizes[-1], values[-1] + slope * (rows - sizes[-1]), table)
        self._probed = table
        unit = float(table[1])
        self._products = _PRIOR * np.diag([unit * unit, unit * unit])
        self._targets = _PRIOR * np.array([unit * unit, 0.0])
        self._scale, self._each = 1.0, 0.0

    def observe(self, rows: int, seconds: float) -> None:
        """An iteration whose rows all decoded took so long."""
        if self._probed is None or rows > _LONGEST:
            return
        most = _OUTLIER * float(self.upto(rows)[rows])
        self._outliers = self._outliers + 1 if seconds > most else 0
        if 0 < self._outliers <= _ODD:
            return
        seconds = min(seconds, most)
        features = np.array([self._probed[rows], float(rows) * 1e-3])  # milliseconds a row: of the other's size
        self._products = _FORGET * self._products + np.outer(features, features)
        self._targets = _FORGET * self._targets + features * seconds
        scale, each = np.linalg.solve(self._products + 1e-12 * np.eye(2), self._targets).tolist()
        if each < 0.0:  # faster than the probe: the probe was slowed
            scale, each = float(self._targets[0] / self._products[0, 0]), 0.0
        self._scale, self._each = min(4.0, max(0.25, scale)), each * 1e-3

    def upto(self, rows: int) -> npt.NDArray[np.float64]:
        """Seconds of forwards with 0, 1, ... ``rows`` rows, [rows + 1]; the first entry is that of one row. Sizes
        beyond the table cost what its last one does."""
        assert self._probed is not None, "forward times are asked for before any was probed"
        sizes = np.minimum(np.arange(rows + 1), _LONGEST)
        result: npt.NDArray[np.float64] = self._scale * self._probed[sizes] + self._each * sizes
        return result

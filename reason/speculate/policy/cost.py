"""What a forward of so many rows costs: a table of measured times, kept up to date by what iterations really take."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

__all__ = ["PROBED_ROWS", "ForwardTimes"]

PROBED_ROWS = (1, 8, 16, 32, 64)
"""Sizes that are measured before drafting begins."""

_GRID = np.array([1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512], dtype=np.float64)
_STEP = 0.1  # of the exponential average
_OUTLIER = 2.5  # times the known value, beyond which a time says more about the machine's other work


class ForwardTimes:
    """Seconds by rows, interpolated between the measured sizes and never falling."""

    def __init__(self) -> None:
        self._seconds = np.full(len(_GRID), np.nan)
        self._table: npt.NDArray[np.float64] | None = None

    @property
    def measured(self) -> bool:
        """Whether there is anything to interpolate."""
        return not bool(np.isnan(self._seconds).all())

    def probe(self, measure: Callable[[int], float], most: int) -> None:
        """Fills the table for up to ``most`` rows; ``measure(rows)`` runs one forward and gives its seconds."""
        sizes = [rows for rows in PROBED_ROWS if rows <= max(1, most)]
        measure(sizes[-1])  # the first forward of a size pays for its memory
        for rows in sizes:
            self._seconds[rows == _GRID] = measure(rows)
        self._table = None

    def observe(self, rows: int, seconds: float) -> None:
        """An iteration whose rows all decoded took so long."""
        nearest = int(np.abs(np.log(_GRID) - np.log(max(1, rows))).argmin())
        if not 0.9 < _GRID[nearest] / rows < 1.1:
            return
        known = self._seconds[nearest]
        if np.isnan(known):
            self._seconds[nearest] = seconds
        elif seconds < _OUTLIER * known:
            self._seconds[nearest] = known + _STEP * (seconds - known)
        self._table = None

    def upto(self, rows: int) -> npt.NDArray[np.float64]:
        """Seconds of forwards with 0, 1, ... ``rows`` rows, [rows + 1]; the first entry is that of one row."""
        if self._table is None or len(self._table) <= rows:
            self._table = self._interpolate(max(rows, 512))
        return self._table[: rows + 1]

    def _interpolate(self, rows: int) -> npt.NDArray[np.float64]:
        known = ~np.isnan(self._seconds)
        assert known.any(), "forward times are asked for before any was measured"
        sizes, seconds = _GRID[known], np.maximum.accumulate(self._seconds[known])
        table = np.interp(np.arange(rows + 1), sizes, seconds)
        if len(sizes) > 1:  # beyond the largest size as steeply as before it
            slope = max(0.0, (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
            beyond = np.arange(rows + 1) > sizes[-1]
            table[beyond] = seconds[-1] + slope * (np.arange(rows + 1)[beyond] - sizes[-1])
        result: npt.NDArray[np.float64] = table
        return result

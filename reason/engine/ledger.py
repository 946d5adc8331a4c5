"""One ledger: every owner's work, counted where it happens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reason.runtime.forest import KVForest
from reason.types import Usage

__all__ = ["Ledger", "LoopStats"]


@dataclass(slots=True)
class LoopStats:
    """Where the loop's time went, since it was made."""

    iterations: int = 0
    rows: int = 0
    seconds: float = 0.0
    forward_seconds: float = 0.0  # planning, layers, vocabulary product; and drawing, where the device does it
    exposed_seconds: float = 0.0  # all but from a forward's launch to its results: a device had nothing to do
    draft_seconds: float = 0.0  # drafting, claiming and learning; draft models' forwards included
    drafted: int = 0  # nodes
    accepted: int = 0  # of them
    preemptions: int = 0


class Ledger:
    """Rows by owner. Mean KV is over the iterations in which the owner held any."""

    def __init__(self, forest: KVForest) -> None:
        self._forest = forest
        self._rows: dict[str, Usage] = {}
        self._kv_iterations: dict[str, int] = {}

    def row(self, owner: str) -> Usage:
        """The live row of ``owner``."""
        row = self._rows.get(owner)
        if row is None:
            row = self._rows[owner] = Usage()
            self._kv_iterations[owner] = 0
        return row

    def snapshot(self, owner: str) -> Usage:
        """A copy of the row of ``owner`` so far."""
        return replace(self._rows.get(owner) or Usage())

    def owners(self) -> list[str]:
        """Who has a row."""
        return list(self._rows)

    def forget(self, owner: str) -> None:
        """Drops a row that nobody will ask for again."""
        self._rows.pop(owner, None)
        self._kv_iterations.pop(owner, None)

    def count_call(self, owner: str) -> None:
        self.row(owner).calls += 1

    def count_forward(self, owners: Iterable[str]) -> None:
        """One forward in which each of ``owners`` had rows."""
        for owner in owners:
            self.row(owner).forwards += 1

    def count_draft_forward(self, owners: Iterable[str]) -> None:
        """One forward of a draft model in which each of ``owners`` had rows."""
        for owner in owners:
            self.row(owner).draft_forwards += 1

    def observe_kv(self) -> None:
        """Notes what every owner holds now."""
        for owner in self._forest.owners():
            held = self._forest.unique_tokens(owner)
            row = self.row(owner)
            self._kv_iterations[owner] += 1
            row.unique_kv_tokens_peak = max(row.unique_kv_tokens_peak, held)
            row.unique_kv_tokens_mean += (held - row.unique_kv_tokens_mean) / self._kv_iterations[owner]

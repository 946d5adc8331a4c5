"""Tables of figures, for terminals and for Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from reason.report.statistics import Interval, ratio_interval

__all__ = ["Quotient", "Table", "quotient", "span"]


class Quotient(NamedTuple):
    """Sum over sum, with the bootstrap's 95% interval over problems; None where a resample may divide by 0."""

    value: float
    interval: Interval | None

    def text(self, digits: int = 2) -> str:
        """The value, and its interval in brackets."""
        if self.interval is None:
            return f"{self.value:.{digits}f}"
        return f"{self.value:.{digits}f} [{self.interval.low:.{digits}f}, {self.interval.high:.{digits}f}]"

    def percent(self) -> str:
        """The same of a share."""
        if self.interval is None:
            return f"{100 * self.value:.1f}%"
        return f"{100 * self.value:.1f}% [{100 * self.interval.low:.1f}, {100 * self.interval.high:.1f}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Figures as people read them.

    Args:
        headings: one a column.
        rows: [rows][columns].
        names: how many columns, the first ones, are no figures.
        note: what a reader should know.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    names: int = 1
    note: str = ""

    def markdown(self) -> str:
        """The title, the table and the note."""
        rule = ["---"] * self.names + ["---:"] * (len(self.headings) - self.names)
        lines = [f"| {' | '.join(cells)} |" for cells in (self.headings, rule, *self.rows)]
        return "\n".join([f"## {self.title}", "", *lines, *(["", self.note] if self.note else []), ""])


def quotient(numerators: Sequence[float], denominators: Sequence[float]) -> Quotient:
    """The quotient of the sums of paired values, at least one pair; 0 where the denominators are."""
    total = sum(denominators)
    value = sum(numerators) / total if total else 0.0
    return Quotient(value, ratio_interval(numerators, denominators) if total else None)


def span(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """The median of some rounds, and their range if there are several."""
    ordered = sorted(values)
    half = len(ordered) // 2
    median = ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
    if len(ordered) == 1:
        return f"{median:.{digits}f}{unit}"
    return f"{median:.{digits}f}{unit} ({ordered[0]:.{digits}f}-{ordered[-1]:.{digits}f})"

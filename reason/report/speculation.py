"""The report of `reason bench speculate`: what sources would have drafted, and what drafting does to speed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reason.errors import ReasonError
from reason.report.replay_tables import LEARN_FROM_ROWS, ReplayRow, measure_replay, replay_table, select
from reason.report.resumable import environment
from reason.report.speed import Speed, overhead_table, speed_table
from reason.report.tables import Table
from reason.speculate.recording import Recording
from reason.speculate.sources import AUTO, SOURCES

__all__ = ["SpeculationReport", "compared_sources", "measure_sources", "num_replays"]

_UNIONS = ("goose+stand", "suffix+goose", "suffix+stand", "suffix+goose+stand")
_BUDGETS = (8, 30)
_PROBLEMS, _SAMPLES = 10, 16  # where there are several samples


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setting:
    """A way to replay a recording; ``samples`` is None for many."""

    title: str
    samples: int | None = None
    side_by_side: bool = False
    fresh: bool = True


_SETTINGS = (
    _Setting(title="One sample of each problem", samples=1),
    _Setting(title="One sample of each problem, what was learnt is kept", samples=1, fresh=False),
    _Setting(title="Samples of one problem, in turn"),
    _Setting(title="Samples of one problem, side by side", side_by_side=True),
)


@dataclass(slots=True, kw_only=True)
class SpeculationReport:
    """What has been measured so far. ``replays`` are by the setting's title."""

    model: str
    draft: str
    options: dict[str, Any]
    replays: dict[str, list[ReplayRow]] = field(default_factory=dict)
    speeds: list[Speed] = field(default_factory=list)

    def tables(self) -> list[Table]:
        """Everything, as people read it."""
        tables = [
            replay_table(title, rows, note=f"{rows[0].problems} problems, {rows[0].samples} samples.")
            for title, rows in self.replays.items()
        ]
        if self.speeds:
            tables += [speed_table(self.speeds, self.draft), overhead_table(self.speeds, self.draft)]
        return tables

    def write(self, folder: Path) -> None:
        """Writes speculation.json and speculation.md.

        Raises:
            ReasonError: they cannot be written.
        """
        content = {
            "model": self.model,
            "draft": self.draft,
            "options": self.options,
            "replays": {title: [row.as_dict() for row in rows] for title, rows in self.replays.items()},
            "speeds": [speed.as_dict() for speed in self.speeds],
            "environment": environment(),
        }
        heading = f"# Speculation: {self.model}, drafts {self.draft}\n"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "speculation.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            text = "\n".join([heading, *(table.markdown() for table in self.tables())])
            (folder / "speculation.md").write_text(text, encoding="utf-8")
        except OSError as error:
            raise ReasonError(f"cannot write to {folder}: {error.strerror or error}; use another --out") from error


def compared_sources(recording: Recording, *, quick: bool = False) -> list[str]:
    """Every source and the unions that proved good, as far as the recording can teach them."""
    names = [AUTO, "stand"] if quick else list(dict.fromkeys((*SOURCES, *_UNIONS, AUTO)))
    return [name for name in names if recording.has_rows or not set(name.split("+")) & set(LEARN_FROM_ROWS)]


def num_replays(recording: Recording, *, quick: bool = False) -> int:
    """How many replays ``measure_sources`` makes."""
    return len(_SETTINGS) * len(compared_sources(recording, quick=quick)) * len(_budgets(quick))


def measure_sources(
    recording: Recording, *, quick: bool = False, on_row: Callable[[ReplayRow], None] | None = None
) -> dict[str, list[ReplayRow]]:
    """Replays a recording with every source, in every setting and budget; by the setting's title."""
    problems, samples = (2, 3) if quick else (_PROBLEMS, _SAMPLES)
    found: dict[str, list[ReplayRow]] = {}
    for setting in _SETTINGS:
        part = select(
            recording,
            problems=problems if quick or setting.samples is None else None,
            samples=setting.samples or samples,
        )
        rows = found.setdefault(setting.title, [])
        for source in compared_sources(recording, quick=quick):
            for nodes in _budgets(quick):
                row = measure_replay(part, source, nodes=nodes, side_by_side=setting.side_by_side, fresh=setting.fresh)
                rows.append(row)
                if on_row is not None:
                    on_row(row)
    return found


def _budgets(quick: bool) -> tuple[int, ...]:
    return _BUDGETS[:1] if quick else _BUDGETS

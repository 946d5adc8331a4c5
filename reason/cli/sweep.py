"""`reason compare TASK --strategies …`: several strategies over one task."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from reason.cli.model_options import ModelOptions
from reason.cli.printing import print_json
from reason.cli.running import run_watched
from reason.cli.tables import print_tables
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.report.sweep import Setting
    from reason.tasks.task import Task

__all__ = ["parse_numbers", "run_sweep"]


def run_sweep(
    task: Task,
    settings: Sequence[Setting],
    model: str | None,
    loading: ModelOptions,
    *,
    out: Path,
    seed: int,
    concurrency: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Runs it, prints the tables, writes the report."""
    from reason.api import Solver
    from reason.report.sweep import Sweep
    from reason.report.sweep_report import can_plot, sweep_dict, sweep_tables, write_report

    sweep = Sweep(
        task,
        settings,
        out=out,
        seed=seed,
        concurrency=concurrency,
        model_options=loading.of_results,
        draft=loading.draft,
        overwrite=overwrite,
        on_setting=lambda number, setting: _heading(number, len(settings), setting),
    )
    sweep.check_folders()
    with Solver(model, **loading.as_dict()) as solver:
        entries = asyncio.run(sweep.run(solver, run_watched, on_entries=lambda entries: write_report(entries, out)))
    if as_json:
        print_json(sweep_dict(entries))
    else:
        print_tables(sweep_tables(entries), bright=2)
        typer.echo(f"report in {out}")
        if not can_plot():
            print("note: no plot was drawn; install the plot extra (matplotlib) for one", file=sys.stderr)
    if not sweep.complete and any(evaluation.stop.is_set() for evaluation in sweep.evaluations):
        print("interrupted: the same command goes on from there", file=sys.stderr, flush=True)
        raise typer.Exit(130)


def parse_numbers(text: str) -> list[int]:
    """1000,4000 as numbers.

    Raises:
        UsageError: they are none.
    """
    parts = [part.strip().replace("_", "") for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UsageError(f"--budget-tokens takes numbers with commas between them (1000,4000,16000), got {text!r}")
    return [int(part) for part in parts]


def _heading(number: int, total: int, setting: Setting) -> None:
    budget = "" if setting.budget_tokens is None else f", at most {setting.budget_tokens:,} tokens"
    print(f"{number + 1}/{total}  {setting.label}{budget}", file=sys.stderr, flush=True)

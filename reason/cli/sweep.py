"""`reason compare TASK --strategies …`: several strategies over one task at equal cost."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from reason.cli.eval import default_folder
from reason.cli.running import run_watched
from reason.cli.tables import print_tables
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.report.evaluate import Evaluation
    from reason.report.summary import Summary
    from reason.report.sweep import Entry, Setting

__all__ = ["SweepOptions", "run_sweep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """The command line's, see ``reason compare --help``."""

    task: str
    strategies: str
    budget_tokens: str | None
    sweep: str | None
    common: tuple[str, ...]
    solution_tokens: int
    limit: int | None
    offset: int
    out: Path | None
    data: Path | None
    model: str | None
    seed: int
    concurrency: int
    device: str
    dtype: str
    kv_tokens: int | None
    threads: int | None
    draft: str
    as_json: bool


def run_sweep(options: SweepOptions) -> None:
    """Runs it, prints the tables, writes the report."""
    from reason.api import Solver, check_draft
    from reason.report.sweep import Sweep, make_settings, parse_strategies, parse_sweep
    from reason.report.sweep_report import can_plot, sweep_dict, sweep_tables, write_report
    from reason.tasks import load_task

    settings = make_settings(
        parse_strategies(options.strategies),
        sweep=None if options.sweep is None else parse_sweep(options.sweep),
        budgets=_numbers(options.budget_tokens),
        common=_common(options.common),
        solution_tokens=options.solution_tokens,
    )
    check_draft(options.draft)
    task = load_task(options.task, data=options.data, limit=options.limit, offset=options.offset)
    out = options.out or default_folder(task.name, options.model, "compare", options.seed)
    sweep = Sweep(
        task,
        settings,
        out=out,
        seed=options.seed,
        concurrency=options.concurrency,
        model_options={"device": options.device, "dtype": options.dtype, "quantize": None},
        draft=options.draft,
        on_setting=lambda number, setting: _heading(number, len(settings), setting),
    )
    sweep.check_folders()

    async def show(evaluation: Evaluation, solver: Solver) -> Summary:
        summary = await run_watched(evaluation, solver)
        entry = _entry(sweep, evaluation, summary)
        write_report([*sweep.entries, entry], out, seed=options.seed)
        return summary

    with Solver(
        options.model,
        device=options.device,
        dtype=options.dtype,
        kv_tokens=options.kv_tokens,
        threads=options.threads,
        draft=options.draft,
    ) as solver:
        entries = asyncio.run(sweep.run(solver, show))
    if options.as_json:
        text = json.dumps(sweep_dict(entries), ensure_ascii=getattr(sys.stdout, "encoding", "") != "utf-8")
        typer.echo(text)
    else:
        print_tables(sweep_tables(entries, seed=options.seed), bright=2)
        typer.echo(f"report in {out}")
        if not can_plot():
            print("note: no plot was drawn; install the plot extra (matplotlib) for one", file=sys.stderr)
    if not sweep.complete and any(evaluation.stop.is_set() for evaluation in sweep.evaluations):
        print("interrupted: the same command goes on from there", file=sys.stderr, flush=True)
        raise typer.Exit(130)


def _entry(sweep: Any, evaluation: Evaluation, summary: Summary) -> Entry:
    from reason.report.sweep import Entry

    setting = sweep.settings[sweep.evaluations.index(evaluation)]
    return Entry(setting=setting, path=evaluation.folder.path, summary=summary)


def _heading(number: int, total: int, setting: Setting) -> None:
    budget = "" if setting.budget_tokens is None else f", at most {setting.budget_tokens:,} tokens"
    print(f"{number + 1}/{total}  {setting.label}{budget}", file=sys.stderr, flush=True)


def _numbers(text: str | None) -> list[int]:
    """1000,4000 as numbers."""
    parts = [part.strip().replace("_", "") for part in (text or "").split(",") if part.strip()]
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise UsageError(f"--budget-tokens takes numbers with commas between them (1000,4000,16000), got {text!r}")
    return [int(part) for part in parts]


def _common(settings: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"a strategy setting is written field=value, got {setting!r}")
        found[key.strip().replace("-", "_")] = value.strip()
    return found

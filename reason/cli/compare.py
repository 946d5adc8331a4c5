"""`reason compare`: strategies over a task at equal cost, or two evaluations of the same problems side by side."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reason.cli.errors import exit_on_error
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.report.compare import Comparison

__all__ = ["compare"]

_COSTS = {
    "policy_tokens": "generated tokens",
    "verifier_tokens": "verifier tokens",
    "forwards": "forwards",
    "unique_kv_tokens_peak": "unique KV tokens, peak",
    "seconds": "seconds",
}


@exit_on_error()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_A RUN_B | TASK", help="Two folders that `reason eval` wrote; or a task, with --strategies."
        ),
    ],
    strategies: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,NAME(FIELD=VALUE,…)",
            help="What to compare on a task; the first is the base.",
            show_default=False,
        ),
    ] = None,
    budget_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="1000,4000", help="Generated tokens a problem may cost; again for each.", show_default=False
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(metavar="FIELD=4,16,64", help="A field's values; width is any strategy's.", show_default=False),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", metavar="FIELD=VALUE", help="A field of every strategy that has it."),
    ] = None,
    solution_tokens: Annotated[
        int, typer.Option(min=1, help="Of a typical solution: sets widths that are not given from the budget.")
    ] = 256,
    limit: Annotated[int | None, typer.Option(help="At most so many problems.", show_default="all")] = None,
    offset: Annotated[int, typer.Option(help="Pass over so many problems first.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; an interrupted comparison goes on there.",
            show_default="runs/TASK-MODEL-compare-seedN",
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder or file with the task's data.", show_default="REASON_DATA or the hub")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A catalogue name, a folder, a GGUF file or a hub id.",
            show_default="the default model",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Equal seeds give equal answers.")] = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Problems under way at once, for every strategy.")] = 8,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float32 or float16.")] = "auto",
    kv_tokens: Annotated[
        int | None, typer.Option(help="Size of the KV pool in tokens.", show_default="from free memory")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads.", show_default="free cores")] = None,
    draft: Annotated[str, typer.Option(help="What drafts tokens: auto, none, stand, goose+stand ...")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare strategies on a task at equal cost, or two evaluations problem by problem.

    A comparison of strategies runs every setting with the same problems and seeds, and writes a table and a plot.
    """
    if strategies is not None:
        from reason.cli.sweep import SweepOptions, run_sweep

        if len(what) != 1:
            raise UsageError(f"--strategies wants one task, got {' '.join(what)}")
        run_sweep(
            SweepOptions(
                task=what[0],
                strategies=strategies,
                budget_tokens=budget_tokens,
                sweep=sweep,
                common=tuple(setting or ()),
                solution_tokens=solution_tokens,
                limit=limit,
                offset=offset,
                out=out,
                data=data,
                model=model,
                seed=seed,
                concurrency=concurrency,
                device=device,
                dtype=dtype,
                kv_tokens=kv_tokens,
                threads=threads,
                draft=draft,
                as_json=as_json,
            )
        )
        return
    if len(what) != 2:
        raise UsageError("name two folders that `reason eval` wrote, or a task with --strategies")
    from reason.report.compare import compare_runs

    run_a, run_b = map(Path, what)
    comparison = compare_runs(run_a, run_b)
    if as_json:
        text = json.dumps(comparison.as_dict(), ensure_ascii=getattr(sys.stdout, "encoding", "") != "utf-8")
        typer.echo(text)
    else:
        print_comparison(comparison, run_a, run_b)


def print_comparison(comparison: Comparison, run_a: Path, run_b: Path) -> None:
    """The difference in accuracy with its interval, then the costs per problem."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for name, folder in (("A", run_a), ("B", run_b)):
        console.print(Text(f"{name}  {folder}"), soft_wrap=True)
    difference = comparison.accuracy
    line = Text("accuracy A - B  ", style="bold")
    line.append(f"{100 * difference.difference:+.1f} points", style="bold green")
    line.append(f"  [{100 * difference.interval.low:+.1f}, {100 * difference.interval.high:+.1f}]", style="dim")
    line.append(f"  p = {difference.p:.2g}, {comparison.n} problems", style="dim")
    console.print(line, soft_wrap=True)
    right = f"only A is right on {comparison.a_only} problems, only B on {comparison.b_only}"
    console.print(Text(right, style="dim"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("per problem", style="dim")
    for heading in ("A", "B", "A / B"):
        table.add_column(heading, justify="right")
    table.add_row("accuracy", f"{comparison.accuracy_a:.1%}", f"{comparison.accuracy_b:.1%}", "")
    for key, heading in _COSTS.items():
        cost = comparison.costs[key]
        ratio = "" if cost.ratio is None else f"{cost.ratio:.2f}"
        if cost.interval is not None:
            ratio += f"  [{cost.interval.low:.2f}, {cost.interval.high:.2f}]"
        digits = 1 if key == "seconds" else 0
        table.add_row(heading, f"{cost.a:,.{digits}f}", f"{cost.b:,.{digits}f}", ratio)
    console.print(table)
    if comparison.unpaired:
        note = f"note: {comparison.unpaired} problems that only one of them has done are left out"
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if comparison.differing:
        console.print(Text("they differ in", style="dim"))
        for key, (a, b) in comparison.differing.items():
            console.print(Text(f"  {key}: {_shown(a)} | {_shown(b)}", style="dim"), soft_wrap=True)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."

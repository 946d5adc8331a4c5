"""`reason compare`: strategies over a task, or two evaluations of the same problems side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.eval import default_folder, served_name
from reason.cli.model_options import ModelOptions, with_model_options
from reason.cli.printing import print_json
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.report.compare import Comparison

__all__ = ["compare"]

_COSTS = {
    "policy_tokens": "generated tokens",
    "verifier_tokens": "verifier tokens",
    "forwards": "forwards",
    "unique_kv_tokens_peak": "unique KV tokens, peak",
    "seconds": "seconds of wall time",
}
_OF_TWO_FOLDERS = ("what", "as_json")


@exit_on_error()
@with_model_options
def compare(
    context: typer.Context,
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN_A RUN_B | TASK", help="Two folders that `reason eval` wrote; or a task, with --strategies."
        ),
    ],
    strategies: Annotated[
        str | None,
        typer.Option(
            metavar="'NAME,NAME(FIELD=VALUE,…)'",
            help="What to compare on a task; the first is the base. Parentheses need quotes in a shell.",
            show_default=False,
        ),
    ] = None,
    budget_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="1000,4000",
            help="Generated tokens a problem may cost, equal for all; again for each.",
            show_default=False,
        ),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            metavar="FIELD=4,16,64",
            help="A field's values. width stands for what each strategy's cost grows with: num_samples, iterations …",
            show_default=False,
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", "-S", metavar="FIELD=VALUE", help="A field of every strategy that has it."),
    ] = None,
    solution_tokens: Annotated[
        int, typer.Option(min=1, help="Of a typical solution: sets widths that are not given from the budget.")
    ] = 320,
    limit: options.Limit = None,
    offset: options.Offset = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; an interrupted comparison goes on there.",
            show_default="runs/TASK-MODEL-compare-seedN",
        ),
    ] = None,
    data: options.Data = None,
    model: options.Model = None,
    seed: options.Seed = 0,
    concurrency: Annotated[
        int,
        typer.Option(
            min=1,
            help="Problems under way at once, for every strategy. Under a budget few solutions of one problem run "
            "side by side, so that more problems fill the batch.",
        ),
    ] = 8,
    few_shot: options.FewShot = 0,
    question_field: options.QuestionField = None,
    answer_field: options.AnswerField = None,
    split: options.Split = None,
    loading: ModelOptions = ModelOptions(),  # noqa: B008
    unsafe_exec: options.UnsafeExec = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Compare strategies on a task, or two evaluations problem by problem.

    Strategies run with the same problems and seeds, and with --budget-tokens at equal cost; the folder gets a table and
    a plot of them and of what earlier comparisons of these problems left there. Two folders take no option but --json.
    """
    if strategies is None:
        _compare_folders(context, what, as_json=as_json)
        return
    from reason.cli.sweep import parse_numbers, run_sweep
    from reason.fields import parse_settings
    from reason.report.sweep import make_settings, parse_strategies, parse_sweep
    from reason.tasks import load_task

    if len(what) != 1:
        raise UsageError(f"--strategies wants one task, got {' '.join(what)}")
    settings = make_settings(
        parse_strategies(strategies),
        sweep=None if sweep is None else parse_sweep(sweep),
        budgets=parse_numbers(budget_tokens or ""),
        common=parse_settings(setting or ()),
        solution_tokens=solution_tokens,
    )
    loading.check(model)
    task = load_task(
        what[0],
        data=data,
        few_shot=few_shot,
        limit=limit,
        offset=offset,
        question_field=question_field,
        answer_field=answer_field,
        split=split,
    )
    run_sweep(
        task,
        settings,
        model,
        loading,
        out=out or default_folder(task.name, model or served_name(loading.base_url), "compare", f"seed{seed}"),
        seed=seed,
        concurrency=concurrency,
        overwrite=overwrite,
        as_json=as_json,
    )


def _compare_folders(context: typer.Context, what: list[str], *, as_json: bool) -> None:
    from reason.report.compare import compare_runs

    for name in context.params:
        source = context.get_parameter_source(name)
        if name not in _OF_TWO_FOLDERS and source is not None and source.name == "COMMANDLINE":
            option = {"setting": "set"}.get(name, name).replace("_", "-")
            raise UsageError(f"--{option} is for a comparison on a task: name one, with --strategies")
    if len(what) != 2:
        raise UsageError("name two folders that `reason eval` wrote, or a task with --strategies")
    run_a, run_b = map(Path, what)
    comparison = compare_runs(run_a, run_b)
    if as_json:
        print_json(comparison.as_dict())
    else:
        print_comparison(comparison, run_a, run_b)


def print_comparison(comparison: Comparison, run_a: Path, run_b: Path) -> None:
    """The difference in accuracy with its interval, then the costs per problem."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from reason.report.results import brief

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
            console.print(Text(f"  {key}: {brief(a)} | {brief(b)}", style="dim"), soft_wrap=True)

"""`reason eval`: a strategy over a task, or a verifier over solutions; how often it was right, and what it cost."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reason.cli import options
from reason.cli.crew import crew_of, evaluator
from reason.cli.errors import exit_on_error
from reason.cli.model_options import ModelOptions, with_model_options
from reason.cli.printing import print_json
from reason.cli.process import score_solutions
from reason.cli.running import estimate_line, plus_minus, run_each
from reason.errors import UsageError
from reason.types import Budget

if TYPE_CHECKING:
    from rich.console import Console

    from reason.report.summary import Summary
    from reason.tasks.task import Task

__all__ = ["evaluate"]


_STRATEGY = "best-of-n"


@exit_on_error()
@with_model_options
def evaluate(
    task: Annotated[
        str | None,
        typer.Argument(help="A task (see --list), a file of JSON lines, or hf:OWNER/NAME.", show_default=False),
    ] = None,
    list_tasks: Annotated[bool, typer.Option("--list", help="List the tasks.")] = False,
    strategy: options.StrategyName = _STRATEGY,
    setting: options.Settings = None,
    verifier: options.ScoringVerifier = None,
    aggregation: options.Aggregation = "none",
    threshold: options.ThresholdValue = None,
    tune: options.Tune = 0,
    limit: options.Limit = None,
    offset: options.Offset = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the results; an interrupted evaluation goes on there.",
            show_default="runs/TASK-MODEL-…",
        ),
    ] = None,
    data: options.Data = None,
    model: options.Model = None,
    max_policy_tokens: Annotated[
        int | None, typer.Option(help="Of each problem: stop after so many generated tokens.", show_default=False)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Of each problem: stop after so many seconds.", show_default=False)
    ] = None,
    max_kv_tokens: Annotated[
        int | None, typer.Option(help="Of each problem: hold at most so many KV tokens.", show_default=False)
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(help="Of each problem: make at most so many expansions.", show_default=False)
    ] = None,
    max_thinking_tokens: options.MaxThinkingTokens = None,
    seed: options.Seed = 0,
    concurrency: Annotated[
        int | None, typer.Option(help="Problems under way at once, at each worker.", show_default="about 64 samples")
    ] = None,
    few_shot: options.FewShot = 0,
    question_field: options.QuestionField = None,
    answer_field: options.AnswerField = None,
    split: options.Split = None,
    loading: ModelOptions = ModelOptions(),  # noqa: B008
    workers: options.Workers = None,
    ray_address: options.RayAddress = None,
    worker_cpus: options.WorkerCpus = None,
    worker_gpus: options.WorkerGpus = None,
    unsafe_exec: options.UnsafeExec = False,
    log_samples: Annotated[bool, typer.Option("--log-samples", help="Also write every text.")] = False,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
) -> None:
    """Run a strategy over a task: accuracy with its interval, curves over the number of samples, and the cost.

    With --verifier nothing is solved: the verifier scores solutions that the rows have already, of ProcessBench
    (processbench-gsm8k …; processbench is it and processbench-math) or recorded samples.

    With --workers or --ray-address many engines solve the problems, on one machine or many.

    Ctrl-C ends it with the figures so far; the same command goes on from there.
    """
    if list_tasks:
        print_tasks(as_json=as_json)
        return
    from reason.report.evaluate import Evaluation
    from reason.search.driver import check_budget
    from reason.search.strategies import make_strategy, parse_fields
    from reason.tasks import TASKS, load_task
    from reason.tasks.process import SUITES

    if task is None:
        raise UsageError(f"name a task: {', '.join([*TASKS, *SUITES])}, a file of JSON lines or hf:OWNER/NAME")
    fields = parse_fields(strategy, setting or [])
    make_strategy(strategy, **fields)  # before data and model are loaded
    loading.check(model)
    crew = crew_of(workers, ray_address, worker_cpus, worker_gpus, device=loading.device)
    budget = Budget(policy_tokens=max_policy_tokens, seconds=max_seconds, kv_tokens=max_kv_tokens, calls=max_calls)
    check_budget(budget)
    tasks = [
        load_task(
            name,
            data=data,
            few_shot=few_shot,
            limit=limit,
            offset=offset,
            question_field=question_field,
            answer_field=answer_field,
            split=split,
        )
        for name in SUITES.get(task, (task,))
    ]

    def folder(loaded: Task, *how: str) -> Path:
        if out is None:
            return default_folder(loaded.name, model or served_name(loading.base_url), *how)
        return out if len(tasks) == 1 else out / loaded.name

    if verifier is not None:
        of_solving = setting or few_shot or log_samples or max_thinking_tokens is not None or budget != Budget()
        if of_solving or strategy != _STRATEGY:
            raise UsageError("--verifier scores solutions that are there: it takes no strategy, budget or samples")
        if crew is not None:
            raise UsageError("--verifier scores solutions with one engine: it takes no workers")
        score_solutions(
            tasks,
            verifier,
            model,
            loading.as_dict(),
            folders=[folder(loaded, verifier, *([aggregation] * (aggregation != "none"))) for loaded in tasks],
            aggregation=aggregation,
            threshold=threshold,
            tune=tune,
            seed=seed,
            concurrency=concurrency,
            model_options=loading.of_results,
            overwrite=overwrite,
            as_json=as_json,
        )
        return
    if threshold is not None or tune or aggregation != "none":
        raise UsageError("--threshold, --tune and --aggregation go with --verifier, which scores solutions")
    evaluations = [
        Evaluation(
            loaded,
            strategy,
            fields,
            out=folder(loaded, strategy, f"seed{seed}"),
            budget=budget,
            seed=seed,
            concurrency=concurrency,
            max_thinking_tokens=max_thinking_tokens,
            log_samples=log_samples,
            overwrite=overwrite,
            model_options=loading.of_results,
            draft=loading.draft,
        )
        for loaded in tasks
    ]
    for evaluation in evaluations:
        evaluation.check_folder()
    with evaluator(model, {**loading.as_dict(), "unsafe_exec": unsafe_exec}, crew) as run:
        for evaluation, summary in run_each(evaluations, run):
            if as_json:
                print_json(summary.as_dict())
            else:
                print_summary(summary, evaluation.folder.path)
            if log_samples and (lacking := evaluation.folder.not_logged()):
                note = f"note: {lacking} problems were done without --log-samples: samples.jsonl lacks them"
                print(note, file=sys.stderr)


def default_folder(task: str, model: str | None, *how: str) -> Path:
    """runs/TASK-MODEL-HOW…, of characters that any file system takes."""
    from reason.models import CATALOGUE, default_model

    name = model or default_model()
    name = CATALOGUE[name.lower()].name if name.lower() in CATALOGUE else Path(name).expanduser().resolve().name
    parts = (task, name.removesuffix(".gguf"), *(part.lower() for part in how))
    return Path("runs") / "-".join(re.sub(r"[^\w.+=@]+", "-", part).strip("-.") for part in parts)


def served_name(base_url: str | None) -> str | None:
    """What a folder is called after where a server runs its only model."""
    from reason.engine.remote.address import Address

    return None if base_url is None else Address(base_url=base_url).host


def print_tasks(*, as_json: bool) -> None:
    """The named tasks."""
    from reason.tasks import describe_tasks

    tasks = describe_tasks()
    if as_json:
        print(json.dumps(tasks, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    table.add_column("rows", justify="right")
    table.add_column("licence")
    table.add_column("what")
    for task in tasks:
        table.add_row(task["name"], str(task["rows"]), task["licence"], task["summary"])
    Console().print(table)


# -- printing ----------------------------------------------------------------------------------------------------------


def print_summary(summary: Summary, folder: Path) -> None:
    """Accuracy, curves and the ledger."""
    from rich.console import Console
    from rich.text import Text

    console = Console()
    title = Text(f"{summary.task}  {summary.strategy}  {summary.model}  seed {summary.seed}", style="bold")
    console.print(title, soft_wrap=True)
    if summary.accuracy is None or summary.interval is None:
        console.print(Text("no problem is done", style="yellow"))
    else:
        line = Text("accuracy  ", style="bold")
        line.append(f"{summary.accuracy:.1%}{plus_minus(summary.standard_error)}", style="bold green")
        line.append(f"  [{summary.interval.low:.1%}, {summary.interval.high:.1%}]", style="dim")
        line.append(f"  {summary.correct} of {summary.done}, {summary.unanswered} without an answer", style="dim")
        console.print(line, soft_wrap=True)
        for name, mark in {**summary.marks, **summary.parts}.items():
            console.print(estimate_line(name, mark), soft_wrap=True)
        if summary.harmonic_mean is not None:
            console.print(estimate_line("harmonic mean of both", summary.harmonic_mean), soft_wrap=True)
        _print_curves(console, summary)
        _print_ledger(console, summary)
    for note in summary.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    console.print(Text(f"results in {folder}"), soft_wrap=True)


def _print_curves(console: Console, summary: Summary) -> None:
    from rich.table import Table

    names = {"majority": "maj@k", "weighted": "weighted@k", "pass": "pass@k"}
    shown = {heading: summary.curves[name] for name, heading in names.items() if summary.curves.get(name)}
    sizes = [point.k for point in summary.curves.get("majority", ())]
    if len(sizes) < 2:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("k", justify="right", style="dim")
    for heading in shown:
        table.add_column(heading, justify="right")
    for row, k in enumerate(sizes):
        points = [points[row] for points in shown.values()]
        table.add_row(str(k), *(f"{point.mean:.1%}{plus_minus(point.standard_error)}" for point in points))
    console.print(table)


def _print_ledger(console: Console, summary: Summary) -> None:
    from rich.table import Table

    from reason.cli.grains import print_grains

    table = Table(box=None, pad_edge=False)
    table.add_column("", style="dim")
    table.add_column("per problem", justify="right")
    table.add_column("in all", justify="right")
    for name, key in (
        ("generated tokens", "policy_tokens"),
        ("verifier tokens", "verifier_tokens"),
        ("calls", "calls"),
        ("forwards", "forwards"),
    ):
        table.add_row(name, f"{summary.means[key]:,.0f}", f"{summary.totals[key]:,.0f}")
    peak = summary.means["unique_kv_tokens_peak"], summary.totals["unique_kv_tokens_peak"]
    table.add_row("unique KV tokens, peak", f"{peak[0]:,.0f}", f"{peak[1]:,.0f} at most")
    table.add_row("unique KV tokens, mean", f"{summary.means['unique_kv_tokens_mean']:,.0f}", "")
    rate = f"{summary.wall_seconds:,.1f}  ({summary.tokens_per_second:.0f} tokens/s)"
    table.add_row("seconds of wall time", f"{summary.seconds_per_problem:,.1f}", rate)
    console.print(table)
    planned = "plan" in summary.config["model"]
    print_grains(console, summary.totals, planned=summary.done - len(summary.failed) if planned else 0)

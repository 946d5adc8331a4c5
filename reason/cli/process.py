"""`reason eval TASK --verifier NAME`: scores of solutions that are there already, and what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.cli.printing import print_json
from reason.cli.running import estimate_line, run_each

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from reason.report.process_samples import SampleSummary
    from reason.report.process_steps import StepSummary
    from reason.report.statistics import Difference
    from reason.tasks.task import Task

__all__ = ["score_solutions"]

_COSTS = {"verifier_tokens": "verifier tokens", "policy_tokens": "generated tokens"}


def score_solutions(
    tasks: Sequence[Task],
    verifier: str,
    model: str | None,
    load: Mapping[str, Any],
    *,
    folders: Sequence[Path],
    threshold: float | None,
    tune: int,
    concurrency: int | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Scores the tasks' solutions, one task after the other, and prints the figures. A threshold is chosen on rows of
    the first task, and is the others' too.

    Args:
        load: the solver's options.
        folders: of each task's results.
        options: of ``Scoring``.
    """
    from reason.api import Solver
    from reason.engine.scripted import ScriptedEngine
    from reason.report.process import Scoring
    from reason.report.process_steps import StepSummary, Threshold

    given = Threshold(value=threshold, tune=tune) if threshold is not None or tune else None
    if concurrency is not None:
        options["concurrency"] = concurrency
    scorings = [
        Scoring(task, verifier, out=folder, threshold=None if number and tune else given, **options)
        for number, (task, folder) in enumerate(zip(tasks, folders, strict=True))
    ]
    for scoring in scorings:
        scoring.check_folder()
    with Solver(model, **load) if scorings[0].needs_model else Solver(engine=ScriptedEngine(())) as solver:
        try:
            for scoring, summary in run_each(scorings, lambda scoring: scoring.run(solver)):
                if as_json:
                    print_json(summary.as_dict())
                elif isinstance(summary, StepSummary):
                    _print_steps(summary, scoring.folder.path)
                else:
                    _print_samples(summary, scoring.folder.path)
                if tune and scoring is scorings[0]:
                    for other in scorings[1:]:
                        other.threshold = Threshold(value=summary.threshold)
        finally:
            for scoring in scorings:
                if (close := getattr(scoring.verifier, "close", None)) is not None:
                    close()


def _print_steps(summary: StepSummary, folder: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console()
    _print_title(console, f"{summary.task}  {summary.verifier}  {summary.model}")
    if summary.threshold is not None:
        chosen = f", chosen on {summary.tuned_on} other rows" if summary.tuned_on else ""
        console.print(Text(f"a step is wrong below {summary.threshold:.4g}{chosen}", style="dim"), soft_wrap=True)
    for name, estimate in (
        ("F1", summary.f1),
        ("rows with an error", summary.flawed),
        ("rows without an error", summary.sound),
    ):
        if estimate is not None:
            line = estimate_line(name, estimate)
            line.append(f"  {estimate.n} rows", style="dim")
            console.print(line, soft_wrap=True)
    for name, area in (("AUC of steps", summary.step_auc), ("AUC of solutions", summary.solution_auc)):
        if area is not None:
            console.print(estimate_line(name, area, percent=False), soft_wrap=True)
    _print_end(console, summary, folder)


def _print_samples(summary: SampleSummary, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    _print_title(console, f"{summary.task}  {summary.verifier}  {summary.model}")
    if summary.curves:
        table = Table(box=None, pad_edge=False)
        table.add_column("N", justify="right", style="dim")
        for name in summary.curves:
            table.add_column(name, justify="right")
        for row in zip(*summary.curves.values(), strict=True):
            table.add_row(str(row[0].k), *(f"{point.mean:.1%}" for point in row))
        console.print(table)
    for name, by_size in summary.differences.items():
        for k, difference in by_size.items():
            console.print(_difference(f"{name}, N = {k}", difference), soft_wrap=True)
    _print_end(console, summary, folder)


def _difference(name: str, difference: Difference) -> Text:
    from rich.text import Text

    line = Text(f"{name}  ")
    line.append(f"{100 * difference.difference:+.1f} points", style="bold")
    low, high = difference.interval
    line.append(f"  [{100 * low:+.1f}, {100 * high:+.1f}]  p = {difference.p:.2g}", style="dim")
    return line


def _print_title(console: Console, title: str) -> None:
    from rich.text import Text

    console.print(Text(title, style="bold"), soft_wrap=True)


def _print_end(console: Console, summary: StepSummary | SampleSummary, folder: Path) -> None:
    """What it cost, and what a reader should know."""
    from rich.text import Text

    costs = [f"{summary.done} of {summary.total} rows"]
    costs += [f"{summary.totals[key]:,.0f} {name}" for key, name in _COSTS.items() if summary.totals[key]]
    costs.append(f"{summary.wall_seconds:,.1f} s, {summary.wall_seconds / max(1, summary.done):.2f} s a row")
    console.print(Text("  ".join(costs), style="dim"), soft_wrap=True)
    for note in summary.notes:
        console.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    console.print(Text(f"results in {folder}"), soft_wrap=True)

"""`reason train gate`: thresholds for plans."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.eval import default_folder
from reason.cli.printing import print_json
from reason.cli.train import check_for_learning, run_to_its_end, saying
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.report.gates import Answered, GateFigures

__all__ = ["gate"]

_GATES = (
    "separability",
    "separability:variant=mean",
    "separability:variant=bottom-20%",
    "logprob",
    "self-certainty",
    "judge",
)


@exit_on_error()
def gate(
    task: Annotated[str, typer.Argument(help="Problems to calibrate on, e.g. gsm8k-train; never those of a test.")],
    precision: Annotated[float, typer.Option(min=0, max=1, help="Wanted of the answers that pass.")] = 0.9,
    gates: Annotated[
        str | None,
        typer.Option(
            help="Verifiers to try, with commas between them, and semicolons within one.",
            show_default=f"{','.join(_GATES)}, and head where the package has one for the model",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Also try the agreement of so many solutions; 1 does not.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a solution, at most.")] = 512,
    direct: Annotated[
        bool, typer.Option("--direct", help="Have the model answer at once, without reasoning; for plans that do.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of what was answered; it is not answered again.", show_default="runs/gate-TASK-MODEL"
        ),
    ] = None,
    limit: options.Limit = None,
    offset: options.Offset = 0,
    data: options.Data = None,
    model: options.Model = None,
    seed: options.Seed = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Problems under way at once.")] = 32,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    kv_tokens: options.KvTokens = None,
    threads: options.Threads = None,
    draft: options.Draft = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Find the thresholds from which on a model's own answers are right often enough, for --plan.

    The model (the small one of a plan) answers the problems; each gate's threshold is chosen on half of them, and the
    other half says how often it lets an answer pass, and how often that is right.
    """
    from reason.api import Solver
    from reason.plan import SpecEyes
    from reason.report.evaluate import Evaluation
    from reason.report.gates import Answered, calibrate
    from reason.tasks import load_task
    from reason.training.gates import GateRecorder
    from reason.verifiers import make_verifier
    from reason.verifiers.probes import probes_of
    from reason.verifiers.value_head import find_shipped

    names = _GATES if gates is None else [name.strip() for name in gates.split(",") if name.strip()]
    made = {name: make_verifier(name.replace(";", ",")) for name in names}
    check_for_learning(task)
    loaded = load_task(task, data=data, limit=limit, offset=offset)
    if direct:
        plan = SpecEyes(direct=True)
        examples = tuple(replace(each, problem=plan.asked(each.problem)) for each in loaded.examples)
        loaded = replace(loaded, examples=examples)
    folder = out or default_folder(f"gate-{loaded.name}", model)
    say = saying(as_json)
    with Solver(
        model, device=device, dtype=dtype, quantize=quantize, kv_tokens=kv_tokens, threads=threads, draft=draft
    ) as solver:
        if gates is None and find_shipped(solver.engine.name) is not None:
            made["head"] = make_verifier("head")
        probes_of(made.values(), solver.engine)  # where there is no head for the model it is said now
        recorder = GateRecorder(made, folder / "scores")
        common: dict[str, Any] = {
            "seed": seed,
            "concurrency": concurrency,
            "model_options": {"device": device, "dtype": dtype, "quantize": quantize},
            "draft": draft,
        }
        greedy = Evaluation(
            loaded,
            "best-of-n",
            {
                "num_samples": 1,
                "temperature": 0.0,
                "max_tokens": max_tokens,
                "select": "best",
                "verifier": recorder.name,
            },
            out=folder / "greedy",
            verifiers={recorder.name: recorder},
            **common,
        )
        drawn = Evaluation(
            loaded, "best-of-n", {"num_samples": samples, "max_tokens": max_tokens}, out=folder / "drawn", **common
        )
        say(f"answers to {len(loaded)} problems, {len(made)} gates")
        for evaluation in (greedy, drawn)[: 1 + (samples > 1)]:
            run_to_its_end(evaluation, solver)
    answers = [
        Answered(problem=name, correct=result.correct, scores=recorder.read(name) if result.answer is not None else {})
        for name, result in sorted(greedy.folder.results().items())
        if result.error is None
    ]
    figures = calibrate(answers, precision)
    if samples > 1:
        voted = [
            Answered(
                problem=name,
                correct=result.correct,
                scores={} if result.answer is None else {f"agreement of {samples}": result.confidence},
            )
            for name, result in sorted(drawn.folder.results().items())
            if result.error is None
        ]
        figures += calibrate(voted, precision)
        figures.sort(key=lambda one: -one.chosen_coverage)
    if not figures:
        raise UsageError("no problem was answered: there is nothing to calibrate")
    if as_json:
        print_json({"precision": precision, "problems": len(answers), "gates": [one.as_dict() for one in figures]})
    else:
        _print(answers, figures, precision, samples, direct=direct)


def _print(
    answers: list[Answered], figures: list[GateFigures], precision: float, samples: int, *, direct: bool
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("gate")
    for name in ("AUC", "threshold", "precision", "passed"):
        table.add_column(name, justify="right")
    for one in figures:
        shown = [
            "–" if each is None else f"{each.mean:.0%} [{each.interval.low:.0%}, {each.interval.high:.0%}]"
            for each in (one.precision, one.coverage)
        ]
        table.add_row(one.gate, f"{one.auc:.3f}", "none" if one.threshold is None else f"{one.threshold:.5g}", *shown)
    right = sum(answer.correct for answer in answers) / max(1, len(answers))
    console.print(
        f"{len(answers)} answers, {right:.0%} right; thresholds for a precision of {precision:.0%}, figures of the "
        "half of the problems that decided none",
        highlight=False,
        soft_wrap=True,
    )
    console.print(table)
    best = next((one for one in figures if one.threshold is not None), None)
    if best is not None:
        name = best.gate.replace(",", ";")
        given = f"gate=agreement,samples={samples}" if name.startswith("agreement of") else f"gate={name}"
        given += ",direct=true" if direct else ""
        console.print(f"use it: --plan speceyes:{given},threshold={best.threshold}", highlight=False, soft_wrap=True)

"""`reason train`: recipes for the small learned parts."""

from __future__ import annotations

import asyncio
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.eval import default_folder
from reason.cli.printing import print_json
from reason.cli.running import run_watched
from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.report.evaluate import Evaluation
    from reason.training.value.rollouts import Rollout

__all__ = ["app", "command_line", "counter", "layer_numbers", "layers_to_try", "run_to_its_end", "saying"]

app = typer.Typer(help="Train the small learned parts on a model's own solutions.", no_args_is_help=True)


@app.command("value")
@exit_on_error()
def value(
    task: Annotated[str, typer.Argument(help="Problems to learn from, e.g. gsm8k-train; never those of a test.")],
    samples: Annotated[int, typer.Option(min=1, help="Solutions of each problem.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a solution, at most.")] = 400,
    layers: Annotated[
        str | None,
        typer.Option(help="Layers to try, e.g. 12,16,-1.", show_default="1/2, 7/12, 2/3 and 3/4 of the depth"),
    ] = None,
    targets: Annotated[str, typer.Option(help="Targets to try: mc (the outcome), td (λ-returns).")] = "mc,td",
    lambda_: Annotated[float, typer.Option("--lambda", help="Of the λ-returns.")] = 0.8,
    ramp: Annotated[int, typer.Option(help="Optimiser steps until td's targets are λ-returns alone.")] = 768,
    units: Annotated[int, typer.Option(help="Hidden units of each network; 0 is linear.")] = 64,
    members: Annotated[int, typer.Option(help="Networks whose logits are averaged.")] = 4,
    pool: Annotated[bool, typer.Option(help="Also read the mean of the states so far.")] = True,
    rank: Annotated[float, typer.Option(help="Weight of the loss that compares solutions of one problem.")] = 1.0,
    epochs: Annotated[int, typer.Option(help="At most; a network stops when it gets no better.")] = 40,
    every: Annotated[int, typer.Option(min=2, help="Learn from each so-manieth token within steps, too.")] = 32,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of rollouts, states and the head; what is there is not made again.",
            show_default="runs/value-TASK-MODEL",
        ),
    ] = None,
    limit: options.Limit = None,
    offset: options.Offset = 0,
    data: options.Data = None,
    model: options.Model = None,
    seed: options.Seed = 0,
    concurrency: Annotated[int, typer.Option(min=1, help="Problems under way at once.")] = 24,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    kv_tokens: options.KvTokens = None,
    threads: options.Threads = None,
    draft: options.Draft = "auto",
    as_json: options.AsJson = False,
) -> None:
    """Train a value head: a small network that says of a solution under way how likely it is to be right.

    The model solves the problems, its hidden states at the ends of steps are kept, and heads are fitted to how the
    solutions came out. Ctrl-C ends it; the same command goes on from there.
    """
    from reason.api import Solver
    from reason.report.evaluate import Evaluation
    from reason.report.rollouts import read_rollouts
    from reason.tasks import load_task
    from reason.training.value.card import json_figures, write_card
    from reason.training.value.fit import FitOptions
    from reason.training.value.recipe import train, whole_parts
    from reason.training.value.states import Recorder

    fits = [
        FitOptions(
            targets=cast(Literal["mc", "td"], each.strip()),
            lambda_=lambda_,
            ramp=ramp,
            units=units,
            members=members,
            pool=pool,
            rank=rank,
            epochs=epochs,
            seed=seed,
        )
        for each in targets.split(",")
    ]
    wanted = None if layers is None else layer_numbers(layers)
    check_for_learning(task)
    loaded = load_task(task, data=data, limit=limit, offset=offset)
    whole_parts([example.problem.id for example in loaded.examples])  # too few are refused now, not in the end
    folder = out or default_folder(f"value-{loaded.name}", model)
    say = saying(as_json)
    with Solver(
        model, device=device, dtype=dtype, quantize=quantize, kv_tokens=kv_tokens, threads=threads, draft=draft
    ) as solver:
        layers_tried = layers_to_try(wanted, _num_layers(solver))
        delimiter = loaded.examples[0].problem.step_delimiter
        recorder = Recorder(layers_tried, folder / "states", delimiter=delimiter, every=every)
        evaluation = Evaluation(
            loaded,
            "best-of-n",
            {"num_samples": samples, "max_tokens": max_tokens, "select": "weighted", "verifier": recorder.name},
            out=folder / "rollouts",
            seed=seed,
            concurrency=concurrency,
            verifiers={recorder.name: recorder},
            model_options={"device": device, "dtype": dtype, "quantize": quantize},
            draft=draft,
        )
        say(f"1/3 solutions of {len(loaded)} problems, {samples} each, and states of layers {_listed(layers_tried)}")
        run_to_its_end(evaluation, solver)
        rollouts = read_rollouts(evaluation.folder.path)
        say(f"2/3 states of {len(rollouts)} solutions, computed where they were not kept")
        _collect(
            solver,
            rollouts,
            folder / "states",
            layers_tried,
            delimiter=delimiter,
            every=every,
            concurrency=concurrency,
        )
        name = solver.engine.name
    say(f"3/3 {len(layers_tried) * len(fits)} fits")
    about = {
        "data": f"{loaded.name} ({Path(loaded.source).name}, {loaded.licence})",
        "sha256": loaded.sha256,
        "samples": samples,
    }
    head, tried = train(
        rollouts, folder / "states", layers_tried, fits, model=name, about=about, on_fit=counter("fits")
    )
    head.save(folder / "head.safetensors")
    write_card(folder, head, tried, command=command_line())
    if as_json:
        print_json(json_figures({"head": str(folder / "head.safetensors"), "layer": head.layer, **head.about}))
    else:
        _print(folder, head.layer, head.about["figures"])


def run_to_its_end(evaluation: Evaluation, solver: Solver) -> None:
    """Has the problems solved; ends the command if that was interrupted."""
    if not asyncio.run(run_watched(evaluation, solver)).complete:
        print("interrupted: the same command goes on from there", file=sys.stderr)
        raise typer.Exit(130)


def command_line() -> str:
    """The command as it was given."""
    return " ".join(["reason", *map(shlex.quote, sys.argv[1:])])


def _collect(solver: Solver, rollouts: Sequence[Rollout], folder: Path, layers: Sequence[int], **more: Any) -> None:
    from reason.training.value.states import collect

    asyncio.run(collect(solver.engine, rollouts, folder, layers, on_problem=counter("problems"), **more))


def _num_layers(solver: Solver) -> int:
    from reason.engine.local import LocalEngine

    if not isinstance(solver.engine, LocalEngine):
        raise UsageError("value heads are trained on a local model's hidden states")
    return solver.engine.num_layers


def layers_to_try(wanted: Sequence[int] | None, num_layers: int) -> Sequence[int]:
    """Those that are wanted, else the ones where heads were best. Raises UsageError where a model has no such layer."""
    from reason.training.value.recipe import default_layers

    if wanted is None:
        return default_layers(num_layers)
    for layer in wanted:
        if not -1 <= layer < num_layers - 1:
            raise UsageError(f"--layers are from 0 to {num_layers - 2}, or -1 for after the final norm, got {layer}")
    return wanted


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def layer_numbers(text: str) -> tuple[int, ...]:
    """Raises UsageError where they are no numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--layers takes whole numbers, e.g. 12,16,-1, got {text!r}") from None


def check_for_learning(task: str) -> None:
    """Refuses a test set whose training set is known.

    Raises:
        UsageError: learn from that.
    """
    from reason.tasks import TASKS

    if (training := f"{task.lower()}-train") in TASKS:
        raise UsageError(f"{task} is a test set, and what learnt from it could not be tested on it: take {training}")


def saying(quiet: bool) -> Callable[[str], None]:
    """Tells what begins, on standard error."""
    from rich.console import Console

    console = Console(stderr=True)

    def say(line: str) -> None:
        if not quiet:
            console.print(line, style="bold", highlight=False)

    return say


def counter(what: str) -> Callable[[int, int], None]:
    """Tells now and then how far a count is, on standard error."""
    import time

    last = 0.0

    def count(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= 10:
            last = now
            print(f"{done}/{total} {what}", file=sys.stderr, flush=True)

    return count


def _print(folder: Path, layer: int, figures: dict[str, Sequence[float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    table.add_column("on problems that decided nothing")
    table.add_column("value", justify="right")
    table.add_column("95% interval")
    for name, (figure, low, high) in figures.items():
        table.add_row(name, f"{figure:.3f}", f"[{low:.3f}, {high:.3f}]")
    console.print(table)
    console.print(f"layer {layer}; all fits in {folder / 'card.md'}", highlight=False, soft_wrap=True)
    console.print(
        f"use it: -S verifier=head:{folder / 'head.safetensors'}", highlight=False, soft_wrap=True, markup=False
    )

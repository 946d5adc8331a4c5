"""`reason train router`: the predictor of Arbitrage."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.eval import default_folder
from reason.cli.printing import print_json
from reason.cli.train import (
    check_for_learning,
    command_line,
    counter,
    layer_numbers,
    layers_to_try,
    run_to_its_end,
    saying,
)
from reason.errors import UsageError

__all__ = ["router"]


@exit_on_error()
def router(
    task: Annotated[str, typer.Argument(help="Problems to learn from, e.g. gsm8k-train; never those of a test.")],
    verifier: Annotated[
        str, typer.Option(help="Scores both models' steps, on the large one: head, judge, prm:MODEL ...")
    ] = "head",
    samples: Annotated[int, typer.Option(min=1, help="Solutions of each problem.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of all steps.")] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a solution, at most.")] = 400,
    escalate: Annotated[
        float, typer.Option(min=0, max=1, help="The share of the large model's steps in what is explored.")
    ] = 0.4,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers of the small model to try, e.g. 12,16,-1.", show_default="1/2, 7/12, 2/3 and 3/4 of the depth"
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the steps and the router; what is there is not made again.",
            show_default="runs/router-TASK-MODEL",
        ),
    ] = None,
    limit: options.Limit = None,
    offset: options.Offset = 0,
    data: options.Data = None,
    model: options.Model = None,
    small_model: options.SmallModel = None,
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
    """Train a router, which says of a step of the small model how likely the large one is to do better.

    Both models write each step from the same prefix, a verifier scores both, and either stays at random; then a
    regression on the small model's hidden states is fitted to the difference. Ctrl-C ends it; the same command goes on
    from there.
    """
    from reason.api import Solver
    from reason.engine.local import LocalEngine
    from reason.report.evaluate import Evaluation
    from reason.route import RoutedEngine
    from reason.tasks import load_task
    from reason.training.router.card import router_card
    from reason.training.router.explore import Explorer
    from reason.training.router.recipe import kept_for_figures, train_router
    from reason.training.writing import write_whole
    from reason.verifiers import make_verifier
    from reason.verifiers.probes import fingerprint, probes_of

    judge = make_verifier(verifier)
    wanted = None if layers is None else layer_numbers(layers)
    check_for_learning(task)
    loaded = load_task(task, data=data, limit=limit, offset=offset)
    kept_for_figures([example.problem.id for example in loaded.examples])  # too few are refused now, not in the end
    folder = out or default_folder(f"router-{loaded.name}", model)
    say = saying(as_json)
    with Solver(
        model,
        device=device,
        dtype=dtype,
        quantize=quantize,
        kv_tokens=kv_tokens,
        threads=threads,
        draft=draft,
        route="always",
        small_model=small_model,
    ) as solver:
        engine = solver.engine
        if not isinstance(engine, RoutedEngine) or not isinstance(engine.draft, LocalEngine):
            raise UsageError("routers are trained on local models")
        tried_layers = layers_to_try(wanted, engine.draft.num_layers)
        probes_of([judge], engine.target)  # where there is no head for the large model it is said now
        explorer = Explorer(judge, folder / "steps", tried_layers, escalate=escalate)
        evaluation = Evaluation(
            loaded,
            "best-of-n",
            {"num_samples": samples, "max_tokens": max_tokens, "temperature": temperature},
            out=folder / "solutions",
            seed=seed,
            concurrency=concurrency,
            model_options={
                "device": device,
                "dtype": dtype,
                "quantize": quantize,
                "small_model": engine.draft.name,
                "verifier": verifier,
                "head": fingerprint(judge, engine.target.name),
                "escalate": escalate,
                "layers": ",".join(map(str, tried_layers)),
            },
            draft=draft,
        )
        say(f"1/2 steps of {engine.draft.name} and {engine.target.name} on {len(loaded)} problems")
        with Solver(engine=RoutedEngine(engine.draft, engine.target, explorer)) as exploring:
            run_to_its_end(evaluation, exploring)
        small, large = engine.draft.name, engine.target.name
    say("2/2 fits")
    head, tried = train_router(
        folder / "steps",
        tried_layers,
        model=small,
        target=large,
        about={"data": f"{loaded.name} ({Path(loaded.source).name}, {loaded.licence})", "verifier": verifier},
        on_fit=counter("fits"),
    )
    head.save(folder / "router.safetensors")
    card = router_card(head, tried, command=command_line())
    write_whole(folder / "card.md", card.encode())
    if as_json:
        print_json({"router": str(folder / "router.safetensors"), "layer": head.layer, **head.about})
    else:
        typer.echo(card)
        typer.echo(f"use it: --route arbitrage:{folder / 'router.safetensors'},escalate=0.3")

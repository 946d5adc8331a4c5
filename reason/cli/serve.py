"""`reason serve`: the OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.errors import UsageError

__all__ = ["check_installed", "serve"]


@exit_on_error()
def serve(
    model: options.Model = None,
    strategy: options.StrategyName = "best-of-n",
    setting: options.Settings = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; others than this machine's need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8010,
    api_key_file: Annotated[
        Path | None, typer.Option(help="A key in each line; a request must have one of them.", show_default=False)
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Pages of this origin may ask, https://example.org; can be repeated.", show_default="none"),
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Clients may give this to a strategy's field, e.g. prm:MODEL for verifier; can be repeated.",
            show_default="names that load nothing",
        ),
    ] = None,
    max_running: Annotated[int, typer.Option(help="Requests that are worked on at once.")] = 8,
    max_queued: Annotated[int, typer.Option(help="Requests that may wait; the others get status 429.")] = 32,
    max_policy_tokens: Annotated[int, typer.Option(help="At most so many generated tokens a request.")] = 65536,
    max_seconds: Annotated[float, typer.Option(help="At most so many seconds a request.")] = 600.0,
    max_kv_tokens: Annotated[
        int | None, typer.Option(help="At most so many KV tokens a search.", show_default="no limit")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(help="At most so many expansions a search.", show_default="no limit")
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Size of a request.")] = 2 << 20,
    grace: Annotated[float, typer.Option(help="Seconds that requests under way have when the server ends.")] = 10.0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    kv_tokens: options.KvTokens = None,
    threads: options.Threads = None,
    draft: options.Draft = "auto",
    route: options.Route = None,
    plan: options.Plan = None,
    small_model: options.SmallModel = None,
    unsafe_exec: options.UnsafeExec = False,
) -> None:
    """Serve a model, and searches over it, to OpenAI's clients.

    The model's own name samples it plainly; reason/ets, reason/best-of-n:16 ... search; reason is --strategy.
    """
    check_installed("starlette", "uvicorn")
    from reason.api import Solver
    from reason.search.measuring import find_verifiers
    from reason.search.strategies import make_strategy, parse_fields
    from reason.serve.app import make_app
    from reason.serve.running import Server, bind
    from reason.serve.security import LOCAL_NAMES, Security, check_exposure, is_local, read_keys
    from reason.serve.service import Limits, Service

    if not grace > 0:
        raise UsageError(f"--grace must be more than 0, got {grace}")
    keys = () if api_key_file is None else read_keys(api_key_file)
    check_exposure(host, keys)
    names = (*LOCAL_NAMES, host.lower()) if is_local(host) else ()
    security = Security(keys=keys, names=tuple(dict.fromkeys(names)), origins=tuple(allow_origin or ()))
    limits = Limits(
        max_running=max_running,
        max_queued=max_queued,
        max_body_bytes=max_body_bytes,
        max_policy_tokens=max_policy_tokens,
        max_seconds=max_seconds,
        max_kv_tokens=max_kv_tokens,
        max_calls=max_calls,
    )
    fields = parse_fields(strategy, setting or [])
    find_verifiers(make_strategy(strategy, **fields))  # before the model is loaded
    with (
        bind(host, port) as listening,
        Solver(
            model,
            device=device,
            dtype=dtype,
            quantize=quantize,
            kv_tokens=kv_tokens,
            threads=threads,
            draft=draft,
            route=route,
            plan=plan,
            small_model=small_model,
        ) as solver,
    ):
        service = Service(
            solver=solver, strategy=strategy.lower(), fields=fields, allowed=frozenset(allow or ()), limits=limits
        )
        server = Server(make_app(service, security), service, grace_seconds=grace)
        at = listening.getsockname()
        shown = f"[{at[0]}]" if ":" in at[0] else at[0]
        typer.echo(f"{solver.engine.name} at http://{shown}:{at[1]}/v1  (Ctrl-C ends it)")
        try:
            asyncio.run(server.serve(sockets=[listening]))
        except KeyboardInterrupt:  # uvicorn raises the signal again when all is over
            return


def check_installed(*packages: str) -> None:
    """Raises UsageError if the extra that servers need is missing."""
    import importlib.util

    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UsageError(f"this needs {', '.join(missing)}: pip install 'reason-toolkit[serve]'")

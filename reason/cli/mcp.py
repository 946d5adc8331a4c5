"""`reason mcp`: searches as tools of an agent, over the Model Context Protocol."""

from __future__ import annotations

import contextlib
import sys
from typing import Annotated, Literal

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.serve import check_installed
from reason.errors import UsageError

__all__ = ["mcp"]


@exit_on_error()
def mcp(
    model: options.Model = None,
    strategy: options.StrategyName = "best-of-n",
    setting: options.Settings = None,
    transport: Annotated[
        Literal["stdio", "http"], typer.Option(help="How the agent speaks to it; http is streamable HTTP at /mcp.")
    ] = "stdio",
    port: Annotated[int, typer.Option(help="With --transport http; on this machine only.")] = 8011,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Agents may give this to a strategy's field, e.g. prm:MODEL for verifier; can be repeated.",
            show_default="names that load nothing",
        ),
    ] = None,
    max_running: Annotated[int, typer.Option(help="Calls that are worked on at once.")] = 8,
    max_queued: Annotated[int, typer.Option(help="Calls that may wait; the others fail.")] = 32,
    max_policy_tokens: Annotated[int, typer.Option(help="At most so many generated tokens a call.")] = 65536,
    max_seconds: Annotated[float, typer.Option(help="At most so many seconds a call.")] = 600.0,
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
    """Serve the tools solve, verify and compare_answers to an agent."""
    check_installed("mcp")
    if not 0 <= port < 65536:
        raise UsageError(f"--port must be from 0 to 65535, got {port}")
    from reason.api import Solver
    from reason.search.measuring import find_verifiers
    from reason.search.strategies import make_strategy, parse_fields
    from reason.serve.mcp_server import make_mcp_server
    from reason.serve.service import Limits, Service

    limits = Limits(
        max_running=max_running, max_queued=max_queued, max_policy_tokens=max_policy_tokens, max_seconds=max_seconds
    )
    fields = parse_fields(strategy, setting or [])
    find_verifiers(make_strategy(strategy, **fields))  # before the model is loaded
    with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the protocol
        solver = Solver(
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
        )
    with solver, contextlib.suppress(KeyboardInterrupt):
        service = Service(
            solver=solver, strategy=strategy.lower(), fields=fields, allowed=frozenset(allow or ()), limits=limits
        )
        server = make_mcp_server(service)
        if transport == "stdio":
            server.run("stdio")
        else:
            typer.echo(f"{solver.engine.name} at http://127.0.0.1:{port}/mcp  (Ctrl-C ends it)", err=True)
            server.run("streamable-http", host="127.0.0.1", port=port)

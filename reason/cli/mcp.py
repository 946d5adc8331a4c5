"""`reason mcp`: searches as tools of an agent, over the Model Context Protocol."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import Annotated, Literal

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.model_options import ModelOptions, with_model_options
from reason.cli.serving import check_installed, open_service
from reason.errors import UsageError

__all__ = ["mcp"]


@exit_on_error()
@with_model_options
def mcp(
    model: options.Model = None,
    strategy: options.StrategyName = "best-of-n",
    setting: options.Settings = None,
    transport: Annotated[
        Literal["stdio", "http"], typer.Option(help="How the agent speaks to it; http is streamable HTTP at /mcp.")
    ] = "stdio",
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --transport http; 0 takes a free one.")] = 8011,
    api_key_file: options.ApiKeyFile = None,
    allow_origin: options.AllowOrigin = None,
    allow: options.Allow = None,
    max_running: options.MaxRunning = 8,
    max_queued: options.MaxQueued = 32,
    max_policy_tokens: options.MaxRequestTokens = 65536,
    max_seconds: options.MaxRequestSeconds = 600.0,
    grace: options.Grace = 10.0,
    loading: ModelOptions = ModelOptions(),  # noqa: B008
    unsafe_exec: options.UnsafeExec = False,
) -> None:
    """Serve the tools solve, verify and compare_answers to an agent."""
    check_installed("mcp")
    from reason.serve.limits import Limits
    from reason.serve.mcp_server import make_mcp_app, make_mcp_server
    from reason.serve.running import Server, bind, url_of
    from reason.serve.security import secure

    if transport == "stdio" and (host != "127.0.0.1" or api_key_file is not None or allow_origin):
        raise UsageError("--host, --api-key-file and --allow-origin go with --transport http")
    security = secure(host, api_key_file, allow_origin or ())
    limits = Limits(
        max_running=max_running, max_queued=max_queued, max_policy_tokens=max_policy_tokens, max_seconds=max_seconds
    )
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(bind(host, port)) if transport == "http" else None
        with contextlib.redirect_stdout(sys.stderr):  # standard output belongs to the protocol
            service = stack.enter_context(
                open_service(model, strategy=strategy, setting=setting, allow=allow, limits=limits, loading=loading)
            )
        if listening is None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # else it waits for the thread that reads standard input
            make_mcp_server(service).run("stdio")
            return
        listener = Server(make_mcp_app(service, security), service, grace_seconds=grace, lifespan=True)
        typer.echo(f"{service.engine.name} at {url_of(listening)}/mcp  (Ctrl-C ends it)", err=True)
        asyncio.run(listener.serve(sockets=[listening]))

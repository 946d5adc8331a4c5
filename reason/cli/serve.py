"""`reason serve`: the OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.model_options import ModelOptions, with_model_options
from reason.cli.serving import check_installed, open_service

__all__ = ["serve"]


@exit_on_error()
@with_model_options
def serve(
    model: options.Model = None,
    strategy: options.StrategyName = "best-of-n",
    setting: options.Settings = None,
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8010,
    api_key_file: options.ApiKeyFile = None,
    allow_origin: options.AllowOrigin = None,
    allow: options.Allow = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[=MODEL]",
            help="Another name for the model, or for reason/ets ..., that clients may use; can be repeated.",
            show_default="none",
        ),
    ] = None,
    max_running: options.MaxRunning = 8,
    max_queued: options.MaxQueued = 32,
    max_policy_tokens: options.MaxRequestTokens = 65536,
    max_seconds: options.MaxRequestSeconds = 600.0,
    max_kv_tokens: Annotated[
        int | None, typer.Option(help="At most so many KV tokens a search.", show_default="no limit")
    ] = None,
    max_calls: Annotated[
        int | None, typer.Option(help="At most so many expansions a search.", show_default="no limit")
    ] = None,
    max_body_bytes: Annotated[int, typer.Option(help="Size of a request.")] = 2 << 20,
    grace: options.Grace = 10.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="A line for each request, on standard error.")] = False,
    loading: ModelOptions = ModelOptions(),  # noqa: B008
    unsafe_exec: options.UnsafeExec = False,
) -> None:
    """Serve a model, and searches over it, to OpenAI's clients.

    The model's own name samples it plainly; reason/ets, reason/best-of-n:16 ... search; reason is --strategy.
    """
    check_installed("starlette", "uvicorn")
    from reason.serve.access import show_requests
    from reason.serve.app import make_app
    from reason.serve.limits import Limits
    from reason.serve.running import Server, bind, url_of
    from reason.serve.security import secure

    security = secure(host, api_key_file, allow_origin or ())
    limits = Limits(
        max_running=max_running,
        max_queued=max_queued,
        max_body_bytes=max_body_bytes,
        max_policy_tokens=max_policy_tokens,
        max_seconds=max_seconds,
        max_kv_tokens=max_kv_tokens,
        max_calls=max_calls,
    )
    with (
        bind(host, port) as listening,
        open_service(model, strategy=strategy, setting=setting, allow=allow, limits=limits, loading=loading) as service,
    ):
        for name in alias or ():
            service.add_alias(name)
        if verbose:
            show_requests()
        listener = Server(make_app(service, security), service, grace_seconds=grace)
        typer.echo(f"{service.engine.name} at {url_of(listening)}/v1  (Ctrl-C ends it)")
        asyncio.run(listener.serve(sockets=[listening]))

"""`reason serve`: the OpenAI-compatible server."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from reason.cli import options
from reason.cli.errors import exit_on_error
from reason.cli.serving import check_installed, open_service

__all__ = ["serve"]


@exit_on_error()
def serve(
    model: options.Model = None,
    strategy: options.StrategyName = "best-of-n",
    setting: options.Settings = None,
    host: options.Host = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8010,
    api_key_file: options.ApiKeyFile = None,
    allow_origin: options.AllowOrigin = None,
    allow: options.Allow = None,
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
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    kv_tokens: options.KvTokens = None,
    threads: options.Threads = None,
    draft: options.Draft = "auto",
    route: options.Route = None,
    plan: options.Plan = None,
    small_model: options.SmallModel = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    tokenizer: options.Tokenizer = None,
    server: options.Server = None,
    small_base_url: options.SmallBaseUrl = None,
    unsafe_exec: options.UnsafeExec = False,
) -> None:
    """Serve a model, and searches over it, to OpenAI's clients.

    The model's own name samples it plainly; reason/ets, reason/best-of-n:16 ... search; reason is --strategy.
    """
    check_installed("starlette", "uvicorn")
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
    load = {
        "device": device,
        "dtype": dtype,
        "quantize": quantize,
        "kv_tokens": kv_tokens,
        "threads": threads,
        "draft": draft,
        "route": route,
        "plan": plan,
        "small_model": small_model,
        "base_url": base_url,
        "api_key_env": api_key_env,
        "tokenizer": tokenizer,
        "server": server,
        "small_base_url": small_base_url,
    }
    with (
        bind(host, port) as listening,
        open_service(model, strategy=strategy, setting=setting, allow=allow, limits=limits, load=load) as service,
    ):
        listener = Server(make_app(service, security), service, grace_seconds=grace)
        typer.echo(f"{service.engine.name} at {url_of(listening)}/v1  (Ctrl-C ends it)")
        asyncio.run(listener.serve(sockets=[listening]))

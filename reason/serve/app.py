"""The OpenAI-compatible server's routes.

    POST /v1/chat/completions, /v1/completions, /v1/responses      GET /v1/models, /v1/models/NAME
    GET /health, /metrics, /openapi.json

A request is read and checked (``protocol``), gets a place among those that run or wait (``admission``), and is worked
on by the one engine that all of them share (``service``). Errors are told in the shape that OpenAI has (``failures``).
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router

from reason.serve.access import Access
from reason.serve.admission import Place
from reason.serve.bodies import read_body
from reason.serve.chat_tools import visible
from reason.serve.failures import ApiError, as_api_error
from reason.serve.openapi import schema
from reason.serve.protocol import Ask, read_chat, read_completion
from reason.serve.reading import Fields, read_object
from reason.serve.replies import Choice, Outcome, Reply
from reason.serve.responses_api import ResponseReply, read_response
from reason.serve.security import Security
from reason.serve.service import Sampled, Searched, Service
from reason.serve.streaming import ClientGone, EventStream, unless_gone

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["guarded", "make_app"]

_ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/models", "/health", "/metrics")
_OPEN = ("/health",)


def make_app(service: Service, security: Security) -> ASGIApp:
    """The server as an ASGI application."""
    handlers = _Handlers(service)
    routes = [
        Route("/v1/chat/completions", handlers.chat, methods=["POST"]),
        Route("/v1/completions", handlers.completion, methods=["POST"]),
        Route("/v1/responses", handlers.response, methods=["POST"]),
        Route("/v1/models", handlers.models),
        Route("/v1/models/{name:path}", handlers.model),
        Route("/health", handlers.health),
        Route("/metrics", handlers.metrics),
        Route("/openapi.json", handlers.openapi),
    ]
    return guarded(Router(routes, redirect_slashes=False), service, security)


def guarded(app: ASGIApp, service: Service, security: Security) -> ASGIApp:
    """An application behind the guard; what a browser asks before a page of an allowed origin may ask is answered."""
    guard = Guard(app, service, security)
    if not security.origins:
        return guard
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        guard,
        allow_origins=security.origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],  # clients have headers of their own: x-stainless-lang, mcp-protocol-version
        expose_headers=["Mcp-Session-Id", "Retry-After"],
    )


class Guard:
    """Around everything: who may ask, how much may be sent, what is counted, and how failures are told."""

    def __init__(self, app: ASGIApp, service: Service, security: Security) -> None:
        self._app = app
        self._service = service
        self._security = security

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 0
        access = Access(scope)

        async def counting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check(scope)
            # With an "app" in it, starlette raises that there is no such path instead of answering by itself.
            await self._app({**scope, "app": self, "state": access.state}, receive, counting)
        except ClientGone:
            status = 499  # nobody is there to read it; nginx's number for that
        except Exception as error:
            if status:  # the answer has begun
                raise
            told = _http_error(scope, error) if isinstance(error, HTTPException) else as_api_error(error)
            await _error(told)(scope, receive, counting)
        finally:
            path = scope["path"]
            route = path if path in _ROUTES else "/v1/models" if path.startswith("/v1/models/") else "other"
            method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
            self._service.metrics.count_request(method, route, status)
            access.end(status)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._security.check_names(headers.get("host", ""), headers.get("origin"))
        if scope["path"] not in _OPEN:
            self._security.check_key(headers.get("authorization"))


class _Handlers:
    def __init__(self, service: Service) -> None:
        self._service = service

    # -- small ones -------------------------------------------------------------------------------------------------

    async def health(self, request: Request) -> Response:
        closing = self._service.admission.closing
        return JSONResponse({"status": "shutting down" if closing else "ok"}, 503 if closing else 200)

    async def metrics(self, request: Request) -> Response:
        admission = self._service.admission
        text = self._service.metrics.text(self._service.engine, running=admission.running, queued=admission.queued)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    async def openapi(self, request: Request) -> Response:
        return JSONResponse(schema())

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [self._model(name) for name in self._service.models()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        self._service.check_model(name)
        return JSONResponse(self._model(name))

    def _model(self, name: str) -> dict[str, Any]:
        root = self._service.meant(name)
        return {"id": name, "object": "model", "created": self._service.began, "owned_by": "reason", "root": root}

    # -- those that work --------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Response | EventStream:
        ask = read_chat(await self._body(request))
        return await self._reply(request, Reply(model=ask.model, codec=self._service.engine.codec, chat=True), ask)

    async def completion(self, request: Request) -> Response | EventStream:
        ask = read_completion(await self._body(request))
        return await self._reply(request, Reply(model=ask.model, codec=self._service.engine.codec, chat=False), ask)

    async def _reply(self, request: Request, reply: Reply, ask: Ask) -> Response | EventStream:
        work, place = self._begin(request, ask)
        if not ask.stream:
            return JSONResponse(reply.whole(await self._whole(request, work, place)))
        events = self._sampled(reply, work, place) if isinstance(work, Sampled) else self._searched(reply, work, place)
        return self._stream(events, place)

    async def response(self, request: Request) -> Response | EventStream:
        ask = read_response(await self._body(request))
        work, place = self._begin(request, ask)
        reply = ResponseReply(ask=ask)
        if not ask.stream:
            return JSONResponse(reply.whole(await self._whole(request, work, place)))
        return self._stream(self._response_events(reply, work, place), place, failure=reply.failure)

    def _begin(self, request: Request, ask: Ask) -> tuple[Sampled | Searched, Place]:
        """The work that is asked for, and a place for it, which must be left."""
        request.state.model = ask.model
        work = self._service.prepare(ask)
        request.state.place = place = self._service.admission.enter()
        return work, place

    async def _whole(self, request: Request, work: Sampled | Searched, place: Place) -> Outcome:
        """The outcome in one piece; the place is left whatever happens."""
        try:
            return await unless_gone(request.receive, self._outcome(work, place))
        finally:
            place.leave()

    async def _outcome(self, work: Sampled | Searched, place: Place) -> Outcome:
        if isinstance(work, Searched):
            return await self._service.solve(work, place)
        choices: dict[int, Choice] = {}
        async with contextlib.aclosing(self._service.sample(work, place, live=False)) as written:
            async for step in written:
                if step.completion is not None:
                    choices[step.index] = self._service.choice(work, step.completion)
        return self._service.sampled(work, choices, place)

    def _stream(self, events: AsyncGenerator[bytes, None], place: Place, **options: Any) -> EventStream:
        limits = self._service.limits
        return EventStream(
            events,
            heartbeat_seconds=limits.heartbeat_seconds,
            stall_seconds=limits.stall_seconds,
            on_close=place.leave,
            **options,
        )

    # -- streams ----------------------------------------------------------------------------------------------------

    async def _sampled(self, reply: Reply, work: Sampled, place: Place) -> AsyncGenerator[bytes, None]:
        """The plain model's text while it is written."""
        count = len(work.requests)
        for data in reply.opening(count):
            yield data
        sent = [""] * count
        choices: dict[int, Choice] = {}
        async with contextlib.aclosing(self._service.sample(work, place, live=True)) as written:
            async for step in written:
                i = step.index
                if step.completion is None:
                    text = visible(step.text) if work.ask.offer.tools else step.text
                    if len(text) > len(sent[i]):
                        yield reply.piece(i, text[len(sent[i]) :])
                        sent[i] = text
                    continue
                choices[i] = self._service.choice(work, step.completion)
                if len(choices) < count:
                    for data in reply.closing(i, choices[i], choices[i].text[len(sent[i]) :]):
                        yield data
        outcome = self._service.sampled(work, choices, place)
        i = list(choices)[-1]
        for data in reply.closing(i, choices[i], choices[i].text[len(sent[i]) :], outcome):
            yield data
        for data in reply.ending(outcome, with_usage=work.ask.stream_usage):
            yield data

    async def _searched(self, reply: Reply, work: Searched, place: Place) -> AsyncGenerator[bytes, None]:
        """A search: lines about it, and the answer at the end."""
        for data in reply.opening(1):
            yield data
        async with contextlib.aclosing(self._service.follow(work, place)) as steps:
            async for step in steps:
                if isinstance(step, str):
                    if reply.chat:
                        yield reply.thought(f"{step}\n")
                    continue
                (choice,) = step.choices
                for data in reply.closing(0, choice, choice.text, step):
                    yield data
                for data in reply.ending(step, with_usage=work.ask.stream_usage):
                    yield data

    async def _response_events(
        self, reply: ResponseReply, work: Sampled | Searched, place: Place
    ) -> AsyncGenerator[bytes, None]:
        for data in reply.opening():
            yield data
        if isinstance(work, Searched):
            async with contextlib.aclosing(self._service.follow(work, place)) as steps:
                async for news in steps:
                    if isinstance(news, str):
                        told = reply.thought(f"{news}\n")
                    else:
                        told = reply.closing(news, news.choices[0].text)
                    for data in told:
                        yield data
            return
        sent = ""
        choices: dict[int, Choice] = {}
        async with contextlib.aclosing(self._service.sample(work, place, live=True)) as written:
            async for step in written:
                if step.completion is not None:
                    choices[step.index] = self._service.choice(work, step.completion)
                    continue
                text = visible(step.text) if work.ask.offer.tools else step.text
                if len(text) > len(sent):
                    for data in reply.piece(text[len(sent) :]):
                        yield data
                    sent = text
        outcome = self._service.sampled(work, choices, place)
        for data in reply.closing(outcome, outcome.choices[0].text[len(sent) :]):
            yield data

    # -- bodies -----------------------------------------------------------------------------------------------------

    async def _body(self, request: Request) -> Fields:
        """The request's JSON object.

        Raises:
            ApiError: it is of another type, too large, or not a JSON object.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise ApiError(415, f"the body must have Content-Type: application/json, not {kind[:60]!r}")
        body = await read_body(request.scope, request.receive, self._service.limits)
        return Fields(read_object(body))


def _error(error: ApiError) -> Response:
    return JSONResponse(error.body(), error.status, error.headers)


def _http_error(scope: Scope, error: HTTPException) -> ApiError:
    """Starlette's own: no such path, or not with this method."""
    path = scope["path"][:200]
    meant = f"did you mean /v1{path}? A base URL here ends in /v1" if f"/v1{path}" in _ROUTES else "see /openapi.json"
    message = {
        404: f"there is nothing at {path}; {meant}",
        405: f"{scope['method'][:20]} is not allowed at {path}; see /openapi.json",
    }.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=dict(error.headers or {}))

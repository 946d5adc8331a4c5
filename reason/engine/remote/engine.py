"""``RemoteEngine``: a model behind an OpenAI-compatible server.

One thread owns the connections; any number of event loops and threads may ask it. Each request is one streamed HTTP
request, which ends when its caller closes the iterator: the server then ends the work. What requests share is computed
once if the server keeps prefixes, and the order in which they are sent helps it to (see ``turnstile``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reason.engine.codec import HubCodec
from reason.engine.finishing import as_finished
from reason.engine.remote.address import API_KEY_ENV, Address
from reason.engine.remote.asking import body_of, check_request
from reason.engine.remote.assembling import assemble, find_stop
from reason.engine.remote.connection import Connection, Retry
from reason.engine.remote.loop_thread import LoopThread
from reason.engine.remote.pieces import PieceCodec
from reason.engine.remote.probing import Server, probe
from reason.engine.remote.reply import Reply
from reason.engine.remote.scoring import read_scores, scoring_body
from reason.engine.remote.turnstile import Turnstile
from reason.errors import EngineClosed, ServerError, UsageError
from reason.types import Capabilities, Completion, Path, Request, Scored, TextCodec, Usage

__all__ = ["RemoteEngine", "ServerStats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStats:
    """What a server was asked and what it says it did: requests that it answered, attempts that were made again, and
    tokens as it counts them. ``cached_tokens`` are those of the prompts that it had computed before; None if it never
    says."""

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    cached_tokens: int | None = None
    completion_tokens: int = 0


class RemoteEngine:
    """See the module's docstring and ``reason.types.Engine``. The server is asked what it is and can when one is made.

    With a tokenizer paths are the model's tokens, sent to the completions API as they are. Without one they are pieces
    of text (see ``pieces``) and go to the chat API. Hidden states and figures over whole rows stay on the server, and a
    seed means what the server makes of it. Of the ledger the engine knows tokens and calls: forwards and KV are the
    server's, and are 0.

    Args:
        address: the server, or its base_url.
        model: the name that the server has for it; None if it has only one.
        tokenizer, api_key_env, server: see ``Address``; for a base_url.
        name: what the user calls the model; the server's name by default.
        max_concurrent: requests under way at once.
        timeout: seconds of silence after which a request has failed.
        retries: attempts beside the first, where a failure may pass.
        backoff: seconds before the second attempt, doubled for each one after it.
        codec: instead of a tokenizer by name.
        transport: instead of the network; an ``httpx.AsyncBaseTransport``.

    Raises:
        UsageError: the server has no such model, or cannot be used like this.
        ServerError: it cannot be reached, or fails.
    """

    def __init__(
        self,
        address: Address | str,
        model: str | None = None,
        *,
        tokenizer: str | None = None,
        api_key_env: str = API_KEY_ENV,
        server: str = "auto",
        name: str | None = None,
        max_concurrent: int = 64,
        timeout: float = 300.0,
        retries: int = 5,
        backoff: float = 0.5,
        codec: HubCodec | None = None,
        transport: Any = None,
    ) -> None:
        if isinstance(address, str):
            address = Address(base_url=address, tokenizer=tokenizer, api_key_env=api_key_env, server=server)
        if max_concurrent < 1 or retries < 0 or not timeout > 0 or not backoff >= 0:
            raise UsageError("max_concurrent must be at least 1, timeout more than 0, retries and backoff at least 0")
        if codec is None and address.tokenizer is not None:
            codec = _load_codec(address.tokenizer)
        self._codec: HubCodec | PieceCodec = codec or PieceCodec()
        self._connection = Connection(
            address, timeout=timeout, retries=retries, backoff=backoff, limit=max_concurrent, transport=transport
        )
        self._turnstile = Turnstile(max_concurrent)
        self._usage: dict[str, Usage] = {}
        self._progress: dict[str, dict[int, str]] = {}
        self._stats = ServerStats()
        self._closed = False
        self._thread = LoopThread(address.host)
        sample = None if codec is None else codec.encode("Hello, world")
        try:
            self.server: Server = self._thread.call(probe(self._connection, model, sample=sample))
        except BaseException:
            self.close()
            raise
        self._name = name or model or self.server.model

    def __repr__(self) -> str:
        return f"RemoteEngine({self._connection.address.url!r}, {self._name!r})"

    # -- the Engine protocol ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def codec(self) -> TextCodec:
        return self._codec

    @property
    def capabilities(self) -> Capabilities:
        """What the server tells."""
        return self.server.capabilities

    @property
    def max_positions(self) -> int | None:
        """The longest path in tokens, prompt and completion together, where that is known."""
        return self.server.max_positions if self.server.ids else None

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        self._check_open()
        answers = [
            asyncio.wrap_future(self._thread.submit(self._answer(request, i))) for i, request in enumerate(requests)
        ]
        async with as_finished(answers) as finished:
            for answer in finished:
                yield await answer

    async def score(
        self,
        paths: Sequence[Path],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        self._check_open()
        for path in paths:
            if not 0 <= start < len(path):
                raise UsageError(f"start must be in [0, {len(path)}), got {start}")
        if layers:
            raise UsageError(f"the server of {self._name} tells no hidden states, as a local model does")
        if logprobs and not self.capabilities.score:
            raise UsageError(self._no_score())
        import torch

        if not logprobs:
            return [Scored(logprobs=torch.zeros(0)) for _ in paths]
        answers = [asyncio.wrap_future(self._thread.submit(self._score(path, start, owner))) for path in paths]
        try:
            found = await asyncio.gather(*answers)
        except asyncio.CancelledError:
            self._check_open()  # not the caller who gave up, but the engine
            raise
        finally:
            for pending in answers:
                pending.cancel()
        return [Scored(logprobs=torch.tensor(values, dtype=torch.float32)) for values in found]

    def usage(self, owner: str) -> Usage:
        return replace(self._usage.get(owner, Usage()))

    def forget(self, owner: str) -> None:
        self._usage.pop(owner, None)
        self._progress.pop(owner, None)

    def progress(self, owner: str) -> Mapping[int, str]:
        return dict(self._progress.get(owner, {}))

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._thread.call(self._cancel_all())
        self._thread.close()

    # -- for status pages and tests ----------------------------------------------------------------------------------

    def stats(self) -> ServerStats:
        """What the server did for this engine so far."""
        return replace(self._stats, retries=self._connection.retried)

    # -- in the thread -----------------------------------------------------------------------------------------------

    async def _answer(self, request: Request, index: int) -> Completion:
        row = self._usage.setdefault(request.owner, Usage())
        row.calls += 1
        reply = Reply()
        try:
            check_request(request, self.server, self._codec)
            body = body_of(request, self.server, self._codec)
            await self._turnstile.enter(request.prefix)
            try:
                reply = await self._connection.again(lambda: self._attempt(request, body))
            finally:
                self._turnstile.leave(request.prefix)
        except asyncio.CancelledError:
            if not self._closed:
                raise
            return Completion(index=index, token_ids=(), text="", finish_reason="cancelled")
        except Exception as error:  # the request's own: the others go on
            return Completion(index=index, token_ids=(), text="", finish_reason="error", error=error)
        finally:
            self._progress.get(request.owner, {}).pop(request.key, None)
        done = assemble(reply, request, index, self._codec)
        self._turnstile.warm(request.prefix + done.token_ids)
        row.policy_tokens += len(done.token_ids)
        row.prompt_tokens = row.prompt_tokens or reply.prompt_tokens or 0
        self._count(reply)
        return done

    async def _attempt(self, request: Request, body: dict[str, Any]) -> Reply:
        """One HTTP request, read until it ends or has said a stop string that the server does not know of."""
        reply = Reply()
        own = self.server.api == "llama.cpp"
        path = {"completions": "/completions", "chat": "/chat/completions", "llama.cpp": "/completion"}[self.server.api]
        url = (self._connection.address.root if own else self._connection.address.url) + path
        texts = self._progress.setdefault(request.owner, {})
        async with contextlib.aclosing(self._connection.events(url, body)) as events:
            async for event in events:
                begun = reply.count > 0
                reply.add(event)
                if not begun and reply.count:
                    self._turnstile.warm(request.prefix)
                texts[request.key] = reply.text
                if self._stop_here(request, reply):
                    return reply
        if reply.finish_reason is None:
            raise Retry(ServerError(f"{self._connection.address.host} ended an answer in its middle"))
        if reply.finish_reason in ("abort", "error"):
            raise Retry(ServerError(f"{self._connection.address.host} gave an answer up ({reply.finish_reason})"))
        if reply.finish_reason == "content_filter":
            raise ServerError(f"{self._connection.address.host} held an answer back (content_filter)")
        return reply

    def _stop_here(self, request: Request, reply: Reply) -> bool:
        """Looks for what ends a completion where the server does not; a reply that it finds it in is over."""
        if request.stop_token_ids and self.server.tells_ids and "stop_token_ids" not in self.server.family.takes:
            for place, token in enumerate(reply.token_ids):
                if token in request.stop_token_ids:
                    del reply.token_ids[place + 1 :]
                    reply.stopped_on, reply.finish_reason, reply.completion_tokens = token, "stop", None
                    return True
        if self.server.tells_stop or not request.stop:
            return False
        found = find_stop(reply.text, request.stop)
        if found is None:
            return False
        if reply.finish_reason is None:  # the count would come at the end
            reply.completion_tokens = None
        reply.stopped_on, reply.finish_reason = found, "stop"
        return True

    async def _score(self, path: Path, start: int, owner: str) -> list[float]:
        body = scoring_body(self.server.family, self.server.model, path)
        assert body is not None
        await self._turnstile.enter(path)
        try:
            answer = await self._connection.post(f"{self._connection.address.url}/completions", body)
        finally:
            self._turnstile.leave(path)
        values = read_scores(answer, path, start)
        self._usage.setdefault(owner, Usage()).verifier_tokens += len(path) - start
        return values

    def _count(self, reply: Reply) -> None:
        before = self._stats
        cached = reply.cached_tokens
        self._stats = replace(
            before,
            requests=before.requests + 1,
            prompt_tokens=before.prompt_tokens + (reply.prompt_tokens or 0),
            completion_tokens=before.completion_tokens + reply.count,
            cached_tokens=before.cached_tokens if cached is None else (before.cached_tokens or 0) + cached,
        )

    async def _cancel_all(self) -> None:
        """Ends what is under way, and the connections."""
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._connection.close()

    def _check_open(self) -> None:
        if self._closed:
            raise EngineClosed(f"the engine of {self._name} is closed")

    def _no_score(self) -> str:
        if isinstance(self._codec, PieceCodec):
            what = "without the model's tokenizer (tokenizer, --tokenizer)"
        else:
            what = f"by this kind of server ({self.server.family.name})"
        return (
            f"log-probabilities of a given text are not told {what}: {self._name} can be no judge; verifiers that read "
            "what was recorded (logprob) or ask in words (value-prompt) work, and so do models of their own (prm)"
        )


def _load_codec(tokenizer: str) -> HubCodec:
    """The tokenizer of a catalogue model, of a folder or of a hub repository, whose weights are not fetched.

    Raises:
        ReasonError: it cannot be had.
    """
    from reason.engine.loading import load_codec
    from reason.models.load import resolve_tokenizer

    return load_codec(resolve_tokenizer(tokenizer))

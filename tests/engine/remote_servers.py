"""A small server that answers as vLLM, SGLang, llama.cpp, ``transformers serve`` or a chat-only provider would, and
that can be slow, refuse, break off and hang."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from reason.engine.codec import HubCodec

__all__ = ["FakeServer", "running"]

Script = Callable[[str], Sequence[str]]

_MARKS = {"vllm": "vllm", "sglang": "sglang", "llama.cpp": "llamacpp", "transformers": "someone", "openai": "system"}


class FakeServer:
    """Plays a script: the text so far gives continuations, of which the seed picks one.

    Args:
        kind: whose behaviour it has.
        codec: the model's tokenizer; without one its tokens are three characters long.
        chat, completions: the APIs that it has.
        logprobs: whether it tells them.
        delay: seconds before each token.
        failures: what the next requests get instead of an answer, a response or "break" in the middle of one, in order.
        key: what it asks for.
    """

    def __init__(
        self,
        script: Script | Sequence[str],
        *,
        kind: str = "vllm",
        codec: HubCodec | None = None,
        chat: bool = True,
        completions: bool = True,
        logprobs: bool = True,
        delay: float = 0.0,
        key: str | None = None,
        max_model_len: int | None = 4096,
    ) -> None:
        self.script: Script = script if callable(script) else lambda text: script
        self.kind, self.codec, self.delay, self.key = kind, codec, delay, key
        self.logprobs = logprobs
        self.failures: list[Response | str] = []
        self.bodies: list[dict[str, Any]] = []
        self.active = self.most_active = self.aborted = 0
        self.held = False  # answers have begun and say nothing
        self.max_model_len = max_model_len
        routes = [Route("/v1/models", self._models)]
        if chat:
            routes.append(Route("/v1/chat/completions", self._chat, methods=["POST"]))
        if completions:
            routes.append(Route("/v1/completions", self._completions, methods=["POST"]))
        if kind == "llama.cpp":
            routes += [Route("/completion", self._own, methods=["POST"]), Route("/props", self._props)]
        self.app = Starlette(routes=routes)

    def asked(self) -> list[dict[str, Any]]:
        """The bodies that were streamed: all but those of the first look at the server."""
        return [body for body in self.bodies if body.get("stream")]

    # -- the model ---------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        if self.codec is None:
            return [ord(text[i]) for i in range(0, len(text), 3)]
        return list(self.codec.encode(text))

    def _pieces(self, text: str) -> list[str]:
        if self.codec is None:
            return [text[i : i + 3] for i in range(0, len(text), 3)]
        return [self.codec.backend.decode([token], skip_special_tokens=False) for token in self.codec.encode(text)]

    def logprob(self, piece: str) -> float:
        return -0.1 * (1 + len(piece))

    def _play(self, text: str, body: dict[str, Any], most: int) -> tuple[list[str], str, str | None]:
        """The pieces, why they end, and the stop string."""
        said = self.script(text)
        told = json.loads(body.get("generation_config", "{}"))
        draws = told.get("do_sample", False) if self.kind == "transformers" else body.get("temperature") != 0
        chosen = said[body.get("seed", 0) % len(said) if draws else 0]
        pieces = self._pieces(chosen)
        if len(pieces) >= most:  # the end of the turn is a token, too
            return pieces[:most], "length", None
        for count in range(1, len(pieces) + 1):
            whole = "".join(pieces[:count])
            for stop in body.get("stop") or ():
                if stop in whole:
                    return pieces[:count], "stop", stop
        return pieces, "stop", None

    # -- its APIs ----------------------------------------------------------------------------------------------------

    async def _models(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        card = {"id": "served", "object": "model", "owned_by": _MARKS[self.kind]}
        if self.max_model_len is not None and self.kind in ("vllm", "sglang"):
            card["max_model_len"] = self.max_model_len  # type: ignore[assignment]
        return JSONResponse({"object": "list", "data": [card]})

    async def _props(self, request: Request) -> Response:
        return JSONResponse({"build_info": "b1", "default_generation_settings": {"n_ctx": self.max_model_len}})

    def _refusal(self, request: Request) -> Response | None:
        if self.key is None or request.headers.get("authorization") == f"Bearer {self.key}":
            return None
        told = request.headers.get("authorization", "nothing")
        return JSONResponse({"error": {"message": f"Incorrect API key provided: {told}"}}, status_code=401)

    async def _begin(self, request: Request) -> dict[str, Any] | Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        if body.get("stream") and self.failures and not isinstance(self.failures[0], str):
            failure = self.failures.pop(0)
            assert isinstance(failure, Response)
            return failure
        unknown = {"top_k", "min_p", "stop_token_ids", "return_token_ids"} & set(body)
        if self.kind in ("openai", "transformers") and unknown:
            return JSONResponse({"detail": f"Unexpected fields in the request: {unknown}"}, status_code=422)
        if not self.logprobs and body.get("logprobs"):
            return JSONResponse({"error": {"message": "logprobs are not supported"}}, status_code=400)
        return body

    async def _completions(self, request: Request) -> Response:
        body = await self._begin(request)
        if isinstance(body, Response):
            return body
        prompt = body["prompt"]
        if isinstance(prompt, list):
            if self.kind in ("transformers", "openai"):
                return JSONResponse({"detail": "prompt must be a string."}, status_code=400)
            assert self.codec is not None
            text = self.codec.backend.decode(prompt, skip_special_tokens=False)
        else:
            text, prompt = prompt, self.encode(prompt)
        if body.get("echo") or body.get("prompt_logprobs") is not None:
            return self._echo(prompt, body)
        return await self._answer(text, len(prompt), body, "text")

    async def _chat(self, request: Request) -> Response:
        body = await self._begin(request)
        if isinstance(body, Response):
            return body
        messages = body["messages"]
        text = "".join(f"<{each['role']}>{each['content']}" for each in messages)
        goes_on = messages[-1]["role"] == "assistant" and (
            body.get("continue_final_message") if self.kind in ("vllm", "sglang") else self.kind == "llama.cpp"
        )
        if not goes_on:
            text += "<assistant>"
        return await self._answer(text, len(self.encode(text)), body, "chat")

    async def _own(self, request: Request) -> Response:
        body = await self._begin(request)
        if isinstance(body, Response):
            return body
        assert self.codec is not None
        text = self.codec.backend.decode(body["prompt"], skip_special_tokens=False)
        return await self._answer(text, len(body["prompt"]), body | {"max_tokens": body["n_predict"]}, "own")

    def _echo(self, prompt: list[int], body: dict[str, Any]) -> Response:
        values = [None, *(-0.01 * token for token in prompt[1:])]
        if body.get("prompt_logprobs") is not None:
            rows = [
                None if value is None else {str(token): {"logprob": value}}
                for token, value in zip(prompt, values, strict=True)
            ]
            return JSONResponse({"choices": [{"text": "x", "prompt_logprobs": rows, "stop_reason": None}]})
        names = [str(token) for token in prompt]
        told = {"tokens": [*names, "x"], "token_logprobs": [*values, -1.0]}
        return JSONResponse({"choices": [{"text": "x", "logprobs": told, "matched_stop": None}]})

    async def _answer(self, text: str, prompt_tokens: int, body: dict[str, Any], form: str) -> Response:
        most = body.get("max_tokens", body.get("max_completion_tokens", 16))
        pieces, reason, stop = self._play(text, body, most)
        usage = {"prompt_tokens": prompt_tokens, "completion_tokens": len(pieces) + (reason == "stop" and stop is None)}
        usage["prompt_tokens_details"] = {"cached_tokens": prompt_tokens // 2}  # type: ignore[assignment]
        shown = "".join(pieces)
        if stop is not None:
            shown = shown[: shown.find(stop)]
        end = {"stop_reason": stop} if self.kind == "vllm" else {"matched_stop": stop} if self.kind == "sglang" else {}
        if not body.get("stream"):
            events = [self._event(pieces, shown, body, form)]
            self._end(events[0], reason, end, stop, form)
            return JSONResponse(events[0] | {"usage": usage})

        async def stream() -> AsyncIterator[str]:
            self.active += 1
            self.most_active = max(self.most_active, self.active)
            done = False
            try:
                left = shown
                for place, each in enumerate(pieces):
                    await asyncio.sleep(self.delay)
                    while self.held:
                        await asyncio.sleep(0.01)
                    if place == 1 and self.failures and self.failures[0] == "break":
                        self.failures.pop(0)
                        done = True
                        return
                    event = self._event([each], left[: len(each)], body, form)
                    left = left[len(each) :]
                    yield f"data: {json.dumps(event)}\n\n"
                last = self._event([], "", body, form)
                self._end(last, reason, end, stop, form)
                if form == "own":
                    last |= {"tokens_predicted": len(pieces), "tokens_evaluated": prompt_tokens}
                    last |= {"timings": {"cache_n": prompt_tokens // 2}}
                yield f"data: {json.dumps(last)}\n\n"
                if form != "own":
                    yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\ndata: [DONE]\n\n"
                done = True
            finally:
                self.active -= 1
                self.aborted += not done

        return StreamingResponse(stream(), media_type="text/event-stream")

    def _event(self, pieces: list[str], shown: str, body: dict[str, Any], form: str) -> dict[str, Any]:
        ids = [token for each in pieces for token in self.encode(each)]
        wanted = self.logprobs and self.kind != "transformers"
        rows = [self._row(each) for each in pieces]
        if form == "own":
            told = {"completion_probabilities": rows} if body.get("n_probs") else {}
            return {"content": shown, "tokens": ids, "stop": False, **told}
        choice: dict[str, Any] = {"index": 0, "finish_reason": None}
        if form == "chat":
            choice["delta" if body.get("stream") else "message"] = {"role": "assistant", "content": shown}
            if wanted and body.get("logprobs"):
                choice["logprobs"] = {"content": rows}
            return {"choices": [choice]}
        choice["text"] = shown
        if body.get("return_token_ids"):
            choice["token_ids"] = ids
        if wanted and body.get("logprobs") is not None:
            names = [row["token"] for row in rows]
            if body.get("return_tokens_as_token_ids"):
                names = [f"token_id:{token}" for token in ids]
            tops = [{name: row["logprob"], "other": row["logprob"] - 1} for name, row in zip(names, rows, strict=False)]
            values = [row["logprob"] for row in rows]
            choice["logprobs"] = {"tokens": names, "token_logprobs": values, "top_logprobs": tops}
        return {"choices": [choice]}

    def _row(self, piece: str) -> dict[str, Any]:
        value = self.logprob(piece)
        mine = {"token": piece, "bytes": list(piece.encode()), "logprob": value}
        if self.kind == "llama.cpp" and self.codec is not None:
            mine["id"] = self.encode(piece)[0]
        other = {"token": "other", "bytes": list(b"other"), "logprob": value - 1}
        return mine | {"top_logprobs": [mine, other]}

    def _end(self, event: dict[str, Any], reason: str, end: dict[str, Any], stop: str | None, form: str) -> None:
        if form == "own":
            kind = "word" if stop else "limit" if reason == "length" else "eos"
            event |= {"stop": True, "stop_type": kind, "stopping_word": stop or ""}
        else:
            event["choices"][0] |= {"finish_reason": reason, **end}


@contextlib.contextmanager
def running(app: Any) -> Iterator[str]:
    """An app behind a port of this machine; its address."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    try:
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)

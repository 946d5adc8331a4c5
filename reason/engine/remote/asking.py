"""A ``Request`` as a body for a server's API."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reason.engine.remote.families import extra_fields
from reason.engine.remote.pieces import PieceCodec, chat_of
from reason.engine.remote.probing import Server
from reason.errors import OutOfKV, UsageError
from reason.types import Path, Request, ToolMessage

if TYPE_CHECKING:
    from reason.engine.codec import HubCodec

__all__ = ["body_of", "check_request"]

_PIECE_TOKENS = 8  # of a stream: each piece costs the server and us about as much, whatever is in it


def check_request(request: Request, server: Server, codec: HubCodec | PieceCodec) -> None:
    """Refuses what cannot be asked of this server.

    Raises:
        UsageError: says what, and what can.
        OutOfKV: the prompt is longer than the server takes.
    """
    sampling = request.sampling
    rules = {
        "a request needs a prefix of at least one token": len(request.prefix) > 0,
        f"max_tokens must be at least 1, got {request.max_tokens}": request.max_tokens >= 1,
        "a stop string must not be empty": all(request.stop),
        f"temperature must be at least 0, got {sampling.temperature}": 0 <= sampling.temperature < math.inf,
        f"top_p must be in (0, 1], got {sampling.top_p}": 0 < sampling.top_p <= 1,
        f"top_k must be at least 0, got {sampling.top_k}": sampling.top_k >= 0,
        f"min_p must be in [0, 1], got {sampling.min_p}": 0 <= sampling.min_p <= 1,
        f"logprobs must be None or at least 0, got {sampling.logprobs}": (sampling.logprobs or 0) >= 0,
        "a server runs no processors of ours; use a local model": not sampling.processors,
        "a server tells no hidden states, which probes read; use a local model": not (request.probes or request.states),
        "a server tells no figures over whole rows (entropy, self-certainty); use a verifier such as logprob, or a "
        "local model": not sampling.statistics,
        "this server tells no log-probabilities; use a verifier that needs none, such as agreement": (
            sampling.logprobs is None or server.logprobs
        ),
        "stop_token_ids are the model's, whose tokenizer is not known here: name it (tokenizer, --tokenizer)": (
            not (request.stop_token_ids and isinstance(codec, PieceCodec))
        ),
    }
    if broken := [rule for rule, kept in rules.items() if not kept]:
        raise UsageError(broken[0])
    if server.ids and server.max_positions is not None and len(request.prefix) >= server.max_positions:
        raise OutOfKV(
            f"the prompt has {len(request.prefix)} tokens; the server takes {server.max_positions}, the answer included"
        )


def body_of(request: Request, server: Server, codec: HubCodec | PieceCodec) -> dict[str, Any]:
    """The body of a checked request.

    Raises:
        UsageError: the server has no way to do this.
    """
    sampling, own = request.sampling, server.api == "llama.cpp"
    most = request.max_tokens
    if server.ids and server.max_positions is not None:
        most = min(most, server.max_positions - len(request.prefix))
    body: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": _seed(request, server.family.seed_bits),
        "stream": True,
        "n_predict" if own else server.limit_field: most,
    }
    if server.family.interval is not None:
        body[server.family.interval] = _PIECE_TOKENS
    looked_for_here = server.tells_ids and "stop_token_ids" not in server.family.takes
    stop_tokens = () if looked_for_here else request.stop_token_ids
    body |= extra_fields(server.family, sampling, stop_token_ids=stop_tokens, ignore_eos=request.ignore_eos)
    if server.tells_stop and request.stop:
        body["stop"] = list(request.stop)
    if own:
        body |= {"prompt": list(request.prefix), "return_tokens": True, "cache_prompt": True}
        return body if sampling.logprobs is None else body | {"n_probs": max(1, sampling.logprobs)}
    body["model"] = server.model
    if server.family.name != "transformers":  # which counts without being asked
        body["stream_options"] = {"include_usage": True}
    if server.api == "chat":
        return body | _chat(request, server)
    body |= {"prompt": list(request.prefix) if server.ids else _text(request.prefix, codec)}
    if server.family.name in ("vllm", "sglang"):
        body["return_token_ids"] = True
    if server.family.name == "vllm":
        body |= {"add_special_tokens": False, "return_tokens_as_token_ids": True}
    if sampling.logprobs is not None:
        body["logprobs"] = max(1, _top(request, server))  # to some servers 0 is none
    return body


def _chat(request: Request, server: Server) -> dict[str, Any]:
    messages, tools = chat_of(request.prefix)
    body: dict[str, Any] = {}
    if messages and messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        messages.pop()
    elif messages and messages[-1]["role"] == "assistant":
        if server.continuing == "none":
            raise UsageError(
                f"the chat API of this server ({server.family.name}) does not go on with a text that has begun, so it "
                "serves strategies that sample whole solutions (best-of-n); steps need a completions API and the "
                "model's tokenizer (--tokenizer), or a server such as vLLM, SGLang or llama.cpp"
            )
        if server.continuing == "fields":
            body = {"continue_final_message": True, "add_generation_prompt": False}
    if request.sampling.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": _top(request, server)}
    if tools:
        body["tools"] = tools
    return {"messages": [_told(message) for message in messages], **body}


def _told(message: ToolMessage) -> dict[str, Any]:
    """A message as chat APIs want it: the arguments of calls are JSON text."""
    if "tool_calls" not in message:
        return dict(message)
    calls = [{**call, "function": _with_text(call["function"])} for call in message["tool_calls"]]
    return {**message, "content": message["content"] or None, "tool_calls": calls}


def _with_text(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function["arguments"]
    return {**function, "arguments": arguments if isinstance(arguments, str) else json.dumps(arguments)}


def _text(prefix: Path, codec: HubCodec | PieceCodec) -> str:
    """A prompt for servers that take text. What they put before every text themselves is left out."""
    if isinstance(codec, PieceCodec):
        messages, tools = chat_of(prefix)
        if tools or any("tool_calls" in message for message in messages):
            raise UsageError(
                "tools stand in the model's own chat template: give its tokenizer (tokenizer, --tokenizer), or use a "
                "server that has a chat API"
            )
        return "\n\n".join(message["content"] for message in messages)
    text = str(codec.backend.decode(list(prefix), skip_special_tokens=False))
    tokenizer = codec.tokenizer
    begin, number = tokenizer.bos_token, tokenizer.bos_token_id
    if begin and text.startswith(begin) and tokenizer("a")["input_ids"][:1] == [number]:
        text = text[len(begin) :]
    return text


def _top(request: Request, server: Server) -> int:
    """How many of the likeliest tokens to ask for: as many as the server tells."""
    wanted = request.sampling.logprobs or 0
    most = server.capabilities.top_logprobs
    return wanted if most is None else min(wanted, most)


def _seed(request: Request, bits: int) -> int:
    """One number of a request's seed and key, and of where it begins, so that a solution's parts differ."""
    text = f"{request.seed}:{request.key}:{len(request.prefix)}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % (1 << bits)

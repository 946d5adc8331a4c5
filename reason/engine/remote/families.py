"""What servers speak beside OpenAI's API: which fields they take, what they tell, and how they go on with a text.

Learnt from their documentation and sources: vLLM (docs.vllm.ai, completion/protocol.py), SGLang (docs.sglang.io,
entrypoints/openai/protocol.py), llama.cpp (tools/server/README.md), ``transformers serve``
(transformers/cli/serving/completion.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reason.errors import UsageError
from reason.types import Sampling

__all__ = ["FAMILIES", "Family", "extra_fields"]

Scoring = Literal["prompt_logprobs", "echo"]
Continuing = Literal["fields", "prefill", "none"]
"""How a chat API goes on with the assistant's last message: asked by fields (``continue_final_message``); of itself,
where that message is the last; or not at all."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Args:
    takes: fields of ``Sampling`` and ``Request`` that OpenAI's API lacks (or that this family does not lack), by the
        name that the server has for them.
    grammars: of "json_schema", "regex" and "lark" those that it constrains its output by.
    takes_ids: prompts may be lists of token ids.
    tells_stop: it says which stop string ended a completion; of the others stop strings are looked for here.
    tells_stop_in_chat: the same of its chat API.
    top_logprobs: the most a token that it tells; None is any number.
    scoring: how it tells log-probabilities of a given text, if it does.
    continuing: how its chat API goes on; None has to be found out.
    seed_bits: of the seeds that it takes.
    gathered: a field that takes those of ``takes`` together, as JSON; None takes each by itself.
    interval: a field that takes how many tokens a piece of a stream has; None sends them as it likes.
    """

    name: str
    takes: Mapping[str, str] = field(default_factory=dict)
    grammars: tuple[str, ...] = ()
    takes_ids: bool = False
    tells_stop: bool = False
    tells_stop_in_chat: bool = False
    top_logprobs: int | None = 20
    scoring: Scoring | None = None
    continuing: Continuing | None = None
    seed_bits: int = 63
    gathered: str | None = None
    interval: str | None = None


_OPENAI = {"presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty"}
_MOST = {
    **_OPENAI,
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "stop_token_ids": "stop_token_ids",
    "ignore_eos": "ignore_eos",
}

FAMILIES: dict[str, Family] = {
    "vllm": Family(
        name="vllm",
        takes=_MOST,
        grammars=("json_schema", "regex", "lark"),
        takes_ids=True,
        tells_stop=True,
        tells_stop_in_chat=True,
        scoring="prompt_logprobs",
        continuing="fields",
        interval="stream_interval",
    ),
    "sglang": Family(
        name="sglang",
        takes=_MOST,
        grammars=("json_schema", "regex"),
        takes_ids=True,
        tells_stop=True,
        tells_stop_in_chat=True,
        top_logprobs=None,
        scoring="echo",
        continuing="fields",
    ),
    "llama.cpp": Family(
        name="llama.cpp",
        takes={
            **_OPENAI,
            "top_k": "top_k",
            "min_p": "min_p",
            "repetition_penalty": "repeat_penalty",
            "ignore_eos": "ignore_eos",
        },
        grammars=("json_schema",),
        takes_ids=True,
        tells_stop=True,
        top_logprobs=None,
        continuing="prefill",
        seed_bits=31,
    ),
    "transformers": Family(
        name="transformers",
        takes={"top_k": "top_k", "min_p": "min_p", "repetition_penalty": "repetition_penalty"},
        continuing="none",
        gathered="generation_config",
    ),
    "openai": Family(name="openai", takes=_OPENAI, grammars=("json_schema",), scoring="echo"),
}
"""By name; "openai" is every server of which nothing more is known."""

_NEUTRAL: dict[str, Any] = {
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "stop_token_ids": (),
    "ignore_eos": False,
}
_ALWAYS = ("top_k", "min_p", "repetition_penalty")
"""Sent whatever they are, because servers take a model's own recommendations where nothing is said."""


def extra_fields(
    family: Family, sampling: Sampling, *, stop_token_ids: tuple[int, ...] = (), ignore_eos: bool = False
) -> dict[str, Any]:
    """The fields of a request's body that say what OpenAI's API has no standard fields for.

    Raises:
        UsageError: the server has none for it either.
    """
    wanted = {name: getattr(sampling, name, None) for name in _NEUTRAL}
    wanted |= {"stop_token_ids": stop_token_ids, "ignore_eos": ignore_eos}
    body: dict[str, Any] = {}
    for name, value in wanted.items():
        if name in family.takes:
            if value != _NEUTRAL[name] or name in _ALWAYS:
                body[family.takes[name]] = _sent(family, name, value)
        elif value != _NEUTRAL[name]:
            able = [other.name for other in FAMILIES.values() if name in other.takes]
            raise UsageError(
                f"{name}={value!r} is nothing that a server of the kind {family.name!r} is known to take; leave it at "
                f"{_NEUTRAL[name]!r}, or use one of {', '.join(able)} (if the server is one, say so: server=, --server)"
            )
    if family.name == "llama.cpp":  # our order of steps, and penalties over the whole path
        body |= {"samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"], "repeat_last_n": -1}
    if family.gathered is not None:  # it takes the likeliest token unless it is told to draw
        body = {family.gathered: json.dumps({"do_sample": sampling.temperature > 0, **body})}
    return body | _grammar(family, sampling)


def _sent(family: Family, name: str, value: Any) -> Any:
    if name == "top_k" and not value and family.name in ("vllm", "sglang"):
        return -1
    return list(value) if isinstance(value, tuple) else value


def _grammar(family: Family, sampling: Sampling) -> dict[str, Any]:
    given = {name: getattr(sampling, name) for name in ("json_schema", "regex", "lark")}
    given = {name: text for name, text in given.items() if text is not None}
    if not given:
        return {}
    if len(given) > 1:
        raise UsageError(f"a completion follows one grammar, got {', '.join(given)}")
    ((name, text),) = given.items()
    if name not in family.grammars:
        allowed = f"; it takes {', '.join(family.grammars)}" if family.grammars else ""
        able = [other.name for other in FAMILIES.values() if name in other.grammars]
        raise UsageError(
            f"a server of the kind {family.name!r} does not constrain its output by a {name}{allowed}; "
            f"{', '.join(able)} can, and so can a local model"
        )
    if name == "json_schema":
        try:
            schema = json.loads(text)
        except ValueError as error:
            raise UsageError(f"json_schema is no JSON: {error}") from None
        if family.name == "openai":
            return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}}
        if family.name == "llama.cpp":
            return {"json_schema": schema}
    if family.name == "vllm":
        key = {"json_schema": "json", "regex": "regex", "lark": "grammar"}[name]
        return {"structured_outputs": {key: text}}
    return {name: text}

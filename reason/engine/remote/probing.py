"""What a server is and can, asked once: its family, the model, which of its APIs answer, and what they tell.

GET /v1/models        who owns the models, which there are, how long a text may be
GET /version, /props, /openapi.json      where that does not say the family
POST one token        with log-probabilities, to each API that may be used
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from reason.engine.remote.connection import Connection
from reason.engine.remote.families import FAMILIES, Continuing, Family
from reason.engine.remote.reply import Reply
from reason.engine.remote.scoring import read_scores, scoring_body
from reason.errors import ServerError, UsageError
from reason.types import Capabilities, Path

__all__ = ["Api", "Server", "probe"]

Api = Literal["completions", "chat", "llama.cpp"]
"""Which API is used: completions; chat; llama.cpp's own, which tells more than its copy of the first."""

_OWNERS = {"vllm": "vllm", "sglang": "sglang", "llamacpp": "llama.cpp"}
_CHAT = [{"role": "user", "content": "Repeat these words: alpha beta gamma delta epsilon zeta"}]
_BEGUN = {"role": "assistant", "content": "alpha beta gamma"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What is known of a server.

    Args:
        api: the one that generates.
        ids: prompts are lists of token ids; of a text otherwise.
        logprobs: tokens come with log-probabilities.
        score: it tells those of a given text, through the completions API.
        continuing: how its chat API goes on with the assistant's last message.
        limit_field: what its API calls the most tokens of a completion.
        max_positions: the longest text in tokens, where it says so.
    """

    family: Family
    model: str
    api: Api
    ids: bool = False
    logprobs: bool = False
    score: bool = False
    continuing: Continuing = "none"
    limit_field: str = "max_tokens"
    max_positions: int | None = None

    @property
    def tells_stop(self) -> bool:
        """Whether it says which stop string ended a completion."""
        return self.family.tells_stop_in_chat if self.api == "chat" else self.family.tells_stop

    @property
    def tells_ids(self) -> bool:
        """Whether the numbers of generated tokens come with them."""
        return self.api != "chat" and self.family.name in ("vllm", "sglang", "llama.cpp")

    @property
    def capabilities(self) -> Capabilities:
        """Figures over whole rows and hidden states are nothing that these APIs tell."""
        top = self.family.top_logprobs
        if self.family.name == "openai" and self.api == "completions" and top is not None:
            top = min(top, 5)
        return Capabilities(logprobs=self.logprobs, top_logprobs=top, statistics=False, states=False, score=self.score)


async def probe(connection: Connection, model: str | None, *, sample: Path | None) -> Server:
    """Asks a server.

    Args:
        sample: a prompt in the model's tokens, where its tokenizer is known: then prompts are tokens. None has the chat
            API used, and the completions API where there is no other.

    Raises:
        UsageError: it has no such model, or no API that can be used like this.
        ServerError: it cannot be reached, or fails.
    """
    listed = await connection.get(f"{connection.address.url}/models")
    data = listed.get("data") if isinstance(listed, dict) else listed  # some list them without an object around
    cards = [card for card in data if isinstance(card, dict) and card.get("id")] if isinstance(data, list) else []
    name = _model(connection, model, cards)
    card: Mapping[str, Any] = next((card for card in cards if card["id"] == name), {})
    props: Mapping[str, Any] = {}
    if connection.address.server != "auto":
        family = FAMILIES[connection.address.server]
    elif (owner := _OWNERS.get(str(card.get("owned_by") or "").lower())) is not None:
        family = FAMILIES[owner]
    else:
        family = await _family(connection)
    if family.name == "llama.cpp":
        props = await connection.get(f"{connection.address.root}/props", open_to_all=True) or {}
    server = Server(family=family, model=name, api="chat", max_positions=_max_positions(card, props))
    if sample is not None:
        return await _probe_tokens(connection, server, sample)
    found = await _probe_chat(connection, server)
    if found is None:
        found = await _probe_text(connection, replace(server, api="completions"), "Hello")
    return found


def _model(connection: Connection, model: str | None, cards: Sequence[Mapping[str, Any]]) -> str:
    names = [str(card["id"]) for card in cards]
    if model is None:
        plain = [str(card["id"]) for card in cards if not _names_another(card, names)]
        if len(plain) != 1:
            known = f"; it has {', '.join(names)}" if names else ", and it lists none"
            raise UsageError(f"name the model that {connection.address.host} is to run (model, --model){known}")
        return plain[0]
    known_too = {str(card.get("root")) for card in cards}
    if names and model not in names and model not in known_too and len(names) <= 100:
        raise UsageError(f"{connection.address.host} has no model {model!r}; it has {', '.join(names)}")
    return model


def _names_another(card: Mapping[str, Any], names: Sequence[str]) -> bool:
    """Whether what a server lists is a search over its model, or an alias, as our own server has them."""
    name, root = str(card["id"]), card.get("root")
    return name.partition("/")[0] == "reason" or (root != name and root in names)


async def _family(connection: Connection) -> Family:
    """By what only one kind of server has."""
    root = connection.address.root
    props = await connection.get(f"{root}/props", open_to_all=True)
    if isinstance(props, dict) and ("build_info" in props or "default_generation_settings" in props):
        return FAMILIES["llama.cpp"]
    schema = await connection.get(f"{root}/openapi.json", open_to_all=True)
    paths = set(schema.get("paths") or ()) if isinstance(schema, dict) else set()
    if {"/load_model", "/reset"} <= paths:
        return FAMILIES["transformers"]
    if paths & {"/get_model_info", "/model_info"} and "/generate" in paths:
        return FAMILIES["sglang"]
    version = await connection.get(f"{root}/version", open_to_all=True)
    if isinstance(version, dict) and "version" in version and (not paths or "/v1/completions" in paths):
        return FAMILIES["vllm"]
    return FAMILIES["openai"]


def _max_positions(card: Mapping[str, Any], props: Mapping[str, Any]) -> int | None:
    own = (props.get("default_generation_settings") or {}).get("n_ctx")
    found = own or card.get("max_model_len")
    return int(found) if found else None


# -- one token ---------------------------------------------------------------------------------------------------------


async def _probe_tokens(connection: Connection, server: Server, sample: Path) -> Server:
    if server.family.name == "llama.cpp":
        body: dict[str, Any] = {"prompt": list(sample), "n_predict": 1, "n_probs": 1, "return_tokens": True}
        reply = await _reply(connection, f"{connection.address.root}/completion", body)
        if reply is None:
            raise UsageError(_no_completions(connection))
        return replace(server, api="llama.cpp", ids=True, logprobs=bool(reply.told))
    server = replace(server, api="completions", ids=True)
    if server.family.takes_ids or (server.family.name == "openai" and await _reads_ids(connection, server, sample)):
        body = {"model": server.model, "prompt": list(sample), "max_tokens": 1, "logprobs": 1}
        reply = await _reply(connection, f"{connection.address.url}/completions", body)
        if reply is None:
            raise UsageError(_no_completions(connection))
        server = replace(server, logprobs=bool(reply.told))
        return replace(server, score=await _scores(connection, server, sample))
    return await _probe_text(connection, replace(server, ids=False), "Hello")


async def _reads_ids(connection: Connection, server: Server, sample: Path) -> bool:
    """Whether a prompt of ids is read as such: the server counts as many tokens as there are."""
    body: dict[str, Any] = {"model": server.model, "prompt": list(sample), "max_tokens": 1}
    try:
        reply = await _reply(connection, f"{connection.address.url}/completions", body)
    except ServerError:
        return False
    return reply is not None and reply.prompt_tokens == len(sample)


async def _scores(connection: Connection, server: Server, sample: Path) -> bool:
    if (body := scoring_body(server.family, server.model, sample)) is None:
        return False
    try:
        answer = await connection.post(f"{connection.address.url}/completions", body)
        read_scores(answer, sample, 0)
    except (ServerError, UsageError):
        return False
    return True


async def _probe_text(connection: Connection, server: Server, text: str) -> Server:
    body: dict[str, Any] = {"model": server.model, "prompt": text, "max_tokens": 1, "logprobs": 1}
    url = f"{connection.address.url}/completions"
    reply = await _reply(connection, url, body)
    if reply is None:
        raise UsageError(_no_completions(connection))
    return replace(server, logprobs=bool(reply.told))


async def _probe_chat(connection: Connection, server: Server) -> Server | None:
    """The server through its chat API; None if it has none."""
    url = f"{connection.address.url}/chat/completions"
    body: dict[str, Any] = {"model": server.model, "messages": _CHAT}
    for field in ("max_tokens", "max_completion_tokens"):
        try:
            asked = {"logprobs": True, "top_logprobs": 1} if server.family.name != "transformers" else {}
            reply = await _reply(connection, url, {**body, field: 1, **asked})
        except ServerError as error:
            if "max_completion_tokens" in str(error) and field == "max_tokens":
                continue
            raise
        if reply is None:
            return None
        server = replace(server, api="chat", logprobs=bool(reply.told), limit_field=field)
        return replace(server, continuing=server.family.continuing or await _continuing(connection, server))
    raise AssertionError("one of the fields was accepted, or the error raised")


async def _continuing(connection: Connection, server: Server) -> Continuing:
    """Whether the assistant's last message is gone on with, seen by what is said next."""
    url = f"{connection.address.url}/chat/completions"
    body: dict[str, Any] = {"model": server.model, "messages": [*_CHAT, _BEGUN], server.limit_field: 8}
    body["temperature"] = 0.0
    for way, fields in (("fields", {"continue_final_message": True, "add_generation_prompt": False}), ("prefill", {})):
        try:
            reply = await _reply(connection, url, {**body, **fields})
        except ServerError as error:
            if error.status is None or error.status >= 500:
                raise
            continue
        if reply is not None and reply.text.strip().lower().startswith("delta"):
            return "fields" if way == "fields" else "prefill"
    return "none"


async def _reply(connection: Connection, url: str, body: dict[str, Any]) -> Reply | None:
    """The answer to a short request, without log-probabilities if the server refuses those; None if it has no such API.

    Raises:
        ServerError: it refuses for another reason.
    """
    asked = {name: value for name, value in body.items() if name not in ("logprobs", "top_logprobs")}
    for attempt in (body, asked):
        try:
            answer = await connection.post(url, attempt)
        except ServerError as error:
            if error.status in (404, 405, 501) and "model" not in str(error).lower():
                return None
            if attempt is asked or error.status not in (400, 403, 422) or "logprob" not in str(error).lower():
                raise
            continue
        if not isinstance(answer, dict) or ("choices" not in answer and "content" not in answer):
            raise ServerError(f"{connection.address.host} answered {url} in a form that is not OpenAI's")
        reply = Reply()
        reply.add(answer)
        return reply
    raise AssertionError("the second attempt returns or raises")


def _no_completions(connection: Connection) -> str:
    return (
        f"{connection.address.host} has no completions API, so that tokens cannot be sent to it: leave out the "
        "tokenizer (tokenizer, --tokenizer), and its chat API is used"
    )

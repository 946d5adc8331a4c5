"""Our server in front of somebody else's: searches over a model that runs there, for OpenAI's clients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from reason.engine.remote import RemoteEngine
from tests.engine.remote_servers import FakeServer, running
from tests.serve.conftest import chat, client_of, make_service

TEXTS = ["so \\boxed{42}", "it is \\boxed{1}", "thus \\boxed{42}"]


@pytest.fixture
def engine() -> Iterator[RemoteEngine]:
    """Over a chat API, without the model's tokenizer."""
    with running(FakeServer(TEXTS, kind="openai", completions=False).app) as address:
        engine = RemoteEngine(address, backoff=0.01)
        yield engine
        engine.close()


async def test_a_search(engine: RemoteEngine) -> None:
    async with client_of(make_service(engine)) as client:
        asked = chat(model="reason/best-of-n:3", seed=2)  # the server picks its texts by it
        reply = (await client.post("/v1/chat/completions", json=asked)).json()
        assert reply["reason"]["answer"] == "42", reply
        assert len(reply["reason"]["candidates"]) == 3
        assert reply["usage"]["completion_tokens"] > 0
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/health")).status_code == 200


async def test_the_model_itself(engine: RemoteEngine) -> None:
    async with client_of(make_service(engine)) as client:
        reply = (await client.post("/v1/chat/completions", json=chat(model=engine.name))).json()
        assert reply["choices"][0]["message"]["content"] in TEXTS
        reply = (await client.post("/v1/chat/completions", json=chat(model=engine.name, stop=["boxed"]))).json()
        assert reply["choices"][0]["message"]["content"].endswith("\\")


async def test_what_the_other_server_cannot_do_is_refused(engine: RemoteEngine) -> None:
    """With 400 and a reason, not as an error of ours."""
    async with client_of(make_service(engine)) as client:
        asked = chat(model="reason/best-of-n:2", reason={"select": "weighted", "verifier": "self-certainty"})
        reply = await client.post("/v1/chat/completions", json=asked)
        assert reply.status_code == 400, reply.text
        assert "self-certainty" in reply.json()["error"]["message"]
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
        reply = await client.post("/v1/chat/completions", json=chat(model=engine.name, tools=[tool]))
        assert reply.status_code == 400, reply.text

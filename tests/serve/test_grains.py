"""The server over two models: with a route, and with a plan."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.route import RoutedEngine, make_router
from reason.serve.service import Service
from tests.serve.conftest import chat, client_of

CHAT = "/v1/chat/completions"
SMALL, LARGE = "It is \\boxed{2}.", "It is \\boxed{3}."


def make_engine(router: str = "always", delay: float = 0.0) -> RoutedEngine:
    """The small model says 2, the large one 3."""
    small, large = (ScriptedEngine([text], logprob=-0.05, delay=delay) for text in (SMALL, LARGE))
    return RoutedEngine(small, large, make_router(router))


async def ask(service: Service, **fields: Any) -> dict[str, Any]:
    async with client_of(service) as client:
        reply = await client.post(CHAT, json=chat(**fields))
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found


@pytest.mark.parametrize(("router", "text"), [("never", SMALL), ("always", LARGE)])
async def test_a_route(router: str, text: str) -> None:
    service = Service(solver=Solver(engine=make_engine(router, delay=0.002)))
    plain = await ask(service)
    assert plain["choices"][0]["message"]["content"] == text
    used = plain["reason"]["usage"]
    assert used["draft_model_tokens"] == (len(SMALL) if router == "never" else 0)
    async with client_of(service) as client:
        lines = (await client.post(CHAT, json=chat(stream=True))).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == text
    searched = await ask(service, model="reason/best-of-n:2")
    assert searched["reason"]["answer"] == text[-3]
    assert searched["reason"]["usage"]["draft_model_tokens"] == (2 * len(SMALL) if router == "never" else 0)


async def test_the_kv_of_both_models() -> None:
    engine = make_engine()
    service = Service(solver=Solver(engine=engine))
    async with client_of(service) as client:
        assert "kv_tokens_in_use" not in (await client.get("/metrics")).text, "scripts have no KV"
        engine.target.kv_tokens_in_use = 7  # type: ignore[attr-defined]
        assert 'reason_kv_tokens_in_use{engine="target"} 7\n' in (await client.get("/metrics")).text
        engine.draft.kv_tokens_in_use = 5  # type: ignore[attr-defined]
        page = (await client.get("/metrics")).text
    assert 'reason_kv_tokens_in_use{engine="draft"} 5\nreason_kv_tokens_in_use{engine="target"} 7\n' in page


@pytest.mark.parametrize(("threshold", "answer", "spared"), [(0.5, "2", 1), (2, "3", 0)])
async def test_a_plan(threshold: float, answer: str, spared: int) -> None:
    plan = f"speceyes:gate=logprob,threshold={threshold}"
    service = Service(solver=Solver(engine=make_engine(), plan=plan))
    assert (await ask(service))["choices"][0]["message"]["content"] == LARGE, "the model's own name is no search"
    for stream in (False, True):
        async with client_of(service) as client:
            reply = await client.post(CHAT, json=chat(model="reason/best-of-n:2", stream=stream))
        told = reply.json() if not stream else json.loads(reply.text.split("\n\n")[-3].removeprefix("data: "))
        assert told["reason"]["answer"] == answer
        assert told["reason"]["usage"]["short_cuts"] == spared

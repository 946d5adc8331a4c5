"""Servers over scripted engines and over a tiny random model."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.serve.app import make_app
from reason.serve.limits import Limits
from reason.serve.running import Server, bind
from reason.serve.security import Security
from reason.serve.service import Service
from reason.types import Engine

if TYPE_CHECKING:
    from reason.engine.local import LocalEngine

URL = "http://127.0.0.1:8010"
SOLUTIONS = ["so \\boxed{42}", "thus \\boxed{42}", "it is \\boxed{1}", "数学 → no idea"]

MakeService = Callable[..., Service]
Running = Callable[..., contextlib.AbstractContextManager[str]]


def make_service(engine: Engine | None = None, **options: Any) -> Service:
    """A service over an engine; options that are a limit's go there."""
    limits = {name: options.pop(name) for name in list(options) if name in Limits.__dataclass_fields__}
    given = {"progress_seconds": 1e-9, "heartbeat_seconds": 30.0} | limits
    return Service(solver=Solver(engine=engine or ScriptedEngine(SOLUTIONS)), limits=Limits(**given), **options)


def client_of(service: Service, security: Security | None = None, **options: Any) -> httpx.AsyncClient:
    """A client in this process."""
    transport = httpx.ASGITransport(app=make_app(service, security or Security()))
    return httpx.AsyncClient(transport=transport, base_url=URL, timeout=60, **options)


def chat(text: str = "What is 6 * 7?", model: str = "scripted", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


@contextlib.contextmanager
def running(service: Service, *, grace: float = 10.0, security: Security | None = None) -> Iterator[tuple[str, Server]]:
    """A server in a thread of its own, at a free port, and its address."""
    listening = bind("127.0.0.1", 0)
    server = Server(make_app(service, security or Security()), service, grace_seconds=grace)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), name="test-server")
    thread.start()
    try:
        until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", server
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
        assert not thread.is_alive()


def until(happened: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits for what another thread does."""
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends, "it never happened"
        time.sleep(0.005)


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """Of a scripted server."""
    async with client_of(make_service()) as client:
        yield client


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model whose tokens are bytes, and two that end and begin turns."""
    from tests.tiny import byte_tokenizer, random_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    fast = byte_tokenizer()
    fast.chat_template = (
        "{% for t in tools or [] %}[tool {{ t.function.name }}]{% endfor %}{% for m in messages %}[{{ m.role }}]"
        "{{ m.content }}{% for c in m.tool_calls or [] %}({{ c.function.name }}){% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    fast.save_pretrained(folder)
    model = random_model("llama", vocab_size=264, max_position_embeddings=2048, eos_token_id=256, pad_token_id=None)
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny(tiny_folder: Path, one_thread: None) -> Iterator[LocalEngine]:
    """An engine of that model, with nothing in flight, nothing locked and no ledger row in the end."""
    from reason.engine.local import LocalEngine

    engine = LocalEngine.load(tiny_folder, dtype="float32", kv_tokens=4096, threads=1, draft="none", name="tiny")
    try:
        yield engine
        until(lambda: engine.kv_tokens_in_use == 0)
        until(lambda: engine.ledger_owners() == [])
        engine.check_integrity()
    finally:
        engine.close()

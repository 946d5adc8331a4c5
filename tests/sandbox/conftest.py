"""A sandbox for each way of isolation that works here, and one without any, to show what the isolation is for."""

from __future__ import annotations

import functools
import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from reason.sandbox import Limits, Sandbox, backends

LIMITS = Limits(wall_seconds=30, cpu_seconds=20)  # generous: the machine that tests may be busy


@functools.cache
def problem(name: str) -> str | None:
    """Why a backend does not work here, or None."""
    if name == "namespaces":
        return backends._try(backends.namespaces())
    program = shutil.which("bwrap")
    return backends._try(backends.bubblewrap(program)) if program else "bubblewrap is not installed"


def use(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``Sandbox()`` use a backend, or skips."""
    reason = problem(name)
    if reason is not None:
        pytest.skip(f"no isolation with {name} here: {reason}")
    program = shutil.which("bwrap") or ""
    backend = backends.namespaces() if name == "namespaces" else backends.bubblewrap(program)
    monkeypatch.setattr(backends, "find", lambda: backend)


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["namespaces", "bubblewrap"])
async def sandbox(request: pytest.FixtureRequest) -> AsyncIterator[Sandbox]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use(request.param, monkeypatch)
        sandbox = Sandbox(LIMITS, workers=2)
    async with sandbox:
        yield sandbox


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def unprotected() -> AsyncIterator[Sandbox]:
    async with Sandbox(LIMITS, workers=1, unsafe=True) as sandbox:
        yield sandbox

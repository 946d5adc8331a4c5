"""The sandbox that a whole process shares."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from typing import Any

import pytest

from reason.errors import ReasonError, SandboxUnavailable, UsageError
from reason.sandbox import Limits, SandboxService, backends, pool, service

LIMITS = Limits(wall_seconds=30, cpu_seconds=20)
PROGRAM = "def f(x):\n    return x + 1\n"


@pytest.fixture(scope="module")
def shared(isolation: None) -> Iterator[SandboxService]:
    made = SandboxService(workers=2)
    yield made
    made.close()


@pytest.fixture
def counted(shared: SandboxService, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tests that were run."""
    tests: list[str] = []
    test = shared._sandbox.test

    async def run(program: str, text: str, **options: Any) -> Any:
        tests.append(text)
        return await test(program, text, **options)

    monkeypatch.setattr(shared._sandbox, "test", run)
    return tests


def test_from_many_threads_and_loops(shared: SandboxService) -> None:
    def ask(x: int) -> bool:
        (verdict,) = shared.run_tests(PROGRAM, [f"assert f({x}) == {x + 1}"], limits=LIMITS)
        return verdict.passed

    async def ask_in_a_loop(x: int) -> bool:
        running = shared.start_tests(PROGRAM, [f"assert f({x}) == {x}"], limits=LIMITS)
        return (await asyncio.wrap_future(running))[0].passed

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(8))) == [True] * 8
        assert list(pool.map(lambda x: asyncio.run(ask_in_a_loop(x)), range(4))) == [False] * 4


def test_verdicts_in_the_order_of_the_tests(shared: SandboxService) -> None:
    verdicts = shared.run_tests(
        "def f(x): return helper(x)",
        ["assert f(1) == 1", "assert candidate(2) == helper(2)", "assert helper(1) == 3"],
        entry_point="f",
        setup="def helper(x): return x + 2",
        limits=LIMITS,
    )
    assert [verdict.status for verdict in verdicts] == ["error", "error", "passed"]  # the helper is the judge's own


def test_what_is_known_is_not_run_again(shared: SandboxService, counted: list[str]) -> None:
    tests = ["assert f(100) == 101", "assert f(100) == 102", "assert f(100) == 101"]
    first = shared.run_tests(PROGRAM, tests, limits=LIMITS)
    assert counted == tests[:2]  # also what is under way
    assert shared.run_tests(PROGRAM, tests, limits=LIMITS) == first
    assert counted == tests[:2]
    shared.run_tests(PROGRAM, tests[:1], setup="import math", limits=LIMITS)
    shared.run_tests(PROGRAM + "\n", tests[:1], limits=LIMITS)
    assert len(counted) == 4


def test_keeps_the_end_of_what_programs_print(shared: SandboxService) -> None:
    (verdict,) = shared.run_tests("print('a' * 50_000 + 'b')\n" + PROGRAM, ["assert f(1) == 2"], limits=LIMITS)
    assert verdict.passed
    assert verdict.execution.stdout == "a" * 3998 + "b\n"


def test_what_failed_is_asked_anew(shared: SandboxService, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(program: str, text: str, **options: Any) -> Any:
        raise ReasonError("the sandbox could not start a program")

    with monkeypatch.context() as patched:
        patched.setattr(shared._sandbox, "test", broken)
        with pytest.raises(ReasonError, match="could not start"):
            shared.run_tests(PROGRAM, ["assert f(200) == 201"], limits=LIMITS)
    (verdict,) = shared.run_tests(PROGRAM, ["assert f(200) == 201"], limits=LIMITS)
    assert verdict.passed


def test_what_a_lost_worker_ran_is_asked_anew(shared: SandboxService, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is short of memory ends the worker, whatever the program does."""

    async def dying(self: object, *messages: object) -> Any:
        raise pool._WorkerEnded

    with monkeypatch.context() as patched:
        patched.setattr(pool._Worker, "ask", dying)
        (verdict,) = shared.run_tests(PROGRAM, ["assert f(300) == 301"], limits=LIMITS)
    assert (verdict.passed, verdict.execution.lost) == (False, True)
    assert verdict.message == "no verdict: the worker died, and was replaced"
    (verdict,) = shared.run_tests(PROGRAM, ["assert f(300) == 301"], limits=LIMITS)
    assert (verdict.passed, verdict.execution.lost) == (True, False)


def test_forgets_what_is_asked_least(isolation: None) -> None:
    small = SandboxService(workers=1, cache_size=2)
    try:
        for x in (1, 2, 1, 3):
            small.run_tests(PROGRAM, [f"assert f({x})"], limits=LIMITS)
        assert [key[1] for key in small._cache] == ["assert f(1)", "assert f(3)"]
    finally:
        small.close()
    small.close()
    with pytest.raises(UsageError, match="closed"):
        small.run_tests(PROGRAM, ["assert f(1)"])


def nowhere() -> backends.Backend:
    raise SandboxUnavailable("programs cannot be isolated here: install bubblewrap")


def test_refuses_without_isolation_unless_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find", nowhere)
    monkeypatch.setattr(service, "_shared", None)
    monkeypatch.setattr(service, "_unsafe_allowed", False)
    for ask in (service.check_sandbox, service.shared_sandbox):
        with pytest.raises(SandboxUnavailable, match="install bubblewrap"):
            ask()
    service.allow_unsafe()
    service.check_sandbox()
    shared = service.shared_sandbox()
    try:
        assert shared.backend == "unsafe"
        assert shared is service.shared_sandbox()
        (verdict,) = shared.run_tests(PROGRAM, ["assert f(1) == 2"], limits=LIMITS)
        assert verdict.passed
    finally:
        shared.close()


def test_isolates_where_it_can_though_it_need_not(isolation: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "_shared", None)
    monkeypatch.setattr(service, "_unsafe_allowed", True)
    shared = service.shared_sandbox()
    try:
        assert shared.backend in ("bubblewrap", "namespaces")
    finally:
        shared.close()


def test_ends_with_the_process(isolation: None) -> None:
    code = (
        "from reason.sandbox import shared_sandbox\n"
        "import os\n"
        "print(shared_sandbox().run_tests('def f(): return 1', ['assert f() == 1'])[0].passed)\n"
        "if os.fork() == 0:\n"
        "    raise SystemExit  # its parent's sandbox is none of its own\n"
        "os.wait()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=dict(os.environ)
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr


def test_threads_end(isolation: None) -> None:
    made = SandboxService(workers=1)
    made.run_tests(PROGRAM, ["assert f(1) == 2"], limits=LIMITS)
    assert any(thread.name == "reason-sandbox" for thread in threading.enumerate())
    thread = made._thread
    made.close()
    assert not thread.is_alive()


def test_who_waits_when_it_closes_is_told(isolation: None) -> None:
    made = SandboxService(workers=1)
    long = [f"import time; time.sleep({20 + i})" for i in range(3)]
    waiting = made.start_tests(PROGRAM, long, limits=LIMITS)
    began = time.monotonic()
    made.close()
    with pytest.raises(CancelledError):
        waiting.result(timeout=5)
    assert time.monotonic() - began < 10

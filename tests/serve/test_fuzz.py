"""What comes over the wire may be anything: no internal error, no hang, nothing left behind.

REASON_FUZZ=10000 sends so many malformed requests instead of a few hundred.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
import time
from pathlib import Path

import httpx
import pytest

from reason.engine.scripted import ScriptedEngine
from tests.serve.conftest import SOLUTIONS, make_service, running, until
from tests.serve.malformed import BODIES, requests

COUNT = int(os.environ.get("REASON_FUZZ", "400"))
SECONDS = 20.0
"""A request may take so long on a busy machine; what hangs takes for ever."""
CALL = '<tool_call>{"name": "find", "arguments": {"text": "x"}}</tool_call>'
SMALL = {"max_body_bytes": 300_000, "max_policy_tokens": 2000, "max_calls": 50, "max_seconds": 10.0}


@pytest.mark.timeout(120 + COUNT // 10)
def test_malformed_requests() -> None:
    service = make_service(ScriptedEngine([*SOLUTIONS, CALL]), **SMALL)
    statuses: dict[str, set[int | None]] = {}
    with running(service) as (url, _):
        for path, bodies in BODIES.items():
            for body in bodies:
                good = httpx.post(url + path, json=body, timeout=60)
                assert good.status_code == 200, good.text
        warm = COUNT // 4
        for number, (kind, data) in enumerate(requests(seed=0, count=COUNT)):
            if number == warm:
                before = _held()
            began = time.monotonic()
            reply = _sent(url, data)
            status = int(reply.split(b" ", 2)[1]) if reply.startswith(b"HTTP/1.1 ") else None
            assert status is None or 200 <= status < 500, (kind, data[:2000], reply)
            assert b'"code":"internal_error"' not in reply, (kind, data[:2000], reply)
            assert time.monotonic() - began < SECONDS, (kind, data[:2000])
            statuses.setdefault(kind, set()).add(status)
        until(lambda: service.admission.running == 0)
        assert httpx.get(f"{url}/health", timeout=60).json() == {"status": "ok"}
        after = _held()
    assert service.admission.queued == 0
    assert {status for found in statuses.values() for status in found} >= {400, 404}
    if sys.platform == "linux":
        assert after[0] <= before[0] + 2, "file descriptors are left"
        assert after[1] - before[1] < 40, "memory has grown"


def _sent(url: str, data: bytes) -> bytes:
    """All that is answered."""
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS) as connection:
        answer = bytearray()
        with contextlib.suppress(OSError):  # refused before all was sent: why is there to be read
            connection.sendall(data)
            if not select.select([connection], [], [], 0.2)[0]:
                connection.shutdown(socket.SHUT_WR)  # a body that is shorter than it says ends here
        with contextlib.suppress(ConnectionResetError):  # closed with something left that nobody read
            while piece := connection.recv(65536):
                answer += piece
    return bytes(answer).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")


def _held() -> tuple[int, float]:
    """Of this process: file descriptors, resident MB."""
    if sys.platform != "linux":
        return 0, 0.0
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return len(os.listdir("/proc/self/fd")), pages * os.sysconf("SC_PAGESIZE") / 2**20

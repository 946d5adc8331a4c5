"""Programs that a benchmark starts, stops while others are measured, and asks over HTTP or line by line."""

from __future__ import annotations

import atexit
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

LIMIT = httpx.Timeout(1800)


class Process:
    """One program in a process group of its own.

    Args:
        folder: where its log is put.
        env: beside this process's.
        by_lines: it answers each line on its standard input with one on its standard output.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        by_lines: bool = False,
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if by_lines else log,
                stderr=log,
                text=True,
                start_new_session=True,
                env={**os.environ, **(env or {})},
            )
        atexit.register(self.close)

    def wait_for(self, url: str, seconds: float = 900.0) -> None:
        """Until it answers there."""
        deadline = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < deadline:
            try:
                if httpx.get(url, timeout=5).status_code < 500:
                    return
            except httpx.TransportError:
                time.sleep(0.5)
        raise SystemExit(f"{self.name} does not answer at {url}; {self.log} may say why")

    def pause(self) -> None:
        os.killpg(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.process.pid, signal.SIGCONT)

    def line(self, text: str) -> str:
        """A worker's answer to a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{self.name} ended; {self.log} may say why")
        return answer

    def close(self) -> None:
        if self.process.poll() is None:
            self.go_on()
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def counter(url: str, pattern: str) -> Callable[[], int]:
    """Reads a Prometheus counter."""

    def read() -> int:
        page = httpx.get(f"{url}/metrics", timeout=LIMIT).text
        return int(sum(float(value) for value in re.findall(rf"^{pattern} (\S+)$", page, re.MULTILINE)))

    return read


def chat(url: str, model: str, text: str, **fields: Any) -> str:
    body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=LIMIT, headers={"Authorization": "Bearer none"})
    if reply.status_code != 200:
        raise SystemExit(f"{url} answered HTTP {reply.status_code}: {reply.text[:500]}")
    return str(reply.json()["choices"][0]["message"]["content"])

"""A line on standard error for each request, where the server is told to: never what was said, and no keys.

2026-01-31 12:00:00 POST /v1/chat/completions reason/ets 200 3.21 s 812 tokens
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

__all__ = ["Access", "show_requests"]

log = logging.getLogger("reason.serve.access")

_SHOWN = 200  # letters of what the client wrote


def show_requests() -> None:
    """Has the lines written."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False


class Access:
    """One request from its beginning. ``state`` is the request's: its handler says there the ``model``, as the client
    wrote it, and the ``place`` in which the work was done."""

    def __init__(self, scope: Mapping[str, Any]) -> None:
        self.state: dict[str, Any] = {**scope.get("state", {})}
        self._what = f"{scope['method']} {scope['path']}"
        self._began = time.monotonic()

    def end(self, status: int) -> None:
        """Logs it."""
        tokens = getattr(self.state.get("place"), "tokens", None)
        cost = "- tokens" if tokens is None else f"{tokens} tokens"
        seconds = time.monotonic() - self._began
        model = _shown(self.state.get("model") or "-")
        log.info("%s %s %d %.2f s %s", _shown(self._what), model, status, seconds, cost)


def _shown(text: str) -> str:
    """What a client wrote, in one line."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_SHOWN])

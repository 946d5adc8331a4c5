"""What the server takes on, and what a request may spend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reason.errors import UsageError
from reason.serve.failures import bad_request
from reason.types import Budget

__all__ = ["Limits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Args:
    max_running: requests that are worked on at once.
    max_queued: requests that wait for their turn.
    max_body_bytes: of a request.
    max_policy_tokens, max_kv_tokens, max_calls: what a request's budget may be at most, and is unless it says less.
    max_seconds: the same; a search ends then with its best answer, a sample of the plain model with an error.
    heartbeat_seconds: a stream is never silent for longer.
    stall_seconds: a client may take so long to send its body, or to read on in a stream.
    progress_seconds: between two lines about a search.
    """

    max_running: int = 8
    max_queued: int = 32
    max_body_bytes: int = 2 << 20
    max_policy_tokens: int = 65536
    max_kv_tokens: int | None = None
    max_calls: int | None = None
    max_seconds: float = 600.0
    heartbeat_seconds: float = 10.0
    stall_seconds: float = 60.0
    progress_seconds: float = 1.0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not value > (-1 if name == "max_queued" else 0):
                raise UsageError(f"{name} must be more than 0, got {value}")

    def budget(self, asked: Budget) -> Budget:
        """What a search may spend.

        Raises:
            ApiError: it asks for more.
        """
        limits = Budget(
            policy_tokens=self.max_policy_tokens,
            seconds=self.max_seconds,
            kv_tokens=self.max_kv_tokens,
            calls=self.max_calls,
        )
        found: dict[str, Any] = {}
        for name in ("policy_tokens", "seconds", "kv_tokens", "calls"):
            value, limit = getattr(asked, name), getattr(limits, name)
            if value is not None and limit is not None and value > limit:
                where = f"reason.budget.{name}"
                raise bad_request(f"{where} may be at most {limit} here, got {value}", where)
            found[name] = limit if value is None else value
        return Budget(**found)

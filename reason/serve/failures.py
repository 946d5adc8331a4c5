"""What went wrong, in the shape that OpenAI's clients know."""

from __future__ import annotations

import logging
import secrets
from typing import Any

from reason.errors import (
    DataNotFound,
    EngineClosed,
    EngineError,
    ModelError,
    OutOfKV,
    ReasonError,
    SandboxUnavailable,
    ServerError,
    UsageError,
)

__all__ = ["ApiError", "as_api_error", "bad_request", "busy"]

log = logging.getLogger("reason.serve")

_REFUSED = (400, 413, 422)
"""What a server in front of which this one stands answers where the request itself is wrong."""


class ApiError(Exception):
    """An answer other than 200.

    Args:
        status: of HTTP.
        message: what was given, what is allowed, what to do.
        kind: OpenAI's name for the kind of error.
        param: the field that is wrong.
        code: a short name for programs.
        headers: sent with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, headers or {}

    def body(self) -> dict[str, Any]:
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code=code)


def busy(message: str, retry_after: int) -> ApiError:
    headers = {"Retry-After": str(retry_after)}
    return ApiError(429, message, kind="rate_limit_error", code="server_busy", headers=headers)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an exception: the message of those that are raised on purpose, and of others an id, by
    which the log has them."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, OutOfKV):
        return bad_request(str(error), code="context_length_exceeded")
    if isinstance(error, UsageError):
        return bad_request(str(error))
    if isinstance(error, ServerError):
        log.warning("%s", error)
        if error.status in _REFUSED:
            return bad_request(str(error), code="upstream_refused")
        message = "the server that runs the model failed; this server's log says how"
        return ApiError(502, message, kind="server_error", code="upstream_failed")
    if type(error) is EngineError and isinstance(error.__cause__, (ServerError, UsageError)):  # a search's samples
        return as_api_error(error.__cause__)
    if isinstance(error, EngineClosed):
        return ApiError(503, "the server is shutting down", kind="server_error", code="shutting_down")
    if isinstance(error, (SandboxUnavailable, ModelError, DataNotFound)):
        log.warning("%s", error)
        return ApiError(503, "what this request needs is missing on the server; its log says what", kind="server_error")
    name = secrets.token_hex(6)
    log.error("internal error %s", name, exc_info=error)
    what = "generation failed" if isinstance(error, ReasonError) else "an internal error"
    return ApiError(500, f"{what}; the server's log has it as {name}", kind="server_error", code="internal_error")

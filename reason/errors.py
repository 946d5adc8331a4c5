"""One exception tree: every error a user can cause or meet derives from ``ReasonError``.

    ReasonError
    ├── UsageError            you asked for something that cannot be done; the message says what is allowed
    │   ├── UnknownName       no such strategy, model, field ...: lists what exists
    │   └── UnsupportedModel  the weights load, but this runtime cannot run them exactly
    ├── ModelError            weights could not be had, or are not what they should be
    │   ├── ModelNotFound     nothing cached and no source reachable: lists what to do
    │   ├── ChecksumMismatch  what was downloaded is not what the catalogue pins
    │   └── DiskFull          no room for the weights: says how much is needed and where
    ├── SandboxUnavailable    model-written code cannot be isolated here: says why and what to install or enable
    ├── DataNotFound          a data set is neither on this machine nor reachable: lists where it was looked for
    └── EngineError           generation failed
        ├── OutOfKV           a request needs more KV tokens than the pool holds
        ├── ServerError       a server that runs the model refused, failed or was silent: says what to do
        └── EngineClosed      the engine was closed while, or before, it was asked

``UsageError`` is the caller's mistake (exit code 2 on the command line); the others are the world's (exit code 1).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ChecksumMismatch",
    "DataNotFound",
    "DiskFull",
    "EngineClosed",
    "EngineError",
    "ModelError",
    "ModelNotFound",
    "OutOfKV",
    "ReasonError",
    "SandboxUnavailable",
    "ServerError",
    "UnknownName",
    "UnsupportedModel",
    "UsageError",
]


class ReasonError(Exception):
    """Base of every error this package raises on purpose."""


class UsageError(ReasonError):
    """The caller asked for something that cannot be done."""


class UnknownName(UsageError):
    """A name that no registry knows.

    Args:
        kind: what was looked up, as a reader would call it ("strategy", "model").
        name: what was given.
        known: every name that would have worked.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names) or 'none'}.")
        self.kind, self.name, self.known = kind, name, names

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, list[str]]]:
        return type(self), (self.kind, self.name, self.known)


class UnsupportedModel(UsageError):
    """The model needs something this runtime does not do exactly."""


class ModelError(ReasonError):
    """Weights could not be had or are broken."""


class ModelNotFound(ModelError):
    """No cached copy and no source that answered."""


class ChecksumMismatch(ModelError):
    """Downloaded bytes differ from the pinned checksum."""


class DiskFull(ModelError):
    """Not enough room for the weights."""


class SandboxUnavailable(ReasonError):
    """Programs cannot be isolated on this machine. Says why, and what to install or enable."""


class DataNotFound(ReasonError):
    """A task's data is in none of the places it was looked for."""


class EngineError(ReasonError):
    """Generation failed."""


class OutOfKV(EngineError):
    """One request alone needs more KV tokens than the pool holds."""


class ServerError(EngineError):
    """A server that runs the model did not do what it was asked.

    Args:
        status: the HTTP status that it answered, if it did.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EngineClosed(EngineError):
    """The engine was closed."""

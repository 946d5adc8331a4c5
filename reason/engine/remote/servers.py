"""The servers of a solver, as its options name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from reason.engine.remote.address import API_KEY_ENV, Address
from reason.errors import UsageError

__all__ = ["Servers", "check_servers"]

_UNSET = {"device": "auto", "dtype": "auto"}


class Servers(NamedTuple):
    """The one that runs the model, and the one that runs the small model, if one does."""

    large: Address
    small: Address | None = None

    def recorded(self) -> dict[str, str | None]:
        """What of them decides answers, for who writes down how those came to be. No key is in it."""
        small = None if self.small is None else self.small.url
        return {"base_url": self.large.url, "tokenizer": self.large.tokenizer, "small_base_url": small}


def check_servers(
    servers: Mapping[str, str | None],
    *,
    draft: str = "auto",
    small_model: str | None = None,
    machine: Mapping[str, Any] | None = None,
) -> Servers | None:
    """Refuses servers that cannot be, before one is asked; None where there are none.

    Args:
        servers: "base_url", "api_key_env", "tokenizer", "server" and "small_base_url", see ``Solver``.
        draft: what drafts tokens.
        small_model: if one is named, it runs here unless it has a server.
        machine: how models are to run here, by the names of ``Solver``.

    Raises:
        UnknownName, UsageError: as ``Address``; or an option is for models that run here.
    """
    given = {name: value for name, value in servers.items() if value is not None}
    if "base_url" not in given:
        for name in given:
            raise UsageError(f"{name} is about a server that runs the model: give its base_url (--base-url), too")
        return None
    if draft not in ("auto", "none"):
        raise UsageError(
            f"draft={draft!r} is for models that run here: a server drafts by itself, as it was started to (its manual "
            "says how, under speculative decoding)"
        )
    small_url = given.pop("small_base_url", None)
    if small_model is None or small_url is not None:
        for name, value in (machine or {}).items():
            if value != _UNSET.get(name):
                raise UsageError(f"{name}={value!r} is for models that run here; the server decides for its own")
    large = Address(**{"api_key_env": API_KEY_ENV, **given})
    small = None if small_url is None else Address(**{"api_key_env": API_KEY_ENV, **given, "base_url": small_url})
    return Servers(large, small)

"""Where a server is, as a user says it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from reason.engine.remote.families import FAMILIES
from reason.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from reason.engine.remote.engine import RemoteEngine

__all__ = ["API_KEY_ENV", "Address"]

API_KEY_ENV = "OPENAI_API_KEY"
_LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, kw_only=True)
class Address:
    """A server, without its secrets: the key stays in the environment until a connection is made.

    Args:
        base_url: "http://localhost:8000/v1", as OpenAI's clients take it.
        api_key_env: the environment variable that holds the key; unset or empty sends none.
        tokenizer: of the served model: a catalogue name, a folder or a hub id. None has the server read and write text.
        server: what kind of server it is, a name in ``FAMILIES``; "auto" asks it.

    Raises:
        UsageError: that is no address, or it holds what must not be written down.
    """

    base_url: str
    api_key_env: str = API_KEY_ENV
    tokenizer: str | None = None
    server: str = "auto"

    def __post_init__(self) -> None:
        wrong = UsageError(f"base_url is an address like http://localhost:8000/v1, got {_without_user(self.base_url)}")
        try:
            parts = urlsplit(self.base_url)
            port = parts.port
        except ValueError:  # of a port that is none, or half a pair of brackets
            raise wrong from None
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or not self.base_url.isprintable():
            raise wrong
        if parts.username or parts.password or parts.query or parts.fragment:
            raise UsageError(
                "base_url must not hold a user, a password or a query, because it is written into results; put a key "
                f"into an environment variable and name that (api_key_env, --api-key-env; {API_KEY_ENV} is looked at)"
            )
        if self.server != "auto" and self.server not in FAMILIES:
            raise UnknownName("kind of server", self.server, ["auto", *FAMILIES])

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        return self.base_url.rstrip("/")

    @property
    def root(self) -> str:
        """Where a server has what is not OpenAI's: before the "/v1"."""
        return self.url.removesuffix("/v1")

    @property
    def host(self) -> str:
        """Names it in messages."""
        return urlsplit(self.base_url).netloc

    @property
    def is_local(self) -> bool:
        """On this machine: no proxy is asked on the way."""
        return urlsplit(self.base_url).hostname in _LOCAL

    def key(self) -> str | None:
        """The secret itself.

        Raises:
            UsageError: it cannot stand in a header.
        """
        key = os.environ.get(self.api_key_env, "").strip()
        if not key.isascii() or not key.isprintable():
            raise UsageError(f"the environment variable {self.api_key_env} holds what cannot be an API key")
        return key or None

    def connect(self, model: str | None, **options: Any) -> RemoteEngine:
        """An engine over the model of that name; of the server's only one, if there is no name."""
        from reason.engine.remote.engine import RemoteEngine

        return RemoteEngine(self, model, **options)


def _without_user(url: str) -> str:
    return repr(url.rpartition("@")[2])

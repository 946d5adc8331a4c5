"""Who may ask: keys, and names that a browser's page cannot borrow.

A server on this machine's own address needs no key, so it must not be driven by the pages that its owner looks at. Such
a page comes with an Origin of its own, or, where its site's name was made to point here, with that name as Host; both
are refused. What a page may send without asking first has no JSON content type, and that is refused too.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from reason.errors import UsageError
from reason.serve.failures import ApiError

__all__ = ["LOCAL_NAMES", "Security", "check_exposure", "is_local", "read_keys", "secure"]

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Security:
    """Args:
    keys: of which a request must have one; none is needed where there are none.
    names: that a request may call this server by; any where there are none.
    origins: pages of other origins that may ask, "https://example.org".
    """

    keys: tuple[bytes, ...] = ()
    names: tuple[str, ...] = LOCAL_NAMES
    origins: tuple[str, ...] = ()

    def check_names(self, host: str, origin: str | None) -> None:
        """Raises ApiError if a browser's page of another site is behind this."""
        name = _host_name(host)
        if self.names and name not in self.names:
            message = (
                f"this server answers to {', '.join(self.names)} only, not to {host[:100]!r}; for clients that know it "
                "by other names start it with --host 0.0.0.0 and --api-key-file FILE"
            )
            raise ApiError(421, message, code="wrong_host")
        if origin is None or origin in self.origins:
            return
        parts = _split(origin)
        if parts is None or parts.netloc.lower() != host.lower():
            message = "pages of other origins may not ask; the server's --allow-origin says which may"
            raise ApiError(403, message, kind="permission_error", code="wrong_origin")

    def check_key(self, authorization: str | None) -> None:
        """Raises ApiError if a key is needed and this has none."""
        if not self.keys:
            return
        scheme, _, key = (authorization or "").partition(" ")
        given = key.strip().encode("utf-8", "replace")
        known = [hmac.compare_digest(given, each) for each in self.keys]  # all of them, whichever is the one
        if scheme.lower() != "bearer" or not any(known):
            message = "a key is needed: Authorization: Bearer KEY" if not given else "the key is not known here"
            headers = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, message, kind="authentication_error", code="invalid_api_key", headers=headers)


def secure(host: str, key_file: Path | None, origins: Sequence[str]) -> Security:
    """What a server on an address asks of its clients.

    Raises:
        UsageError: there is no key and other machines could ask, or the keys cannot be read.
    """
    keys = () if key_file is None else read_keys(key_file)
    check_exposure(host, keys)
    names = (*LOCAL_NAMES, host.lower()) if is_local(host) else ()
    return Security(keys=keys, names=tuple(dict.fromkeys(names)), origins=tuple(origins))


def check_exposure(host: str, keys: Sequence[bytes]) -> None:
    """Refuses to serve other machines without a key.

    Raises:
        UsageError: it would.
    """
    if not is_local(host) and not keys:
        raise UsageError(
            f"--host {host} lets other machines ask, so give --api-key-file FILE with a key in each line "
            "(openssl rand -hex 32 > FILE makes one), or serve on 127.0.0.1"
        )


def is_local(host: str) -> bool:
    """Whether only this machine can reach what is bound to a name or address."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_keys(file: Path) -> tuple[bytes, ...]:
    """Keys, one a line; lines that begin with # are remarks.

    Raises:
        UsageError: the file cannot be read, has no key in it, or one that is too short or has a space or anything but
            ASCII in it.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read the keys in {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UsageError(f"{file} is not UTF-8 text") from None
    lines = (line.strip() for line in text.splitlines())
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise UsageError(f"there is no key in {file}; write one in each line (openssl rand -hex 32 makes one)")
    for place, key in enumerate(keys, 1):
        if len(key) < 16 or any(letter.isspace() for letter in key) or not key.isascii():
            raise UsageError(f"key {place} in {file} must have at least 16 letters, all of ASCII, and no space in it")
    return tuple(key.encode() for key in keys)


def _host_name(host: str) -> str:
    """Without the port."""
    parts = _split(f"//{host}")
    try:
        return "" if parts is None else (parts.hostname or "")
    except ValueError:
        return ""


def _split(url: str) -> SplitResult | None:
    try:
        return urlsplit(url)
    except ValueError:  # brackets that do not match
        return None

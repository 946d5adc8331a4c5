"""``RemoteEngine``: a model that a server runs, behind the ``Engine`` protocol. See docs/remote.md."""

from __future__ import annotations

from reason.engine.remote.address import Address
from reason.engine.remote.engine import RemoteEngine, ServerStats
from reason.engine.remote.families import FAMILIES, Family
from reason.engine.remote.pieces import PieceCodec
from reason.engine.remote.servers import Servers, check_servers

__all__ = [
    "FAMILIES",
    "Address",
    "Family",
    "PieceCodec",
    "RemoteEngine",
    "ServerStats",
    "Servers",
    "check_servers",
]

"""Where weights can be had from. One kind of source per file; each is a frozen dataclass with ``fetch``."""

from __future__ import annotations

from reason.models.sources.hub import HubFile
from reason.models.sources.index import IndexPart, IndexParts
from reason.models.sources.local import LocalFile
from reason.models.sources.protocol import Source, SourceUnavailable

__all__ = ["HubFile", "IndexPart", "IndexParts", "LocalFile", "Source", "SourceUnavailable"]

"""What a source of weights is: anything that can write one known file. Checksums are checked by the caller, once."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from reason.errors import ModelError
from reason.models.progress import Progress

__all__ = ["Source", "SourceUnavailable", "disk_failed", "flag_set", "offline"]


class SourceUnavailable(ModelError):
    """One source cannot give the file now; the message is one line and the next source is tried."""


class Source(Protocol):
    """A place that may hold a catalogue entry's file."""

    @property
    def label(self) -> str:
        """How messages call this source."""
        ...

    def fetch(self, target: Path, progress: Progress) -> None:
        """Write the whole file to ``target``.

        May keep pieces that it can verify beside ``target``, to resume from after an interruption: whoever calls
        removes that folder once the model is ready. Never leaves a part of the file under the name ``target``.

        Raises:
            SourceUnavailable: the file cannot be had here.
            ChecksumMismatch: a piece of it is not what was pinned.
            OSError: this machine's disk failed (the caller tells "disk full" from the rest).
        """
        ...


def offline() -> bool:
    """Whether the user forbade the network with ``REASON_OFFLINE``."""
    return flag_set("REASON_OFFLINE")


def disk_failed(error: BaseException) -> bool:
    """Whether this is our disk's fault, so that another source would not help."""
    return isinstance(error, OSError) and error.errno in _DISK


_DISK = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EACCES, errno.EPERM, errno.EROFS)


def flag_set(variable: str) -> bool:
    """Whether an environment variable is set to something that means yes."""
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")

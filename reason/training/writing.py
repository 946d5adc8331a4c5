"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import itertools
import os
from pathlib import Path

from reason.errors import ReasonError

__all__ = ["write_whole"]

_numbers = itertools.count()  # two may write the same file at once


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file, in folders that are made if need be; what was there stays until all of it is written.

    Raises:
        ReasonError: it cannot be written.
    """
    partial = file.with_name(f".{file.name}.{os.getpid()}.{next(_numbers)}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(file)
    except OSError as error:
        raise ReasonError(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)

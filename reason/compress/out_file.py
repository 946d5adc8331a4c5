"""The file that compressed traces are written to: JSON lines, one a trace, each with the settings that made it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reason.errors import ReasonError, UsageError

__all__ = ["OutFile"]


class OutFile:
    """Rows that are done, and room for more. A kill leaves whole lines and at most half a last one, which is cut off.

    Args:
        file: need not exist; its folder is made.
        settings: what decides the rows; those that are there must have the same.
        overwrite: what is there goes.

    Raises:
        UsageError: what is there is not this command's, or was made with other settings.
        ReasonError: it cannot be read or written.
    """

    def __init__(self, file: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.file = file
        self._settings = dict(settings)
        self.rows: dict[str, dict[str, Any]] = {}
        """By id."""
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            content = b"" if overwrite or not file.exists() else file.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            for number, line in enumerate(whole.splitlines(), start=1):
                self._take(number, line)
            file.open("ab").close()  # to see that it can be written
        except OSError as error:
            raise self._unusable(error) from error
        self._end = len(whole)  # what stands behind it goes with the first row that is added

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row, which has an "id", and the settings to it."""
        full = {**row, "settings": self._settings}
        text = json.dumps(full, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        data = text.encode("utf-8", "surrogatepass") + b"\n"
        try:
            with self.file.open("ab") as stream:
                stream.truncate(self._end)
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise self._unusable(error) from error
        self._end += len(data)
        self.rows[full["id"]] = full

    def _take(self, number: int, line: bytes) -> None:
        try:
            row = json.loads(line.decode("utf-8", "surrogatepass"))
            name, settings = row["id"], row["settings"]
            row["kept"], row["usage"]
        except (ValueError, KeyError, TypeError):
            raise UsageError(
                f"{self.file}, line {number}: this is no compressed trace; use another --out, or --overwrite"
            ) from None
        changed = [key for key in {**settings, **self._settings} if settings.get(key) != self._settings.get(key)]
        if changed:
            said = "; ".join(f"{key} {settings.get(key)!r}, now {self._settings.get(key)!r}" for key in changed)
            raise UsageError(
                f"{self.file} was begun with other settings: {said}. Use another --out, or --overwrite to start anew."
            )
        self.rows[name] = row

    def _unusable(self, error: OSError) -> ReasonError:
        why = error.strerror or error
        return ReasonError(f"cannot use {self.file}: {why}. What was done before is kept; or use another --out.")

"""A file on this machine or on a shared disk."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from reason.models.progress import Progress
from reason.models.sources.protocol import SourceUnavailable

__all__ = ["LocalFile"]


@dataclass(frozen=True)
class LocalFile:
    """Copies a file that is already here, for sites that keep weights on a shared disk, and for tests."""

    path: Path

    @property
    def label(self) -> str:
        return f"file {self.path}"

    def fetch(self, target: Path, progress: Progress) -> None:
        if not self.path.is_file():
            raise SourceUnavailable("no such file")
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(self.path, partial)
        os.replace(partial, target)

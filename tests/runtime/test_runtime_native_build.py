"""The compiled library: made again where it is damaged, and said where it cannot be made."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from reason.runtime.native import build
from reason.runtime.native.build import CompileFailed, load_library
from reason.runtime.native.kernels import make_kernels

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() != "x86_64" or shutil.which("g++") is None,
    reason="there is no g++ on Linux for x86-64",
)


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Of libraries, which are made of little: so it takes no time, and needs no processor of the newest."""
    source = tmp_path / "kernels.cpp"
    source.write_text('extern "C" int reason_native_init() { return 0; }')
    monkeypatch.setattr(build, "_SOURCE", source)
    monkeypatch.setattr(build, "_processor", lambda: (build._NEEDED, "one"))
    monkeypatch.setenv("REASON_CACHE", str(tmp_path))
    return tmp_path / "native"


def test_a_library_that_was_cut_off_is_made_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_library()
    (made,) = folder.iterdir()
    monkeypatch.setenv("REASON_CACHE", str(tmp_path / "other"))  # of one path a process has one library for good
    library = tmp_path / "other" / "native" / made.name
    library.parent.mkdir(parents=True)
    library.write_bytes(made.read_bytes()[:100])
    assert load_library().reason_native_init() == 0
    assert (list(library.parent.iterdir()), library.read_bytes()) == ([library], made.read_bytes())


def test_a_compiler_with_arguments(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "g++ -O0")
    assert load_library().reason_native_init() == 0


def test_a_compiler_in_a_folder_with_a_space(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "my tools" / "g++"
    compiler.parent.mkdir()
    compiler.symlink_to(str(shutil.which("g++")))
    monkeypatch.setenv("CXX", str(compiler))
    assert load_library().reason_native_init() == 0


@pytest.mark.parametrize("compiler", ["false", "/nowhere/g++", "g++ 'half"])
def test_a_compiler_that_fails_is_told_of(compiler: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler)
    with pytest.raises(CompileFailed):
        load_library()
    with pytest.warns(UserWarning, match="no compiled kernels"):
        assert make_kernels(amx=True) is None

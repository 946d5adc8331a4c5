"""Compiles ``kernels.cpp`` for this machine and keeps the library in the cache."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

from reason.models.cache import Cache

__all__ = ["BuildFailed", "CompileFailed", "load_library"]

_FOLDER = Path(__file__).parent
_SOURCE = _FOLDER / "kernels.cpp"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-pthread", "-shared")
_NEEDED = frozenset({"avx512_bf16", "avx512_vnni", "avx512bw", "avx512dq", "avx512vl"})
_CHOOSING = frozenset({"amx_tile", "amx_bf16"})  # what else the source looks at: one model may come with and without
_COMPILE_SECONDS = 120


class BuildFailed(Exception):
    """There are no kernels for this machine; the message says why."""


class CompileFailed(BuildFailed):
    """There could be some, and the compiler or the disk was in the way."""


def load_library(*, amx: bool = True) -> ctypes.CDLL:
    """The compiled library, built now if it is not in the cache; ``amx=False`` leaves AMX unused where there is any.

    Raises:
        BuildFailed: the processor or the system has none, or there is no compiler.
        CompileFailed: the compiler failed, or what it made does not load.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise BuildFailed("only Linux on x86-64 is supported")
    flags, model = _processor()
    if missing := _NEEDED - flags:
        raise BuildFailed(f"the processor lacks {', '.join(sorted(missing))}")
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler is None:
        raise BuildFailed("no g++ was found")
    options = (*_FLAGS, *(() if amx else ("-DREASON_NO_AMX",)))
    sources = b"".join(path.read_bytes() for path in (_SOURCE, *sorted(_FOLDER.glob("*.h"))))
    built_for = repr((options, sorted(flags & _CHOOSING), model, compiler))
    key = hashlib.sha256(sources + built_for.encode()).hexdigest()[:16]
    library = Cache.default().root / "native" / f"kernels-{key}.so"
    if library.is_file():
        with contextlib.suppress(OSError):  # cut off when a machine went down: made again
            return ctypes.CDLL(str(library))
    try:
        _compile([compiler] if shutil.which(compiler) else shlex.split(compiler), options, library)
        return ctypes.CDLL(str(library))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise CompileFailed(f"{library} cannot be made: {error}") from error


def _compile(compiler: list[str], options: tuple[str, ...], library: Path) -> None:
    """Compiles beside the target and moves the result there, so that no one ever sees half a library."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        command = [*compiler, *options, str(_SOURCE), "-o", str(made)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=_COMPILE_SECONDS, check=False)
        if run.returncode:
            raise CompileFailed(f"{' '.join(compiler)} failed: {run.stderr.strip()[-500:]}")
        with made.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(made, library)


def _processor() -> tuple[frozenset[str], str]:
    """(instruction set flags, model name) of the first processor."""
    flags: frozenset[str] = frozenset()
    model = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "flags":
                    flags = frozenset(value.split())
                elif name.strip() == "model name":
                    model = value.strip()
                if flags and model:
                    break
    except OSError as error:
        raise BuildFailed(f"cannot read /proc/cpuinfo: {error}") from error
    return flags, model

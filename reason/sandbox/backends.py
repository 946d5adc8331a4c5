"""How a worker is put in a sandbox: with bubblewrap, with Linux namespaces of our own making, or, if asked for, not.

Which of them works here is found out by starting one worker, once in a process's life. Where neither does, nothing is
run: ``SandboxUnavailable`` says why and what to install or enable.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import platform
import select
import shutil
import site
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from reason.errors import SandboxUnavailable
from reason.sandbox.inside import frames
from reason.sandbox.inside.box import WORK_FOLDER
from reason.sandbox.inside.seccomp import MACHINES

__all__ = ["Backend", "Process", "bubblewrap", "find", "namespaces", "start", "unprotected"]

_CODE = "/code"  # where the sandbox shows our modules
_READY_SECONDS = 60.0  # to start takes a tenth of a second, on a loaded machine many
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr")
_FILES = ("/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime", "/etc/alternatives")

# Our modules by their usual names, without the package's own __init__ modules, which need more than Python.
_BOOT = """
import importlib, json, sys, types
for name in ("reason", "reason.verifiers", "reason.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = []
sys.modules["reason.sandbox"].__path__.append(sys.argv[1])
sys.path[:] = [entry for entry in sys.path if entry]
module, arguments = sys.argv[2], json.loads(sys.argv[3])
del sys.argv[1:]
importlib.import_module("reason.sandbox.inside." + module).main(**arguments)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """A way to start workers.

    Args:
        name: "bubblewrap", "namespaces" or "unsafe".
        command: the argv of a worker, given the folder that only ``unsafe`` works in.
    """

    name: str
    command: Callable[[str], list[str]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Process:
    """A started worker process.

    Args:
        popen: the process; killing it ends all that runs in the worker.
        control: the socket to it; closing it does the same.
        errors: what it says on standard error.
    """

    popen: subprocess.Popen[bytes]
    control: socket.socket
    errors: IO[bytes]

    def kill(self) -> None:
        """Ends the worker and waits for it. Idempotent."""
        self.control.close()
        self.popen.kill()
        self.popen.wait()
        self.errors.close()

    def said(self) -> str:
        """The end of its standard error."""
        self.errors.seek(0)
        return self.errors.read()[-2000:].decode(errors="replace").strip()


def start(backend: Backend, folder: str) -> Process:
    """Starts a worker; it sends {"ready": ...} when it is warm."""
    ours, theirs = socket.socketpair()
    errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the worker is killed
    environment = {
        "HOME": WORK_FOLDER,
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",  # the order of sets must not decide a test
        "PYTHONUTF8": "1",
        "TMPDIR": folder if backend.name == "unsafe" else WORK_FOLDER,
    }
    try:
        popen = subprocess.Popen(
            backend.command(folder),
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    except BaseException:
        ours.close()
        errors.close()
        raise
    finally:
        theirs.close()
    return Process(popen=popen, control=ours, errors=errors)


def bubblewrap(program: str, *, as_root: bool | None = None) -> Backend:
    """Workers in bubblewrap. As root without a user namespace: the zygote becomes "nobody" by itself."""
    root = os.geteuid() == 0 if as_root is None else as_root
    spaces = ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    rights = ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    argv = [program, *spaces, *(rights if root else ["--unshare-user"]), "--die-with-parent"]
    show, links = _visible()
    parents = {str(parent) for target in show for parent in Path(target).parents} - {"/"} | {"/dev"}
    for folder in sorted(parents - show.keys()):  # bubblewrap itself would make them for root alone
        argv += ["--perms", "0755", "--dir", folder]
    for target, source in show.items():
        argv += ["--ro-bind", source, target]
    for name in ("null", "zero", "full", "random", "urandom"):
        argv += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
    for path, points_to in links.items():
        argv += ["--symlink", points_to, path]
    argv += ["--proc", "/proc", "--dir", WORK_FOLDER, "--remount-ro", "/", "--chdir", "/", "--"]
    return Backend(name="bubblewrap", command=lambda _: [*argv, *_zygote(_CODE, isolated=True, folder=WORK_FOLDER)])


def namespaces() -> Backend:
    """Workers in namespaces that our own launcher makes."""

    def command(_: str) -> list[str]:
        show, links = _visible()
        inner = _zygote(_CODE, isolated=True, folder=WORK_FOLDER)
        arguments = {"show": show, "links": links, "work": WORK_FOLDER, "command": inner}
        return _python(str(Path(__file__).parent), "launcher", arguments)

    return Backend(name="namespaces", command=command)


def unprotected() -> Backend:
    """Workers without any isolation."""
    here = str(Path(__file__).parent)
    return Backend(name="unsafe", command=lambda folder: _zygote(here, isolated=False, folder=folder))


@functools.lru_cache(maxsize=1)
def find() -> Backend:
    """The backend that works here, tried once: bubblewrap where it is installed, else namespaces.

    Raises:
        SandboxUnavailable: neither works.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise SandboxUnavailable(
            f"programs can be isolated on Linux on {' and '.join(MACHINES)}, not on {sys.platform} on "
            f"{platform.machine()}. Use a virtual machine or a container there, or run without isolation: "
            "--unsafe-exec, unsafe_exec=True, or Sandbox(unsafe=True)."
        )
    reasons = []
    program = shutil.which("bwrap")
    candidates = [*([bubblewrap(program)] if program else []), namespaces()]
    for backend in candidates:
        reason = _try(backend)
        if reason is None:
            return backend
        reasons.append(f"{backend.name}: {reason}")
    install = "" if program else "install bubblewrap (apt install bubblewrap, dnf install bubblewrap), or "
    raise SandboxUnavailable(
        f"programs cannot be isolated here ({'; '.join(reasons)}). What helps: {install}allow user namespaces "
        "(sysctl user.max_user_namespaces above 0; kernel.unprivileged_userns_clone=1 on old Debian; "
        "kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu; in Docker, --security-opt seccomp=unconfined "
        "--security-opt apparmor=unconfined --security-opt systempaths=unconfined). Without isolation: "
        "--unsafe-exec, unsafe_exec=True, or Sandbox(unsafe=True)."
    )


def _try(backend: Backend) -> str | None:
    """Starts one worker. None where it gets ready, else why not."""
    try:
        process = start(backend, "/")
    except OSError as error:
        return str(error)
    try:
        if not select.select([process.control], [], [], _READY_SECONDS)[0]:
            return f"not ready after {_READY_SECONDS:g} s"
        reply = frames.receive(process.control.fileno(), limit=1 << 16)
        if reply is None:
            lines = process.said().splitlines()
            return lines[-1] if lines else "it ended without a word"
        return None if reply["ready"] else str(reply["problem"])
    except (frames.FrameError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        process.kill()


def _visible() -> tuple[dict[str, str], dict[str, str]]:
    """What a sandbox shows of this machine (target: source) and its symbolic links: the system, Python, packages."""
    show: dict[str, str] = {}
    links = {"/tmp": WORK_FOLDER.lstrip("/")}
    for name in _SYSTEM:
        if os.path.islink(name):
            links[name] = os.readlink(name)
        elif os.path.isdir(name):
            show[name] = name
    show |= {name: os.path.realpath(name) for name in _FILES if os.path.exists(name)}
    home = os.path.realpath(os.path.expanduser("~"))
    python, packages = os.path.realpath(sys.base_prefix), _packages()
    for folder, target in zip((python, *packages), (python, *_shown_at(packages)), strict=True):
        if home == folder or home.startswith(folder.rstrip("/") + "/"):
            raise SandboxUnavailable(
                f"Python's folder {folder} contains the home folder {home}, so programs would see it. "
                "Use a Python, or a virtual environment, in a folder of its own."
            )
        if target != folder or not any(folder == shown or folder.startswith(shown + "/") for shown in show):
            show[target] = folder
    if any(target.startswith("/tmp/") for target in show):  # Python itself lies there
        del links["/tmp"]
    show[f"{_CODE}/inside"] = str(Path(__file__).parent / "inside")
    return show, links


def _shown_at(packages: Sequence[str]) -> list[str]:
    """Where folders with packages are seen: at their own paths, but for those in /tmp, which is the program's own."""
    return [
        f"{_CODE}/packages/{place}" if folder.startswith("/tmp/") else folder for place, folder in enumerate(packages)
    ]


def _packages() -> list[str]:
    return [os.path.realpath(folder) for folder in site.getsitepackages() if os.path.isdir(folder)]


def _zygote(code: str, *, isolated: bool, folder: str) -> list[str]:
    packages = _shown_at(_packages()) if isolated else _packages()
    return _python(code, "zygote", {"packages": packages, "isolated": isolated, "folder": folder})


def _python(code: str, module: str, arguments: Mapping[str, object]) -> list[str]:
    # -s and -S: nothing but the standard library, and no code of the environment, before our own runs.
    executable = os.path.realpath(sys.executable)
    return [executable, "-s", "-S", "-c", _BOOT, code, module, json.dumps(arguments)]

"""Which isolation is chosen, how bubblewrap is called, and what is said where nothing works."""

from __future__ import annotations

import os
import platform
import shutil
import site
import sys
from collections.abc import Iterator

import pytest

from reason.errors import UsageError
from reason.sandbox import Limits, Sandbox, SandboxUnavailable, backends
from reason.sandbox.inside import seccomp

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox needs Linux")


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    backends.find.cache_clear()
    yield
    backends.find.cache_clear()


@linux_only
@pytest.mark.parametrize("as_root", [True, False])
def test_bubblewrap_separates_everything_and_shows_little(as_root: bool) -> None:
    argv = backends.bubblewrap("/usr/bin/bwrap", as_root=as_root).command("/ignored")
    inner = argv.index("--")
    options = argv[:inner]
    for space in ("pid", "net", "ipc", "uts"):
        assert f"--unshare-{space}" in options
    assert ("--unshare-user" in options) != as_root
    assert "--die-with-parent" in options
    assert "--bind" not in options, "nothing of this machine is writable"
    shown = [options[n + 2] for n, option in enumerate(options) if option == "--ro-bind"]
    ours = ("/code/inside", "/code/packages/")
    packages = {os.path.realpath(folder) for folder in site.getsitepackages()}
    python = os.path.realpath(sys.base_prefix)
    for path in shown:
        assert path.startswith(("/usr", "/bin", "/lib", "/sbin", "/etc/", *ours, python)) or path in packages
    assert not {"/etc", "/home", "/root", "/", "/run", "/var"} & set(shown)
    assert options.index("--remount-ro") > max(n for n, option in enumerate(options) if option == "--ro-bind")
    rights = [options[n + 1] for n, option in enumerate(options) if option == "--cap-add"]
    assert rights == (["CAP_SETUID", "CAP_SETGID"] if as_root else [])
    assert argv[inner + 1 : inner + 5] == [os.path.realpath(sys.executable), "-s", "-S", "-c"]


@linux_only
@pytest.mark.parametrize("folder", ["/tmp/here/site-packages", "/srv/here/site-packages"])
def test_packages_in_the_folder_that_is_the_programs_own(monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr(backends, "_packages", lambda: ["/usr/lib", folder])
    show, links = backends._visible()
    at = "/code/packages/1" if folder.startswith("/tmp/") else folder
    assert show[at] == folder
    assert links["/tmp"] == "box"


@linux_only
def test_packages_within_a_python_in_that_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/tmp/python")
    monkeypatch.setattr(backends, "_packages", lambda: ["/tmp/python/lib/site-packages"])
    show, links = backends._visible()
    assert show["/tmp/python"] == "/tmp/python"
    assert show["/code/packages/0"] == "/tmp/python/lib/site-packages"
    assert "/tmp" not in links


@linux_only
def test_bubblewrap_comes_first_and_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/bwrap")
    monkeypatch.setattr(backends, "_try", lambda backend: tried.append(backend.name))
    assert backends.find().name == "bubblewrap"
    assert Sandbox().backend == "bubblewrap"
    assert tried == ["bubblewrap"]


@linux_only
def test_namespaces_serve_where_bubblewrap_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: "/usr/bin/bwrap")
    monkeypatch.setattr(backends, "_try", lambda backend: "no" if backend.name == "bubblewrap" else None)
    assert backends.find().name == "namespaces"


@linux_only
def test_where_nothing_works_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(backends, "_try", lambda _: "unshare: Operation not permitted")
    with pytest.raises(SandboxUnavailable) as caught:
        Sandbox()
    said = str(caught.value)
    assert "namespaces: unshare: Operation not permitted" in said
    assert "apt install bubblewrap" in said
    assert "unprivileged_userns" in said
    assert "unsafe=True" in said
    assert Sandbox(unsafe=True).backend == "unsafe"


def test_other_systems_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(SandboxUnavailable, match="riscv64"):
        Sandbox()


@linux_only
def test_a_trial_says_why_it_failed() -> None:
    missing = backends.Backend(name="x", command=lambda _: ["/no/such/program"])
    assert "No such file" in str(backends._try(missing))
    silent = backends.Backend(name="x", command=lambda _: ["/bin/sh", "-c", "exit 1"])
    assert backends._try(silent) == "it ended without a word"


@linux_only
def test_a_python_whose_folder_holds_the_home_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", sys.base_prefix + "/home")
    with pytest.raises(SandboxUnavailable, match="contains the home folder"):
        backends.bubblewrap("/usr/bin/bwrap")


@pytest.mark.parametrize("machine", seccomp.MACHINES)
def test_filters_are_whole(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every jump of the filter stays in it, and it ends with a return."""
    monkeypatch.setattr(platform, "machine", lambda: machine)
    code = seccomp.program.__wrapped__()
    instructions = [seccomp._INSTRUCTION.unpack_from(code, at) for at in range(0, len(code), seccomp._INSTRUCTION.size)]
    assert len(instructions) < 4096
    for at, (kind, yes, no, _) in enumerate(instructions):
        if kind in (seccomp._EQUAL, seccomp._AT_LEAST, seccomp._ANY_BIT):
            assert at + 1 + max(yes, no) < len(instructions)
    assert instructions[-1] == (seccomp._RETURN, 0, 0, seccomp._ALLOW)


@pytest.mark.parametrize(
    ("field", "value"), [("wall_seconds", 0), ("cpu_seconds", 0.5), ("memory_mb", -1), ("open_files", 1000)]
)
def test_senseless_limits_are_refused(field: str, value: float) -> None:
    with pytest.raises(UsageError, match=field):
        Limits(**{field: value})  # type: ignore[arg-type]


def test_a_sandbox_has_workers() -> None:
    with pytest.raises(UsageError, match="workers"):
        Sandbox(workers=0, unsafe=True)

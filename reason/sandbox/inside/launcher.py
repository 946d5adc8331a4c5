"""Builds the outer sandbox without bubblewrap, then becomes the zygote's Python in it.

Runs as root or as a user who may make user namespaces. New namespaces for everything; a fresh root in memory that
shows only what ``show`` names, unwritable; no network device is up. As root no user namespace is made here: the
zygote becomes "nobody" before it reads anything.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

from reason.sandbox.inside import linux

__all__ = ["main"]

_DEVICES = ("null", "zero", "full", "random", "urandom")
_SPACES = (
    linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS
    | linux.CLONE_NEWCGROUP
)  # fmt: skip


def main(show: Mapping[str, str], links: Mapping[str, str], work: str, command: Sequence[str]) -> None:
    """Runs ``command`` in the sandbox; this process waits and ends as it ends.

    Args:
        show: target in the sandbox to source on this machine, files or folders.
        links: symbolic links by path.
        work: an empty folder, where boxes mount theirs.
        command: argv.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        if uid != 0:
            raise PermissionError
        linux.unshare(_SPACES)
    except PermissionError:
        linux.unshare(_SPACES | linux.CLONE_NEWUSER)
        linux.map_identity(uid, gid, inside=uid)
    child = os.fork()
    if child == 0:
        linux.prctl(linux.PR_SET_PDEATHSIG, 9)
        _build_root(show, links, work)
        os.execve(command[0], list(command), dict(os.environ))
    os.close(0)  # only the zygote holds the socket, so that its end is seen
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)


def _build_root(show: Mapping[str, str], links: Mapping[str, str], work: str) -> None:
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    base = sys.base_prefix  # any folder will do; what it holds is seen again once the tmpfs has become the root
    linux.mount("root", base, "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=755")
    for name in ("old", "new"):
        os.mkdir(f"{base}/{name}")
    linux.pivot_root(base, f"{base}/old")
    os.chdir("/")
    linux.mount("new", "/new", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=4m,mode=755")
    os.umask(0o022)
    for target, source in sorted(show.items()):
        _point("/old" + source, "/new" + target)
        linux.bind_read_only("/old" + source, "/new" + target)
    for name in _DEVICES:
        _point(f"/old/dev/{name}", f"/new/dev/{name}")
        linux.bind_read_only(f"/old/dev/{name}", f"/new/dev/{name}", devices=True)
    for path, points_to in links.items():
        os.symlink(points_to, "/new" + path)
    os.makedirs("/new" + work)
    os.mkdir("/new/proc")
    linux.mount("proc", "/new/proc", "proc", linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC)
    linux.detach("/old")
    os.chdir("/new")
    linux.pivot_root(".", ".")
    linux.detach(".")
    os.chdir("/")
    flags = linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("none", "/", None, flags)


def _point(source: str, target: str) -> None:
    """Makes what ``source`` can be mounted on."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "w"):
            pass

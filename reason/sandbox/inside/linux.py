"""The few Linux calls that Python 3.10 does not offer: namespaces, mounts, capabilities, process attributes.

Every function raises OSError with the call's errno. ``os.unshare`` and ``os.setns`` exist from 3.12 only.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal

__all__ = [
    "CLONE_NEWCGROUP",
    "CLONE_NEWIPC",
    "CLONE_NEWNET",
    "CLONE_NEWNS",
    "CLONE_NEWPID",
    "CLONE_NEWUSER",
    "CLONE_NEWUTS",
    "bind_read_only",
    "clone",
    "detach",
    "drop_capabilities",
    "map_identity",
    "mount",
    "pivot_root",
    "prctl",
    "unshare",
]

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38

_NUMBERS = {"x86_64": {"clone": 56, "pivot_root": 155}, "aarch64": {"clone": 220, "pivot_root": 41}}
_MOUNT_SETATTR = 442  # the same everywhere
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000

# Keeps the interpreter lock during a call: after a clone there is no other thread to give it back to.
_libc = ctypes.PyDLL(None, use_errno=True)


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def _syscall(name: str) -> int:
    return _NUMBERS[platform.machine()][name]


def unshare(flags: int) -> None:
    """Moves this process (its later children, for the process ids) into namespaces of its own."""
    _check(_libc.unshare(flags), "unshare")


def clone(flags: int) -> int:
    """``os.fork`` into new namespaces: 0 in the child, else the child's process id. For single-threaded processes."""
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _libc.syscall(_syscall("clone"), ctypes.c_ulong(flags | signal.SIGCHLD), None, None, None, None)
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    number = ctypes.get_errno()
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return int(pid)


def map_identity(uid: int, gid: int, *, inside: int) -> None:
    """In a new user namespace: this process's user and group (``uid``, ``gid`` outside) are called ``inside`` here."""
    for name, line in (("setgroups", "deny"), ("uid_map", f"{inside} {uid} 1"), ("gid_map", f"{inside} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)


def mount(source: str, target: str, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    arguments = (source.encode(), target.encode(), kind.encode() if kind else None)
    _check(_libc.mount(*arguments, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def bind_read_only(source: str, target: str, *, devices: bool = False) -> None:
    """Shows ``source``, with all that is mounted below it, at ``target``, unwritable and without set-user-id.

    Needs Linux 5.12, whose mount_setattr reaches the mounts below as well.
    """

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("attr_set", "attr_clr", "propagation", "userns_fd")]

    mount(source, target, None, MS_BIND | MS_REC)
    wanted = Attributes(MS_RDONLY | MS_NOSUID | (0 if devices else MS_NODEV), 0, 0, 0)
    path = os.fsencode(target)
    size = ctypes.c_size_t(ctypes.sizeof(wanted))
    result = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path, _AT_RECURSIVE, ctypes.byref(wanted), size)
    _check(result, f"mount_setattr {target}")


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2): ``new`` becomes the root, the old root is at ``old``."""
    _check(_libc.syscall(_syscall("pivot_root"), new.encode(), old.encode()), "pivot_root")


def detach(target: str) -> None:
    """Unmounts ``target`` and everything below it, in use or not."""
    _check(_libc.umount2(target.encode(), _MNT_DETACH), f"umount {target}")


def prctl(option: int, *arguments: int) -> None:
    """prctl(2)."""
    padded = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *padded), f"prctl {option}")


def drop_capabilities() -> None:
    """Leaves this process and all that it starts without any capability, for good."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:  # EINVAL: past the last one; EPERM: there was none to drop
            break
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    _check(_libc.capset(header, nothing), "capset")
    prctl(PR_SET_NO_NEW_PRIVS, 1)

"""A filter of system calls: what a program that only computes never needs is refused with EPERM.

It adds to the namespaces what they do not separate: VSOCK sockets reach a virtual machine's host from any network
namespace, keyrings are shared by user, memory in memfd and System V segments counts in no limit of ours; and it
takes from a program most of the kernel that privilege escalations were found in (new user namespaces, bpf, io_uring,
userfaultfd, perf). x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import platform
import struct

from reason.sandbox.inside import linux

__all__ = ["MACHINES", "install", "program"]

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # AUDIT_ARCH_*

# name: number on x86-64, on arm64; None where there is no such call
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "lookup_dcookie": (212, 18),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "move_pages": (279, 239),
    "mq_open": (240, 180),
    "msgget": (68, 186),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "semget": (64, 190),
    "setdomainname": (171, 162),
    "sethostname": (170, 161),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "shmget": (29, 194),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_CLONE, _SOCKET, _CLONE3 = (56, 220), (41, 198), 435
_X32 = 0x40000000  # calls of the x32 interface have this bit and other numbers
_AF_UNIX = 1

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # of classic BPF
_NR, _ARCH, _ARGUMENT_0 = 0, 4, 16  # offsets in struct seccomp_data; the low half of the argument
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_INSTRUCTION = struct.Struct("=HBBI")
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2


def install() -> None:
    """Filters the calls of this process and of all that it starts. Needs no_new_privs.

    Raises:
        OSError: the kernel has no filters.
        KeyError: a machine whose numbers of calls are not known here.
    """

    class Program(ctypes.Structure):
        _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    code = program()
    buffer = ctypes.create_string_buffer(code, len(code))
    filtering = Program(len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    linux.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(filtering))


@functools.lru_cache(maxsize=1)
def program() -> bytes:
    """The filter for this machine, as classic BPF."""
    machine = platform.machine()
    column = 0 if machine == "x86_64" else 1
    code = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, MACHINES[machine]), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NR)]
    if machine == "x86_64":
        code += _refuse(_AT_LEAST, _X32, errno.ENOSYS)
    for numbers in _REFUSED.values():
        number = numbers[column]
        if number is not None:
            code += _refuse(_EQUAL, number, errno.EPERM)
    code += _refuse(_EQUAL, _CLONE3, errno.ENOSYS)  # its flags are in memory, out of a filter's sight; libc has clone
    spaces = linux.CLONE_NEWUSER | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWNS
    spaces |= linux.CLONE_NEWUTS | linux.CLONE_NEWIPC | linux.CLONE_NEWCGROUP
    code += [(_EQUAL, 0, 3, _CLONE[column]), (_LOAD, 0, 0, _ARGUMENT_0), *_refuse(_ANY_BIT, spaces, errno.EPERM)]
    code += [(_LOAD, 0, 0, _NR)]
    code += [(_EQUAL, 0, 3, _SOCKET[column]), (_LOAD, 0, 0, _ARGUMENT_0), (_EQUAL, 1, 0, _AF_UNIX)]
    code += [(_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in code)


def _refuse(test: int, value: int, number: int) -> list[tuple[int, int, int, int]]:
    return [(test, 0, 1, value), (_RETURN, 0, 0, _ERRNO | number)]

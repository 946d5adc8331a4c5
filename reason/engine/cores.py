"""How many cores are free.

A forward meets all its threads some hundred times; one that has to share its core with another process makes every
meeting wait for a time slice, which slowed forwards tenfold. So there are never more threads than free cores.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time

__all__ = ["CoreWatch", "compute_alone", "usable_cores"]

_MIN_SECONDS = 0.2  # shorter windows say little


class CoreWatch:
    """Watches the machine from its making to ``free_cores``: make it before loading a model, ask after."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._busy = _busy_seconds()
        self._own = _own_seconds()

    def free_cores(self) -> int:
        """Cores this process may use, less those that other processes kept busy meanwhile; at least 1.
        ``OMP_NUM_THREADS`` overrules the watching."""
        allowed = usable_cores()
        asked = os.environ.get("OMP_NUM_THREADS", "")
        if asked.isdigit() and int(asked) > 0:
            return min(allowed, int(asked))
        elapsed = time.perf_counter() - self._began
        busy = _busy_seconds()
        if self._busy is None or busy is None or elapsed < _MIN_SECONDS:
            return allowed
        others = max(0.0, (busy - self._busy) - (_own_seconds() - self._own)) / elapsed
        return max(1, min(allowed, round((os.cpu_count() or 1) - others)))


def compute_alone() -> None:
    """From now on torch's operations in the calling thread take no other threads; those in other threads do as before.

    For threads whose large products are made by kernels with threads of their own: torch's would wait awake for
    milliseconds after each of its operations, on the cores that those need.
    """
    import torch

    torch.get_num_threads()  # it settles the thread's own number, at its first use
    for library in _loaded("libgomp"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(library).omp_set_num_threads(1)


def usable_cores() -> int:
    """Those that the system lets this process run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _loaded(name: str) -> set[str]:
    """Files of shared libraries of this process whose names begin so; wheels rename theirs. None on other systems."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as lines:
            files = {line.split(maxsplit=5)[-1].strip() for line in lines if "/" in line}
    except OSError:
        return set()
    return {file for file in files if os.path.basename(file).startswith(name)}


def _busy_seconds() -> float | None:
    """Core-seconds of work on the whole machine since it started; None where the system does not tell."""
    try:
        with open("/proc/stat", encoding="ascii") as lines:
            fields = [int(field) for field in lines.readline().split()[1:9]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _iowait, irq, softirq, _steal = fields
    return (user + nice + system + irq + softirq) / float(os.sysconf("SC_CLK_TCK"))


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

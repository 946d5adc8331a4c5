"""A Ray cluster: one that runs already, or one of this machine alone for as long as it is needed."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import NamedTuple

from reason.engine.cores import usable_cores
from reason.errors import ReasonError, UsageError

__all__ = ["Share", "natural_share", "session", "workers_that_fit"]

_OBJECT_STORE_BYTES = 256 << 20  # problems and their journals pass through it, no tensors


class Share(NamedTuple):
    """What one worker has of a machine. Fractions of one are allowed; Ray counts and does not enforce them."""

    cpus: float
    gpus: float = 0.0

    def check(self) -> None:
        """Raises:
        UsageError: it is nothing, or less.
        """
        for name, value in self._asdict().items():
            if value < 0 or (value > 1 and value != int(value)):
                raise UsageError(f"a worker has a whole number of {name} or a fraction of one, got {value:g}")
        if not any(self):
            raise UsageError("a worker needs a share of the CPUs or GPUs: two times 0 would put any number anywhere")

    def room(self) -> int:
        """How many such workers the connected cluster has resources for at this moment, whoever uses them."""
        import ray

        there = ray.cluster_resources()
        wanted = {"CPU": self.cpus, "GPU": self.gpus}
        return min(int(there.get(name, 0.0) / amount) for name, amount in wanted.items() if amount)

    def __str__(self) -> str:
        return " and ".join(f"{value:g} {name}" for name, value in (("CPU", self.cpus), ("GPU", self.gpus)) if value)


@contextlib.contextmanager
def session(address: str | None = None) -> Iterator[None]:
    """Connects this process to Ray; where it is connected already, that connection is used and kept.

    Args:
        address: of a running cluster's head ("auto", "10.0.0.1:6379"); None starts one on this machine, which ends with
            the session.

    Raises:
        UsageError: Ray is not installed, or the address is not one to connect to from here.
        ReasonError: nothing answers there.
    """
    try:
        import ray
    except ImportError:
        raise UsageError("many workers need Ray: pip install 'reason-toolkit[cluster]'") from None

    if address is not None and "://" in address:
        raise UsageError(
            f"{address} is for clients, and results are written by a process inside the cluster: run this on one of "
            "its machines with --ray-address auto, or send it there with `ray job submit`"
        )
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    here = {"num_cpus": usable_cores(), "include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else here),
        )
    except Exception as error:  # Ray raises this very class, too
        where = f"the Ray cluster at {address}" if address else "a Ray cluster of this machine"
        raise ReasonError(f"cannot use {where}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def natural_share(workers: int | None, *, local: bool, needs_gpu: bool | None) -> Share:
    """What a worker gets where nobody says: a GPU each where there are any, else the cores of this machine in equal
    parts, or one core of a cluster.

    Args:
        local: the cluster is this machine alone.
        needs_gpu: whether the engine computes on one; None if it takes what there is.
    """
    import ray

    there = ray.cluster_resources()
    if needs_gpu or (needs_gpu is None and there.get("GPU", 0) >= 1):
        return Share(cpus=1.0, gpus=1.0)
    cores = there.get("CPU", 1.0) / workers if local and workers else 1.0
    return Share(cpus=float(int(cores)) if cores >= 1 else cores)


def workers_that_fit(share: Share) -> int:
    """How many workers the cluster has resources for at this moment, whoever uses them.

    Raises:
        ReasonError: none.
    """
    count = share.room()
    if count < 1:
        raise ReasonError(
            f"the cluster has no room for a worker of {share}; name their number (--workers) if machines are to come"
        )
    return count

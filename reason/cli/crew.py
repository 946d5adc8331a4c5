"""Who runs evaluations: this process, or workers on a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from reason.errors import UsageError

if TYPE_CHECKING:
    from reason.cluster import Share
    from reason.report.evaluate import Evaluation
    from reason.report.summary import Summary

__all__ = ["Crew", "crew_of", "evaluator"]


class Crew(NamedTuple):
    """The workers that were asked for, as the options have it."""

    workers: int | None
    address: str | None
    cpus: float | None
    gpus: float | None


def crew_of(
    workers: int | None, address: str | None, cpus: float | None, gpus: float | None, *, device: str
) -> Crew | None:
    """The workers that the options ask for; None where this process is to do the work.

    Raises:
        UsageError: a value is not allowed, or is about workers where there are none.
    """
    if workers is None and address is None:
        if cpus is not None or gpus is not None:
            raise UsageError("--worker-cpus and --worker-gpus are about workers: give --workers or --ray-address, too")
        return None
    if workers is not None and workers < 1:
        raise UsageError(f"--workers must be at least 1, got {workers}")
    if device.startswith("cuda:"):
        raise UsageError(f"Ray says which GPU a worker has: give --device cuda, not {device}")
    return Crew(workers, address, cpus, gpus)


@contextlib.contextmanager
def evaluator(
    model: str | None, load: Mapping[str, Any], crew: Crew | None
) -> Iterator[Callable[[Evaluation], Awaitable[Summary]]]:
    """What runs evaluations, with the model loaded.

    Args:
        load: the options of ``Solver``.
        crew: who is to solve the problems; None is this process.
    """
    from reason.api import Solver

    if crew is None:
        with Solver(model, **load) as solver:
            yield lambda evaluation: evaluation.run(solver)
        return
    from reason.cluster import Fleet, on_fleet, session, workers_that_fit

    with session(crew.address):
        share = _share(crew, load)
        share.check()
        if load["threads"] is None and not share.gpus and load.get("base_url") is None:
            load = {**load, "threads": max(1, int(share.cpus))}  # others' cores may look free while they load
        with Fleet(
            functools.partial(Solver, model, **load),
            workers=crew.workers or workers_that_fit(share),
            share=share,
            on_note=_note,
        ) as fleet:
            yield lambda evaluation: on_fleet(evaluation, fleet)


def _share(crew: Crew, load: Mapping[str, Any]) -> Share:
    from reason.cluster import Share, natural_share

    served = load.get("base_url") is not None
    needs_gpu = {"cpu": False, "cuda": True}.get("cpu" if served else load["device"])
    natural = natural_share(crew.workers, local=crew.address is None, needs_gpu=needs_gpu)
    return Share(
        cpus=natural.cpus if crew.cpus is None else crew.cpus,
        gpus=natural.gpus if crew.gpus is None else crew.gpus,
    )


def _note(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)

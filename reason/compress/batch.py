"""Many traces with one compressor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from reason.compress.compressor import Compression, CompressOptions, Compressor
from reason.compress.job import Job, ScoredJob
from reason.errors import EngineClosed, ReasonError

__all__ = ["compress_all"]


async def compress_all(
    compressor: Compressor,
    jobs: Mapping[str, Job],
    options: CompressOptions,
    *,
    concurrency: int,
    on_done: Callable[[str, Compression | ReasonError], None],
    on_stage: Callable[[str, str], None] = lambda name, stage: None,
) -> None:
    """Compresses jobs, as many at once as ``concurrency`` says: their steps are scored one job after the other, then
    they are searched together and share the engine's batches. Scoring and searching in turn keeps two models from
    taking each other's cores.

    Args:
        on_done: told of each as it is done, or failed.
        on_stage: told what is under way.
    """
    names = list(jobs)

    async def finish(name: str, scored: ScoredJob) -> None:
        done: Compression | ReasonError
        try:
            done = await compressor.search(scored, options)
        except EngineClosed:
            raise
        except ReasonError as error:
            done = error
        on_done(name, done)

    for first in range(0, len(names), concurrency):
        scored: dict[str, ScoredJob] = {}
        for name in names[first : first + concurrency]:
            job = jobs[name]

            def told(steps: int, name: str = name, total: int = 2 * len(job.steps)) -> None:
                on_stage(name, f"scoring, {steps} of {total} readings")

            told(0)
            try:
                scored[name] = await compressor.score(job, options, told)
            except EngineClosed:
                raise
            except ReasonError as error:
                on_done(name, error)
        for name in scored:
            on_stage(name, "searching")
        work = [asyncio.ensure_future(finish(name, one)) for name, one in scored.items()]
        try:
            await asyncio.gather(*work)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)

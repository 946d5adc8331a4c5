"""``LocalEngine``: a torch model on this machine behind the ``Engine`` protocol.

One thread owns the model and runs the loop; any number of event loops and threads may ask it. What it answers crosses
by ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeVar

from reason.engine.codec import HubCodec
from reason.engine.jobs import GenerateJob, ScoreJob
from reason.engine.ledger import LoopStats
from reason.engine.loop import EngineLoop
from reason.engine.thread import EngineThread
from reason.errors import EngineClosed, EngineError
from reason.types import Completion, Path, Request, Scored, Usage

if TYPE_CHECKING:
    from reason.runtime.runner import ModelRunner
    from reason.speculate.draft import Source
    from reason.speculate.speculator import Speculator

__all__ = ["LocalEngine"]

T = TypeVar("T")


class LocalEngine:
    """See ``reason.types.Engine``. Make one with ``LocalEngine.load``.

    Args:
        runner: the model; the engine's thread owns it from now on.
        codec: its tokenizer.
        name: what the user calls the model.
        max_running: requests that may hold KV at once; more wait their turn.
        max_rows: rows of one forward.
        speculator: drafts tokens; None never does.
        draws_on_device: see ``EngineLoop``.
        beside: see ``load``.
    """

    def __init__(
        self,
        runner: ModelRunner,
        codec: HubCodec,
        *,
        name: str,
        max_running: int = 256,
        max_rows: int = 512,
        speculator: Speculator | None = None,
        draws_on_device: bool | None = None,
        beside: LocalEngine | None = None,
    ) -> None:
        def make() -> EngineLoop:
            return EngineLoop(
                runner,
                codec,
                max_running=max_running,
                max_rows=max_rows,
                speculator=speculator,
                draws_on_device=draws_on_device,
            )

        self._start(make, name, beside)

    def _start(self, make: Callable[[], EngineLoop], name: str, beside: LocalEngine | None = None) -> None:
        """Has a thread, another engine's or a new one, make the loop; raises what the making raised."""
        self._name = name
        self._closing = threading.Lock()
        self._closed = False
        self._broken: Exception | None = None
        self._thread: EngineThread = EngineThread(name) if beside is None else beside._thread
        self._loop = self._thread.add(make, self._fail)
        self._codec = self._loop.codec

    @classmethod
    def load(
        cls,
        folder: str | FilePath,
        *,
        name: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        kv_tokens: int | None = None,
        quantize: str | None = None,
        threads: int | None = None,
        max_running: int = 256,
        max_rows: int = 512,
        draft: str = "auto",
        draft_rule: str = "coupled",
        draft_policy: str = "auto",
        beside: LocalEngine | None = None,
    ) -> LocalEngine:
        """Loads a model folder (safetensors, config, tokenizer) and starts its engine.

        Args:
            folder: see ``reason.models.resolve`` for how names become folders.
            device: "auto" takes a CUDA device if there is one; "cpu", "cuda", "cuda:1".
            dtype: "auto" is bf16 where the machine computes in it and float32 elsewhere; or "bfloat16", "float32",
                "float16".
            kv_tokens: size of the KV pool; by default what fits a quarter of the free memory, at most 131072, or three
                fifths of a CUDA device's.
            quantize: None, "int8" or "int4", on a CPU, see ``reason.runtime.quantized``.
            threads: CPU threads; by default the cores this process may use and others leave free.
            draft: what drafts tokens, see ``reason.speculate.build``; "none" decodes plainly. It changes how fast
                tokens come, not which.
            draft_rule: the verification rule.
            draft_policy: what decides how much is drafted.
            beside: an engine whose thread it computes in, because the two take turns on one machine.
        """
        from reason.engine.loading import LoadOptions, load_codec, load_draft_source, load_runner
        from reason.speculate.build import make_speculator
        from reason.speculate.rules import make_rule
        from reason.speculate.sources import DRAFT_MODEL

        called = name or FilePath(folder).name
        options = LoadOptions(device, dtype, kv_tokens, quantize, threads)

        def make() -> EngineLoop:
            codec = load_codec(FilePath(folder))

            def make_draft_model(argument: str) -> Source:
                rule = make_rule(draft_rule)
                return load_draft_source(argument, codec, options, called, rule, target_seconds)

            def target_seconds(rows: int) -> float:
                assert speculator is not None
                return float(speculator.times.upto(rows)[rows])

            # Before the runner: a name that is unknown should not wait for what is large.
            speculator = make_speculator(
                draft, rule=draft_rule, policy=draft_policy, others={DRAFT_MODEL: make_draft_model}
            )
            runner = load_runner(FilePath(folder), options)
            if speculator is not None:
                speculator.times.probe(runner.time_forward, runner.forest.pool.capacity // 2)
            return EngineLoop(runner, codec, max_running=max_running, max_rows=max_rows, speculator=speculator)

        engine = cls.__new__(cls)
        engine._start(make, called, beside)
        return engine

    # -- the Engine protocol ---------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self._name

    @property
    def codec(self) -> HubCodec:
        return self._codec

    @property
    def max_positions(self) -> int:
        """The longest path, prompt and completion together."""
        return self._loop.runner.max_positions

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        loop = asyncio.get_running_loop()
        arrived: asyncio.Queue[Completion] = asyncio.Queue()

        def deliver(completion: Completion) -> None:
            _call_in(loop, lambda: arrived.put_nowait(completion))

        jobs = [GenerateJob(request, i, deliver) for i, request in enumerate(requests)]
        self._tell_each(self._loop.submit, jobs)
        finished = 0
        try:
            while finished < len(jobs):
                completion = await arrived.get()
                finished += 1
                yield completion
        finally:
            if finished < len(jobs) and not self._closed:
                self._tell_each(self._loop.cancel, jobs)

    async def score(
        self,
        paths: Sequence[Path],
        start: int,
        *,
        logprobs: bool = True,
        layers: Sequence[int] = (),
        owner: str = "",
    ) -> Sequence[Scored]:
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Scored]] = [loop.create_future() for _ in paths]
        jobs = [
            ScoreJob(path, start, owner, _resolver(loop, future), logprobs=logprobs, layers=layers)
            for path, future in zip(paths, futures, strict=True)
        ]
        self._tell_each(self._loop.submit_score, jobs)
        try:
            return await asyncio.gather(*futures)
        except BaseException:
            if not self._closed:
                self._tell_each(self._loop.cancel, jobs)
            raise

    def usage(self, owner: str) -> Usage:
        return self._loop.ledger.snapshot(owner)  # numbers only: a read between two counts does no harm

    def forget(self, owner: str) -> None:
        """Drops the ledger row of an owner whose problem is over."""
        with contextlib.suppress(EngineClosed):  # with the engine go its rows
            self._tell(lambda: self._loop.ledger.forget(owner))

    def progress(self, owner: str) -> Mapping[int, str]:
        jobs = [(job.request.key, list(job.generated)) for job in self._loop.running_jobs() if job.owner == owner]
        return {key: self._codec.decode(tokens) for key, tokens in jobs}

    def close(self) -> None:
        with self._closing:
            closing, self._closed = not self._closed, True
        if closing:
            self._thread.tell(self._end)
        self._thread.settle()

    @property
    def num_layers(self) -> int:
        """Of the model; see ``Probe.layer``."""
        return self._loop.runner.num_layers

    # -- for tests, benchmarks and status pages ----------------------------------------------------------------------

    @property
    def kv_tokens_in_use(self) -> int:
        """Tokens whose KV something in flight holds."""
        return self._loop.runner.forest.locked_tokens  # a number: a read between two changes does no harm

    def ledger_owners(self) -> list[str]:
        """Those whose rows nobody has told it to forget."""
        return self._thread.ask(self._loop.ledger.owners)

    def stats(self) -> LoopStats:
        """Where the loop's time went so far."""
        return self._thread.ask(lambda: replace(self._loop.stats))

    def check_integrity(self) -> None:
        """Checks the KV forests between two iterations; with nothing in flight, that nothing is locked."""

        def check() -> None:
            for runner in self._loop.runners():
                runner.forest.check_integrity()
                locked = runner.forest.locked_tokens
                assert not self._loop.idle or locked == 0, "KV locked with nothing in flight"

        self._thread.ask(check)

    def drop_cache(self) -> None:
        """Evicts everything that nothing in flight needs."""
        self._thread.ask(self._loop.runner.forest.clear)

    def reset_drafts(self) -> None:
        """Forgets everything that draft sources learnt. It costs speed for a while, nothing else."""
        self._thread.ask(self._loop.reset_drafts)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _tell(self, call: Callable[[], object]) -> None:
        """Has the thread make a call before the next iteration."""
        with self._closing:  # nothing is told after ``_end``
            if self._closed or not self._thread.tell(call, self._loop):
                raise EngineClosed(f"the engine of {self._name} is closed") from self._broken

    def _tell_each(self, call: Callable[[T], None], jobs: Sequence[T]) -> None:
        def calls() -> None:
            for job in jobs:
                call(job)

        self._tell(calls)

    def _fail(self, error: Exception) -> None:
        """An iteration raised, which ends the loop: nobody may wait for ever."""
        self._broken = error
        with self._closing:
            ending, self._closed = self._closed, True
        if not ending:
            self._thread.tell(self._end)

    def _end(self) -> None:
        """Answers everybody who is still waiting, and frees the model."""
        self._thread.drop(self._loop)
        closed = EngineClosed(f"the engine of {self._name} was closed")
        failed = None if self._broken is None else EngineError(f"the engine failed: {self._broken!r}")
        if failed is not None:
            failed.__cause__ = self._broken
        for job in self._loop.running_jobs():
            if failed is not None:
                job.done = True
                job.deliver(job.completion(self._codec, "error", error=failed))
            else:
                self._loop.cancel(job)
        for score in self._loop.scoring_jobs():
            self._loop.cancel(score)
            score.deliver(failed or closed)
        for runner in self._loop.runners():
            runner.release()


def _call_in(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    """Calls in an event loop that may be gone by now, in which case nobody is waiting."""
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        if not loop.is_closed():
            raise


def _resolver(loop: asyncio.AbstractEventLoop, future: asyncio.Future[Scored]) -> Callable[[Scored | Exception], None]:
    def settle(result: Scored | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    return lambda result: _call_in(loop, lambda: settle(result))

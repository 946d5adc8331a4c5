"""``LocalEngine``: a torch model on this machine behind the ``Engine`` protocol.

One thread owns the model and runs the loop; any number of event loops and threads may ask it. What it is told crosses
by a locked inbox, what it answers by ``call_soon_threadsafe``.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, TypeVar

from reason.engine.codec import HubCodec
from reason.engine.jobs import GenerateJob, ScoreJob
from reason.engine.ledger import LoopStats
from reason.engine.loop import EngineLoop
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
    ) -> None:
        def make() -> EngineLoop:
            return EngineLoop(runner, codec, max_running=max_running, max_rows=max_rows, speculator=speculator)

        self._start(make, name)

    def _start(self, make: Callable[[], EngineLoop], name: str) -> None:
        """Starts the thread and waits until it has made the loop; raises what the making raised."""
        self._name = name
        self._inbox: deque[Callable[[], object]] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._broken: Exception | None = None
        self._loop: EngineLoop  # set by the thread
        made: queue.SimpleQueue[EngineLoop | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(make, made), name=f"reason-engine-{name}", daemon=True)
        self._thread.start()
        outcome = made.get()
        if isinstance(outcome, BaseException):
            self._closing = True
            raise outcome
        self._codec = outcome.codec

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
    ) -> LocalEngine:
        """Loads a model folder (safetensors, config, tokenizer) and starts its engine.

        Args:
            folder: see ``reason.models.resolve`` for how names become folders.
            device: "auto" takes a CUDA device if there is one; "cpu", "cuda", "cuda:1".
            dtype: "auto" is bf16 where the machine computes in it and float32 elsewhere; or "bfloat16", "float32",
                "float16".
            kv_tokens: size of the KV pool; by default what fits a quarter of the free memory, at most 131072.
            quantize: None, "int8" or "int4": weights in torch's own packed kernels (CPU).
            threads: CPU threads; by default the cores this process may use and others leave free.
            draft: what drafts tokens, see ``reason.speculate.build``; "none" decodes plainly. It changes how fast
                tokens come, not which.
            draft_rule: the verification rule.
            draft_policy: what decides how much is drafted.
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
        engine._start(make, called)
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
            if finished < len(jobs) and not self._closing:
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
            if not self._closing:
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
        with self._wake:
            self._closing = True
            self._wake.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def num_layers(self) -> int:
        """Of the model; see ``Probe.layer``."""
        return self._loop.runner.num_layers

    # -- for tests, benchmarks and status pages ----------------------------------------------------------------------

    def stats(self) -> LoopStats:
        """Where the loop's time went so far."""
        return self._ask(lambda: replace(self._loop.stats))

    def check_integrity(self) -> None:
        """Checks the KV forests between two iterations; with nothing in flight, that nothing is locked."""

        def check() -> None:
            for runner in self._loop.runners():
                runner.forest.check_integrity()
                locked = runner.forest.locked_tokens
                assert not self._loop.idle or locked == 0, "KV locked with nothing in flight"

        self._ask(check)

    def drop_cache(self) -> None:
        """Evicts everything that nothing in flight needs."""
        self._ask(self._loop.runner.forest.clear)

    def reset_drafts(self) -> None:
        """Forgets everything that draft sources learnt. It costs speed for a while, nothing else."""
        self._ask(self._loop.reset_drafts)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _tell(self, call: Callable[[], object]) -> None:
        """Has the engine's thread make a call before its next iteration."""
        with self._wake:
            if self._closing:
                raise EngineClosed(f"the engine of {self._name} is closed") from self._broken
            self._inbox.append(call)
            self._wake.notify()

    def _tell_each(self, call: Callable[[T], None], jobs: Sequence[T]) -> None:
        def calls() -> None:
            for job in jobs:
                call(job)

        self._tell(calls)

    def _ask(self, call: Callable[[], T]) -> T:
        """The result of a call made by the engine's thread (or here, once that has ended)."""
        if not self._thread.is_alive() or threading.current_thread() is self._thread:
            return call()
        answered = threading.Event()
        results: list[T] = []
        errors: list[BaseException] = []

        def answer() -> None:
            try:
                results.append(call())
            except BaseException as error:
                errors.append(error)
            finally:
                answered.set()

        try:
            self._tell(answer)
        except EngineClosed:
            self._thread.join()
            return call()
        while not answered.wait(timeout=0.5):
            if not self._thread.is_alive():
                return call()
        if errors:
            raise errors[0]
        return results[0]

    def _run(self, make: Callable[[], EngineLoop], made: queue.SimpleQueue[EngineLoop | BaseException]) -> None:
        """The engine's thread. It loads the model too: OpenMP keeps a pool for every thread that ever computed, and
        with more pool threads than cores it stops spinning between kernels, which cost a quarter of the speed."""
        try:
            self._loop = make()
        except BaseException as error:
            made.put(error)
            return
        made.put(self._loop)
        self._serve()

    def _serve(self) -> None:
        try:
            while True:
                with self._wake:
                    while not self._inbox and not self._closing and self._loop.idle:
                        self._wake.wait()
                    calls = list(self._inbox)
                    self._inbox.clear()
                    closing = self._closing
                for call in calls:
                    call()
                if closing:
                    break
                self._loop.step()
        except Exception as error:  # a bug of ours: nobody may wait for ever
            self._broken = error
            with self._wake:
                self._closing = True
            raise
        finally:
            self._end_all()

    def _end_all(self) -> None:
        """Answers everybody who is still waiting when the thread ends."""
        closed = EngineClosed(f"the engine of {self._name} was closed")
        failed = None if self._broken is None else EngineError(f"the engine failed: {self._broken!r}")
        with self._wake:
            calls = list(self._inbox)
            self._inbox.clear()
        for call in calls:  # asked between the last iteration and now
            call()
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

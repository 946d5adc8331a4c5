"""The engine's loop: continuous batching over one model, one iteration at a time.

    admit -> draft -> choose rows -> one packed forward -> draw and verify -> commit or finish -> hand out

Requests from any strategy and any problem join and leave at any iteration. Long prompts are prefilled in chunks
beside running branches. When the KV pool is full the youngest branch is preempted: its KV becomes cache, it goes back
to the head of the queue, and what was evicted meanwhile is recomputed. The loop is synchronous and owned by one
thread; ``LocalEngine`` gives it that thread.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from reason.engine.codec import HubCodec, StopMatcher
from reason.engine.device_verifying import DeviceVerification
from reason.engine.drafting import Drafting
from reason.engine.drawing import Drawing
from reason.engine.jobs import GenerateJob, ScoreJob, refusal
from reason.engine.ledger import Ledger, LoopStats
from reason.engine.probing import Probed
from reason.engine.scoring import Scoring
from reason.engine.table_work import TableWork
from reason.engine.verifying import HostVerification
from reason.errors import OutOfKV
from reason.runtime.forest import Branch, PoolExhausted
from reason.runtime.grammar import GrammarCompiler
from reason.runtime.runner import Forward, ModelRunner, RowPlanner
from reason.runtime.sampler import TopRows
from reason.speculate.speculator import Speculator
from reason.types import FinishReason

__all__ = ["EngineLoop"]


class EngineLoop:
    """See the module's docstring.

    Args:
        max_running: requests that may hold KV at once; the rest wait (backpressure).
        max_rows: rows of one forward; running branches come first, prefill takes what is left.
        speculator: drafts tokens for the running branches; None never does.
        draws_on_device: whether tokens are drawn and drafts verified in torch operations on the model's device, with
            one copy to the host an iteration; None does so where the device is not the CPU, whose own path is faster.
    """

    def __init__(
        self,
        runner: ModelRunner,
        codec: HubCodec,
        *,
        max_running: int = 256,
        max_rows: int = 512,
        speculator: Speculator | None = None,
        draws_on_device: bool | None = None,
    ) -> None:
        self.runner = runner
        self.codec = codec
        self.ledger = Ledger(runner.forest)
        self.stats = LoopStats()
        self._max_running = max_running
        self._max_rows = max_rows
        self._waiting: deque[GenerateJob] = deque()
        self._running: list[GenerateJob] = []  # oldest first
        self._scoring = Scoring(runner, self.ledger, max_rows)
        self._draws_on_device = runner.device.type != "cpu" if draws_on_device is None else draws_on_device
        if speculator is not None and self._draws_on_device:
            speculator.use_device(runner.device, runner.vocab_size)
        self._drafting = None if speculator is None else Drafting(speculator, runner, self.ledger)
        self._grammars = GrammarCompiler(codec.tokenizer, runner.vocab_size, sorted(codec.eos_token_ids))

    # -- what comes in ---------------------------------------------------------------------------------------------

    def submit(self, job: GenerateJob) -> None:
        """Queues a request; a malformed one is answered with an error completion."""
        error = refusal(job.request, self.runner)
        if error is not None:
            self._fail(job, error)
            return
        self.ledger.count_call(job.owner)
        self._waiting.append(job)

    def submit_score(self, job: ScoreJob) -> None:
        """Queues a path to score; one that cannot be is answered with an error."""
        self._scoring.submit(job)

    def cancel(self, job: GenerateJob | ScoreJob) -> None:
        """Drops a job and everything it holds; a job that is done is left alone."""
        if job.done:
            return
        if isinstance(job, ScoreJob):
            self._scoring.cancel(job)
            return
        self._leave(job)
        job.done = True
        if self._drafting is not None:
            self._drafting.end_streams()
        job.deliver(job.completion(self.codec, "cancelled"))

    @property
    def idle(self) -> bool:
        return not (self._waiting or self._running or self._scoring)

    def running_jobs(self) -> list[GenerateJob]:
        """Jobs in flight, waiting ones included."""
        return [*self._running, *self._waiting]

    def scoring_jobs(self) -> list[ScoreJob]:
        """Paths being scored or waiting for it."""
        return self._scoring.jobs()

    def runners(self) -> list[ModelRunner]:
        """The model, and those that draft for it."""
        return [self.runner, *(() if self._drafting is None else self._drafting.runners())]

    def reset_drafts(self) -> None:
        """Draft sources forget what they learnt."""
        if self._drafting is not None:
            self._drafting.reset()

    # -- one iteration ---------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One iteration. An error of one request ends that request; an error of the forward ends those in it."""
        began = time.perf_counter()
        self._admit()
        self._scoring.open(alone=not self._running)
        decoding, prefilling = self._split_running()
        if self._drafting is not None:
            self._drafting.propose(decoding)
        drafted = time.perf_counter()
        planner = RowPlanner(self._max_rows)
        drawing, computing = self._choose_rows(planner, decoding, prefilling)
        scoring = self._scoring.choose_rows(planner)
        if not planner.rows:
            return
        try:
            forward = self.runner.forward_rows(planner.rows, _layers(drawing, scoring))
            draws = self._launch_draws(forward, drawing) if drawing else None
            # A device is at work now: what does not depend on the tokens to come is done beside it.
            self.ledger.count_forward({job.owner for job in computing}.union(job.owner for job in scoring))
            self.ledger.observe_kv()  # before what is finished gives its KV up
            if draws is not None and self._draws_on_device:
                self.runner.plan_ahead()
            self.stats.iterations += 1
            self.stats.rows += len(planner.rows)
            if draws is not None:
                draws.wait()
            else:
                self.runner.synchronize()
        except Exception as error:  # the batch is lost, the engine is not
            self._fail_batch(computing, scoring, error)
            return
        computed = time.perf_counter() if draws is None or draws.computed is None else draws.computed
        self._scoring.collect(scoring, forward)  # before draws and drafts move the runs that its rows are named by
        if draws is not None:
            self._take_draws(draws, set(decoding))
            if self._drafting is not None:
                alone = not prefilling and not scoring and len(drawing) == len(decoding)
                seconds = 0.0 if draws.tables is None else draws.tables.seconds
                self._drafting.finish(draws.tops, drafted if alone else None, self.stats, table_seconds=seconds)
                if draws.tables is not None and draws.tables.error is not None:
                    self._drafting.fail(draws.tables.error)
        elif self._drafting is not None:
            self._drafting.abandon()
        ended = time.perf_counter()
        self.stats.forward_seconds += computed - drafted
        self.stats.seconds += ended - began
        self.stats.exposed_seconds += ended - began - (computed - self.runner.launched)

    def _admit(self) -> None:
        """Opens branches for waiting requests while there is room, oldest first."""
        forest = self.runner.forest
        while self._waiting and len(self._running) < self._max_running:
            job = self._waiting[0]
            path = job.path()
            missing = len(path) - forest.match(path, pending=True)
            headroom = len(self._running)  # every running branch may need a slot in this iteration
            if self._running and missing + headroom > forest.available:
                return
            self._waiting.popleft()
            try:
                if not job.prepared:
                    self._prepare(job)
                job.branch = forest.open(path, owner=job.owner)
            except PoolExhausted:
                if self._running or self._scoring:
                    self._waiting.appendleft(job)
                    return
                self._fail(job, OutOfKV(f"{len(path)} tokens do not fit the KV pool of {forest.pool.capacity}"))
            except Exception as error:  # stop strings and grammars are the user's
                self._fail(job, error)
            else:
                self._running.append(job)

    def _prepare(self, job: GenerateJob) -> None:
        job.grammar = self._grammars.compile(job.request.sampling)
        if job.request.stop:
            job.stops = StopMatcher(self.codec, job.request.stop)
        job.prepared = True

    def _split_running(self) -> tuple[list[GenerateJob], list[GenerateJob]]:
        """The running requests that decode, and those whose prompt is not computed yet."""
        decoding: list[GenerateJob] = []
        prefilling: list[GenerateJob] = []
        for job in self._running:
            assert job.branch is not None
            (decoding if _decodes(job.branch) else prefilling).append(job)
        return decoding, prefilling

    def _choose_rows(
        self,
        planner: RowPlanner,
        decoding: Sequence[GenerateJob],
        prefilling: Sequence[GenerateJob],
    ) -> tuple[list[GenerateJob], list[GenerateJob]]:
        """Rows for the running requests: those that decode, then prefill. Returns the jobs that will draw a token, and
        all that got rows."""
        drawing: list[GenerateJob] = []
        computing: list[GenerateJob] = []
        for job in (*decoding, *prefilling):
            assert job.branch is not None
            rows = len(planner.rows)
            if planner.add_last(job.branch):
                drawing.append(job)
                if self._drafting is not None:
                    self._drafting.add_rows(job, planner)
            elif len(planner.rows) == rows:
                continue
            computing.append(job)
        return drawing, computing

    def _drawing(self, job: GenerateJob, rows: Sequence[int]) -> Drawing:
        draft = None if self._drafting is None else self._drafting.of(job)
        return (
            Drawing(job, rows, draft.tree, draft.coins) if draft is not None and len(draft.tree) else Drawing(job, rows)
        )

    def _ends(self, job: GenerateJob) -> list[Branch]:
        """Where a job's rows of logits are wanted: at its end and at its draft nodes."""
        assert job.branch is not None
        return [job.branch, *(() if self._drafting is None else self._drafting.claims(job))]

    def _launch_draws(self, forward: Forward, drawing: Sequence[GenerateJob]) -> _Draws:
        """The draws of a forward at each job's end and draft nodes."""
        ends = [self._ends(job) for job in drawing]
        places = forward.places([end for job_ends in ends for end in job_ends])
        logits = forward.row_logits(places.rows, transient=True)
        numbers = iter(places.of_branch)
        drawings = [self._drawing(job, [next(numbers) for _ in own]) for job, own in zip(drawing, ends, strict=True)]
        layers = sorted(_read_layers(drawing))
        beside = [forward.states(layer, places.rows) for layer in layers]
        rule = None if self._drafting is None else self._drafting.speculator.rule
        learns = self._drafting is not None and self._drafting.learns
        if self._draws_on_device:
            tables = None if self._drafting is None else self._drafting.table_work()
            verification = DeviceVerification(logits, drawings, rule, beside, learns=learns, tables=tables)
            return _Draws(drawings, layers, verification)
        self.runner.synchronize()
        computed = time.perf_counter()
        on_host = HostVerification(logits, drawings, rule, beside, learns=learns)
        return _Draws(drawings, layers, on_host, computed)

    def _take_draws(self, draws: _Draws, decoding: set[GenerateJob]) -> None:
        """Takes in what stands of each job's draws and drafts."""
        drafting = self._drafting
        probed = Probed([drawing.job.request.probes for drawing in draws.drawings], draws.states)
        hidden = draws.states[-1].float() if any(drawing.job.request.hidden for drawing in draws.drawings) else None
        for drawing in draws.drawings:
            job, before = drawing.job, len(drawing.job.generated)
            if drafting is not None and job in decoding:
                drafting.note_rows(job, drawing.rows)
            try:
                for taken, (token, recorded) in enumerate(draws.verification.tokens(drawing)):
                    if recorded is not None:
                        if job.request.probes:
                            recorded = replace(recorded, values=probed.values(job.request, drawing.row(taken)))
                        job.logprobs.append(recorded)
                    if hidden is not None and job.request.hidden:
                        job.add_hidden(hidden[drawing.row(taken)])
                    for layer in job.states:
                        job.add_states(layer, draws.states[layer][drawing.row(taken)])
                    if drafting is not None:
                        job.proposers.append(drafting.named(drawing.proposer(taken, token)))
                    self._take(job, token)
                    if job.done:
                        break
            except Exception as error:  # a user's processor may raise anything; only its request fails
                self._leave(job)
                self._fail(job, error)
            if drafting is not None and job in decoding and drawing.verdict is not None:
                drafting.settle(job, drawing.verdict, len(job.generated) - before)
            if drafting is not None:
                drafting.note_ahead(job, drawing.ahead)

    def _take(self, job: GenerateJob, token: int) -> None:
        """The request's next token is drawn: end it, or extend its branch."""
        request = job.request
        job.generated.append(token)
        self.ledger.row(job.owner).policy_tokens += 1
        try:
            reason, stopped_on = self._finish_reason(job, token)
        except Exception as error:  # a grammar or a decoder that refuses what it allowed
            self._leave(job)
            self._fail(job, error)
            return
        if reason is not None:
            self._finish(job, reason, stopped_on)
            return
        if len(request.prefix) + len(job.generated) > self.runner.max_positions:
            self._finish(job, "length", None)
            return
        if job.branch is None:  # preempted by an earlier draw of this iteration: it goes on from here when it is back
            return
        while True:
            try:
                self.runner.forest.append(job.branch, token)
                return
            except PoolExhausted:
                if len(self._running) > 1:
                    victim = self._running[-1]
                    self._preempt(victim)
                    if victim is job:
                        return
                elif not self._scoring.preempt():
                    self._leave(job)
                    self._fail(job, OutOfKV(f"one request fills the KV pool of {self.runner.forest.pool.capacity}"))
                    return

    def _finish_reason(self, job: GenerateJob, token: int) -> tuple[FinishReason | None, str | int | None]:
        request = job.request
        if token in self.codec.eos_token_ids and not request.ignore_eos:
            return "eos", token
        if token in request.stop_token_ids:
            return "stop", token
        if job.stops is not None and (stop := job.stops.push(token)) is not None:
            return "stop", stop
        if job.grammar is not None:
            job.grammar.advance(token)
            if job.grammar.finished:
                return "stop", None
        return ("length", None) if len(job.generated) >= request.max_tokens else (None, None)

    def _finish(self, job: GenerateJob, reason: FinishReason, stopped_on: str | int | None) -> None:
        self._leave(job)
        job.done = True
        job.deliver(job.completion(self.codec, reason, stopped_on))

    def _leave(self, job: GenerateJob) -> None:
        """Takes a job out of its queue and gives up the KV it holds, if any: it may have been preempted."""
        if job.branch is None:
            self._waiting.remove(job)
            return
        self._running.remove(job)
        self.runner.forest.close(job.branch)
        job.branch = None

    def _preempt(self, job: GenerateJob) -> None:
        """Gives up a branch's locks; the request goes back to the head of the queue with what it has drawn."""
        assert job.branch is not None
        self._leave(job)
        self._waiting.appendleft(job)
        self.stats.preemptions += 1

    def _fail(self, job: GenerateJob, error: Exception) -> None:
        job.done = True
        job.deliver(job.completion(self.codec, "error", error=error))

    def _fail_batch(self, computing: Sequence[GenerateJob], scoring: Sequence[ScoreJob], error: Exception) -> None:
        """Ends those that had rows in a forward that failed."""
        if self._drafting is not None:
            self._drafting.abandon()
        for job in computing:
            self._leave(job)
            self._fail(job, error)
        self._scoring.fail(scoring, error)
        if self._drafting is not None:
            self._drafting.end_streams()


@dataclass(slots=True)
class _Draws:
    """The draws of one iteration, on their way."""

    drawings: list[Drawing]
    layers: list[int]
    verification: HostVerification | DeviceVerification
    computed: float | None = None
    """When the forward's results were there; on a device only ``wait`` knows."""
    states: dict[int, torch.Tensor] = field(default_factory=dict)
    """By layer, [rows, hidden_size], those that the rows of logits came from."""

    @property
    def tops(self) -> Sequence[TopRows]:
        """What draft sources may learn from."""
        return self.verification.tops

    @property
    def tables(self) -> TableWork | None:
        """What the draft sources' tables had to do with them."""
        return self.verification.tables if isinstance(self.verification, DeviceVerification) else None

    def wait(self) -> None:
        self.states = dict(zip(self.layers, self.verification.wait(), strict=True))


def _read_layers(drawing: Sequence[GenerateJob]) -> set[int]:
    """The layers whose states are wanted on the host of the rows that are drawn from."""
    layers = {probe.layer for job in drawing for probe in job.request.probes}
    layers |= {-1 for job in drawing if job.request.hidden}
    return layers.union(*(job.states for job in drawing))


def _layers(drawing: Sequence[GenerateJob], scoring: Sequence[ScoreJob]) -> set[int]:
    """The layers whose states are wanted of a forward."""
    return _read_layers(drawing).union(*(job.layers for job in scoring))


def _decodes(branch: Branch) -> bool:
    """Whether nothing but the last token of the path is pending."""
    if branch.length == 1 or branch.node.computed < branch.offset - 1:
        return False
    parent = branch.node.parent
    return branch.offset > 1 or (parent is not None and parent.computed == len(parent))

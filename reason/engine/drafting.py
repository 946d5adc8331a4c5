"""The engine's side of speculation: streams of running requests, and draft trees as claims in the KV forest."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Concatenate, NamedTuple, ParamSpec

import numpy as np

from reason.engine.jobs import GenerateJob
from reason.engine.ledger import Ledger, LoopStats
from reason.engine.table_work import TableWork
from reason.runtime.forest import Branch
from reason.runtime.runner import ModelRunner, RowPlanner
from reason.runtime.sampler import TopRows
from reason.speculate.draft import Rows, Stream
from reason.speculate.rules import SeededCoins, Verdict
from reason.speculate.speculator import Drafts, Speculator, contexts
from reason.speculate.tables import Ahead, Table
from reason.types import Request

__all__ = ["Drafting", "JobDraft"]

P = ParamSpec("P")


class JobDraft:
    """One branch's draft tree in an iteration; ``claims[i]`` holds the KV of node i + 1."""

    __slots__ = ("claims", "coins", "index", "tree")

    def __init__(self, drafts: Drafts, index: int) -> None:
        self.tree = drafts.trees[index]
        self.index = index
        self.coins: SeededCoins | None = drafts.coins[index] if drafts.coins else None
        self.claims: list[Branch] = []

    def parent_claim(self, node: int, branch: Branch) -> Branch:
        """What node ``node`` is claimed beyond."""
        parent = self.tree.parents[node]
        return self.claims[parent - 1] if parent else branch


class _AheadAt(NamedTuple):
    """What tables say of a request's path with so many tokens generated."""

    generated: int
    said: Mapping[Table, Ahead]


Guarded = Callable[Concatenate["Drafting", P], None]


def _guarded(method: Guarded[P]) -> Guarded[P]:
    """What fails in it ends drafting, not the requests that it was for."""

    @functools.wraps(method)
    def call(self: Drafting, /, *args: P.args, **options: P.kwargs) -> None:
        if self.failed:
            return
        try:
            method(self, *args, **options)
        except Exception as error:
            self.fail(error)

    return call


class Drafting:
    """See the module's docstring. The loop calls ``propose``, ``add_rows``, then for each branch ``settle``, then
    ``finish``, once an iteration. If a source fails there is a warning, and decoding goes on without drafts."""

    def __init__(self, speculator: Speculator, runner: ModelRunner, ledger: Ledger) -> None:
        self.speculator = speculator
        self._forest = runner.forest
        self._max_positions = runner.max_positions
        self._ledger = ledger
        self._streams: dict[GenerateJob, Stream] = {}
        self._owners: dict[Stream, str] = {}
        self._drafts: Drafts | None = None
        self._trees: dict[GenerateJob, JobDraft] = {}
        self._contexts: dict[int, list[int]] = {}  # by row of logits
        self._ahead: dict[GenerateJob, _AheadAt] = {}
        self._blind = False  # in this iteration: the tables were not asked in the one before
        self._branches = 0
        self._accepted = 0
        self._seconds = 0.0  # of this iteration, beside the forward and drawing
        self._before = 0.0  # of these, before the forward
        self.failed = False
        speculator.source.watch_forwards(self._count_forward)

    @property
    def nodes(self) -> int:
        """Draft nodes of this iteration."""
        return sum(len(draft.claims) for draft in self._trees.values())

    def of(self, job: GenerateJob) -> JobDraft | None:
        """A job's draft in this iteration."""
        return self._trees.get(job)

    @_guarded
    def propose(self, jobs: Sequence[GenerateJob]) -> None:
        """Drafts for the branches that decode in this iteration and claims the nodes. That moves the trie's runs, so it
        comes before rows are chosen."""
        began = time.perf_counter()
        self._trees.clear()
        self._contexts.clear()
        self._accepted, self._branches = 0, len(jobs)
        self.end_streams()
        streams = [self._stream(job) for job in jobs]
        spare = self._forest.available - 2 * len(jobs)
        if (most := self.speculator.most_nodes) is not None:  # what is drawn must not decide whether it is verified
            for place, stream in enumerate(streams):
                if (place + 1) * most > spare:
                    stream.room = 0
        self._drafts = self.speculator.draft(streams) if streams else None
        self._blind = bool(self.speculator.source.tables) and not any(stream.ahead for stream in streams)
        if self._drafts is not None:
            for index, job in enumerate(jobs):
                size = len(self._drafts.trees[index])
                if size <= spare and (size or self.speculator.learns_roots):
                    spare -= size
                    self._claim(job, index)
        self._seconds = self._before = time.perf_counter() - began

    @property
    def learns(self) -> bool:
        """Whether this iteration's rows are looked at; where drafting pauses they are not."""
        return self._drafts is not None and self.speculator.source.reads_rows

    def table_work(self) -> TableWork:
        """What the sources' tables on the device have to do in this iteration; nothing while drafting rests."""
        if self.failed or self.speculator.resting:
            return TableWork((), ())
        source = self.speculator.source
        return TableWork(source.tables, source.asked_tables())

    def note_ahead(self, job: GenerateJob, ahead: Mapping[Table, Ahead]) -> None:
        """What the tables say beyond a request's end as it is now."""
        if ahead and not job.done and not self.failed:
            self._ahead[job] = _AheadAt(len(job.generated), ahead)

    def claims(self, job: GenerateJob) -> Sequence[Branch]:
        """What holds the KV of a job's draft nodes."""
        draft = self._trees.get(job)
        return () if draft is None else draft.claims

    def add_rows(self, job: GenerateJob, planner: RowPlanner) -> None:
        """Makes a job's draft nodes rows of the forward; its last token is one already."""
        for claim in self.claims(job):
            planner.add(claim.node, claim.offset - 1)

    @_guarded
    def note_rows(self, job: GenerateJob, rows: Sequence[int]) -> None:
        """Which rows of logits belong to a branch's last token and to its draft nodes."""
        if not self.learns:
            return
        draft = self._trees.get(job)
        for row, context in zip(rows, contexts(self._streams[job].tokens, draft.tree if draft else None), strict=True):
            self._contexts.setdefault(row, context)

    @_guarded
    def settle(self, job: GenerateJob, verdict: Verdict, taken: int) -> None:
        """What became of a branch's draft: ``taken`` of its tokens, the bonus included, were emitted."""
        began = time.perf_counter()
        draft, stream = self._trees.get(job), self._streams[job]
        if self._drafts is not None and draft is not None:
            self.speculator.settle(self._drafts, draft.index, verdict)
            row = self._ledger.row(job.owner)
            row.drafted_tokens += len(draft.tree)
            row.accepted_tokens += min(taken, len(verdict.accepted))
            self._accepted += min(taken, len(verdict.accepted))
        new = job.generated[len(job.generated) - taken :]
        stream.tokens.extend(new)
        self.speculator.source.extend(stream, len(new))
        self._seconds += time.perf_counter() - began

    @_guarded
    def finish(
        self, tops: Iterable[TopRows], forward_began: float | None, stats: LoopStats, *, table_seconds: float = 0.0
    ) -> None:
        """Gives the claims up and learns from the rows.

        Args:
            forward_began: when drafting ended and the forward began; None where the forward did other work too, so that
                its time says nothing. Drawing is part of what a row costs.
            table_seconds: of that time, what the tables took.
        """
        began = time.perf_counter()
        nodes = self.nodes
        drafted = list(self._trees)
        self.abandon()
        for job in drafted:
            if job.branch is not None:
                self._forest.tidy(job.branch)
        for top in tops:
            known = [i for i, row in enumerate(top.rows) if row in self._contexts]
            if known:
                found = np.array([self._contexts[top.rows[i]] for i in known], dtype=np.int64)
                self.speculator.observe(Rows(found, top.tokens[known], top.probabilities[known]))
        self.end_streams()
        self._seconds += time.perf_counter() - began
        stats.draft_seconds += self._seconds
        stats.drafted += nodes
        stats.accepted += self._accepted
        if forward_began is not None and self._branches and not self._blind:
            elapsed = time.perf_counter() - forward_began
            self.speculator.account(
                branches=self._branches,
                nodes=nodes,
                accepted=self._accepted,
                forward_seconds=elapsed - (self._seconds - self._before) - table_seconds,
                overhead_seconds=self._seconds + table_seconds,
            )

    def named(self, proposer: str | None) -> str:
        """A proposer's name: a source that is alone leaves its own out. "" for nobody."""
        return "" if proposer is None else proposer or self.speculator.source.name

    @_guarded
    def reset(self) -> None:
        """Forgets what was learnt; running streams begin anew."""
        for job in list(self._streams):
            self._end(job)
        self._ahead.clear()
        self.speculator.reset()

    @_guarded
    def end_streams(self) -> None:
        """Ends the streams of requests that are over, once their last tokens are told: their draft KV can go."""
        for job in [job for job in self._streams if job.done]:
            self._end(job)
        for job in [job for job in self._ahead if job.done]:  # it had not come to a stream
            del self._ahead[job]

    def abandon(self) -> None:
        """Gives the claims up."""
        for draft in self._trees.values():
            for claim in reversed(draft.claims):
                self._forest.close(claim)
        self._trees.clear()

    def fail(self, error: Exception) -> None:
        """Ends drafting for good."""
        self.failed = True
        self.abandon()
        self._drafts = None
        self._contexts.clear()
        for job in list(self._streams):  # a draft model holds KV for them
            with contextlib.suppress(Exception):  # the source is what failed
                self._end(job)
        self._ahead.clear()
        with contextlib.suppress(RuntimeWarning):  # where warnings are errors it is still no reason to end
            warnings.warn(
                f"drafting failed and is off from here on, at the cost of speed alone: {error!r}",
                RuntimeWarning,
                stacklevel=3,
            )

    def runners(self) -> Sequence[ModelRunner]:
        """The draft models."""
        return self.speculator.source.runners()

    def _end(self, job: GenerateJob) -> None:
        stream = self._streams.pop(job)
        self._ahead.pop(job, None)
        del self._owners[stream]
        self.speculator.source.end(stream)

    def _count_forward(self, streams: Sequence[Stream]) -> None:
        self._ledger.count_draft_forward({self._owners[stream] for stream in streams})

    def _stream(self, job: GenerateJob) -> Stream:
        stream = self._streams.get(job)
        request = job.request
        if stream is None:
            prompt = list(request.prefix)
            stream = Stream(prompt, len(prompt), request.sampling.temperature, request.seed, request.key)
            self._streams[job] = stream
            self._owners[stream] = job.owner
            if request.guess:
                self._tell_guess(request)
            self.speculator.source.begin(stream)
        length = len(request.prefix) + len(job.generated)
        if (missing := length - len(stream.tokens)) > 0:  # drawn while its path was computed, maybe for the second time
            stream.tokens.extend(job.generated[-missing:])
            self.speculator.source.extend(stream, missing)
        ahead = self._ahead.pop(job, None)
        stream.ahead = ahead.said if ahead is not None and ahead.generated == len(job.generated) else {}
        stream.room = max(0, min(request.max_tokens - len(job.generated) - 1, self._max_positions - length))
        if job.grammar is not None and not self.speculator.takes_any_tree:
            stream.room = 0  # rejection rules want p at all nodes at once, a grammar walks one path
        return stream

    def _tell_guess(self, request: Request) -> None:
        """What is guessed to come is a request of its own to the sources, which has come to its end."""
        guessed = Stream(list(request.prefix), len(request.prefix), request.sampling.temperature)
        source = self.speculator.source
        source.begin(guessed)
        guessed.tokens.extend(request.guess)
        source.extend(guessed, len(request.guess))
        source.end(guessed)

    def _claim(self, job: GenerateJob, index: int) -> None:
        """Claims the nodes of a branch's tree, for which there is room: a claim takes one slot at most."""
        assert job.branch is not None and self._drafts is not None
        draft = self._trees[job] = JobDraft(self._drafts, index)
        for node in range(1, len(draft.tree.tokens)):
            parent = draft.parent_claim(node, job.branch)
            draft.claims.append(self._forest.claim(parent, draft.tree.tokens[node]))

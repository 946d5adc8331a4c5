"""The paths that the loop scores. Their rows take what the requests that are generated leave of a forward."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

from reason.engine.jobs import ScoreJob, nodes_at, score_refusal
from reason.engine.ledger import Ledger
from reason.errors import OutOfKV
from reason.runtime.forest import PoolExhausted
from reason.runtime.runner import Forward, ModelRunner, RowPlanner
from reason.runtime.sampler import raw_logprobs
from reason.types import Scored

__all__ = ["Scoring"]


class Scoring:
    """See the module's docstring. The loop calls ``open``, ``choose_rows``, then ``collect`` for the jobs that got
    rows, once an iteration.

    Args:
        max_rows: rows of one forward.
    """

    def __init__(self, runner: ModelRunner, ledger: Ledger, max_rows: int) -> None:
        self._runner = runner
        self._ledger = ledger
        self._max_rows = max_rows
        self._jobs: deque[ScoreJob] = deque()  # oldest first

    def __len__(self) -> int:
        """Paths being scored or waiting for it."""
        return len(self._jobs)

    def jobs(self) -> list[ScoreJob]:
        """Oldest first."""
        return list(self._jobs)

    def submit(self, job: ScoreJob) -> None:
        """Queues a path; one that cannot be scored is answered with an error."""
        error = score_refusal(job, self._runner)
        if error is not None:
            job.done = True
            job.deliver(error)
            return
        self._jobs.append(job)

    def open(self, *, alone: bool) -> None:
        """Opens branches for waiting paths, oldest first, about as many as one forward has rows for. Opening moves the
        trie's runs, so it comes before rows are chosen.

        Args:
            alone: whether no request holds KV, so that waiting makes no room.
        """
        rows = 0
        for job in list(self._jobs):
            if rows >= self._max_rows:
                return
            if job.branch is None:
                self._open(job, alone=alone)
            if job.branch is not None:
                rows += job.last_position - job.next_position
            elif not job.done:  # no room in the pool
                return

    def choose_rows(self, planner: RowPlanner) -> list[ScoreJob]:
        """Rows for the paths, as far as they fit; returns the jobs that got any."""
        chosen: list[ScoreJob] = []
        for job in self._jobs:
            if planner.room == 0 or job.branch is None:
                break
            chosen.append(job)
            runs = job.branch.runs()
            before = [(n, min(length, max(0, job.next_position - n.start))) for n, length in runs]
            if not planner.add_pending(before):  # KV that must be there first
                continue
            room = max(1, planner.room)
            for node, index in nodes_at(
                job.branch, job.next_position, min(job.last_position, job.next_position + room)
            ):
                planner.add(node, index)
        return chosen

    def collect(self, jobs: Sequence[ScoreJob], forward: Forward) -> None:
        """Takes the rows of a forward that jobs were waiting for. A row of logits that several want is computed once,
        and all in one product: the head's weights are read once."""
        found = [(job, self._computed(job, forward)) for job in jobs]
        wanted = [
            (job, position, number)
            for job, numbers in found
            if job.wants_logprobs
            for position, number in enumerate(numbers[: len(job.path) - 1 - job.next_position], job.next_position + 1)
            if position >= job.start
        ]
        if wanted:
            rows = sorted({number for _, _, number in wanted})
            place = {number: i for i, number in enumerate(rows)}
            tokens = [job.path[position] for job, position, _ in wanted]
            scores = raw_logprobs(forward.row_logits(rows), [place[number] for _, _, number in wanted], tokens, 0)
            for (job, position, _), score in zip(wanted, scores, strict=True):
                job.logprobs[position - job.start] = score.token
        for job, numbers in found:
            self._advance(job, numbers, forward)

    def _computed(self, job: ScoreJob, forward: Forward) -> list[int]:
        """The numbers of the rows that follow what a job has."""
        assert job.branch is not None
        return forward.known_rows(nodes_at(job.branch, job.next_position, job.last_position))

    def _advance(self, job: ScoreJob, numbers: Sequence[int], forward: Forward) -> None:
        if not numbers:
            return
        of_rows = slice(numbers[0], numbers[-1] + 1) if _consecutive(numbers) else numbers
        for layer in job.layers:
            states = forward.kept[layer][of_rows][max(0, job.start - job.next_position) :]
            job.hidden[layer].append(states.float().cpu().clone())
        job.next_position += len(numbers)
        if job.next_position == job.last_position:
            self._end(job, job.result())

    def preempt(self) -> bool:
        """Closes the youngest open path, to be scored from its start again; False if there is none."""
        for job in reversed(self._jobs):
            if job.branch is not None:
                self._runner.forest.close(job.branch)
                job.forget_rows()
                return True
        return False

    def cancel(self, job: ScoreJob) -> None:
        """Drops a job that is not done, and everything it holds. It is not answered."""
        self._jobs.remove(job)
        self._close(job)

    def fail(self, jobs: Sequence[ScoreJob], error: Exception) -> None:
        """Answers jobs that got rows with an error."""
        for job in jobs:
            self._end(job, error)

    def _open(self, job: ScoreJob, *, alone: bool) -> None:
        forest = self._runner.forest
        known = forest.match(job.path, pending=True)  # what another path is having computed is on that one's account
        try:
            job.branch = forest.open(job.path, owner=job.owner)
        except PoolExhausted:
            if alone and all(other.branch is None for other in self._jobs):
                self._end(job, OutOfKV(f"{len(job.path)} tokens do not fit the KV pool of {forest.pool.capacity}"))
            return
        job.next_position = job.first_position()
        self._ledger.row(job.owner).verifier_tokens += job.last_position - min(known, job.next_position)
        if job.next_position >= job.last_position:  # one token and no hidden states: nothing to compute
            self._end(job, job.result())

    def _end(self, job: ScoreJob, result: Scored | Exception) -> None:
        self._jobs.remove(job)
        self._close(job)
        job.deliver(result)

    def _close(self, job: ScoreJob) -> None:
        job.done = True
        if job.branch is not None:
            self._runner.forest.close(job.branch)
            job.branch = None


def _consecutive(numbers: Sequence[int]) -> bool:
    return numbers[-1] - numbers[0] == len(numbers) - 1 and all(b - a == 1 for a, b in itertools.pairwise(numbers))

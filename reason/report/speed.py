"""What drafting does to speed: the same work with and without it, round by round.

One engine is loaded at a time, because two of them would keep two pools of threads on the same cores. Rounds alternate
(A B A B) and each has other problems, so that the range of the ratios is over both the machine's moods and the work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from reason.api import Solver
from reason.engine.ledger import LoopStats
from reason.engine.local import LocalEngine
from reason.report.recording_run import prompt_of
from reason.report.tables import Table, span
from reason.sync import run_sync
from reason.types import Completion, Problem, Request, Sampling

__all__ = ["FULL", "QUICK", "Sizes", "Speed", "measure_speed", "num_speeds", "overhead_table", "speed_table"]

_TEMPERATURE = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is measured.

    Args:
        rounds: of everything, with and without drafts.
        prompts: answered one after another where there is one sample of each.
        samples: of a problem, where there are several; a multiple of 4.
        max_tokens: of a sample.
    """

    rounds: int
    prompts: int
    samples: int
    max_tokens: int

    @property
    def problems_a_round(self) -> int:
        return self.prompts + 5  # 1 + 2 + 1 + 1 of the other workloads

    @property
    def problems(self) -> int:
        """How many are used, where there are enough."""
        return self.rounds * self.problems_a_round


FULL = Sizes(rounds=3, prompts=8, samples=16, max_tokens=256)
QUICK = Sizes(rounds=1, prompts=2, samples=4, max_tokens=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """One workload in one round. ``loop`` is where the engine's time went meanwhile."""

    workload: str
    draft: str
    round: int
    tokens: int
    seconds: float
    loop: LoopStats

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


class _Measuring:
    """An engine, and the problems of one round.

    Args:
        start: the first problem of the round; each workload has problems of its own, as far as there are enough.
    """

    def __init__(self, engine: LocalEngine, problems: Sequence[Problem], start: int, sizes: Sizes) -> None:
        self.sizes = sizes
        self._engine = engine
        self._solver = Solver(engine=engine)
        self._problems = problems
        self._next = start

    def take(self) -> int:
        """The number of the next problem."""
        self._next += 1
        return (self._next - 1) % len(self._problems)

    def generate(self, chosen: Sequence[int], samples: int, max_tokens: int | None = None) -> int:
        """Samples of some problems in one batch; returns their tokens."""
        requests = [
            Request(
                prefix=prompt_of(self._engine, self._problems[i]),
                seed=i,
                key=key,
                sampling=Sampling(temperature=_TEMPERATURE),
                max_tokens=max_tokens or self.sizes.max_tokens,
                owner="speed",
            )
            for i in chosen
            for key in range(samples)
        ]

        async def collect() -> list[Completion]:
            return [completion async for completion in self._engine.generate(requests)]

        completions = run_sync(collect())
        for completion in completions:
            if completion.error is not None:
                raise completion.error
        return sum(len(completion.token_ids) for completion in completions)

    def solve(self, strategy: str, **fields: Any) -> int:
        """One search; returns the tokens it generated."""
        number = self.take()
        problem = replace(self._problems[number], equivalent=str.__eq__)  # no time for algebra in the figures
        fields |= {"max_tokens": self.sizes.max_tokens, "temperature": _TEMPERATURE}
        return self._solver.solve(problem, strategy, seed=number, **fields).usage.policy_tokens

    def one_after_another(self) -> int:
        return sum(self.generate([self.take()], 1) for _ in range(self.sizes.prompts))

    def measure(self, workload: str, work: Callable[[_Measuring], int], draft: str, number: int) -> Speed:
        """Does some work and measures it. What was cached before is dropped, so that prompts are computed."""
        self._engine.drop_cache()
        before, began = self._engine.stats(), time.perf_counter()
        tokens = work(self)
        seconds, after = time.perf_counter() - began, self._engine.stats()
        loop = LoopStats(**{name: value - getattr(before, name) for name, value in asdict(after).items()})
        return Speed(workload=workload, draft=draft, round=number, tokens=tokens, seconds=seconds, loop=loop)


def _workloads(sizes: Sizes) -> dict[str, Callable[[_Measuring], int]]:
    """By name, in the order of measuring. The first has one branch at a time."""
    n = sizes.samples
    return {
        "one sample": _Measuring.one_after_another,
        f"{n} samples, 1 problem": lambda on: on.generate([on.take()], n),
        f"{2 * n} samples, 2 problems": lambda on: on.generate([on.take(), on.take()], n),
        f"best of {n}": lambda on: on.solve("best-of-n", num_samples=n),
        f"beam of {n}": lambda on: on.solve("beam", width=n),
    }


def measure_speed(
    load: Callable[[str], LocalEngine],
    problems: Sequence[Problem],
    draft: str,
    sizes: Sizes,
    on_speed: Callable[[Speed], None] | None = None,
) -> list[Speed]:
    """Measures every workload with "none" and with ``draft``, round by round.

    Args:
        load: makes an engine with these drafts; it is closed before the next is made.
        problems: at least one; they are used again from the first where there are too few.
        on_speed: called with each figure.
    """
    assert draft != "none" and problems
    speeds: list[Speed] = []
    for number in range(sizes.rounds):
        for drafting in ("none", draft):
            engine = load(drafting)
            try:
                first = number * sizes.problems_a_round
                measuring = _Measuring(engine, problems, first, sizes)
                measuring.generate([first % len(problems)], 2, 4)  # the first forward pays for its memory
                engine.reset_drafts()
                for name, work in _workloads(sizes).items():
                    speeds.append(measuring.measure(name, work, drafting, number))
                    if on_speed is not None:
                        on_speed(speeds[-1])
            finally:
                engine.close()
    return speeds


def num_speeds(sizes: Sizes) -> int:
    """How many figures ``measure_speed`` comes to."""
    return sizes.rounds * 2 * len(_workloads(sizes))


def speed_table(speeds: Sequence[Speed], draft: str) -> Table:
    """Tokens per second without and with drafts, and the ratio, by workload: medians and ranges over rounds."""
    rows: list[list[str]] = []
    for name in dict.fromkeys(speed.workload for speed in speeds):
        plain, drafted = _of(speeds, name, "none"), _of(speeds, name, draft)
        ratios = [b.tokens_per_second / a.tokens_per_second for a, b in zip(plain, drafted, strict=True)]
        nodes = sum(speed.loop.drafted for speed in drafted)
        accepted = sum(speed.loop.accepted for speed in drafted)
        rows.append(
            [
                name,
                span([speed.tokens_per_second for speed in plain], 1),
                span([speed.tokens_per_second for speed in drafted], 1),
                span(ratios),
                f"{accepted / nodes:.1%}" if nodes else "",
            ]
        )
    headings = ["work", "none, tokens/s", f"{draft}, tokens/s", f"{draft} / none", "utilisation"]
    return Table(title="Speed", headings=headings, rows=rows)


def overhead_table(speeds: Sequence[Speed], draft: str) -> Table:
    """Where an iteration's time goes beside the forward, with one branch at a time."""
    alone = speeds[0].workload
    rows: list[list[str]] = []
    for drafting in ("none", draft):
        loops = [speed.loop for speed in _of(speeds, alone, drafting)]
        rows.append(
            [
                drafting,
                span([100.0 * (1.0 - loop.forward_seconds / loop.seconds) for loop in loops], 1, "%"),
                span([100.0 * loop.draft_seconds / loop.seconds for loop in loops], 1, "%"),
                span([1000.0 * loop.seconds / loop.iterations for loop in loops], 1),
            ]
        )
    headings = ["draft", "outside the forward", "of it drafting", "ms per iteration"]
    return Table(title="Overhead, one sample", headings=headings, rows=rows)


def _of(speeds: Sequence[Speed], workload: str, draft: str) -> list[Speed]:
    return [speed for speed in speeds if speed.workload == workload and speed.draft == draft]

"""How long an evaluation takes on 1 to thousands of workers, and what keeps it from taking less.

python benchmarks/scaling.py runs/gsm8k-... --problems 1319 100000 --speed 50

Problems take what those of a real run took (results.jsonl: each one's own seconds beside the others of its batch),
drawn with replacement. The simulation hands them out as ``reason.cluster`` does: every worker has as many places as the
run had problems at once, a free place asks the driver for the next problem, and the driver serves one at a time. What a
cause costs is told by leaving it out: no model to load, a driver that takes no time, problems of equal length.
"""

from __future__ import annotations

import argparse
import heapq
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from reason.errors import UsageError
from reason.report.results import ResultsFolder

CAUSES = ("loading", "driver", "tail")


class Measured(NamedTuple):
    """What a run says of its problems."""

    seconds: tuple[float, ...]  # each problem's own
    concurrency: int  # problems at once, on one engine


@dataclass(frozen=True, kw_only=True)
class Plan:
    """An evaluation to simulate.

    Args:
        seconds: each problem's.
        places: problems at once on one worker.
        load: seconds until a worker that was asked for is there, its model loaded.
        driver: seconds of the driver for each problem, half of them before it is solved.
    """

    workers: int
    seconds: Sequence[float]
    places: int
    load: float
    driver: float


class Forecast(NamedTuple):
    """What an evaluation would come to; ``lost`` is the share of its time that each cause costs."""

    wall: float
    efficiency: float  # of all places' time, what problems take
    lost: dict[str, float]

    @property
    def bottleneck(self) -> str:
        return max(self.lost, key=lambda cause: self.lost[cause])


def read(*folders: Path) -> Measured:
    """Of folders that `reason eval` wrote.

    Raises:
        UsageError: one has no solved problems, or they had different numbers of problems at once.
    """
    seconds: list[float] = []
    concurrency: set[int] = set()
    for folder in folders:
        there = ResultsFolder(folder)
        config = there.config()
        solved = [float(result.usage["seconds"]) for result in there.results().values() if result.error is None]
        if config is None or not solved:
            raise UsageError(f"{folder} has no solved problems; name a folder that `reason eval` wrote")
        seconds += solved
        concurrency.add(int(config["environment"]["concurrency"]))
    if len(concurrency) > 1:
        raise UsageError(f"the runs had {sorted(concurrency)} problems at once; their seconds cannot be put together")
    return Measured(tuple(seconds), concurrency.pop())


def makespan(plan: Plan) -> float:
    """Seconds until the last result is written."""
    free = [(plan.load, False)] * min(plan.workers * plan.places, len(plan.seconds))  # (when, with a result)
    pending = iter(plan.seconds)
    driver, half = 0.0, plan.driver / 2
    while free:
        now, has_result = heapq.heappop(free)
        driver = max(driver, now) + (half if has_result else 0.0)
        if (seconds := next(pending, None)) is not None:
            driver += half
            heapq.heappush(free, (driver + seconds, True))
    return driver


def forecast(plan: Plan) -> Forecast:
    """The simulation, and what leaving each cause out would gain."""
    wall = makespan(plan)
    mean = statistics.fmean(plan.seconds)
    without = {
        "loading": replace(plan, load=0.0),
        "driver": replace(plan, driver=0.0),
        "tail": replace(plan, seconds=[mean] * len(plan.seconds)),
    }
    lost = {cause: max(0.0, 1 - makespan(without[cause]) / wall) for cause in CAUSES}
    return Forecast(wall, sum(plan.seconds) / (plan.workers * plan.places * wall), lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="of runs of `reason eval`, one setting")
    parser.add_argument("--problems", type=int, nargs="+", default=[1319, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64, 512, 4096])
    parser.add_argument("--speed", type=float, default=1.0, help="how much faster an engine is than the run's")
    parser.add_argument("--load", type=float, default=60.0, help="seconds until a worker has its model")
    parser.add_argument("--driver-ms", type=float, default=2.0, help="of the driver for each problem")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    measured = read(*arguments.folders)
    places = measured.concurrency
    mean, longest = statistics.fmean(measured.seconds), max(measured.seconds)
    print(
        f"{len(measured.seconds)} problems, {places} at once: mean {mean:.1f} s, longest {longest:.1f} s; "
        f"engines {arguments.speed:g}x as fast"
    )
    for problems in arguments.problems:
        drawn = random.Random(arguments.seed).choices(measured.seconds, k=problems)
        seconds = [each / arguments.speed for each in drawn]
        print(f"\n{problems} problems\n workers       wall  efficiency   bottleneck (its share of the time)")
        for workers in arguments.workers:
            plan = Plan(
                workers=workers, seconds=seconds, places=places, load=arguments.load, driver=arguments.driver_ms / 1000
            )
            found = forecast(plan)
            cause = found.bottleneck
            print(f"{workers:8} {found.wall:8.0f} s {found.efficiency:11.1%}   {cause} ({found.lost[cause]:.0%})")


if __name__ == "__main__":
    main()

"""How much of 1 to 8 workers' time goes into problems, and what a problem costs the process that hands them out.

python benchmarks/cluster_efficiency.py

Engines are scripted: a problem takes the time of its tokens, asleep, so that two cores can play eight workers. Lengths
are log-normal, as those of sampled solutions are. Workers are loaded before the clock runs.

    efficiency = (sum of the problems' own seconds) / (workers * problems at once * wall seconds)

A problem's own seconds are those that its worker counted, so that a busy machine lengthens both sides.
The driver's cost is its processor time for each problem: dispatch, reply, journal, line of results.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from reason.api import Solver
from reason.cluster import Fleet, Share, on_fleet, session
from reason.engine.scripted import ScriptedEngine
from reason.report.evaluate import Evaluation
from reason.report.results import ResultsFolder
from reason.tasks.prompts import Prompt
from reason.tasks.task import Example, Task
from reason.types import Problem

_TOKEN_SECONDS = 0.05


class Row(NamedTuple):
    """One line of the table."""

    workers: int
    problems: int
    seconds: float
    efficiency: float
    driver_ms: float  # processor time per problem


def same_text(a: str, b: str) -> bool:
    return a == b


def make_task(count: int) -> Task:
    examples = tuple(
        Example(
            problem=Problem(content=f"problem {i} ?", id=f"problem-{i}", equivalent=same_text), reference="1", row={}
        )
        for i in range(count)
    )
    return Task(
        name="asleep",
        examples=examples,
        source="made up",
        sha256="0" * 64,
        available=count,
        prompt=Prompt(template="{problem}"),
        answer_format="a number",
        licence="none",
    )


def length(number: int, median: float) -> int:
    """Tokens of a problem's solution."""
    return max(1, round(median * math.exp(random.Random(number).gauss(0.0, 0.5))))


class Sleeper:
    """Loads an engine whose solutions take so many tokens; picklable."""

    def __init__(self, median: float) -> None:
        self.median = median

    def __call__(self) -> Solver:
        def script(prefix: str) -> list[str]:
            number = int(prefix.partition("problem ")[2].split()[0])
            return ["x" * length(number, self.median)]

        return Solver(engine=ScriptedEngine(script, delay=_TOKEN_SECONDS))


def measure(workers: int, problems: int, concurrency: int, median: float) -> Row:
    with Fleet(Sleeper(median), workers=workers, share=Share(cpus=0.25)) as fleet, tempfile.TemporaryDirectory() as out:
        evaluate(fleet, 8 * workers, concurrency, Path(out) / "warm")
        while not fleet.all_ready():
            time.sleep(0.1)
        cpu, began = _processor_seconds(), time.perf_counter()
        evaluate(fleet, problems, concurrency, Path(out) / "measured")
        wall, cpu = time.perf_counter() - began, _processor_seconds() - cpu
        own = sum(result.usage["seconds"] for result in ResultsFolder(Path(out) / "measured").results().values())
    return Row(workers, problems, wall, own / (workers * concurrency * wall), 1000 * cpu / problems)


def evaluate(fleet: Fleet, problems: int, concurrency: int, out: Path) -> None:
    fields = {"num_samples": 1, "max_tokens": 10_000}
    evaluation = Evaluation(make_task(problems), "best-of-n", fields, out=out, concurrency=concurrency)
    assert asyncio.run(on_fleet(evaluation, fleet)).complete


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--problems", type=int, default=40, help="for each place of each worker")
    parser.add_argument("--concurrency", type=int, default=4)
    parser.add_argument("--tokens", type=float, default=40.0, help="the median problem's, 50 ms each")
    parser.add_argument("--json", type=Path, help="write the rows there, too")
    arguments = parser.parse_args()
    rows: list[Row] = []
    with session():
        for workers in arguments.workers:
            count = arguments.problems * arguments.concurrency * workers
            rows.append(measure(workers, count, arguments.concurrency, arguments.tokens))
            row = rows[-1]
            print(
                f"{row.workers} workers  {row.problems} problems  {row.seconds:6.1f} s  {count / row.seconds:5.1f}/s  "
                f"efficiency {row.efficiency:.1%}  driver {row.driver_ms:.1f} ms/problem",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([row._asdict() for row in rows], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

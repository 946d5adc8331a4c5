"""What the sandbox costs, and whether its verdicts are those that others came to.

    python benchmarks/sandbox.py --data DIR                       # runs a second; the time of 1,000 samples
    python benchmarks/sandbox.py --data DIR --agreement           # all 13,100 recorded samples: minutes

DIR has ``code/humaneval`` and ``traces/humaneval_codegen16b_100samples``: CodeGen-16B's samples of HumanEval from
CodeT's repository, each with whether it passed when somebody ran it. Nothing is remembered between runs. Exits with 1
where a figure is worse than what is promised: 50 runs a second, 1,000 samples in 60 seconds, 99.5% agreement.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import itertools
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from reason.sandbox import Limits, Sandbox, Verdict

STOPS = re.compile(r"\n(?:class|def|#|if|print|assert)")
"""Where harnesses of HumanEval cut a continuation."""

LIMITS = Limits(cpu_seconds=3, wall_seconds=60)  # the clock is generous, for the machine may be busy


class Sample(NamedTuple):
    """A program with its test, and whether it is said to pass."""

    name: str
    program: str
    test: str
    entry_point: str
    setup: str
    passed: bool


def samples(data: Path) -> Iterator[Sample]:
    """In rounds, one of each problem at a time."""
    problems = {row["task_id"]: row for row in rows(data / "code" / "humaneval.jsonl.gz")}
    recorded = list(rows(data / "traces" / "humaneval_codegen16b_100samples.jsonl.gz"))
    for number in range(max(len(row["samples"]) for row in recorded)):
        for row in recorded:
            problem = problems[row["task_id"]]
            text = row["samples"][number]
            yield Sample(
                f"{row['task_id']} sample {number}",
                problem["prompt"] + STOPS.split(text)[0],
                f"{problem['test']}\n\ncheck(candidate)\n",
                problem["entry_point"],
                problem["prompt"],
                bool(row["passed"][number]),
            )


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


async def graded(sandbox: Sandbox, chosen: Sequence[Sample]) -> list[Verdict]:
    async def grade(sample: Sample) -> Verdict:
        return await sandbox.test(
            sample.program, sample.test, entry_point=sample.entry_point, setup=sample.setup, limits=LIMITS
        )

    return list(await asyncio.gather(*map(grade, chosen)))


async def speed(sandbox: Sandbox, seconds: float) -> tuple[float, float]:
    """Runs and tests a second of a trivial program."""

    async def rate(work: Callable[[], Awaitable[object]]) -> float:
        await asyncio.gather(work(), work())  # the workers start
        began = time.perf_counter()

        async def keep_on() -> int:
            count = 0
            while time.perf_counter() - began < seconds:
                await work()
                count += 1
            return count

        done = sum(await asyncio.gather(*(keep_on() for _ in range(8))))
        return done / (time.perf_counter() - began)

    runs = await rate(lambda: sandbox.run("print(1)"))
    return runs, await rate(lambda: sandbox.test("def f(x):\n    return x + 1\n", "assert f(1) == 2"))


async def measure_speed(sandbox: Sandbox, args: argparse.Namespace) -> bool:
    runs, tests = await speed(sandbox, args.seconds)
    print(f"| runs of a trivial program | {runs:.0f}/s | 50/s |")
    print(f"| tests of a trivial program, in two boxes each | {tests:.0f}/s | |", flush=True)
    chosen = list(itertools.islice(samples(args.data), 1000))
    began = time.perf_counter()
    verdicts = await graded(sandbox, chosen)
    took = time.perf_counter() - began
    agree = sum(verdict.passed == sample.passed for verdict, sample in zip(verdicts, chosen, strict=True))
    print(f"| {len(chosen)} HumanEval samples graded | {took:.1f} s | 60 s |")
    print(f"| of them as recorded | {agree} | |")
    return runs >= 50 and took <= 60


async def measure_agreement(sandbox: Sandbox, args: argparse.Namespace) -> bool:
    chosen = list(samples(args.data))[args.offset :][: args.limit]
    distinct = list({(sample.program, sample.test): sample for sample in chosen}.values())
    began = time.perf_counter()
    found: dict[tuple[str, str], Verdict] = {}
    for start in range(0, len(distinct), 500):
        part = distinct[start : start + 500]
        verdicts = await graded(sandbox, part)
        found |= {(sample.program, sample.test): verdict for sample, verdict in zip(part, verdicts, strict=True)}
        print(f"{start + len(part)} of {len(distinct)}", file=sys.stderr, flush=True)
    took = time.perf_counter() - began
    pairs = [(sample, found[sample.program, sample.test]) for sample in chosen]
    differ = [(sample, verdict) for sample, verdict in pairs if verdict.passed != sample.passed]
    share = 1 - len(differ) / len(chosen)
    print(f"| recorded samples, {len(distinct)} of them distinct | {len(chosen)} | |")
    print(f"| verdicts as recorded | {share:.3%} | 99.5% |")
    print(f"| seconds | {took:.0f} | |\n")
    for status, count in sorted(Counter(verdict.status for _, verdict in pairs).items()):
        print(f"{status}: {count}")
    print("\nThose that differ:")
    for sample, verdict in differ:
        said = " ".join(verdict.message.split())[:160]
        print(f"{sample.name}: recorded {'passed' if sample.passed else 'failed'}, {verdict.status}: {said}")
    return share >= 0.995


async def measure(args: argparse.Namespace) -> bool:
    cores = len(os.sched_getaffinity(0))
    async with Sandbox(LIMITS, workers=cores) as sandbox:
        print(f"{sandbox.backend}, {cores} workers on {cores} cores\n\n| what | figure | promised |\n|---|---|---|")
        return await (measure_agreement if args.agreement else measure_speed)(sandbox, args)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement of speed")
    parser.add_argument("--agreement", action="store_true", help="compare all verdicts instead")
    parser.add_argument("--limit", type=int, default=None, help="at most so many samples")
    parser.add_argument("--offset", type=int, default=0, help="pass over so many samples first")
    if not asyncio.run(measure(parser.parse_args())):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

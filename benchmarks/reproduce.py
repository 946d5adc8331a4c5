"""The commands behind the larger tables of docs/benchmarks.md, routing.md and planning.md, by name.

python benchmarks/reproduce.py --list
python benchmarks/reproduce.py ets ets-wide --data DIR --out DIR    # without --data from the hub, as `reason eval`

Commands run one after the other: what is timed wants the machine to itself. Each goes on where it was when it was
stopped, so that running the same line again finishes it; what is finished is passed over in seconds.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SMALL, LARGE = "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct"
STEPS = "-S max_tokens=512 -S max_step_tokens=40"  # short steps: what is pruned is then not what is being written
ONE = "-S num_samples=1 -S temperature=0 -S max_tokens=512"

# as `train gate` found them on other problems, for a precision of 90%: answers at once, and reasoned ones
AT_ONCE = "--plan speceyes:gate=logprob,direct=true,threshold=0.73,max_tokens=16"
AGREED = "--plan speceyes:gate=agreement,samples=4,threshold=0.75"
ALL_GRAINS = f"--draft auto --route arbitrage:escalate=0.3 {AGREED}"

MCTS = "iterations=6,num_children=4"  # FETCH's breadth; with the default of two children there is little to merge
MERGED = f"beam,merge(inner=beam),best-first,merge(inner=best-first),mcts({MCTS}),merge(inner=mcts,{MCTS})"
SIX = "best-of-n(select=weighted),beam,dvts,rebase,ets,mcts"
ROUTES = {
    "never": "never",
    "always": "always",
    **{f"reward-{each}": f"reward:threshold={each}" for each in ("0.05", "0.15", "0.3")},
    **{f"judge-{each}": f"judge:rating=mean,threshold={each}" for each in ("5.9", "6.2", "6.4")},
    **{f"arbitrage-{each}": f"arbitrage:escalate={each}" for each in ("0.1", "0.3", "0.5")},
    "oracle": "oracle",
}


@dataclass(frozen=True)
class Measurement:
    """Args:
    what: one line.
    minutes: about, on two cores with AMX.
    commands: arguments of `reason`, with {data} and {out} (a folder of this measurement's); one that starts with
        ``python`` is a script.
    """

    what: str
    minutes: int
    commands: tuple[str, ...]


def _routes(name: str, limit: int, concurrency: int) -> tuple[str, ...]:
    return tuple(
        f"eval gsm8k --data {{data}} --limit {limit} --concurrency {concurrency} -m {LARGE} {ONE} --route {route} "
        f"--out {{out}}/{name}-{label}"
        for label, route in ROUTES.items()
    )


MEASUREMENTS = {
    "ets": Measurement(
        "ETS against REBASE at width 16, the 0.5B's value head, 100 problems",
        15,
        (f"compare gsm8k --data {{data}} --strategies rebase,ets --sweep width=16 --limit 100 {STEPS} --out {{out}}",),
    ),
    "ets-wide": Measurement(
        "the same at width 64",
        60,
        (
            "compare gsm8k --data {data} --strategies rebase,ets(diversity_weight=1.4) --sweep width=64 --limit 100 "
            f"--concurrency 4 {STEPS} --out {{out}}",
        ),
    ),
    "ets-1.5b": Measurement(
        "both widths with the 1.5B, 30 problems",
        70,
        (
            f"compare gsm8k --data {{data}} --strategies rebase,ets --sweep width=16 --limit 30 -m {LARGE} {STEPS} "
            "--out {out}/16",
            "compare gsm8k --data {data} --strategies rebase,ets(diversity_weight=1.4) --sweep width=64 --limit 30 "
            f"--concurrency 4 -m {LARGE} {STEPS} --out {{out}}/64",
        ),
    ),
    "ets-capped": Measurement(
        "width 64 in a KV pool of 40% of REBASE's mean peak, one problem at a time",
        15,
        (
            "compare gsm8k --data {data} --strategies rebase,ets(diversity_weight=1.4) --sweep width=64 --limit 10 "
            f"--concurrency 1 --kv-tokens 2540 {STEPS} --out {{out}}",
        ),
    ),
    "merge": Measurement(
        "FETCH state merging around beam, best-first and MCTS, 60 problems",
        20,
        (f"compare gsm8k --data {{data}} --strategies {MERGED} --limit 60 --concurrency 30 {STEPS} --out {{out}}",),
    ),
    "strategies": Measurement(
        "six strategies at equal token budgets, 60 problems; and other sizes of the vote, for the table of `auto`",
        30,
        (
            f"compare gsm8k --data {{data}} --strategies {SIX} --budget-tokens 1000,4000 --limit 60 --concurrency 60 "
            "--out {out}",
            "compare gsm8k --data {data} --strategies best-of-n(select=weighted) --sweep num_samples=1,6 --limit 60 "
            "--concurrency 60 --out {out}",
        ),
    ),
    "strategies-math": Measurement(
        "three strategies on MATH-500 with the 1.5B, width 8, 30 problems",
        15,
        (
            "compare math500 --data {data} --strategies best-of-n(select=weighted),beam,ets --sweep width=8 --limit 30 "
            f"--concurrency 16 -m {LARGE} --out {{out}}",
        ),
    ),
    "router": Measurement(
        "trains the pair's router, which comes with the package, on 300 problems of the training set",
        35,
        (f"train router gsm8k-train --data {{data}} --limit 300 --concurrency 96 -m {LARGE} --out {{out}}",),
    ),
    "routing": Measurement(
        "routers at three thresholds each: accuracy on 150 problems, greedy, in one batch",
        60,
        _routes("accuracy", 150, 75),
    ),
    "routing-latency": Measurement(
        "the same, 25 problems one at a time; and again in reverse order, for machines whose speed changes",
        120,
        _routes("latency", 25, 1) + _routes("again", 25, 1)[::-1],
    ),
    "planning": Measurement(
        "SpecEyes on sums, word problems and tool problems, with and without, one at a time and together",
        60,
        (
            "python benchmarks/mixed_problems.py --data {data} --out {out}/mixed.jsonl",
            "python benchmarks/mixed_problems.py --data {data} --seed 1 --gsm8k gsm8k-train --out {out}/others.jsonl",
            f"train gate {{out}}/others.jsonl -m {SMALL} --out {{out}}/gates",
            f"train gate {{out}}/others.jsonl -m {SMALL} --direct --max-tokens 32 --out {{out}}/gates-direct",
            *(
                f"eval {{out}}/mixed.jsonl -s tool-agent --concurrency {count} -m {LARGE} {plan} --out {{out}}/{name}"
                for count, ending in ((1, ""), (32, "-together"))
                for plan, name in (("", f"without{ending}"), (AT_ONCE, f"with{ending}"))
            ),
        ),
    ),
    "grains": Measurement(
        "tokens, steps and plans speculated on against none of it: beam of 4, 50 problems",
        30,
        tuple(
            f"eval gsm8k --data {{data}} --limit 50 --concurrency 4 -s beam -S width=4 -m {LARGE} {options} "
            f"--out {{out}}/{name}"
            for name, options in (("off", "--draft none"), ("on", ALL_GRAINS))
        ),
    ),
}


def words_of(command: str, data: Path | None, out: Path) -> list[str]:
    """A command's, with the folders put in; without ``data`` tasks come from the hub."""
    if data is None:
        command = command.replace("--data {data} ", "")
    return [word.format(data=data, out=out) for word in command.split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--list", action="store_true", help="the names, and what they cost")
    parser.add_argument(
        "--data", type=Path, help="the folder of the tasks' data, as for `reason eval`; else from the hub"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"), help="a folder for each name is made in it")
    parser.add_argument(
        "--options", type=shlex.split, default=[], help='for every `reason` command, as in --options="--quantize int8"'
    )
    arguments = parser.parse_args()
    if arguments.list or not arguments.names:
        for name, measurement in MEASUREMENTS.items():
            print(f"{name:16} {measurement.minutes:3} min  {measurement.what}")
        return
    if unknown := [name for name in arguments.names if name not in MEASUREMENTS]:
        parser.error(f"there is no {', '.join(unknown)}; --list says what there is")
    for name in arguments.names:
        out = arguments.out / name
        out.mkdir(parents=True, exist_ok=True)
        for command in MEASUREMENTS[name].commands:
            words = words_of(command, arguments.data, out)
            script = words[0] == "python"
            if not script:
                words += arguments.options
            print("$", shlex.join(words if script else ["reason", *words]), flush=True)
            line = [sys.executable, *words[1:]] if script else [sys.executable, "-m", "reason", *words]
            if status := subprocess.run(line, check=False).returncode:
                sys.exit(status)


if __name__ == "__main__":
    main()

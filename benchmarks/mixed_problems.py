"""Problems of three kinds in one file of JSON lines: sums that need no search, GSM8K, and ones for a tool.

python benchmarks/mixed_problems.py --data DIR --each 50 --out mixed.jsonl
python benchmarks/mixed_problems.py --data DIR --each 50 --seed 1 --gsm8k gsm8k-train --out to_calibrate_on.jsonl

What a plan saves depends on the share of problems that need no search: a third here, and what else the gate lets pass.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Callable
from pathlib import Path

from reason.tasks import load_task

Row = dict[str, str]


def easy(rng: random.Random) -> Row:
    a, b = rng.randint(11, 99), rng.randint(2, 20)
    kind = rng.randrange(4)
    if kind == 0:
        return {"question": f"What is {a} plus {b}?", "answer": str(a + b)}
    if kind == 1:
        return {"question": f"What is {a} minus {b}?", "answer": str(a - b)}
    if kind == 2:
        return {"question": f"A pen costs {b} dollars. What do 3 pens cost, in dollars?", "answer": str(3 * b)}
    return {"question": f"What is half of {2 * a}?", "answer": str(a)}


def is_prime(n: int) -> bool:
    return n > 1 and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))


def primes_to(n: int) -> int:
    return sum(map(is_prime, range(n + 1)))


def for_tools(rng: random.Random) -> Row:
    n, m = rng.randint(50, 300), rng.randint(1000, 9999)
    kind = rng.randrange(5)
    if kind == 0:
        return {"question": f"How many prime numbers are there up to {n}?", "answer": str(primes_to(n))}
    if kind == 1:
        factor = rng.randint(1000, 9999)
        return {"question": f"What is {m} times {factor}?", "answer": str(m * factor)}
    if kind == 2:
        question = f"What is the sum of the decimal digits of 2 to the power of {n}?"
        return {"question": question, "answer": str(sum(map(int, str(2**n))))}
    if kind == 3:
        question = f"What is the remainder when 7 to the power of {n} is divided by {m}?"
        return {"question": question, "answer": str(pow(7, n, m))}
    divisors = sum(m % divisor == 0 for divisor in range(1, m + 1))
    return {"question": f"How many positive divisors does {m} have?", "answer": str(divisors)}


def drawn(make: Callable[[random.Random], Row], count: int, rng: random.Random) -> list[Row]:
    """So many different ones."""
    found: dict[str, Row] = {}
    while len(found) < count:
        row = make(rng)
        found[row["question"]] = row
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--gsm8k", default="gsm8k", help="the task whose first rows are taken")
    parser.add_argument("--each", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    task = load_task(arguments.gsm8k, data=arguments.data, limit=arguments.each)
    words = [{"question": each.row["question"], "answer": str(each.reference)} for each in task.examples]
    kinds = {"easy": drawn(easy, arguments.each, rng), "gsm8k": words, "tools": drawn(for_tools, arguments.each, rng)}
    rows = [{"id": f"{kind}-{i}", **row} for kind, group in kinds.items() for i, row in enumerate(group)]
    rng.shuffle(rows)
    arguments.out.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{len(rows)} problems in {arguments.out}")


if __name__ == "__main__":
    main()

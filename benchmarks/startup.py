"""How long a user waits: ``import reason``, and ``reason solve`` until the model generates.

    python benchmarks/startup.py --model qwen2.5-coder-0.5b-instruct

Both are whole processes, timed from outside; the model must be cached.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    bare = statistics.median(seconds([sys.executable, "-c", "pass"]) for _ in range(args.runs))
    imported = statistics.median(seconds([sys.executable, "-c", "import reason"]) for _ in range(args.runs))
    print(f"import reason: {imported - bare:.2f} s beyond Python's own {bare:.2f} s")
    one_token = [sys.executable, "-m", "reason", "solve", "What is 2 + 3?", "--model", args.model]
    one_token += ["-S", "num_samples=1", "-S", "max_tokens=1"]
    solved = statistics.median(seconds(one_token) for _ in range(args.runs))
    print(f"reason solve, from the shell to the first token and out again: {solved:.2f} s")


if __name__ == "__main__":
    main()

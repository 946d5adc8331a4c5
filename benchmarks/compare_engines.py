"""Generation speed against named peers: same weights, one run, engines measured in turn (A B C A B C ...).

    python benchmarks/compare_engines.py MODEL_FOLDER \\
        --vllm-python VENV/bin/python --preload libtcmalloc_minimal.so.4:libiomp5.so \\
        --llamacpp-python VENV/bin/python --gguf FILE.gguf --out result.json

Every engine is a warm process; while one is measured the others are stopped (SIGSTOP). Ratios are taken round by
round, so that a machine whose speed drifts does not decide them; the table gives their median.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import signal
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"
PROMPT = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. "
    "How many clips did Natalia sell altogether in April and May?\nPlease reason step by step."
)


class Worker:
    """One engine's process."""

    def __init__(self, name: str, command: list[str], env: dict[str, str] | None = None) -> None:
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            start_new_session=True,
            env={**os.environ, **(env or {})},
        )
        atexit.register(self._kill)  # also when another worker ends the run early
        self.about = self._read()  # one after the other: an engine counts the free cores while it loads
        self.pause()

    def run(self, n: int, tokens: int, prompt: str) -> dict[str, Any]:
        """Runs one job and stops the process again."""
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(json.dumps({"n": n, "tokens": tokens, "prompt": prompt}) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        self.pause()
        return reply

    def pause(self) -> None:
        """Stops the process: an idle engine's spinning threads must not slow the one that is measured."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def close(self) -> None:
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def _kill(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the {self.name} worker ended; run again with BENCH_VERBOSE=1 to see why")
        reply: dict[str, Any] = json.loads(line)
        return reply


def start_workers(args: argparse.Namespace) -> list[Worker]:
    folder = args.folder
    workers = [Worker("reason", [sys.executable, str(WORKERS / "reason_worker.py"), folder])]
    for kind in args.quantize:
        command = [sys.executable, str(WORKERS / "reason_worker.py"), folder, "--quantize", kind]
        workers.append(Worker(f"reason-{kind}", command))
    if args.vllm_python:
        env = {"LD_PRELOAD": args.preload} if args.preload else {}
        workers.append(Worker("vllm", [args.vllm_python, str(WORKERS / "vllm_worker.py"), folder], env))
    if args.transformers:
        workers.append(Worker("transformers", [sys.executable, str(WORKERS / "transformers_worker.py"), folder]))
    if args.llamacpp_python:
        command = [args.llamacpp_python, str(WORKERS / "llamacpp_worker.py"), args.gguf, *args.llamacpp_args.split()]
        workers.append(Worker("llama.cpp", command))
    return workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--n", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quantize", nargs="*", default=[], choices=["int8", "int4"])
    parser.add_argument("--transformers", action="store_true")
    parser.add_argument("--vllm-python")
    parser.add_argument("--preload", help="LD_PRELOAD of the vLLM process")
    parser.add_argument("--llamacpp-python")
    parser.add_argument("--llamacpp-args", default="", help="e.g. --no-repack")
    parser.add_argument("--gguf")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    workers = start_workers(args)
    about = {worker.name: worker.about for worker in workers}
    rates: dict[str, dict[int, list[float]]] = {worker.name: {n: [] for n in args.n} for worker in workers}
    details: dict[str, dict[int, list[dict[str, Any]]]] = {w.name: {n: [] for n in args.n} for w in workers}
    for worker in workers:  # warm-up, not counted
        for n in args.n:
            worker.run(n, 8, PROMPT)
    for number in range(args.rounds):
        for n in args.n:
            for worker in workers:
                reply = worker.run(n, args.tokens, PROMPT)
                rates[worker.name][n].append(reply["tokens"] / reply["seconds"])
                details[worker.name][n].append(reply["detail"])
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr, flush=True)
    for worker in workers:
        worker.close()
    report(args, rates, details)
    if args.out:
        result = {"date": str(date.today()), "about": about, "tokens_per_second": rates, "details": details}
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def report(
    args: argparse.Namespace,
    rates: dict[str, dict[int, list[float]]],
    details: dict[str, dict[int, list[dict[str, Any]]]],
) -> None:
    print(f"\n{Path(args.folder).name}: tokens/s, median of {args.rounds} rounds, {args.tokens} tokens each, T = 0.8\n")
    print("| engine |" + "".join(f" n={n} |" for n in args.n))
    print("|---|" + "---|" * len(args.n))
    for name, by_n in rates.items():
        print(f"| {name} |" + "".join(f" {statistics.median(by_n[n]):.1f} |" for n in args.n))
    for name in list(rates)[1:]:
        ratios = {n: [a / b for a, b in zip(rates["reason"][n], rates[name][n], strict=True)] for n in args.n}
        cells = "".join(f" {statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f}) |" for r in ratios.values())
        print(f"| reason / {name} |" + cells)
    outside = {n: [d["outside_forward"] for d in details["reason"][n]] for n in args.n}
    print("| outside the forward |" + "".join(f" {statistics.median(v):.1%} |" for v in outside.values()))


if __name__ == "__main__":
    main()

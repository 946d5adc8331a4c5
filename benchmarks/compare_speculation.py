"""Speed with speculation against vLLM with its own n-gram speculation: same weights, one run, GSM8K prompts, T = 0.8.

    python benchmarks/compare_speculation.py MODEL_FOLDER --vllm-python VENV/bin/python \
        --preload libtcmalloc_minimal.so.4:libiomp5.so --out result.json

Every round asks another problem, so that nobody has seen it before, and completions end where the model ends them.
Engines are measured in turn, warm, the others stopped; ratios are taken round by round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from datetime import date
from pathlib import Path

from compare_engines import WORKERS, Worker

PROBLEMS = Path(__file__).parent.parent / "tests" / "fixtures" / "gsm8k_20.jsonl"
TURN = (
    "<|im_start|>user\n{question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    "<|im_end|>\n<|im_start|>assistant\n"
)


def start_workers(args: argparse.Namespace) -> list[Worker]:
    own = [sys.executable, str(WORKERS / "reason_worker.py"), args.folder, "--natural", "--threads", str(args.threads)]
    workers = [Worker(f"reason, draft {draft}", [*own, "--draft", draft]) for draft in args.draft]
    if args.vllm_python:
        peer = [args.vllm_python, str(WORKERS / "vllm_worker.py"), args.folder, "--natural"]
        env = {"LD_PRELOAD": args.preload} if args.preload else {}
        workers += [
            Worker("vllm", peer, env),
            Worker(f"vllm, n-gram {args.ngram}", [*peer, "--ngram", str(args.ngram)], env),
        ]
    return workers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--draft", nargs="+", default=["auto", "none"])
    parser.add_argument("--n", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--vllm-python")
    parser.add_argument("--preload", help="LD_PRELOAD of the vLLM processes")
    parser.add_argument("--ngram", type=int, default=4, help="tokens of vLLM's n-gram speculation")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    prompts = [
        TURN.format(question=json.loads(line)["question"]) for line in PROBLEMS.read_text(encoding="utf-8").splitlines()
    ]
    workers = start_workers(args)
    for worker in workers:  # warm-up, not counted
        for n in args.n:
            worker.run(n, 8, prompts[-1])
    rates: dict[str, dict[int, list[float]]] = {worker.name: {n: [] for n in args.n} for worker in workers}
    for number in range(args.rounds):
        for k, n in enumerate(args.n):
            prompt = prompts[(number * len(args.n) + k) % len(prompts)]
            for worker in workers:
                reply = worker.run(n, args.tokens, prompt)
                rates[worker.name][n].append(reply["tokens"] / reply["seconds"])
        print(f"round {number + 1} of {args.rounds} done", file=sys.stderr, flush=True)
    about = {worker.name: worker.about for worker in workers}
    for worker in workers:
        worker.close()
    print(f"\n{Path(args.folder).name}: tokens/s, median of {args.rounds} problems, T = 0.8\n")
    print("| engine |" + "".join(f" n={n} |" for n in args.n))
    print("|---|" + "---|" * len(args.n))
    first = workers[0].name
    for name, by_n in rates.items():
        print(f"| {name} |" + "".join(f" {statistics.median(by_n[n]):.1f} |" for n in args.n))
    for name in list(rates)[1:]:
        ratios = [[a / b for a, b in zip(rates[first][n], rates[name][n], strict=True)] for n in args.n]
        cells = "".join(f" {statistics.median(r):.2f} ({min(r):.2f}-{max(r):.2f}) |" for r in ratios)
        print(f"| {first} / {name} |" + cells)
    if args.out:
        result = {"date": str(date.today()), "about": about, "tokens_per_second": rates}
        args.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

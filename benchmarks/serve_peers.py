"""Searches through servers: `reason serve` on its own engine, and reason's RemoteEngine, optillm and its_hub over one
vLLM server, with the same weights and problems. A Markdown table.

    python benchmarks/serve_peers.py MODEL_FOLDER --vllm-python VENV/bin/python --peers-python VENV2/bin/python \\
        --preload LIBTCMALLOC_MINIMAL:LIBIOMP5 --problems 2 --rounds 3

best-of-8    optillm samples eight and asks the model to rate each; the others vote
beam 4x4     16 hypotheses, 4 kept; steps end at an empty line; a checksum of the text stands in for the reward model of
             all. optillm has no beam search, and its mcts takes many minutes a problem here: it has no part in this

One problem at a time, T = 1 (optillm's, which cannot be changed), at most --max-tokens a sample. Each round has other
problems, which all contenders get in turn, in an order that turns with the rounds; vLLM forgets its prefixes before
each. Processes that have no part in a measurement are stopped. Tokens are those that the servers say they generated: a
peer that generates fewer is not faster, so that there is a ratio of seconds per token, too.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
from peer_processes import LIMIT, Process, chat, counter, free_port
from workers.checksum import Checksum

from reason.api import Solver
from reason.tasks import load_task
from reason.tasks.answers import extract_answer
from reason.tasks.prompts import problem_messages
from reason.types import Message, Problem

HERE = Path(__file__).parent
PROBLEMS = HERE.parent / "tests" / "fixtures" / "gsm8k_20.jsonl"

Grade = Callable[[str | None], bool]


class Measured(NamedTuple):
    """A round of one contender: seconds and tokens of one problem, on average, and how many it got right."""

    seconds: float
    tokens: float
    right: int


@dataclass(frozen=True, kw_only=True)
class Contender:
    """Args:
    ask: a problem's text to what is answered.
    tokens: how many the engine behind it has generated so far.
    uses: the processes that it needs.
    """

    name: str
    ask: Callable[[str], str]
    tokens: Callable[[], int]
    uses: tuple[Process, ...]
    found: list[Measured] = field(default_factory=list)


# -- who is compared ---------------------------------------------------------------------------------------------------


class Setting(NamedTuple):
    """The processes, where they listen, and what all are asked for."""

    reason: Process
    vllm: Process
    optillm: Process
    its_hub: Process
    its_hub_worker: Process
    urls: dict[str, str]
    remote: Solver
    max_tokens: int
    max_steps: int

    @property
    def processes(self) -> tuple[Process, ...]:
        return self.reason, self.vllm, self.optillm, self.its_hub, self.its_hub_worker


def contenders(at: Setting) -> dict[str, list[Contender]]:
    """By search."""
    own = counter(at.urls["reason"], r'reason_tokens_total\{kind="policy"\}')
    theirs = counter(at.urls["vllm"], r"vllm:generation_tokens_total\{.*\}")
    sampling = {"temperature": 1.0, "max_tokens": at.max_tokens}
    fields = {
        "best-of-8": ("best-of-n", {"num_samples": 8}),
        "beam 4x4": ("beam", {"width": 16, "beam_width": 4, "verifier": "checksum", "max_steps": at.max_steps}),
    }

    def ours(search: str) -> Contender:
        strategy, own_fields = fields[search]
        asked = {"instruct": False, **own_fields}
        return Contender(
            name="reason serve, LocalEngine",
            ask=lambda text: chat(at.urls["reason"], f"reason/{strategy}", text, reason=asked, **sampling),
            tokens=own,
            uses=(at.reason,),
        )

    def remote(search: str) -> Contender:
        strategy, own_fields = fields[search]

        def ask(text: str) -> str:
            problem = Problem(content=(Message(role="user", content=text),))
            named = {"checksum": Checksum()} if strategy == "beam" else None
            return at.remote.solve(problem, strategy, verifiers=named, **own_fields, **sampling).text

        return Contender(name="reason, RemoteEngine over vLLM", ask=ask, tokens=theirs, uses=(at.vllm,))

    rated = Contender(
        name="optillm bon over vLLM",
        ask=lambda text: chat(at.urls["optillm"], "bon-served", text, **sampling),
        tokens=theirs,
        uses=(at.vllm, at.optillm),
    )
    vote = Contender(
        name="its_hub self-consistency over vLLM",
        ask=lambda text: chat(at.urls["its_hub"], "served", text, budget=8, **sampling),
        tokens=theirs,
        uses=(at.vllm, at.its_hub),
    )
    beam = Contender(
        name="its_hub beam over vLLM",
        ask=lambda text: str(json.loads(at.its_hub_worker.line(json.dumps(text)))),
        tokens=theirs,
        uses=(at.vllm, at.its_hub_worker),
    )
    return {
        "best-of-8": [ours("best-of-8"), remote("best-of-8"), vote, rated],
        "beam 4x4": [ours("beam 4x4"), remote("beam 4x4"), beam],
    }


# -- running -----------------------------------------------------------------------------------------------------------


def start(args: argparse.Namespace, log: Path) -> Setting:
    """Starts all, one after the other."""
    ports = {name: free_port() for name in ("reason", "vllm", "optillm", "its_hub")}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    scripts = Path(args.peers_python).parent

    def at(name: str) -> list[str]:
        return ["--host", "127.0.0.1", "--port", str(ports[name])]

    limits = json.dumps({"max_new_tokens": args.max_tokens})  # its_hub's proxy passes none on
    serve = [args.vllm_python, "-m", "vllm.entrypoints.openai.api_server", "--model", args.folder, *at("vllm")]
    serve += ["--served-model-name", "served", "--dtype", "bfloat16", "--max-model-len", "4096", "--max-num-seqs", "32"]
    serve += ["--generation-config", "vllm", "--override-generation-config", limits]
    vllm = Process(
        "vllm",
        serve + (["--enforce-eager"] if args.eager else []),
        log,
        env={
            "VLLM_SERVER_DEV_MODE": "1",  # it can be told to forget its prefixes
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(args.threads),
            "LD_PRELOAD": args.preload,
        },
    )
    vllm.wait_for(f"{urls['vllm']}/health")
    command = [sys.executable, str(HERE / "workers" / "reason_server.py"), "-m", args.folder, *at("reason")]
    reason = Process("reason", [*command, "--threads", str(args.threads)], log)
    reason.wait_for(f"{urls['reason']}/health")
    keys = {"OPENAI_API_KEY": "none"}
    proxy = [str(scripts / "optillm"), *at("optillm"), "--base-url", f"{urls['vllm']}/v1", "--best-of-n", "8"]
    optillm = Process("optillm", proxy, log, env=keys)
    optillm.wait_for(f"{urls['optillm']}/health")
    its_hub = Process("its_hub", [str(scripts / "its-iaas"), *at("its_hub")], log, env=keys)
    its_hub.wait_for(f"{urls['its_hub']}/v1/models")
    votes: dict[str, Any] = {"alg": "self-consistency", "regex_patterns": [r"\\boxed\{([^}]*)\}"]}
    votes |= {"endpoint": f"{urls['vllm']}/v1", "api_key": "none", "model": "served"}
    httpx.post(f"{urls['its_hub']}/configure", json=votes, timeout=LIMIT).raise_for_status()
    worker = [args.peers_python, str(HERE / "workers" / "its_hub_worker.py"), f"{urls['vllm']}/v1"]
    beam = Process("its_hub-beam", [*worker, "--max-steps", str(args.max_steps)], log, by_lines=True)
    remote = Solver(base_url=f"{urls['vllm']}/v1", tokenizer=args.folder)
    return Setting(reason, vllm, optillm, its_hub, beam, urls, remote, args.max_tokens, args.max_steps)


def measure(contender: Contender, at: Setting, asked: Sequence[tuple[str, Grade]]) -> Measured:
    """Problems one after the other, with all else stopped."""
    for process in contender.uses:
        process.go_on()
    if at.vllm in contender.uses:
        httpx.post(f"{at.urls['vllm']}/reset_prefix_cache", timeout=LIMIT).raise_for_status()
    before, began = contender.tokens(), time.perf_counter()
    answers = [contender.ask(text) for text, _ in asked]
    seconds, tokens = time.perf_counter() - began, contender.tokens() - before
    for process in contender.uses:
        process.pause()
    right = sum(grade(extract_answer(answer)) for answer, (_, grade) in zip(answers, asked, strict=True))
    return Measured(seconds / len(asked), tokens / len(asked), right)


def ratio(mine: Sequence[Measured], other: Sequence[Measured], figure: Callable[[Measured], float]) -> str:
    """How many times as long the other took, round by round: the median, and from the least to the most."""
    found = [figure(b) / figure(a) for a, b in zip(mine, other, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def report(rows: Sequence[Contender], search: str) -> None:
    first = rows[0].found
    print(f"\n| {search} | s a problem | tokens a problem | right | s, / reason serve | s a token, / reason serve |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        seconds = statistics.median(each.seconds for each in row.found)
        tokens = statistics.median(each.tokens for each in row.found)
        right = sum(each.right for each in row.found)
        cells = [f"{seconds:.1f}", f"{tokens:.0f}", str(right), ratio(first, row.found, lambda each: each.seconds)]
        cells.append(ratio(first, row.found, lambda each: each.seconds / each.tokens))
        print(f"| {row.name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of the weights")
    parser.add_argument("--vllm-python", required=True)
    parser.add_argument("--peers-python", required=True, help="of an environment with optillm and its_hub")
    parser.add_argument("--preload", default="", help="LD_PRELOAD of vLLM")
    parser.add_argument("--eager", action="store_true", help="vLLM without compilation, which takes minutes")
    parser.add_argument("--searches", nargs="+", default=["best-of-8", "beam 4x4"])
    parser.add_argument("--problems", type=int, default=2, help="of each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("peers"), help="folder of the logs and of result.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started ends, too
    task = load_task(PROBLEMS)
    examples = task.examples
    at = start(args, args.out)
    for process in at.processes:
        process.pause()
    rows = {search: contenders(at)[search] for search in args.searches}

    def asked(number: int) -> list[tuple[str, Grade]]:
        chosen = [examples[(number * args.problems + k) % len(examples)] for k in range(args.problems)]
        return [(problem_messages(one.problem)[-1]["content"], partial(task.grade, one)) for one in chosen]

    for contender in rows[args.searches[0]][:2]:  # a warm-up of both engines, not counted
        measure(contender, at, asked(-1)[:1])
    for number in range(args.rounds):
        for compared in rows.values():
            turn = number % len(compared)
            for contender in (*compared[turn:], *compared[:turn]):
                contender.found.append(measure(contender, at, asked(number)))
                print(f"round {number + 1}: {contender.name}: {contender.found[-1]}", file=sys.stderr, flush=True)
        figures = {search: {row.name: row.found for row in compared} for search, compared in rows.items()}
        result = {"date": str(date.today()), "options": vars(args), "figures": figures}
        (args.out / "result.json").write_text(json.dumps(result, indent=1, default=str), encoding="utf-8")
    for process in at.processes:
        process.close()
    for search, compared in rows.items():
        report(compared, search)


if __name__ == "__main__":
    main()

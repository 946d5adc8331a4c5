"""What the GPU path is worth: kernels, decode iterations, sharing, speculation, exactness; in about 8 minutes.

    python benchmarks/gpu.py --out gpu-results          # writes gpu-results.json and gpu-results.md
    TRITON_INTERPRET=1 python benchmarks/gpu.py --quick # tiny shapes, seconds, on any machine

Weights are random, of real models' shapes: nothing is downloaded, and no figure depends on what the tokens say. Every
time is a median, of launches that follow each other without waiting; attention alone is replayed as a graph, over pools
that together do not fit a cache. A part that fails says so in its table; the others go on.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import math
import platform
import statistics
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_attention import kernels
from gpu_bench import FULL, QUICK, Bench, Table
from gpu_host import host, tables

from reason.runtime.forest import Branch
from reason.runtime.kv_pool import KVPool
from reason.runtime.runner import ModelRunner, kv_shape
from reason.speculate.policy.cost import ForwardTimes

# -- (b) decode iterations, (c) sharing ----------------------------------------------------------------------------


def make_runner(bench: Bench, model: Any, num_slots: int) -> ModelRunner:
    runner = ModelRunner(model, num_slots=num_slots)
    for pool in (*runner.kv.keys, *runner.kv.values):
        pool.zero_()
    return runner


def open_branches(runner: ModelRunner, count: int, prompt: int, *, shared: bool = True) -> list[Branch]:
    """Branches of a prompt whose KV counts as computed: what it holds does not change what an iteration costs."""
    branches = []
    for i in range(count):
        path = [(7 * k) % runner.vocab_size for k in range(prompt)]
        branches.append(runner.forest.open([*path, i % runner.vocab_size], namespace=None if shared else i))
    for branch in branches:
        for node, length in branch.runs():
            runner.forest.mark_computed(node, length if node is not branch.node else length - 1)
    return branches


def iteration(bench: Bench, runner: ModelRunner, branches: list[Branch], steps: int) -> float:
    """Median seconds of: plan, forward, logits, the greatest, one token appended to each branch. As in the engine, the
    next plan is made while the device computes."""
    times = []
    for step in range(steps + 6):
        bench.synchronize()
        began = time.perf_counter()
        forward = runner.forward(branches)
        logits = forward.row_logits(forward.places(branches).rows, transient=True)
        greatest = logits.argmax(dim=-1)
        runner.plan_ahead()
        tokens = greatest.tolist()
        for i, branch in enumerate(branches):
            runner.forest.append(branch, (tokens[i % len(tokens)] + i) % runner.vocab_size)
        if step >= 6:  # before that kernels are compiled and forwards recorded
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def close_all(runner: ModelRunner, branches: list[Branch]) -> None:
    for branch in branches:
        runner.forest.close(branch)
    runner.forest.clear()


def decode(bench: Bench) -> Table:
    table: Table = []
    prompt, steps = bench.sized(2048), 16 if bench.scale is FULL else 2
    for name, settings in bench.scale.models.items():
        model = bench.model(settings, bench.scale.dtype)
        read = weights_read(model)
        config = model.config
        layers, _, kv_heads, dim = kv_shape(config, 1)
        token_bytes = KVPool.bytes_per_token(layers, kv_heads, dim, bench.scale.dtype)
        width = bench.sized(64, 1)
        with torch.inference_mode():
            theirs = generate_seconds(bench, model, width, prompt, steps)
        batching = continuous_seconds(bench, model, width, prompt, steps)
        runner = make_runner(bench, model, prompt + 256 * (steps + 16) + 512)
        for count in sorted({bench.sized(n, 1) for n in (1, 16, 64, 256)}):
            branches = open_branches(runner, count, prompt)
            seconds = iteration(bench, runner, branches, steps)
            kv_tokens = runner.forest.locked_tokens - count * steps // 2  # in the middle of what was timed
            reading = (read * bench.scale.dtype.itemsize + kv_tokens * token_bytes) / bench.bandwidth
            products = 2 * read * count / bench.arithmetic
            row = {"model": name, "branches": count, "ms": 1e3 * seconds}
            row |= {"reading ms": 1e3 * reading, "times reading": seconds / reading}
            row |= {"products ms": 1e3 * products, "times the longer": seconds / max(reading, products)}
            row["replays"] = runner.captured.replays if runner.captured else 0
            if count == width:
                row |= {"generate ms": 1e3 * theirs, "times generate": theirs / seconds}
                row |= {"generate_batch ms": 1e3 * batching, "times generate_batch": batching / seconds}
            table.append(row)
            close_all(runner, branches)
        runner.release()
        del runner, model
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()
    return table


def weights_read(model: Any) -> int:
    """Weights that each iteration reads and multiplies by every row: all but an embedding that is not the head too."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return sum(weight.numel() for weight in model.parameters()) - (0 if embedding is head else embedding.numel())


def generate_seconds(bench: Bench, model: Any, width: int, prompt: int, steps: int) -> float:
    """Seconds of one iteration of transformers' ``generate`` on copies of a prompt."""
    ids = torch.tensor([[(7 * k) % model.config.vocab_size for k in range(prompt)]] * width, device=bench.device)

    def run(tokens: int) -> float:
        bench.synchronize()
        began = time.perf_counter()
        model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
        bench.synchronize()
        return time.perf_counter() - began

    run(1)
    return (run(steps + 1) - run(1)) / steps


def continuous_seconds(bench: Bench, model: Any, width: int, prompt: int, steps: int) -> float:
    """Median seconds between a request's tokens under transformers' continuous batching, which shares the blocks of a
    prompt; NaN where it does not run."""
    from transformers import ContinuousBatchingConfig, GenerationConfig

    own = model.config._attn_implementation
    small = {} if bench.scale is FULL else {"num_blocks": 16, "max_batch_tokens": 64}
    try:
        done = model.generate_batch(
            inputs=[[(7 * k) % model.config.vocab_size for k in range(prompt)]] * width,
            generation_config=GenerationConfig(
                max_new_tokens=steps + 6, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            continuous_batching_config=ContinuousBatchingConfig(**small),
            record_timestamps=True,
        )
        gaps = [np.diff(output.timestamps[5:]) for output in done.values()]
        return float(np.median(np.concatenate(gaps)))
    except Exception:  # the peer's interface is young; the other columns are still worth having
        traceback.print_exc()
        return math.nan
    finally:
        model.set_attn_implementation(own)


def sharing(bench: Bench) -> Table:
    table: Table = []
    name, settings = next(iter(bench.scale.models.items()))
    prompt, steps = bench.sized(2048), 8 if bench.scale is FULL else 2
    widths = sorted({bench.sized(n) for n in (16, 64, 256)})
    runner = make_runner(bench, bench.model(settings, bench.scale.dtype), widths[-1] * (prompt + steps + 16) + 64)
    token_bytes = KVPool.bytes_per_token(*(kv_shape(runner.config, 1)[i] for i in (0, 2, 3)), runner.dtype)
    for count in widths:
        measured: dict[bool, tuple[float, int]] = {}
        for shared in (True, False):
            branches = open_branches(runner, count, prompt, shared=shared)
            seconds = iteration(bench, runner, branches, steps)
            measured[shared] = seconds, runner.forest.locked_tokens
            close_all(runner, branches)
        row: dict[str, Any] = {"model": name, "branches": count}
        for shared, (seconds, tokens) in measured.items():
            what = "shared" if shared else "own"
            row |= {f"{what} ms": 1e3 * seconds, f"{what} KV MiB": tokens * token_bytes / 2**20}
        row["times faster"] = measured[False][0] / measured[True][0]
        table.append(row)
    return table


# -- (d) speculation, (e) exactness --------------------------------------------------------------------------------


RECORDED = (
    ("stand", 1, 8, 2.38),
    ("stand", 1, 30, 2.81),
    ("suffix+goose", 1, 8, 2.75),
    ("suffix+goose", 1, 30, 3.32),
    ("stand", 16, 8, 2.16),
    ("suffix+goose", 16, 8, 2.44),
)
"""Source, branches side by side, nodes a branch, tokens a step: replays of 16 samples each of 40 problems by the 1.5B
(docs/benchmarks.md). Accepting does not depend on the device."""


def speculation(bench: Bench) -> Table:
    """A forward's time by its rows, what recorded drafts would gain in forwards alone, and what the goodput rule makes
    of it where each draft token is as likely as the last: maximise (branches + expected accepted) / seconds(branches +
    nodes), nodes best first."""
    table: Table = []
    for name, settings in bench.scale.models.items():
        runner = make_runner(bench, bench.model(settings, bench.scale.dtype), 4096)
        table += speculated(bench, name, runner)
        runner.release()
    return sorted(table, key=len)  # rows of a kind together


def speculated(bench: Bench, name: str, runner: ModelRunner) -> Table:
    sizes = [n for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if n <= 512 // min(bench.scale.shrink, 16)]
    seconds = {n: statistics.median(runner.time_forward(n) for _ in range(bench.scale.repeats)) for n in sizes}
    times = ForwardTimes()
    times.set(seconds)
    table: Table = [{"model": name, "tokens": n, "ms": 1e3 * s} for n, s in seconds.items()]
    for source, branches, nodes, tokens in RECORDED:
        if (rows := branches * (1 + nodes)) <= sizes[-1]:
            gain = tokens * times.upto(rows)[branches] / times.upto(rows)[rows]
            row = {"model": name, "source": source, "branches": branches, "nodes a branch": nodes}
            table.append(row | {"tokens a step": tokens, "times plain, recorded": float(gain)})
    for branches in (1, 16, 64):
        if 2 * branches > sizes[-1]:
            continue
        cost = times.upto(sizes[-1])
        for acceptance in (0.5, 0.7, 0.9):
            expected, best = float(branches), (branches / cost[branches], 0)
            for nodes in range(1, sizes[-1] - branches + 1):
                expected += acceptance ** math.ceil(nodes / branches)
                best = max(best, (expected / cost[branches + nodes], nodes))
            gain = best[0] * cost[branches] / branches
            row = {"model": name, "branches": branches, "acceptance": acceptance}
            table.append(row | {"nodes a branch": best[1] / branches, "times plain": float(gain)})
    return table


@torch.inference_mode()
def exactness(bench: Bench) -> Table:
    """Greedy tokens of paths that part, together and alone, against transformers over the whole sequence."""
    table: Table = []
    steps, count = bench.sized(64, 4), bench.sized(16, 3)
    of_weights = [None] if bench.weights is None else [None, bench.weights]
    for weights, dtype in itertools.product(of_weights, (torch.float32, torch.bfloat16)):
        model = exact_model(bench, weights, dtype)
        reference = copy.deepcopy(model)
        runner = ModelRunner(model, num_slots=8192)
        vocab = runner.vocab_size
        prompts = [[*((11 * k) % vocab for k in range(24)), (5 + i) % vocab] for i in range(count)]
        together = greedy(runner, prompts, steps)
        alone = [greedy(runner, [prompt], steps)[0] for prompt in prompts]
        worst, parted = 0.0, 0
        for prompt, tokens in zip(prompts, together, strict=True):
            logits = reference(torch.tensor([prompt + tokens[:-1]], device=bench.device)).logits[0, len(prompt) - 1 :]
            gaps = (
                logits.max(dim=-1).values - logits.gather(1, torch.tensor(tokens, device=bench.device)[:, None])[:, 0]
            )
            worst, parted = max(worst, float(gaps.max())), parted + int((gaps > 0).sum())
        row: dict[str, Any] = {"weights": "random" if weights is None else weights.name}
        row |= {"dtype": str(dtype).removeprefix("torch."), "tokens": steps * count}
        row |= {
            "paths equal alone and together": f"{sum(a == b for a, b in zip(alone, together, strict=True))}/{count}"
        }
        table.append(row | {"tokens not transformers' first": parted, "largest gap of logits": worst})
    return table


def exact_model(bench: Bench, weights: Path | None, dtype: torch.dtype) -> Any:
    """The model of a folder; without one, a small one whose random weights leave few ties."""
    if weights is not None:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(weights, dtype=dtype).to(bench.device).eval()
    model = bench.model(bench.scale.exact_model, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for weight in model.parameters():
            around = 1.0 if weight.dim() == 1 else 0.0
            weight.copy_(torch.randn(weight.shape) * 0.08 + around)
    return model


def greedy(runner: ModelRunner, prompts: Sequence[Sequence[int]], steps: int) -> list[list[int]]:
    branches = [runner.forest.open(prompt) for prompt in prompts]
    drawn: list[list[int]] = [[] for _ in prompts]
    for _ in range(steps):
        tokens = runner.forward(branches).logits(branches).argmax(dim=-1).tolist()
        for branch, mine, token in zip(branches, drawn, tokens, strict=True):
            mine.append(token)
            runner.forest.append(branch, token)
    close_all(runner, branches)
    return drawn


# -- the command ---------------------------------------------------------------------------------------------------

PARTS: dict[str, tuple[str, Callable[[Bench], Table]]] = {
    "kernels": ("Attention of one layer", kernels),
    "decode": ("One decode iteration", decode),
    "host": ("An iteration of the engine, and what of it the device waits for", host),
    "tables": ("STAND's table", tables),
    "sharing": ("KV shared and not", sharing),
    "speculation": ("Forward times, and the goodput rule's choice", speculation),
    "exactness": ("Exactness", exactness),
}


def markdown(machine: dict[str, Any], tables: dict[str, Table]) -> str:
    lines = ["# GPU benchmark", "", ", ".join(f"{key}: {shown(value)}" for key, value in machine.items())]
    for part, table in tables.items():
        lines += ["", f"## {PARTS[part][0]}"]
        columns: tuple[str, ...] = ()
        for row in table:
            if tuple(row) != columns:  # rows of another kind begin another table
                columns = tuple(row)
                lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
            lines.append(f"| {' | '.join(shown(value) for value in row.values())} |")
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "/").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="files without their suffix")
    parser.add_argument("--quick", action="store_true", help="tiny shapes: does every part run?")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--weights", type=Path, help="a model's folder: exactness on real weights, too")
    parser.add_argument("--seconds", type=float, default=450, help="no part is begun after so many")
    args = parser.parse_args()
    if not args.quick and not torch.cuda.is_available():
        parser.error("there is no CUDA device; --quick runs anywhere")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    bench = Bench(QUICK if args.quick else FULL, device, args.weights)
    machine: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__,
        "CUDA": torch.version.cuda,
        "copy bandwidth GB/s": bench.bandwidth / 1e9,
        "products TFLOP/s": bench.arithmetic / 1e12,
        "quick": args.quick,
    }
    results: dict[str, Table] = {}
    failed = False
    for part in args.parts:
        started = time.perf_counter()
        if started - began > args.seconds:
            results[part] = [{"skipped": f"{args.seconds:.0f} seconds had passed"}]
            continue
        try:
            results[part] = PARTS[part][1](bench)
        except Exception as error:  # the other parts are still worth having
            traceback.print_exc()
            results[part] = [{"failed": f"{type(error).__name__}: {error}"}]
            failed = True
        machine[f"{part} s"] = time.perf_counter() - started
        for suffix, text in (
            (".json", json.dumps({"machine": machine, "tables": results}, indent=2)),
            (".md", markdown(machine, results)),
        ):
            args.out.with_suffix(suffix).write_text(text, encoding="utf-8")  # after each part: a limit may come
    print(markdown(machine, results))
    raise SystemExit(failed)


if __name__ == "__main__":
    main()

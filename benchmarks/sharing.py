"""What sharing KV saves: 64 continuations of a 1,000-token prompt, shared against every continuation on its own.

    python benchmarks/sharing.py qwen2.5-coder-0.5b-instruct

"Own" gives every continuation a prompt that differs in its first token, so that nothing can be shared and each
re-prefills its path; everything else is the same work. The two are run in turn.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from reason.engine.local import LocalEngine
from reason.models import resolve
from reason.types import Request, Sampling, Usage

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "gsm8k_20.jsonl"
_owners = itertools.count()


def long_prompt(engine: LocalEngine, tokens: int) -> tuple[int, ...]:
    """Worked examples, as a few-shot prompt has them, cut to the length asked for."""
    rows = [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    text = "\n\n".join(f"Question: {row['question']}\nAnswer: {row['solution']}" for row in rows)
    path = engine.codec.encode(text)
    assert len(path) >= tokens, f"the examples have only {len(path)} tokens"
    return path[:tokens]


async def run(engine: LocalEngine, prompts: Sequence[tuple[int, ...]], tokens: int) -> tuple[float, Usage, int]:
    owner = f"bench-{next(_owners)}"
    requests = [
        Request(
            prefix=prompt, key=i, max_tokens=tokens, ignore_eos=True, sampling=Sampling(temperature=0.8), owner=owner
        )
        for i, prompt in enumerate(prompts)
    ]
    rows = engine.stats().rows
    began = time.perf_counter()
    async for completion in engine.generate(requests):
        assert completion.error is None, completion.error
    return time.perf_counter() - began, engine.usage(owner), engine.stats().rows - rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--branches", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    folder = resolve(args.model).folder
    engine = LocalEngine.load(folder, name=args.model, kv_tokens=args.branches * (args.prompt + args.tokens) + 1024)
    prompt = long_prompt(engine, args.prompt)
    shared = [prompt] * args.branches
    own = [(1000 + i, *prompt[1:]) for i in range(args.branches)]
    ratios: list[float] = []
    for number in range(args.rounds):
        engine.drop_cache()
        alone, _, own_rows = asyncio.run(run(engine, own, args.tokens))
        engine.drop_cache()
        together, usage, rows = asyncio.run(run(engine, shared, args.tokens))
        ratios.append(alone / together)
        bound = 1.05 * (args.prompt + args.branches * args.tokens)
        print(
            f"round {number + 1}: shared {together:.1f} s, {rows} rows, peak {usage.unique_kv_tokens_peak} unique KV "
            f"tokens (bound {bound:.0f}); own {alone:.1f} s, {own_rows} rows; {alone / together:.2f}x",
            flush=True,
        )
        assert usage.unique_kv_tokens_peak < bound
    print(f"{args.branches} continuations of {args.prompt} tokens: sharing is {statistics.median(ratios):.2f}x faster")
    engine.check_integrity()
    engine.close()


if __name__ == "__main__":
    main()

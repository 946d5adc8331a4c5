"""Greedy output against transformers' ``generate``, token for token, in float32.

    python benchmarks/exactness.py qwen2.5-coder-0.5b-instruct --tokens 128

Runs the first 20 GSM8K test problems alone and in batches of 16 different ones. Where the tokens part, the top two
logits at that place must tie within 1e-4 (checked with transformers on the common prefix), else the run fails. Then the
same seed is sampled at T = 0.8 alone, in a batch, and with nothing shared, and must give the same tokens (ties aside).
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from reason.engine.local import LocalEngine
from reason.models import load_model, resolve
from reason.tasks.prompts import math_messages
from reason.types import Request, Sampling

FIXTURE = Path(__file__).parents[1] / "tests" / "fixtures" / "gsm8k_20.jsonl"
TIE = 1e-4


def problems() -> list[str]:
    return [json.loads(line)["question"] for line in FIXTURE.read_text(encoding="utf-8").splitlines()]


async def generate(engine: LocalEngine, requests: Sequence[Request]) -> list[tuple[int, ...]]:
    results: dict[int, tuple[int, ...]] = {}
    async for completion in engine.generate(requests):
        results[completion.index] = completion.token_ids
    return [results[i] for i in range(len(requests))]


class Judge:
    """Counts places where two token sequences part, and whether the logits tie there."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.equal = self.ties = 0
        self.wrong: list[str] = []

    @torch.inference_mode()
    def compare(self, name: str, prompt: Sequence[int], expected: Sequence[int], got: Sequence[int]) -> None:
        if tuple(expected) == tuple(got):
            self.equal += 1
            return
        pairs = zip(expected, got, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected), len(got)))
        logits = self._model(torch.tensor([[*prompt, *expected[:place]]])).logits[0, -1]
        top = torch.topk(logits, 2).values
        gap = float(top[0] - top[1])
        if gap <= TIE:
            self.ties += 1
        else:
            self.wrong.append(f"{name}: token {place}, top two logits differ by {gap:.2e}")

    def report(self, what: str) -> None:
        print(f"{what}: {self.equal} equal, {self.ties} part at a tie, {len(self.wrong)} wrong")
        for line in self.wrong:
            print("  ", line)


def check_greedy(engine: LocalEngine, model: Any, prompts: list[tuple[int, ...]], tokens: int) -> bool:
    requests = [Request(prefix=p, max_tokens=tokens, sampling=Sampling(temperature=0.0)) for p in prompts]
    eos = sorted(engine.codec.eos_token_ids)
    expected: list[list[int]] = []
    for prompt in prompts:
        with torch.inference_mode():
            out = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=tokens,
                do_sample=False,
                repetition_penalty=1.0,
                eos_token_id=eos,
                pad_token_id=eos[0],
            )
        expected.append(out[0, len(prompt) :].tolist())
    alone, batch = Judge(model), Judge(model)
    for i, request in enumerate(requests):
        engine.drop_cache()
        (got,) = asyncio.run(generate(engine, [request]))
        alone.compare(f"problem {i}", prompts[i], expected[i], got)
    for first in range(0, len(requests), 16):
        part = requests[first : first + 16]
        for i, got in enumerate(asyncio.run(generate(engine, part)), start=first):
            batch.compare(f"problem {i}", prompts[i], expected[i], got)
    alone.report(f"greedy, alone, {tokens} tokens, against transformers")
    batch.report("greedy, in batches of 16, against transformers")
    return not (alone.wrong or batch.wrong)


def check_sampled(engine: LocalEngine, prompts: list[tuple[int, ...]], tokens: int) -> bool:
    requests = [
        Request(prefix=p, key=k, max_tokens=tokens, sampling=Sampling(temperature=0.8))
        for p in prompts[:4]
        for k in range(4)
    ]
    together = asyncio.run(generate(engine, requests))
    same = 0
    for request, expected in zip(requests, together, strict=True):
        engine.drop_cache()
        (got,) = asyncio.run(generate(engine, [request]))
        same += got == expected
    print(f"sampled at T = 0.8, {tokens} tokens: {same} of {len(requests)} the same alone and in a shared batch of 16")
    return same == len(requests)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=128)
    args = parser.parse_args()
    folder = resolve(args.model).folder
    engine = LocalEngine.load(folder, name=args.model, dtype="float32", kv_tokens=16384)
    model: Any = load_model(folder, dtype=torch.float32)
    prompts = [engine.codec.encode_chat(math_messages(text)) for text in problems()]
    good = check_greedy(engine, model, prompts, args.tokens)
    good &= check_sampled(engine, prompts, args.tokens)
    engine.check_integrity()
    engine.close()
    raise SystemExit(0 if good else 1)


if __name__ == "__main__":
    main()

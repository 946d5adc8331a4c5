"""Whether drafts change anything on real weights: every source against plain decoding, token for token, in float32.

    python benchmarks/exact_drafts.py smollm2-135m-instruct --tokens 32

The first 20 GSM8K test problems, at T = 0 and T = 0.8, one sample each and eight branches of each, with every draft
source under ``coupled``; sources keep what they learnt from problem to problem. The model drafts for itself too, four
nodes a branch whether it pays or not. Where tokens part, the two candidates
must tie within 1e-4 (their logits; at T = 0.8 the perturbed ones), else the run fails.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

import torch
from exactness import TIE, generate, problems

from reason.engine.local import LocalEngine
from reason.models import load_model, resolve
from reason.runtime.noise import gumbel, position_state
from reason.speculate.sources import SOURCES
from reason.tasks.prompts import math_messages
from reason.types import Request, Sampling

TEMPERATURES = (0.0, 0.8)
BRANCHES = (1, 8)
UNIONS = ("suffix+goose", "suffix+goose+stand")


class Grid:
    """All settings on one model."""

    def __init__(self, name: str, *, tokens: int, limit: int, threads: int | None) -> None:
        self._name = name
        self._tokens = tokens
        self._limit = limit
        self._threads = threads
        self._model: Any = None  # transformers', loaded when tokens part
        self._plain: dict[tuple[float, int], list[tuple[Request, tuple[int, ...]]]] = {}
        self.wrong = 0

    def run(self, draft: str) -> None:
        """One draft source in all settings; "none" must come first."""
        began = time.perf_counter()
        folder = resolve(self._name).folder
        engine = LocalEngine.load(
            folder,
            name=self._name,
            dtype="float32",
            kv_tokens=16384,
            threads=self._threads,
            draft=draft,
            draft_policy="nodes:4" if draft.startswith("draft-model") else "auto",
        )
        prompts = [engine.codec.encode_chat(math_messages(text)) for text in problems()[: self._limit]]
        report: list[str] = []
        for temperature in TEMPERATURES:
            for branches in BRANCHES:
                answered: list[tuple[Request, tuple[int, ...]]] = []
                for i, prompt in enumerate(prompts):
                    sampling = Sampling(temperature=temperature)
                    asked = [
                        Request(prefix=prompt, seed=i, key=key, max_tokens=self._tokens, sampling=sampling)
                        for key in range(branches)
                    ]
                    answered += zip(asked, asyncio.run(generate(engine, asked)), strict=True)
                if draft == "none":
                    self._plain[temperature, branches] = answered
                else:
                    report.append(self._compare(temperature, branches, answered))
        stats = engine.stats()
        engine.check_integrity()
        engine.close()
        share = f"{stats.accepted} of {stats.drafted} drafted tokens stood" if stats.drafted else "nothing drafted"
        print(
            f"{draft:28} {'; '.join(report) or 'plain decoding'}; {share}, {time.perf_counter() - began:.0f} s",
            flush=True,
        )

    def _compare(self, temperature: float, branches: int, answered: list[tuple[Request, tuple[int, ...]]]) -> str:
        equal = ties = 0
        for (request, expected), (_, got) in zip(self._plain[temperature, branches], answered, strict=True):
            if got == expected:
                equal += 1
            elif self._gap(request, expected, got) <= TIE:
                ties += 1
            else:
                self.wrong += 1
        tied = f" ({ties} part at a tie)" if ties else ""
        return f"T={temperature:g} n={branches}: {equal}/{len(answered)}{tied}"

    @torch.inference_mode()
    def _gap(self, request: Request, expected: tuple[int, ...], got: tuple[int, ...]) -> float:
        """How far apart the two candidates are where the tokens part; infinite where one output just ends."""
        place = next((i for i, (a, b) in enumerate(zip(expected, got, strict=False)) if a != b), None)
        if place is None:
            return float("inf")
        if self._model is None:
            self._model = load_model(resolve(self._name).folder, dtype=torch.float32)
        path = [*request.prefix, *expected[:place]]
        pair = [expected[place], got[place]]
        values = self._model(torch.tensor([path])).logits[0, -1, pair].double().numpy()
        if temperature := request.sampling.temperature:
            state = position_state([request.seed], [request.key], [len(path)])
            values = values / temperature + gumbel(state[:, None], [pair])[0]
        return abs(float(values[0] - values[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=32, help="of each sample")
    parser.add_argument("--problems", type=int, default=20)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--draft", nargs="*", help="instead of every source; a draft model is the model itself")
    args = parser.parse_args()
    grid = Grid(args.model, tokens=args.tokens, limit=args.problems, threads=args.threads)
    sources = args.draft or [*SOURCES, f"draft-model:{args.model},length=3", *UNIONS]
    for draft in ("none", *sources):
        grid.run(draft)
    raise SystemExit(1 if grid.wrong else 0)


if __name__ == "__main__":
    main()

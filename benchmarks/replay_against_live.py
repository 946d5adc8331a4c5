"""Whether a replay says what the engine does: a recording's problems decoded again with drafts, against their replay.

    python benchmarks/replay_against_live.py MODEL RECORDING.npz --problems 5 --samples 4 --draft stand suffix+goose

Samples of a problem run one after the other, the sources forget before each problem, and every step drafts the best
eight nodes. A replay knows nothing of rejected rows, so sources that learn from them do better live.
"""

from __future__ import annotations

import argparse
import asyncio
from dataclasses import replace
from pathlib import Path

from reason.engine.local import LocalEngine
from reason.models import resolve
from reason.speculate.build import make_speculator
from reason.speculate.recording import RecordedProblem, Recording
from reason.speculate.replay import Replayed, replay
from reason.types import Request, Sampling


async def decode(engine: LocalEngine, problem: RecordedProblem, temperature: float) -> tuple[int, int, int]:
    """Tokens decoded, decoding steps, samples that equal the recorded ones."""
    tokens = steps = equal = 0
    for sample in problem.samples:
        before = engine.stats().iterations
        request = Request(
            prefix=problem.prompt,
            seed=problem.seed,
            key=sample.key,
            sampling=Sampling(temperature=temperature),
            max_tokens=len(sample.tokens),
        )
        async for completion in engine.generate([request]):
            tokens += len(completion.token_ids) - 1  # the first comes from the prompt's forward
            equal += completion.token_ids == tuple(sample.tokens.tolist())
        steps += engine.stats().iterations - before - 1
    return tokens, steps, equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("recording", type=Path)
    parser.add_argument("--problems", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--draft", nargs="+", default=["stand", "token-recycling", "suffix", "suffix+goose"])
    parser.add_argument("--threads", type=int, default=None)
    args = parser.parse_args()
    whole = Recording.load(args.recording)
    step = max(1, len(whole.problems) // args.problems)
    problems = [replace(p, samples=p.samples[: args.samples]) for p in whole.problems[::step][: args.problems]]
    recording = replace(whole, problems=tuple(problems))
    found = resolve(args.model)
    policy = f"nodes:{args.nodes}"
    print("| source | tokens/step, replayed | live | equal streams |\n|---|---|---|---|")
    for draft in args.draft:
        replayed = Replayed()
        speculator = make_speculator(draft, policy=policy)
        assert speculator is not None
        for one in replay(recording, speculator):
            replayed.add(one)
        engine = LocalEngine.load(found.folder, name=found.name, draft=draft, draft_policy=policy, threads=args.threads)
        tokens = steps = equal = 0
        for problem in recording.problems:
            engine.reset_drafts()
            counts = asyncio.run(decode(engine, problem, recording.temperature))
            tokens, steps, equal = tokens + counts[0], steps + counts[1], equal + counts[2]
        engine.close()
        total = sum(len(p.samples) for p in recording.problems)
        print(f"| {draft} | {replayed.tokens_per_step:.3f} | {tokens / steps:.3f} | {equal} of {total} |", flush=True)


if __name__ == "__main__":
    main()

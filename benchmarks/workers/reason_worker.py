"""This project's engine: n samples of one prompt, position-keyed sampling at T = 0.8."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from typing import Any

from protocol import serve

_keys = itertools.count()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--quantize", default=None)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--draft", default="none", help="draft source")
    parser.add_argument("--natural", action="store_true", help="end at the end-of-sequence token")
    args = parser.parse_args()
    import torch

    from reason.engine.local import LocalEngine
    from reason.types import Request, Sampling

    engine = LocalEngine.load(
        args.folder,
        dtype=args.dtype,
        quantize=args.quantize,
        threads=args.threads,
        kv_tokens=32768,
        draft=args.draft,
    )

    async def generate(n: int, tokens: int, prompt: str) -> int:
        prefix = engine.codec.encode(prompt)
        requests = [
            Request(
                prefix=prefix,
                key=next(_keys),
                max_tokens=tokens,
                ignore_eos=not args.natural,
                sampling=Sampling(temperature=0.8),
            )
            for _ in range(n)
        ]
        return sum([len(c.token_ids) async for c in engine.generate(requests)])

    def run(n: int, tokens: int, prompt: str) -> dict[str, Any]:
        engine.drop_cache()
        before = engine.stats()
        began = time.perf_counter()
        made = asyncio.run(generate(n, tokens, prompt))
        seconds = time.perf_counter() - began
        after = engine.stats()
        inside = after.forward_seconds - before.forward_seconds
        detail = {"outside_forward": 1 - inside / seconds, "iterations": after.iterations - before.iterations}
        return {"seconds": seconds, "tokens": made, "detail": detail}

    serve(run, engine="reason", torch=torch.__version__, threads=torch.get_num_threads(), quantize=args.quantize)


if __name__ == "__main__":
    main()

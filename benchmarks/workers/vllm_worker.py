"""vLLM's CPU build: n samples of one prompt, T = 0.8, compiled unless --eager."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from protocol import serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--ngram", type=int, default=0, help="tokens of its n-gram speculation; 0 is off")
    parser.add_argument("--natural", action="store_true", help="end at the end-of-sequence token")
    args = parser.parse_args()
    options: dict[str, Any] = {}
    if args.ngram:
        options["speculative_config"] = {
            "method": "ngram",
            "num_speculative_tokens": args.ngram,
            "prompt_lookup_max": 4,
            "prompt_lookup_min": 2,
        }
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    import torch
    import vllm

    engine = vllm.LLM(
        args.folder,
        dtype="bfloat16",
        enforce_eager=args.eager,
        max_model_len=4096,
        max_num_seqs=64,
        enable_prefix_caching=True,
        disable_log_stats=True,
        **options,
    )

    def run(n: int, tokens: int, prompt: str) -> dict[str, Any]:
        engine.reset_prefix_cache()
        params = vllm.SamplingParams(n=n, temperature=0.8, max_tokens=tokens, ignore_eos=not args.natural)
        began = time.perf_counter()
        outputs = engine.generate([prompt], params, use_tqdm=False)
        seconds = time.perf_counter() - began
        made = sum(len(o.token_ids) for output in outputs for o in output.outputs)
        return {"seconds": seconds, "tokens": made, "detail": {}}

    serve(run, engine="vllm-eager" if args.eager else "vllm", vllm=vllm.__version__, torch=torch.__version__)


if __name__ == "__main__":
    main()

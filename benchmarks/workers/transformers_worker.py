"""transformers' generate: n samples of one prompt in one padded batch, T = 0.8."""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

from protocol import serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    args = parser.parse_args()
    import torch
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.folder, dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def run(n: int, tokens: int, prompt: str) -> dict[str, Any]:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        began = time.perf_counter()
        out = model.generate(
            ids,
            do_sample=True,
            temperature=0.8,
            top_k=0,
            num_return_sequences=n,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "tokens": int((out.shape[1] - ids.shape[1]) * n), "detail": {}}

    serve(run, engine="transformers", transformers=transformers.__version__, torch=torch.__version__)


if __name__ == "__main__":
    main()

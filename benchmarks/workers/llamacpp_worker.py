"""llama.cpp through llama-cpp-python's low-level batch API: n sequences over one shared prompt, T = 0.8.

One ``llama_decode`` per step over all sequences, the prompt's KV shared by ``llama_memory_seq_cp``.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import numpy as np
from protocol import serve


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("gguf")
    parser.add_argument("--no-repack", action="store_true", help="plain weight buffers (0.3.36's AMX ones crash here)")
    args = parser.parse_args()
    import llama_cpp as lc

    threads = len(os.sched_getaffinity(0))
    lc.llama_backend_init()
    model_params = lc.llama_model_default_params()
    model_params.use_extra_bufts = not args.no_repack
    model = lc.llama_model_load_from_file(args.gguf.encode(), model_params)
    params = lc.llama_context_default_params()
    params.n_ctx, params.n_seq_max, params.n_threads, params.n_threads_batch = 16384, 64, threads, threads
    params.n_batch = params.n_ubatch = 512
    if hasattr(params, "kv_unified"):
        params.kv_unified = True
    context = lc.llama_init_from_model(model, params)
    vocab = lc.llama_model_get_vocab(model)
    vocab_size = lc.llama_vocab_n_tokens(vocab)
    memory = lc.llama_get_memory(context)
    random = np.random.default_rng(0)

    def tokenize(text: str) -> list[int]:
        data = text.encode()
        buffer = (lc.llama_token * (len(data) + 8))()
        count = lc.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, True)
        return list(buffer[:count])

    def decode(entries: list[tuple[int, int, int, bool]]) -> None:
        batch = lc.llama_batch_init(len(entries), 0, 1)
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wants) in enumerate(entries):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, position, 1, wants
            batch.seq_id[i][0] = sequence
        if lc.llama_decode(context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        lc.llama_batch_free(batch)

    def sample(row: int) -> int:
        """Gumbel-max at T = 0.8, vectorised: cheaper than llama.cpp's own sampler chain over the whole vocabulary."""
        logits = np.ctypeslib.as_array(lc.llama_get_logits_ith(context, row), shape=(vocab_size,))
        scaled = logits / 0.8
        top = np.argpartition(scaled, -256)[-256:]
        return int(top[np.argmax(scaled[top] + random.gumbel(size=256))])

    def run(n: int, tokens: int, prompt: str) -> dict[str, Any]:
        ids = tokenize(prompt)
        began = time.perf_counter()
        lc.llama_memory_clear(memory, True)
        decode([(t, i, 0, i == len(ids) - 1) for i, t in enumerate(ids)])
        current = [sample(len(ids) - 1) for _ in range(n)]
        for s in range(1, n):
            lc.llama_memory_seq_cp(memory, 0, s, -1, -1)
        for step in range(tokens - 1):
            decode([(current[s], len(ids) + step, s, True) for s in range(n)])
            current = [sample(s) for s in range(n)]
        return {"seconds": time.perf_counter() - began, "tokens": n * tokens, "detail": {}}

    serve(run, engine="llama.cpp", llama_cpp_python=lc.__version__, threads=threads, file=os.path.basename(args.gguf))


if __name__ == "__main__":
    main()

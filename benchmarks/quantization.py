"""How far quantised weights move a model: its next-token distributions over texts, beside those in bf16.

python benchmarks/quantization.py MODEL_FOLDER --texts gsm8k_train_1000.jsonl.gz --quantize int8 int4
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path

import torch

from reason.models.load import load_model, load_tokenizer
from reason.runtime.runner import ModelRunner
from reason.tasks.rows import read_file

SLOTS = 4096  # KV tokens, more than a text has


@torch.inference_mode()
def distributions(folder: Path, quantize: str | None, texts: list[list[int]]) -> Iterator[torch.Tensor]:
    """Of each text the log-probabilities after each of its tokens, [tokens, vocab]."""
    runner = ModelRunner(load_model(folder, dtype=torch.bfloat16), num_slots=SLOTS, quantize=quantize)
    for tokens in texts:
        branch = runner.forest.open(tokens)
        yield runner.forward([branch]).row_logits(range(len(tokens))).float().log_softmax(dim=-1)
        runner.forest.close(branch)
        runner.forest.clear()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--texts", type=Path, required=True, help="JSON lines with a question and a solution each")
    parser.add_argument("--quantize", nargs="+", default=["int8"])
    parser.add_argument("--limit", type=int, default=40)
    arguments = parser.parse_args()
    tokenizer = load_tokenizer(arguments.model)
    rows = [each.row for each in read_file(arguments.texts).rows[: arguments.limit]]
    texts = [tokenizer.encode(f"{row['question']}\n{row['solution']}") for row in rows]
    exact = [each.bfloat16() for each in distributions(arguments.model, None, texts)]
    print("| weights | KL to bf16, nats | likeliest token the same |\n|---|---|---|")
    for kind in arguments.quantize:
        moved, same = [], []
        for before, after in zip(exact, distributions(arguments.model, kind, texts), strict=True):
            p = before.float().log_softmax(dim=-1)
            moved += (p.exp() * (p - after)).sum(dim=-1).tolist()
            same += (p.argmax(dim=-1) == after.argmax(dim=-1)).tolist()
        print(f"| {kind} | {statistics.fmean(moved):.4f} | {statistics.fmean(same):.1%} |")


if __name__ == "__main__":
    main()

"""Greedy accuracy of plain ``transformers`` on a task, with the prompts that ``reason eval`` uses.

    python benchmarks/greedy_baseline.py MODEL PROBLEMS.jsonl --limit 200 --out FILE.jsonl

Compare with ``reason eval gsm8k --strategy best-of-n -S num_samples=1 -S temperature=0`` on the same problems.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from reason.models import load_tokenizer, resolve
from reason.tasks import equivalent, extract_answer, math_messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("problems", type=Path, help="JSON lines with question and answer")
    parser.add_argument("--limit", type=int, default=200)
    parser.add_argument("--batch", type=int, default=40)
    parser.add_argument("--max-tokens", type=int, default=512)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    folder = resolve(arguments.model).folder
    tokenizer = load_tokenizer(folder)
    tokenizer.padding_side = "left"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, arguments.dtype)).eval()
    rows = [json.loads(line) for line in arguments.problems.read_text().splitlines()][: arguments.limit]
    began, right = time.perf_counter(), 0
    with arguments.out.open("w") as out:
        for start in range(0, len(rows), arguments.batch):
            batch = rows[start : start + arguments.batch]
            prompts = [
                tokenizer.apply_chat_template(
                    list(math_messages(row["question"])), tokenize=False, add_generation_prompt=True
                )
                for row in batch
            ]
            inputs = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
            with torch.inference_mode():
                ids = model.generate(**inputs, do_sample=False, max_new_tokens=arguments.max_tokens)
            for row, tokens in zip(batch, ids[:, inputs["input_ids"].shape[1] :], strict=True):
                text = tokenizer.decode(tokens, skip_special_tokens=True)
                answer = extract_answer(text)
                correct = answer is not None and equivalent(row["answer"], answer)
                right += correct
                out.write(json.dumps({"id": row["id"], "answer": answer, "correct": correct, "text": text}) + "\n")
            done = start + len(batch)
            out.flush()
            print(
                f"{done} problems, {right} right ({right / done:.1%}), {time.perf_counter() - began:.0f} s", flush=True
            )


if __name__ == "__main__":
    main()

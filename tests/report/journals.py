"""Journals that nobody ran, for tests of what reads journals."""

from __future__ import annotations

import base64
import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["begin", "journal", "packed", "write"]


def write(file: Path, events: Sequence[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    return file


def packed(values: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(values)}d", *values)).decode("ascii")


def begin(**more: Any) -> dict[str, Any]:
    event = {"type": "run", "problem": "p", "content": "What is 6 × 7?", "strategy": "beam", "model": "none"}
    return {**event, "step_delimiter": "\n\n", "fields": {"width": 4}, "seed": 0, "prompt": [1, 2], **more}


def journal(count: int, *, seed: int = 0, say: Callable[[int], str] = "step {}".format) -> list[dict[str, Any]]:
    """A tree of ``count`` nodes in which a third is pruned, some are merged, and deep ones end."""
    draw = random.Random(seed)
    events = [begin(budget={"policy_tokens": 30 * count})]
    depth, alive = {0: 0}, [0]
    tokens = 0
    for number in range(1, count + 1):
        parent = draw.choice(alive[-40:])
        depth[number] = depth[parent] + 1
        length = draw.randint(5, 30)
        tokens += length
        usage = {"policy_tokens": tokens, "unique_kv_tokens_peak": 50 + tokens // 3, "unique_kv_tokens_mean": 40.0}
        usage |= {"forwards": tokens // 4, "drafted_tokens": tokens // 2, "accepted_tokens": tokens // 3}
        over = depth[number] > 5 and draw.random() < 0.4
        events.append(
            {
                "type": "node",
                "id": number,
                "parent": parent,
                "text": say(number),
                "finish_reason": "eos" if over else "stop",
                "stopped_on": 7 if over else "\n\n",
                "generated": length,
                "calls": 1,
                "tokens": [draw.randrange(150_000) for _ in range(length)],
                "usage": {**usage, "seconds": tokens / 90},
                "logprobs": {"token": packed([-draw.expovariate(3) for _ in range(length)])},
            }
        )
        events.append(
            {"type": "measure", "name": "judge", "nodes": [number], "values": [[draw.random()]], "usage": usage}
        )
        notes: dict[str, Any] = {"score": draw.random()}
        if over:
            answer = draw.choice("778")
            events.append(
                {"type": "tell", "node": number, "end": "eos", "answer": answer, "answer_class": int(answer) - 7}
            )
        else:
            fate = draw.random()
            if fate < 0.3:
                notes["pruned"] = True
            elif fate < 0.35 and number > 5:
                notes["merged_into"] = number - 3
            else:
                alive.append(number)
            events.append({"type": "tell", "node": number, "end": "step"})
        events[-1]["notes"] = {str(number): notes}
    ledger = {**usage, "seconds": tokens / 90}
    return [*events, {"type": "end", "answer": "7", "confidence": 0.6, "stopped_by": "done", "usage": ledger}]

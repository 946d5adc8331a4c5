"""its_hub's beam search, which its proxy does not serve, over an OpenAI-compatible server: prompts come and texts go as
JSON lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from typing import Any

from checksum import checksum


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("base_url")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--beam-width", type=int, default=4)
    parser.add_argument("--max-steps", type=int, default=8)
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    out = os.fdopen(os.dup(1), "w")  # libraries print: only this stays clean
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    from its_hub.api import AbstractProcessRewardModel
    from its_hub.core.algorithms.beam_search import BeamSearch
    from its_hub.core.lms.openai_lm import OpenAICompatibleLanguageModel
    from its_hub.core.lms.step_generation import StepGeneration

    class Reward(AbstractProcessRewardModel):  # type: ignore[misc]
        def score(self, prompt_or_messages: Any, steps: list[str]) -> list[float]:
            return [checksum(text) for text in steps]

        async def ascore(self, prompt_or_messages: Any, steps: list[str]) -> list[float]:
            return self.score(prompt_or_messages, steps)

    model = OpenAICompatibleLanguageModel(endpoint=args.base_url, api_key="none", model_name="served")
    steps = StepGeneration(
        max_steps=args.max_steps - 1,  # it writes one more
        step_token="\n\n",
        stop_token="\\boxed",
        temperature=args.temperature,
    )
    search = BeamSearch(steps, Reward(), beam_width=args.beam_width)
    for line in sys.stdin:
        reply = search.infer(model, json.loads(line), budget=args.width)
        print(json.dumps(reply["content"]), file=out, flush=True)


if __name__ == "__main__":
    main()

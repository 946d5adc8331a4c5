"""Log-probabilities of a given text through the completions API, which one token is generated for.

    prompt_logprobs    vLLM: for each prompt token its log-probability, by its number
    echo               the prompt is repeated in the answer, with log-probabilities as if it were generated

Servers compute the whole text anew for it: a cached prefix spares nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reason.engine.remote.families import Family
from reason.errors import ServerError
from reason.types import Path

__all__ = ["read_scores", "scoring_body"]


def scoring_body(family: Family, model: str, path: Path) -> dict[str, Any] | None:
    """What is sent to the completions API; None where the family has nothing for it."""
    if family.scoring is None:
        return None
    body: dict[str, Any] = {"model": model, "prompt": list(path), "max_tokens": 1, "temperature": 0.0}
    if family.scoring == "prompt_logprobs":
        return {**body, "prompt_logprobs": 0}
    return {**body, "echo": True, "logprobs": 1}


def read_scores(answer: Any, path: Path, start: int) -> list[float]:
    """The log-probability of each token of ``path[start:]``; the first of a path has nothing before it and gets 0.

    Raises:
        ServerError: they are not in the answer.
    """
    choice = answer["choices"][0] if isinstance(answer, dict) and answer.get("choices") else {}
    rows = choice.get("prompt_logprobs", answer.get("prompt_logprobs") if isinstance(answer, dict) else None)
    if rows is not None:
        values = [_of_token(row, token) for row, token in zip(rows, path, strict=False)]
    else:
        values = list((choice.get("logprobs") or {}).get("token_logprobs") or ())
        values = values[: len(path)] if len(values) in (len(path), len(path) + 1) else []
    if len(values) != len(path) or any(value is None for value in values[max(start, 1) :]):
        raise ServerError(f"the server told {len(values)} log-probabilities of a text of {len(path)} tokens")
    return [0.0 if place == 0 else float(values[place] or 0.0) for place in range(start, len(path))]


def _of_token(row: Mapping[str, Any] | None, token: int) -> float | None:
    told = (row or {}).get(str(token))
    return None if told is None else float(told["logprob"])

"""Embedders: vectors of steps, for strategies that ask which steps say the same. A new one is a file here and a line
below.

Each has a ``same_distance``: the cosine distance up to which steps count as one. It was chosen so that, under average
linkage, some 85% of the pairs that it joins mention the same numbers ("right"); "found" is the share of all such pairs
that are joined, AUC how well distances tell them from pairs with other numbers. Texts that are equal are left out.
Measured on 148 times 12 siblings that Qwen2.5-Coder-0.5B sampled on GSM8K (30 training problems), and on sentences of
DeepSeek-R1-Distill (thought-anchors.com; 120 places in solutions of MATH):

| embedder | same_distance | siblings: AUC, right, found | sentences: AUC, right, found |
|---|---|---|---|
| hidden | .01 | .88, .87, .51 | |
| minilm | .04 | .86, .85, .51 | .86, .86, .32 |
| wordllama | .04 | .85, .86, .44 | .84, .80, .41 |

FETCH cuts at .15 and ETS at .05, each with a model trained for such steps. At .15 MiniLM joins half of all pairs with
other numbers.
"""

from __future__ import annotations

from typing import Any

from reason.verifiers.embeddings.hidden import HiddenStates
from reason.verifiers.embeddings.minilm import MiniLM
from reason.verifiers.embeddings.sentences import SentenceTransformers
from reason.verifiers.embeddings.wordllama import WordLlama

__all__ = ["DEFAULT_EMBEDDER", "EMBEDDERS", "same_distance"]

EMBEDDERS: dict[str, type[Any]] = {
    "hidden": HiddenStates,
    "minilm": MiniLM,
    "wordllama": WordLlama,
    "sentence-transformers": SentenceTransformers,
}

DEFAULT_EMBEDDER = "hidden"


def same_distance(name: str) -> float:
    """Up to which cosine distance two steps say the same, by a registered embedder's vectors.

    Raises:
        UnknownName, UsageError: as ``make_embedder``.
    """
    from reason.verifiers import make_embedder

    embedder: Any = make_embedder(name)
    distance: float = embedder.same_distance
    return distance

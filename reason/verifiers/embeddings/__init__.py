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

from reason.types import Capabilities
from reason.verifiers.embeddings.hidden import HiddenStates
from reason.verifiers.embeddings.minilm import MiniLM
from reason.verifiers.embeddings.sentences import SentenceTransformers
from reason.verifiers.embeddings.wordllama import WordLlama

__all__ = ["AUTO_EMBEDDING", "DEFAULT_EMBEDDER", "EMBEDDERS", "default_embedder", "embedding_of", "is_embedding"]

EMBEDDERS: dict[str, type[Any]] = {
    "hidden": HiddenStates,
    "minilm": MiniLM,
    "wordllama": WordLlama,
    "sentence-transformers": SentenceTransformers,
}

DEFAULT_EMBEDDER = "auto"
"""What strategies embed with unless told otherwise: what ``default_embedder`` says of the engine."""

AUTO_EMBEDDING = "auto-embedder"
"""What the vectors of ``DEFAULT_EMBEDDER`` are measured under: among a strategy's measures "auto" is the default
verifier."""


def default_embedder(can: Capabilities | None = None) -> str:
    """The name of the embedder that an engine has enough for: its model's hidden states, which cost nothing; where it
    keeps those to itself minilm, by the table above the best of those that read the text alone.

    Args:
        can: what the engine tells; all, if it is not known.
    """
    return "hidden" if can is None or can.states else "minilm"


def embedding_of(embedder: str) -> str:
    """The name that a strategy with this ``embedder`` field measures under."""
    return AUTO_EMBEDDING if embedder.strip().lower() == DEFAULT_EMBEDDER else embedder


def is_embedding(name: str) -> bool:
    """Whether a name among a strategy's measures is a registered embedder's, or the default one's."""
    return name == AUTO_EMBEDDING or name.partition(":")[0].strip().lower() in EMBEDDERS

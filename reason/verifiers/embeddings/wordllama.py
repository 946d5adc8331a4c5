"""WordLlama (https://github.com/dleemiller/WordLlama): the words alone, from a table of token vectors.

embedding = mean over the text's tokens of their vectors [256]

The table is small and needs no forward. It knows neither order nor context: "5 - 3" and "3 - 5" are the same to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from reason.types import Engine, Trajectory
from reason.verifiers.embeddings.texts import Embed, TextVectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["WordLlama"]


@dataclass(frozen=True, kw_only=True)
class WordLlama:
    """No fields. The table is downloaded at the first use."""

    name: ClassVar[str] = "wordllama"
    same_distance: ClassVar[float] = 0.04

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        return await _VECTORS.of_last_steps(trajectories)


def _load() -> Embed:
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    from reason.models import EMBEDDING_MODELS, pull_embedding

    folder = pull_embedding(EMBEDDING_MODELS["wordllama-l2-supercat-256"])
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    (table,) = load_file(folder / "model.safetensors").values()  # [tokens, 256] float16

    def embed(text: str) -> npt.NDArray[np.float32]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        rows = table[ids] if ids else np.zeros((1, table.shape[1]))
        vector: npt.NDArray[np.float32] = rows.mean(axis=0, dtype=np.float32)
        return vector

    return embed


_VECTORS = TextVectors(_load)

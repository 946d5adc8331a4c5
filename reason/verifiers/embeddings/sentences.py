"""Any model of the sentence-transformers library (https://www.sbert.net), on the CPU.

embedding = what the model's own pooling makes of the text
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from reason.errors import ModelError, UsageError
from reason.types import Engine, Trajectory
from reason.verifiers.embeddings.texts import Embed, TextVectors

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["SentenceTransformers"]


@dataclass(frozen=True, kw_only=True)
class SentenceTransformers:
    """Args:
    model: a hub repository or a folder. Those that bring code of their own are refused.
    same_distance: up to which cosine distance two steps say the same; FETCH's for its own model.
    """

    name: ClassVar[str] = "sentence-transformers"
    model: str = "sentence-transformers/all-MiniLM-L6-v2"
    same_distance: float = 0.15

    def __post_init__(self) -> None:
        if not self.model:
            raise UsageError("model must name a sentence-transformers model, got ''")
        if not 0 < self.same_distance <= 2:
            raise UsageError(f"same_distance must be in (0, 2], got {self.same_distance}")

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        return await _vectors(self.model).of_last_steps(trajectories)


@cache
def _vectors(model: str) -> TextVectors:
    return TextVectors(partial(_load, model))


def _load(name: str) -> Embed:
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ModelError("this embedder needs a package: pip install sentence-transformers") from error
    try:
        model: Any = SentenceTransformer(name, device="cpu")
    except Exception as error:  # whatever the hub client and the library raise
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"the embedding model {name!r} cannot be had: {reason}. Others: minilm, hidden") from error

    def embed(text: str) -> npt.NDArray[np.float32]:
        vector: npt.NDArray[np.float32] = model.encode(text, show_progress_bar=False, convert_to_numpy=True)
        return vector

    return embed

"""all-MiniLM-L6-v2 (https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2), a sentence encoder of 22 million
weights, on the CPU.

embedding = mean over the text's tokens, [CLS] and [SEP] among them, of BERT's last states; 256 tokens at most
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

__all__ = ["MiniLM"]

_MAX_TOKENS = 256


@dataclass(frozen=True, kw_only=True)
class MiniLM:
    """No fields. The weights are downloaded at the first use."""

    name: ClassVar[str] = "minilm"
    same_distance: ClassVar[float] = 0.04

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        return await _VECTORS.of_last_steps(trajectories)


def _load() -> Embed:
    import torch
    from tokenizers import Tokenizer
    from transformers import AutoModel
    from transformers.utils import logging

    from reason.models import EMBEDDING_MODELS, pull_embedding

    folder = pull_embedding(EMBEDDING_MODELS["all-minilm-l6-v2"])
    tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MAX_TOKENS)
    bars: Any = logging  # untyped
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()  # it lasts a fraction of a second
    try:
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    finally:
        if shown:
            bars.enable_progress_bar()
    model.eval().requires_grad_(False)

    def embed(text: str) -> npt.NDArray[np.float32]:
        ids = torch.tensor([tokenizer.encode(text).ids])
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state  # [1, tokens, 384]
        vector: npt.NDArray[np.float32] = states[0].mean(dim=0).numpy()
        return vector

    return embed


_VECTORS = TextVectors(_load)

"""Our attention under one name in transformers' attention and mask registries.

Both are registered: without a mask function of the same name transformers would silently pass no mask to another
attention. Ours needs none, because the plan knows what each row may see.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from reason.errors import UnsupportedModel
from reason.runtime.attention.forest import forest_attention
from reason.runtime.attention.plan import RowBatch
from reason.runtime.kv_pool import KVPool

__all__ = ["ATTENTION_NAME", "KVBatch"]

ATTENTION_NAME = "reason_forest"


class KVBatch(NamedTuple):
    """What reaches the attention function through the model's keyword arguments."""

    kv: KVPool
    batch: RowBatch


def _attention(
    module: Any,
    query: torch.Tensor,  # [1, heads, rows, head_dim]
    key: torch.Tensor,  # [1, kv_heads, rows, head_dim]
    value: torch.Tensor,  # [1, kv_heads, rows, head_dim]
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    kv_batch: KVBatch | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """See ``forest_attention``; returns ([1, rows, heads, head_dim], None)."""
    if kv_batch is None:
        raise UnsupportedModel(f"{type(module).__name__} does not pass keyword arguments on to its attention")
    if softcap is not None or s_aux is not None:
        raise UnsupportedModel("attention soft-capping and attention sinks are not supported")
    kv, batch = kv_batch
    layer: int = module.layer_idx
    kv.write(layer, batch.write_slots, key[0].transpose(0, 1), value[0].transpose(0, 1))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    rows = query[0].transpose(0, 1).contiguous()
    out = forest_attention(rows, kv.keys[layer], kv.values[layer], batch.plan, scale, sliding_window)
    return out[None], None


def _no_mask(*_: Any, **__: Any) -> None:
    return None


AttentionInterface.register(ATTENTION_NAME, _attention)
AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)

"""Softmax attention over a part of the keys, with the log-sum-exp that lets parts be merged exactly.

    out = sum_i w_i out_i,   w = softmax_i(lse_i)        (Hydragen, arXiv 2402.05099; FlashInfer's cascade)

Grouped-query heads are folded into the query axis: a key head is read once for all the query heads that share it.
"""

from __future__ import annotations

import torch

__all__ = ["merge_partials", "partial_attention"]

_flash_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


def partial_attention(
    query: torch.Tensor,  # [batch, kv_heads, queries, head_dim]
    key: torch.Tensor,  # [batch, kv_heads, keys, head_dim]
    value: torch.Tensor,  # [batch, kv_heads, keys, head_dim]
    mask: torch.Tensor | None,  # additive, broadcastable to [batch, 1, queries, keys]
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns (out [batch, kv_heads, queries, head_dim], lse [batch, kv_heads, queries] float32)."""
    if query.device.type == "cpu":
        out, lse = _flash_cpu(query, key, value, 0.0, False, attn_mask=mask, scale=scale)
        return out, lse
    scores = torch.matmul(query.float(), key.float().transpose(2, 3)) * scale
    if mask is not None:
        scores = scores + mask
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - lse.unsqueeze(-1))
    return torch.matmul(weights.to(value.dtype), value), lse


def merge_partials(
    outs: list[torch.Tensor],  # each [rows_i, kv_heads, groups, head_dim]
    lses: list[torch.Tensor],  # each [rows_i, kv_heads, groups] float32
    merge: torch.Tensor,  # [rows, partials], see AttentionPlan
) -> torch.Tensor:
    """Merges partial results by their log-sum-exps; returns [rows, kv_heads, groups, head_dim]."""
    empty_out = outs[0].new_zeros((1, *outs[0].shape[1:]))
    empty_lse = lses[0].new_full((1, *lses[0].shape[1:]), -torch.inf)
    out = torch.cat([*outs, empty_out]).index_select(0, merge.view(-1))
    lse = torch.cat([*lses, empty_lse]).index_select(0, merge.view(-1))
    weights = torch.softmax(lse.view(*merge.shape, *lse.shape[1:]), dim=1)  # [rows, partials, kv_heads, groups]
    merged = (out.view(*merge.shape, *out.shape[1:]) * weights.unsqueeze(-1)).sum(dim=1)
    return merged.to(outs[0].dtype)

"""Softmax attention over a part of the keys, with the log-sum-exp that lets parts be merged exactly.

    out = sum_i w_i out_i,   w = softmax_i(lse_i)        (Hydragen, arXiv 2402.05099; FlashInfer's cascade)

Grouped-query heads are folded into the query axis: a key head is read once for all the query heads that share it.
"""

from __future__ import annotations

import torch

__all__ = ["Merger", "partial_attention"]

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


class Merger:
    """Merges partial results row range by row range, in place, in float32."""

    def __init__(self, out: torch.Tensor, lse: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        """Starts from a part that every row has: [rows, kv_heads, groups, head_dim] and [rows, kv_heads, groups].

        Args:
            dtype: of the result; by default the part's.
        """
        self._out = out.float().contiguous()
        self._lse = lse.contiguous()
        self._dtype = dtype or out.dtype

    @classmethod
    def empty(cls, like: torch.Tensor) -> Merger:
        """Starts from nothing, for rows that have no part in common. ``like`` is the query, shaped as the result."""
        lse = torch.full(like.shape[:-1], -torch.inf, dtype=torch.float32, device=like.device)
        return cls(torch.zeros_like(like, dtype=torch.float32), lse, like.dtype)

    def add(self, out: torch.Tensor, lse: torch.Tensor, begin: int, end: int) -> None:
        """A part of the rows ``begin .. end - 1``."""
        mine = self._lse[begin:end]
        total = torch.logaddexp(mine, lse)
        weight = torch.exp(lse - total).unsqueeze(-1)
        self._out[begin:end].lerp_(out.float(), weight)
        mine.copy_(total)

    def add_rows(self, out: torch.Tensor, lse: torch.Tensor, rows: torch.Tensor) -> None:
        """A part of the rows listed in ``rows`` [n]."""
        mine = self._lse.index_select(0, rows)
        total = torch.logaddexp(mine, lse)
        weight = torch.exp(lse - total).unsqueeze(-1)
        self._out.index_copy_(0, rows, self._out.index_select(0, rows).lerp_(out.float(), weight))
        self._lse.index_copy_(0, rows, total)

    @property
    def parts(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What is merged so far, for kernels that merge in place: float32, contiguous."""
        return self._out, self._lse

    def result(self) -> torch.Tensor:
        return self._out.to(self._dtype)

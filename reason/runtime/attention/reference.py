"""The slow, obvious attention: one dense mask over every KV slot in play. Tests compare everything with it."""

from __future__ import annotations

import torch

from reason.runtime.attention.plan import Row

__all__ = ["dense_attention"]


def dense_attention(
    query: torch.Tensor,  # [rows, heads, head_dim]
    keys: torch.Tensor,  # [slots, kv_heads, head_dim]
    values: torch.Tensor,  # [slots, kv_heads, head_dim]
    rows: list[Row],
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Returns [rows, heads, head_dim], computed in float64 with repeated key heads and a dense boolean mask."""
    num_rows, heads, _ = query.shape
    visible = torch.zeros(num_rows, keys.shape[0], dtype=torch.bool)
    for r, (node, index) in enumerate(rows):
        position = node.start + index
        above, length = node, index + 1
        while above.parent is not None:
            for i in range(length):
                if window is None or above.start + i > position - window:
                    visible[r, int(above.slots[i])] = True
            above = above.parent
            length = len(above)
    repeat = heads // keys.shape[1]
    key = keys.double().repeat_interleave(repeat, dim=1)  # [slots, heads, head_dim]
    value = values.double().repeat_interleave(repeat, dim=1)
    scores = torch.einsum("rhd,shd->rhs", query.double(), key) * scale
    scores = scores.masked_fill(~visible[:, None, :].to(scores.device), -torch.inf)
    return torch.einsum("rhs,shd->rhd", torch.softmax(scores, dim=-1), value).to(query.dtype)

"""Attention over the KV forest by an ``AttentionPlan``: the function that every layer of every model calls."""

from __future__ import annotations

import torch

from reason.runtime.attention.partial import Merger, partial_attention
from reason.runtime.attention.plan import AttentionPlan
from reason.runtime.native import kernels_for

__all__ = ["forest_attention"]


def forest_attention(
    query: torch.Tensor,  # [rows, heads, head_dim]
    keys: torch.Tensor,  # [slots, kv_heads, head_dim], this layer's pool
    values: torch.Tensor,  # [slots, kv_heads, head_dim]
    plan: AttentionPlan,
    scale: float,
    window: int | None = None,
) -> torch.Tensor:
    """Returns [rows, heads, head_dim]. The rows' own K and V are in the pool already."""
    rows, heads, head_dim = query.shape
    kv_heads = keys.shape[1]
    query = query.contiguous()
    grouped = query.view(rows, kv_heads, heads // kv_heads, head_dim)
    kernels = kernels_for(query.dtype, query.device)
    if kernels is not None and not kernels.can_attend(heads // kv_heads, head_dim):
        kernels = None
    merger: Merger | None = None
    if not plan.covering_first:
        merger = Merger.empty(grouped)
    for batch in plan.private:
        if kernels is not None and not batch.mask.cut_by(window):
            if plan.num_parts == 1:
                return kernels.attend(query, keys, values, batch.slots, batch.lengths, scale, batch.rows)[0]
            if merger is None:
                merger = Merger.empty(grouped)
            kernels.attend(query, keys, values, batch.slots, batch.lengths, scale, batch.rows, merger.parts)
            continue
        chosen = grouped if batch.rows is None else grouped.index_select(0, batch.rows)
        mask = batch.mask.additive(window, query.dtype, query.device)
        out, lse = _attend_private(chosen, keys, values, batch.slots, mask, scale)
        if plan.num_parts == 1:
            return out.reshape(rows, heads, head_dim)
        if merger is None:
            merger = Merger(out, lse)
        elif batch.rows is None:
            merger.add(out, lse, 0, rows)
        else:
            merger.add_rows(out, lse, batch.rows)
    for group in plan.groups:
        if kernels is not None and not group.mask.cut_by(window):
            if merger is None:
                merger = Merger.empty(grouped)
            out, lse = merger.parts
            visible = group.mask.visible()
            kernels.attend_run(query, keys, values, group.slots, visible, scale, group.begin, group.end, out, lse)
            continue
        mine = grouped[group.begin : group.end]
        mask = group.mask.additive(window, query.dtype, query.device)
        out, lse = _attend_group(mine, keys, values, group.slots, group.first_slot, mask, scale)
        if plan.num_parts == 1:
            return out.reshape(rows, heads, head_dim)
        if merger is None:
            merger = Merger(out, lse)
        else:
            merger.add(out, lse, group.begin, group.end)
    assert merger is not None
    return merger.result().reshape(rows, heads, head_dim)


def _attend_group(
    query: torch.Tensor,  # [rows, kv_heads, groups, head_dim]
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,  # [keys]
    first_slot: int | None,
    mask: torch.Tensor | None,  # [rows, keys]
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One run for many rows: all their queries stand in one matrix product per key head."""
    rows, kv_heads, groups, head_dim = query.shape
    if first_slot is not None:
        key = keys.narrow(0, first_slot, slots.shape[0])
        value = values.narrow(0, first_slot, slots.shape[0])
    else:
        key = keys.index_select(0, slots)
        value = values.index_select(0, slots)
    key, value = key.transpose(0, 1)[None], value.transpose(0, 1)[None]  # [1, kv_heads, keys, head_dim]
    if mask is not None:  # query groups on the batch axis: the mask serves them all, the keys are not copied
        key, value = (kv.expand(groups, -1, -1, -1) for kv in (key, value))
        out, lse = partial_attention(query.permute(2, 1, 0, 3), key, value, mask[None, None], scale)
        return out.permute(2, 1, 0, 3), lse.permute(2, 1, 0)
    stacked = query.permute(1, 0, 2, 3).reshape(1, kv_heads, rows * groups, head_dim)
    out, lse = partial_attention(stacked, key, value, None, scale)
    out = out.reshape(kv_heads, rows, groups, head_dim).permute(1, 0, 2, 3)
    return out, lse.reshape(kv_heads, rows, groups).permute(1, 0, 2)


def _attend_private(
    query: torch.Tensor,  # [batch, kv_heads, groups, head_dim]
    keys: torch.Tensor,
    values: torch.Tensor,
    slots: torch.Tensor,  # [batch, keys]
    mask: torch.Tensor | None,  # [batch, keys]
    scale: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One row per batch entry, each with keys of its own, gathered and padded."""
    batch, length = slots.shape
    flat = slots.view(-1)
    key = keys.index_select(0, flat).view(batch, length, *keys.shape[1:]).transpose(1, 2)
    value = values.index_select(0, flat).view(batch, length, *values.shape[1:]).transpose(1, 2)
    if mask is not None:
        mask = mask[:, None, None, :].expand(batch, 1, query.shape[2], length)
    return partial_attention(query, key, value, mask, scale)

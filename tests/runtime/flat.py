"""The flat form of a plan, carried out one item at a time in torch: what the kernels are to do, without kernels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from reason.runtime.gpu.kernels import AttentionShape, GpuKernels, Tile
from reason.runtime.gpu.work import ITEM_FIELDS, DeviceWork


@dataclass(frozen=True)
class FlatKernels(GpuKernels):
    """Attention as the kernels do it, item by item and then row by row, in float64."""

    def attend_work(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        work: DeviceWork,
        scale: float,
        window: int | None = None,
    ) -> torch.Tensor:
        rows, heads, head_dim = query.shape
        assert rows == work.capacity.rows
        group = heads // keys.shape[1]
        outs = torch.full((work.capacity.parts, heads, head_dim), torch.nan, dtype=torch.float64)
        masses = torch.full((work.capacity.parts, heads), torch.nan, dtype=torch.float64)
        limits = [self.tiling.narrow_rows] * work.capacity.narrow + [self.tiling.wide_rows] * work.capacity.wide
        items = work.items.view(-1, ITEM_FIELDS).tolist()
        for limit, (key, num_keys, row, num_rows, part, position) in zip(limits, items, strict=True):
            assert num_rows <= limit
            slots = work.slots[key : key + num_keys].long()
            at = work.key_positions[key : key + num_keys]
            for i in range(num_rows):
                own = int(work.positions[row + i])
                visible = torch.arange(num_keys) < own - position + 1
                if window is not None:
                    visible &= at > own - window
                seen = slots[visible]
                chosen_keys = keys[seen].double().repeat_interleave(group, dim=1)  # [seen, heads, head_dim]
                chosen_values = values[seen].double().repeat_interleave(group, dim=1)
                scores = torch.einsum("hd,shd->hs", query[row + i].double(), chosen_keys) * scale
                assert bool(masses[part + i].isnan().all()), "a partial result is written twice"
                masses[part + i] = scores.logsumexp(dim=-1)
                outs[part + i] = torch.einsum("hs,shd->hd", scores.softmax(dim=-1), chosen_values)
        out = torch.zeros_like(query)
        for r in range(rows):
            mine = work.parts[int(work.part_begins[r]) : int(work.part_begins[r + 1])].long()
            if len(mine):
                weights = masses[mine].softmax(dim=0)
                out[r] = (weights.unsqueeze(-1) * outs[mine]).sum(dim=0).to(query.dtype)
        return out


def flat_kernels(
    shape: AttentionShape, *, narrow: int = 16, wide: int = 64, split_keys: int | None = None
) -> FlatKernels:
    """``FlatKernels`` on the CPU, with tiles of so many lanes."""
    one, other = (Tile(lanes, keys=16, warps=4, stages=1) for lanes in (narrow, wide))
    return FlatKernels(shape, torch.device("cpu"), one, other, programs=4, split_keys=split_keys)

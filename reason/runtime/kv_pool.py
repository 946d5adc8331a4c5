"""The KV tensors: keys and values of every layer, addressed by slot."""

from __future__ import annotations

import torch

from reason.runtime.slots import SCRATCH_SLOT

__all__ = ["KVPool"]


class KVPool:
    """K and V of every layer, by slot."""

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_slots, kv_heads, head_dim)
        self.keys = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.empty(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        for pool in (*self.keys, *self.values):
            pool[SCRATCH_SLOT] = 0  # the only slot that is ever read before it is written, as masked padding

    @staticmethod
    def bytes_per_token(num_layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
        """What one token's KV takes over all layers."""
        return 2 * num_layers * kv_heads * head_dim * dtype.itemsize

    def write(self, layer: int, slots: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """key, value: [rows, kv_heads, head_dim]; slots: [rows], of any integer type."""
        slots = slots.long()  # itself where it is that already
        self.keys[layer].index_copy_(0, slots, key)
        self.values[layer].index_copy_(0, slots, value)

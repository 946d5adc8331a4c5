"""A small input through every kernel, checked against torch before anything relies on the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from reason.runtime.attention.plan import Row, plan_rows
from reason.runtime.forest import KVForest

if TYPE_CHECKING:
    from reason.runtime.gpu.kernels import GpuKernels

__all__ = ["agrees"]

_TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}


def agrees(kernels: GpuKernels) -> bool:
    """Whether norm, gate, rotation, KV write and attention (both tiles, and a window) are what torch computes."""
    return _works_on_rows(kernels) and _rotates(kernels) and _attends(kernels, None) and _attends(kernels, 3)


def _random(kernels: GpuKernels, *shape: int) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))
    return values.to(device=kernels.device, dtype=kernels.shape.dtype)


def _near(kernels: GpuKernels, got: torch.Tensor, expected: torch.Tensor) -> bool:
    tolerance = _TOLERANCE[kernels.shape.dtype]
    return torch.allclose(got.float(), expected.float(), atol=tolerance, rtol=tolerance)


def _attends(kernels: GpuKernels, window: int | None) -> bool:
    """Two paths of a trie: its stem is read by many rows, its ends by one each."""
    from reason.runtime.attention.reference import dense_attention

    forest = KVForest(32)
    rows = max(3, kernels.tiling.narrow_rows + 1)
    branches = [forest.open(range(rows)), forest.open([*range(rows), 90, 91]), forest.open([*range(rows), 92])]
    wanted = [Row(branches[0].node, i) for i in range(rows)]
    wanted += [Row(branch.node, branch.offset - 1) for branch in branches[1:]]
    batch = plan_rows(wanted, min_saved_tokens=4)
    heads, kv_heads, head_dim, _ = kernels.shape
    keys, values = _random(kernels, 32, kv_heads, head_dim), _random(kernels, 32, kv_heads, head_dim).flip(0)
    query = _random(kernels, len(batch.rows), heads, head_dim)
    got = kernels.attend(query, keys, values, batch.plan, 0.1, window)
    expected = dense_attention(query.cpu(), keys.cpu(), values.cpu(), batch.rows, 0.1, window)
    return _near(kernels, got.cpu(), expected)


def _works_on_rows(kernels: GpuKernels) -> bool:
    x, weight = _random(kernels, 3, 96), _random(kernels, 96)
    normed = F.rms_norm(x.float(), (96,), weight.float(), 1e-6)
    gate, up = x.float().chunk(2, dim=1)
    return _near(kernels, kernels.rms_norm(x, weight, 1e-6), normed) and _near(
        kernels, kernels.silu_mul(x), F.silu(gate) * up
    )


def _rotates(kernels: GpuKernels) -> bool:
    heads, kv_heads, head_dim, _ = kernels.shape
    qkv = _random(kernels, 2, (heads + 2 * kv_heads) * head_dim)
    cos, sin = _random(kernels, 4, 1, head_dim), _random(kernels, 4, 1, head_dim).neg()
    positions, slots = (torch.tensor(n, device=kernels.device, dtype=torch.int32) for n in ([3, 1], [2, 4]))
    keys, values = (torch.zeros_like(_random(kernels, 5, kv_heads, head_dim)) for _ in range(2))
    query = kernels.rotate_and_write(qkv, cos, sin, positions, slots, keys, values)
    parts = qkv.view(2, -1, head_dim).float()
    at = positions.long()
    turned = parts * cos.float()[at] + parts.roll(head_dim // 2, -1) * sin.float()[at]
    written = slots.long()
    return (
        _near(kernels, query, turned[:, :heads])
        and _near(kernels, keys[written], turned[:, heads : heads + kv_heads])
        and torch.equal(values[written].float(), parts[:, heads + kv_heads :])
        and not bool(keys[0].any() or values[0].any())
    )

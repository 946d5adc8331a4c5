"""Linear layers as fast as the machine has them.

On a CPU with AVX-512 and bf16: kernels of our own (``runtime.native``), which stream the weights once. On others
that oneDNN has bf16 kernels for: weights re-laid once for it. What follows a product (SiLU and gate, a residual) is
fused into it, in float32 until the final rounding. Everywhere else it is ``F.linear``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from reason.runtime.native.kernels import ADD, GATE, Kernels, kernels_for

__all__ = ["GatedLinear", "Linear", "can_pack", "kernels_of"]

_PACK_ROWS_HINT = 32
"""Row count told to oneDNN when packing: as fast as a hint of 1 for one row, a sixth faster for 32 rows."""


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether oneDNN has packed kernels for this dtype here."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def kernels_of(weight: torch.Tensor) -> Kernels | None:
    """The compiled kernels, where they exist for a weight's dtype, device and shape [out, in]."""
    kernels = kernels_for(weight.dtype, weight.device)
    return kernels if kernels is not None and kernels.fits(*weight.shape) else None


class Linear:
    """``x @ weight.T + bias`` for x [rows, in_features], with an optional residual."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.native = kernels_of(weight)
        self.packed = self.native is None and can_pack(weight.dtype, weight.device)
        if self.native is not None:
            self.weight = self.native.pack(weight)
        elif self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _PACK_ROWS_HINT)
        else:
            self.weight = weight

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """``out`` may be written to, where that saves making a tensor."""
        if self.native is not None:
            return self.native.linear(x, self.weight, self.bias, out=out)
        if self.packed:
            product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return product
        return F.linear(x, self.weight, self.bias)

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """``self(x) + other``"""
        if self.native is not None:
            return self.native.linear(x, self.weight, self.bias, other, ADD)
        if self.packed:
            out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")
            return out
        if self.bias is None and x.device.type == "cuda":
            return torch.addmm(other, x, self.weight.t())
        return self(x) + other


class GatedLinear:
    """``silu(gate(x)) * up(x)``: the first half of a SwiGLU block. ``gate`` and ``up`` [out, in], without bias."""

    def __init__(self, gate: torch.Tensor, up: torch.Tensor) -> None:
        self.native = kernels_of(gate)
        if self.native is not None:
            self.weight = self.native.pack_gated(gate, up)
        else:
            self.gate, self.up = Linear(gate), Linear(up)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if self.native is not None:
            return self.native.linear(x, self.weight, epilogue=GATE)
        if not (self.gate.packed and self.up.packed):
            return F.silu(self.gate(x)) * self.up(x)
        gated = torch.ops.mkldnn._linear_pointwise(x, self.gate.weight, None, "swish", [], "")
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(x, gated, self.up.weight, None, "mul")
        return out

"""Quantised weights on a CPU: an option, reported separately from exact runs.

int8: where the compiled kernels run (``runtime.native``), codes in groups of 64 or 32 inputs with one symmetric scale
each, the inputs of every product rounded likewise as they come, the vocabulary product included. Elsewhere torch's
``_weight_int8pack_mm``: one scale for each output row, inputs in bf16, the vocabulary product as it is.

int4: torch's ``_weight_int4pack_mm_for_cpu``: asymmetric, groups of 32 inputs, inputs in bf16, the vocabulary product
as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from reason.errors import UsageError
from reason.runtime.linear import GatedLinear, Linear, kernels_of
from reason.runtime.native.kernels import ADD, GATE, Kernels

__all__ = ["Products", "products_for"]

_GROUP = 32

LinearMaker = Callable[[torch.Tensor, "torch.Tensor | None"], Linear]
Gated = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Products:
    """What a model's products are made by, from its weights [out, in]."""

    linear: LinearMaker = Linear
    gated: Callable[[torch.Tensor, torch.Tensor], Gated] = GatedLinear
    """``silu(gate(x)) * up(x)``, without bias."""
    head: LinearMaker = Linear


def products_for(quantize: str | None, dtype: torch.dtype, device: torch.device) -> Products:
    """Those of ``None``, "int8" or "int4".

    Raises:
        UsageError: an unknown kind, or one that has no kernel for this dtype and device.
    """
    if quantize is None:
        return Products()
    if quantize not in ("int8", "int4"):
        raise UsageError(f"quantize must be int8 or int4, got {quantize!r}")
    if device.type != "cpu" or dtype != torch.bfloat16:
        raise UsageError(f"--quantize {quantize} needs bfloat16 on a CPU, not {dtype} on {device.type}")
    if quantize == "int8":
        return Products(_int8, _gated_int8, _int8_head)
    return Products(Int4Linear, lambda gate, up: _gated(Int4Linear(gate), Int4Linear(up)))


def _int8(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    kernels = kernels_of(weight)
    return WeightOnlyInt8Linear(weight, bias) if kernels is None else Int8Linear(kernels, weight, bias)


def _int8_head(weight: torch.Tensor, bias: torch.Tensor | None) -> Linear:
    kernels = kernels_of(weight)
    return Linear(weight, bias) if kernels is None else Int8Linear(kernels, weight, bias)


def _gated_int8(gate: torch.Tensor, up: torch.Tensor) -> Gated:
    kernels = kernels_of(gate)
    if kernels is None:
        return _gated(WeightOnlyInt8Linear(gate), WeightOnlyInt8Linear(up))
    weight = kernels.pack_gated_int8(gate, up)
    return lambda x: kernels.linear_int8(x, weight, epilogue=GATE)


def _gated(gate: Linear, up: Linear) -> Gated:
    return lambda x: F.silu(gate(x)) * up(x)


class Int8Linear(Linear):
    """Weights and inputs in 8 bits, by the compiled kernels."""

    def __init__(self, kernels: Kernels, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        self.out_features, self.in_features = weight.shape
        self.bias = bias
        self.kernels = kernels
        self.coded = kernels.pack_int8(weight)

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.kernels.linear_int8(x, self.coded, self.bias, out=out)

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self.kernels.linear_int8(x, self.coded, self.bias, other, ADD)


class _WeightOnly(Linear):
    """A linear whose tails are separate operations."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.out_features, self.in_features = weight.shape
        self.bias = bias

    def product(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def __call__(self, x: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        product = self.product(x.contiguous())
        return product if self.bias is None else product + self.bias

    def plus(self, x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return self(x) + other


class WeightOnlyInt8Linear(_WeightOnly):
    """w = q * scale, q int8, one scale a row."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight, bias)
        if self.in_features % 16:  # torch's kernel would read beyond the row
            raise UsageError(f"int8 needs layer widths that are multiples of 16, this model has {self.in_features}")
        scale = weight.float().abs().amax(dim=1).clamp(min=1e-8) / 127.0
        self.codes = torch.round(weight.float() / scale[:, None]).clamp(-127, 127).to(torch.int8)
        self.scale = scale.to(weight.dtype)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scale)
        return out


class Int4Linear(_WeightOnly):
    """w = (q - 8) * scale + zero, q in 0..15, one (scale, zero) per 32 inputs of a row."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        super().__init__(weight, bias)
        if self.in_features % _GROUP or self.out_features % 16:
            raise UsageError(
                f"int4 needs inputs in multiples of {_GROUP} and outputs in multiples of 16, this model has a layer of "
                f"{self.in_features} to {self.out_features}"
            )
        groups = weight.float().view(self.out_features, -1, _GROUP)
        low, high = groups.amin(dim=-1), groups.amax(dim=-1)
        scale = ((high - low) / 15.0).clamp(min=1e-6)  # [out, groups]
        zero = low + scale * 8.0
        codes = torch.round((groups - low[..., None]) / scale[..., None]).clamp(0, 15).to(torch.int32)
        self.codes = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.view(self.out_features, -1), 1)
        scales_and_zeros = torch.stack([scale, zero], dim=-1).transpose(0, 1)  # [groups, out, 2]
        self.scales_and_zeros = scales_and_zeros.contiguous().to(weight.dtype)

    def product(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.codes, _GROUP, self.scales_and_zeros)
        return out

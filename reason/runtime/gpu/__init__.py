"""Kernels of our own for CUDA, in Triton: attention over the KV forest, rotary embedding with the KV write, and what is
done to rows between products.

``work`` flattens an attention plan into one buffer of int32, uploaded once for all layers; ``attention_kernels``,
``rotate_kernels`` and ``row_kernels`` are the device code; ``kernels`` stands between them and torch tensors. Without
Triton, or for a shape that it refuses, everything runs through torch instead. ``REASON_TRITON=0`` switches the kernels
off; with ``TRITON_INTERPRET=1``, set before anything imports triton, they run on CPU tensors too, slowly: so they are
tested.
"""

from __future__ import annotations

from reason.runtime.gpu.kernels import GpuKernels, gpu_kernels_for

__all__ = ["GpuKernels", "gpu_kernels_for"]

"""Kernels of our own for CPUs with AVX-512 and bf16 (AMX where there is any), compiled once per machine where a C++
compiler is found.

Without a compiler or the instructions everything runs through torch and oneDNN instead; results agree up to bf16
rounding. ``REASON_NATIVE=0`` switches them off, ``REASON_NATIVE=avx512`` leaves AMX unused.
"""

from __future__ import annotations

from reason.runtime.native.kernels import Kernels, kernels_for, native_kernels

__all__ = ["Kernels", "kernels_for", "native_kernels"]

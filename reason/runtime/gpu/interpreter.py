"""Triton's interpreter made to run beside the NumPy we have. Nothing here is used when kernels are compiled."""

from __future__ import annotations

import functools
from typing import Any

__all__ = ["repair_interpreter"]


@functools.cache
def repair_interpreter() -> None:
    """Gives the interpreter's scalars an ``__index__`` that NumPy 2.4 allows: Triton 3.6 holds them in arrays of one
    element, which ``int()`` no longer takes, so that a loop with a bound that was loaded could not run."""
    from triton.runtime import interpreter

    patch_tensor: Any = getattr(interpreter, "_patch_lang_tensor", None)
    if patch_tensor is None:  # another Triton, made differently
        return

    def patch(tensor: Any, *scope: Any) -> None:  # with a scope, the change is undone after the kernel
        patch_tensor(tensor, *scope)
        change = scope[0].set_attr if scope else setattr
        change(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch

"""Numbers on their way between host and device, without either waiting for the other.

On a CUDA device an ordinary copy waits until everything launched before it is done, which would put the host's work
behind the device's instead of beside it. So what goes up is pinned, and what comes down is packed: all results of an
iteration are one tensor of bytes, fetched in one copy that is awaited when they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Fetch", "send"]


def send(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """``array`` on the device. On a CPU it is the same memory."""
    tensor = torch.from_numpy(array)
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Fetch:
    """Tensors of one device that are fetched in one copy, which begins at once.

    Args:
        tensors: at least one, of any shapes and types; what happens to them afterwards does not change what is fetched.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._kinds = [(tensor.dtype, tensor.shape) for tensor in tensors]
        # The widest types first, so that each begins at a multiple of its size.
        dtypes = sorted({tensor.dtype for tensor in tensors}, key=lambda dtype: -dtype.itemsize)
        self._order = [i for dtype in dtypes for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        same = (torch.cat([tensor.flatten() for tensor in tensors if tensor.dtype == dtype]) for dtype in dtypes)
        self._bytes = torch.cat([part.view(torch.uint8) for part in same])
        self._arrived: Any = None
        if self._bytes.device.type == "cuda":
            host = torch.empty(self._bytes.shape, dtype=torch.uint8, pin_memory=True)
            stream = torch.cuda.current_stream(self._bytes.device)
            self._bytes = host.copy_(self._bytes, non_blocking=True)
            make_event: Any = torch.cuda.Event
            self._arrived = make_event()
            self._arrived.record(stream)

    def wait(self) -> list[torch.Tensor]:
        """The tensors on the host, in the order given, once they are there."""
        if self._arrived is not None:
            self._arrived.synchronize()
        found: list[torch.Tensor] = [self._bytes] * len(self._kinds)
        begin = 0
        for i in self._order:
            dtype, shape = self._kinds[i]
            end = begin + shape.numel() * dtype.itemsize
            found[i] = self._bytes[begin:end].view(dtype).view(shape)
            begin = end
        return found

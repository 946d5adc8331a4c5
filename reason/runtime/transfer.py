"""Numbers on their way between host and device, without either waiting for the other.

On a CUDA device an ordinary copy waits until everything launched before it is done, which would put the host's work
behind the device's instead of beside it. So what goes up is pinned, and what comes down is packed: all results of an
iteration are one tensor of bytes, fetched in one copy that is awaited when they are needed.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        tensors: of any shapes and types; what happens to them afterwards does not change what is fetched.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._kinds = [(tensor.dtype, tensor.shape) for tensor in tensors]
        # The widest types first: so each begins at a multiple of its size.
        self._order = sorted(range(len(tensors)), key=lambda i: -tensors[i].element_size())
        packed = [tensors[i].contiguous().view(-1).view(torch.uint8) for i in self._order]
        self._bytes = torch.cat(packed) if packed else torch.empty(0, dtype=torch.uint8)
        self._arrived: torch.cuda.Event | None = None
        if self._bytes.device.type == "cuda":
            host = torch.empty(self._bytes.shape, dtype=torch.uint8, pin_memory=True)
            self._bytes = host.copy_(self._bytes, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record(torch.cuda.current_stream(packed[0].device))

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

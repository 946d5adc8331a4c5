"""Writes a safetensors file tensor by tensor: the library's own writer wants the whole model in memory.

Format: 8 bytes little-endian header length, a JSON header of dtype, shape and offsets, then the data.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reason.models.progress import Task

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Bfloat16Tensor", "write_bfloat16"]


@dataclass(frozen=True)
class Bfloat16Tensor:
    """A tensor to be written: ``blocks()`` yields its float32 values in order, when their turn has come."""

    shape: tuple[int, ...]
    blocks: Callable[[], Iterable[npt.NDArray[np.float32]]]

    @property
    def num_bytes(self) -> int:
        return 2 * math.prod(self.shape)


def write_bfloat16(path: Path, tensors: dict[str, Bfloat16Tensor], task: Task) -> None:
    """Write ``tensors`` to ``path``, rounded to bfloat16."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.num_bytes
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    done = 0
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            expected = done + tensor.num_bytes
            for block in tensor.blocks():
                done += file.write(_bfloat16(block).data)
                task.update(done)
            assert done == expected, name


def _bfloat16(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """The upper half of each float32, rounded to nearest, ties to even (finite values)."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    rounded: npt.NDArray[np.uint16] = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
    return rounded

"""A GGUF file: its metadata by key and its tensors as rows of float32, a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.errors import ModelError, UnsupportedModel

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from gguf import ReaderTensor

__all__ = ["GGUFFile"]

_ROWS = 256  # measured: blocks that fit the CPU's cache dequantise five times faster than whole matrices


class GGUFFile:
    """Reads ``path`` lazily (memory-mapped).

    Raises:
        ModelError: not a GGUF file, or cut short.
        UnsupportedModel: one file of several.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self.path = path
        try:
            self._reader = gguf.GGUFReader(path)
        except (ValueError, IndexError, KeyError, OSError) as error:
            raise ModelError(f"{path} cannot be read as a GGUF file: {error}") from error
        self.tensors: dict[str, ReaderTensor] = {tensor.name: tensor for tensor in self._reader.tensors}
        self.architecture: str = self.get("general.architecture", "")
        if self.number("split.count", 0) > 1:
            raise UnsupportedModel(f"{path} is one file of several; join them with `llama-gguf-split --merge` first")

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value; a key that begins with a dot belongs to the architecture (".block_count")."""
        field = self._reader.fields.get(self.architecture + key if key.startswith(".") else key)
        try:
            return default if field is None else field.contents()
        except (ValueError, IndexError) as error:  # of bytes that are no text, for one
            raise ModelError(f"{self.path} is damaged: its metadata {key!r} cannot be read ({error})") from error

    def number(self, key: str, default: int) -> int:
        """A metadata value that is a whole number."""
        value = self.get(key, default)
        try:
            return int(value)
        except (TypeError, ValueError):
            raise ModelError(f"{self.path} is damaged: its metadata {key!r} is {value!r}, not a number") from None

    def require(self, key: str) -> Any:
        """A metadata value that must be there."""
        value = self.get(key)
        if value is None:
            raise ModelError(f"{self.path} has no metadata {key!r}; it is not a complete language model")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape as torch has it (GGUF lists the fastest dimension first)."""
        if name not in self.tensors:
            raise ModelError(f"{self.path} has no tensor {name!r}; it is not a complete language model")
        return tuple(int(size) for size in reversed(self.tensors[name].shape))

    def bits_per_weight(self, name: str) -> float:
        """How finely the tensor is stored."""
        tensor = self.tensors[name]
        return float(8 * tensor.n_bytes / tensor.n_elements)

    def rows(self, name: str, order: npt.NDArray[np.intp] | None = None) -> Iterator[npt.NDArray[np.float32]]:
        """The tensor in blocks of a few rows, dequantised; ``order`` picks and permutes rows (all, as stored)."""
        from gguf.quants import dequantize

        tensor = self.tensors[name]
        stored = tensor.data  # quantisation blocks lie within rows, so rows can be taken before they are dequantised
        count = len(stored) if order is None else len(order)
        for start in range(0, count, _ROWS):
            block = stored[start : start + _ROWS] if order is None else stored[order[start : start + _ROWS]]
            try:
                yield dequantize(block, tensor.tensor_type)
            except NotImplementedError as error:
                raise UnsupportedModel(
                    f"{self.path} stores {name} as {tensor.tensor_type.name}, which cannot be converted; "
                    "use a file with another quantisation (Q4_K_M, Q5_K_M, Q8_0 ...)"
                ) from error

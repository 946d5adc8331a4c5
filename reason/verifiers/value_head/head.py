"""A value head: a small network on one layer's hidden states that estimates how likely the solution under way is to
end in the right answer.

    value = sigmoid(scale * mean_e f_e((h - mean) / std) + shift)

h is the state that a token is drawn from, the f_e are linear (no hidden units) or have one hidden layer with ReLU, and
scale and shift calibrate (Platt). The file is a safetensors file whose metadata say what it is of.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from reason.errors import ModelError, ReasonError

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

__all__ = ["ValueHead"]

_FORMAT = "reason-value-head-1"
_LINEAR = ("mean", "std", "out.weight", "out.bias", "calibration")
_HIDDEN = (*_LINEAR, "in.weight", "in.bias")


@dataclass(frozen=True, eq=False)
class ValueHead:
    """A ``Probe``.

    Args:
        name: its numbers are recorded under it; that of a head read from a file has the file's checksum in it.
        model: whose states it reads, by name.
        layer: see ``Probe``.
        weights: mean and std [size]; out.weight [members, size or units], out.bias [members]; with hidden units
            in.weight [members, units, size] and in.bias [members, units]; calibration [2] is scale and shift. float32.
        about: how it was made and what it measured to, JSON-able.
    """

    name: str
    model: str
    layer: int
    weights: Mapping[str, torch.Tensor] = field(repr=False)
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def size(self) -> int:
        """Of the states that it reads."""
        return len(self.weights["mean"])

    def __call__(self, states: torch.Tensor, /) -> torch.Tensor:
        """States [rows, size] to values in [0, 1], [rows]."""
        if states.shape[-1] != self.size:
            raise ModelError(f"the value head {self.name} reads states of {self.size} numbers, not {states.shape[-1]}")
        scale, shift = self.weights["calibration"]
        values: torch.Tensor = (scale * self.logits(states).mean(dim=0) + shift).sigmoid()
        return values

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """What the members say before calibration, [members, rows]."""
        import torch

        weights = self.weights
        x = (states.float() - weights["mean"]) / weights["std"]
        if "in.weight" not in weights:
            linear: torch.Tensor = (x @ weights["out.weight"].T + weights["out.bias"]).T
            return linear
        hidden = torch.einsum("nd,mhd->mnh", x, weights["in.weight"]) + weights["in.bias"][:, None]
        logits: torch.Tensor = torch.einsum("mnh,mh->mn", hidden.relu(), weights["out.weight"])
        return logits + weights["out.bias"][:, None]

    def save(self, file: FilePath) -> None:
        """Writes it, in float16 but for the calibration and the scaling.

        Raises:
            ReasonError: the file cannot be written.
        """
        import torch
        from safetensors.torch import save

        exact = ("mean", "std", "calibration")
        tensors = {
            name: (value if name in exact else value.to(torch.float16)).contiguous()
            for name, value in self.weights.items()
        }
        said = {"format": _FORMAT, "model": self.model, "layer": self.layer, "about": dict(self.about)}
        partial = file.with_name(f".{file.name}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(save(tensors, {"head": json.dumps(said)}))  # one key: their order varies
            partial.replace(file)
        except OSError as error:
            raise ReasonError(f"cannot write {file}: {error.strerror or error}") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    @classmethod
    def load(cls, file: FilePath) -> Self:
        """Reads one.

        Raises:
            ModelError: there is none, or it is none.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = file.read_bytes()
            tensors = {name: value.float() for name, value in load(data).items()}
            length = int.from_bytes(data[:8], "little")
            metadata: dict[str, str] = json.loads(data[8 : 8 + length]).get("__metadata__", {})
            said: dict[str, Any] = json.loads(metadata.get("head", "{}"))
        except OSError as error:
            raise ModelError(f"cannot read the value head {file}: {error.strerror or error}") from error
        except (SafetensorError, ValueError) as error:
            raise ModelError(f"{file} is no value head: {error}") from error
        if said.get("format") != _FORMAT or set(tensors) not in (set(_LINEAR), set(_HIDDEN)):
            raise ModelError(f"{file} is no value head: its format is {said.get('format')!r}, not {_FORMAT!r}")
        try:
            model, layer, about = str(said["model"]), int(said["layer"]), dict(said["about"])
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{file} is no value head: it does not say what it is of ({error})") from error
        head = cls(f"head:{model}:{hashlib.sha256(data).hexdigest()[:8]}", model, layer, tensors, about)
        if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()) or not head._fits():
            raise ModelError(f"{file} is no value head: its tensors do not go together, or are not finite")
        return head

    def _fits(self) -> bool:
        weights = self.weights
        shape = {name: tuple(weight.shape) for name, weight in weights.items()}
        if len(shape["out.weight"]) != 2:
            return False
        members, units = shape["out.weight"]
        expected: dict[str, tuple[int, ...]] = {
            "mean": (self.size,),
            "std": (self.size,),
            "out.bias": (members,),
            "calibration": (2,),
        }
        if "in.weight" in shape:
            expected |= {"in.weight": (members, units, self.size), "in.bias": (members, units)}
        return all(shape[name] == wanted for name, wanted in expected.items()) and (
            "in.weight" in shape or units == self.size
        )

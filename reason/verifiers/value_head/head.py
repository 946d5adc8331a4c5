"""A value head: a small network on one layer's hidden states that estimates how likely the solution under way is to
end in the right answer.

    value(T) = sigmoid(scale * mean_e [f_e(x_T) + mean_{t <= T} w_e z_t] + shift)
    x_t = (h_t - m_x) / s_x       z_t = (h_t - m_z) / s_z

h_t is the state that the solution's token t is drawn from, the f_e are linear (no hidden units) or have one hidden
layer with ReLU, and scale and shift calibrate (Platt). The mean over all tokens is the pooled part, which a head may be
without: it is linear, so that a number for each token is all that must be kept. The file is a safetensors file whose
metadata say what it is of.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from reason.errors import ModelError, ReasonError
from reason.types import Probe

if TYPE_CHECKING:
    import torch
    from typing_extensions import Self

__all__ = ["ValueHead"]

_FORMAT = "reason-value-head-1"
_LINEAR = ("mean", "std", "out.weight", "out.bias", "calibration")
_HIDDEN = ("in.weight", "in.bias")
_POOL = ("pool.weight", "pool.mean", "pool.std")


@dataclass(frozen=True, eq=False)
class ValueHead:
    """A ``Probe``: its numbers are values, or of a head with a pooled part the logits without it.

    Args:
        name: its numbers are recorded under it; that of a head read from a file has the file's checksum in it.
        model: whose states it reads, by name.
        layer: see ``Probe``.
        weights: mean and std [size]; out.weight [members, size or units], out.bias [members]; with hidden units
            in.weight [members, units, size] and in.bias [members, units]; for a pooled part pool.weight
            [members, size], pool.mean and pool.std [size]; calibration [2] is scale and shift. float32.
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

    @property
    def pooled(self) -> bool:
        """Whether it has a pooled part."""
        return "pool.weight" in self.weights

    @property
    def probes(self) -> tuple[Probe, ...]:
        """What must be read of each token: itself, and the pooled part."""
        return (self, _PoolProbe(self)) if self.pooled else (self,)

    def __call__(self, states: torch.Tensor, /) -> torch.Tensor:
        """States [rows, size] to values in [0, 1], or the logits of a head with a pooled part, [rows]."""
        self._check(states)
        own = self.logits(states).mean(dim=0)
        return own if self.pooled else self._calibrated(own)

    def pool(self, states: torch.Tensor) -> torch.Tensor:
        """The pooled part's numbers, [rows], to be averaged over a solution's tokens so far."""
        self._check(states)
        return self._pool(states).mean(dim=0)

    def value(self, logit: float, pooled: float) -> float:
        """The value of a head with a pooled part.

        Args:
            logit: what it says of the last token.
            pooled: the mean of ``pool`` over the tokens so far.
        """
        scale, shift = self.weights["calibration"].tolist()
        return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, scale * (logit + pooled) + shift))))

    def values(self, states: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
        """Values in [0, 1], [rows].

        Args:
            states: [rows, size], of single tokens.
            means: [rows, size], of all the solution's tokens up to each of these.
        """
        return self._calibrated(self.logits(states, means).mean(dim=0))

    def logits(self, states: torch.Tensor, means: torch.Tensor | None = None) -> torch.Tensor:
        """What the members say before calibration, [members, rows]; without ``means`` less the pooled part."""
        own = self._own(states)
        return own + self._pool(means) if means is not None and self.pooled else own

    def _own(self, states: torch.Tensor) -> torch.Tensor:
        import torch

        weights = self.weights
        x = (states.float() - weights["mean"]) / weights["std"]
        if "in.weight" not in weights:
            linear: torch.Tensor = (x @ weights["out.weight"].T + weights["out.bias"]).T
            return linear
        hidden = torch.einsum("nd,mhd->mnh", x, weights["in.weight"]) + weights["in.bias"][:, None]
        logits: torch.Tensor = torch.einsum("mnh,mh->mn", hidden.relu(), weights["out.weight"])
        return logits + weights["out.bias"][:, None]

    def _pool(self, states: torch.Tensor) -> torch.Tensor:
        z = (states.float() - self.weights["pool.mean"]) / self.weights["pool.std"]
        return self.weights["pool.weight"] @ z.T

    def _calibrated(self, logits: torch.Tensor) -> torch.Tensor:
        scale, shift = self.weights["calibration"]
        values: torch.Tensor = (scale * logits + shift).sigmoid()
        return values

    def _check(self, states: torch.Tensor) -> None:
        if states.shape[-1] != self.size:
            raise ModelError(f"the value head {self.name} reads states of {self.size} numbers, not {states.shape[-1]}")

    def save(self, file: FilePath) -> None:
        """Writes it, in float16 but for the calibration and the scaling.

        Raises:
            ReasonError: the file cannot be written.
        """
        import torch
        from safetensors.torch import save

        exact = ("mean", "std", "pool.mean", "pool.std", "calibration")
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
        parts = [part for part in (_HIDDEN, _POOL) if part[0] in tensors]
        if said.get("format") != _FORMAT or set(tensors) != {*_LINEAR, *itertools.chain(*parts)}:
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
        if self.pooled:
            expected |= {"pool.weight": (members, self.size), "pool.mean": (self.size,), "pool.std": (self.size,)}
        if not all(bool((weights[name] > 0).all()) for name in ("std", "pool.std") if name in weights):
            return False
        return all(shape[name] == wanted for name, wanted in expected.items()) and (
            "in.weight" in shape or units == self.size
        )


@dataclass(frozen=True)
class _PoolProbe:
    """The pooled part of a head, as a probe of its own."""

    head: ValueHead

    @property
    def name(self) -> str:
        return f"{self.head.name}:pool"

    @property
    def layer(self) -> int:
        return self.head.layer

    def __call__(self, states: torch.Tensor, /) -> torch.Tensor:
        return self.head.pool(states)

"""What makes a score of a reward model's hidden state: its own head, or its language model's rows for two words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from reason.errors import ModelError, UsageError
from reason.models.load import read_weights

if TYPE_CHECKING:
    import torch

__all__ = ["Activation", "Layer", "RewardHead"]

Activation: TypeAlias = Literal["auto", "sigmoid", "softmax", "unit", "none"]

_PLACES = ("score", "classifier", "v_head.summary", "v_head", "value_head", "reward_head", "regression_head")
"""Where checkpoints keep their heads, looked for in this order: ``NAME.weight`` is a product, ``NAME.0.weight``,
``NAME.2.weight`` … products with ReLU between them."""


class Layer(NamedTuple):
    weight: torch.Tensor  # [out, in] float32
    bias: torch.Tensor | None  # [out] float32


class RewardHead:
    """Computes in float32, on the CPU.

    Args:
        layers: products, with ReLU between them.
        activation: "sigmoid" and "softmax" make probabilities of logits, "unit" is (clip(v, -1, 1) + 1) / 2 for values
            trained to lie in [-1, 1], "none" leaves them; "auto" is the sigmoid of one output, the softmax of several.
        label: the output that means a good step; by default the only one, or the second of two.
        softcap: logits are softcap * tanh(logits / softcap), as some language models' are.

    Raises:
        UsageError: the activation does not go with the number of outputs, or ``label`` is none of them.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        *,
        activation: Activation = "auto",
        label: int | None = None,
        softcap: float | None = None,
    ) -> None:
        self._layers = layers
        self._softcap = softcap
        self.num_outputs = int(layers[-1].weight.shape[0])
        if activation == "auto":
            activation = "sigmoid" if self.num_outputs == 1 else "softmax"
        if activation == "softmax" and self.num_outputs == 1:
            raise UsageError("the softmax of a head's only output is always 1; pass activation=sigmoid, unit or none")
        if label is None and self.num_outputs > 2:
            raise UsageError(f"the head has {self.num_outputs} outputs; pass label=N, the one that means a good step")
        self._label = min(1, self.num_outputs - 1) if label is None else label
        if not 0 <= self._label < self.num_outputs:
            raise UsageError(f"label must be in [0, {self.num_outputs}), got {label}")
        self._activation = activation

    @classmethod
    def of_checkpoint(
        cls, folder: FilePath, hidden_size: int, *, activation: Activation = "auto", label: int | None = None
    ) -> RewardHead:
        """The head in a model folder.

        Raises:
            ModelError: there is none that this knows, or it is not for states of this size.
        """
        found = read_weights(folder, [f"{place}." for place in _PLACES])
        for place in _PLACES:
            layers = _layers({k[len(place) + 1 :]: v for k, v in found.items() if k.startswith(f"{place}.")})
            if layers:
                break
        else:
            others = f"; it has {', '.join(sorted(found))}" if found else ""
            raise ModelError(f"{folder} has no reward head ({', '.join(f'{p}.weight' for p in _PLACES)}){others}")
        for layer, size in zip(layers, [hidden_size, *(len(layer.weight) for layer in layers)], strict=False):
            if layer.weight.dim() != 2 or layer.weight.shape[1] != size:
                raise ModelError(f"the reward head of {folder} takes {list(layer.weight.shape)}, not {size} values")
        return cls(layers, activation=activation, label=label)

    def score(self, state: torch.Tensor) -> float:
        """The score of a step whose last hidden state this is, [hidden_size]."""
        import torch

        values = state.float()
        for i, (weight, bias) in enumerate(self._layers):
            values = torch.nn.functional.linear(values.relu() if i else values, weight, bias)
        if self._softcap is not None:
            values = torch.tanh(values / self._softcap) * self._softcap
        if self._activation == "softmax":
            return float(values.softmax(-1)[self._label])
        value = values[self._label]
        if self._activation == "sigmoid":
            value = value.sigmoid()
        elif self._activation == "unit":
            value = (value.clamp(-1, 1) + 1) / 2
        return float(value)


def _layers(weights: dict[str, torch.Tensor]) -> list[Layer]:
    """The products that tensors by name within a head make, in order; none if they are something else."""

    def layer(prefix: str) -> Layer:
        bias = weights.get(f"{prefix}bias")
        return Layer(weights[f"{prefix}weight"].float(), None if bias is None else bias.float())

    if set(weights) in ({"weight"}, {"weight", "bias"}):
        return [layer("")]
    numbers = sorted(int(name.split(".")[0]) for name in weights if name.split(".")[0].isdigit() and "weight" in name)
    known = {f"{number}.{part}" for number in numbers for part in ("weight", "bias")}
    return [layer(f"{number}.") for number in numbers] if set(weights) <= known else []

"""The device that ``gpu.py`` measures: its bandwidth, how things are timed on it, models of random weights."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from reason.runtime.captured import CudaCapture

Table = list[dict[str, Any]]

MODELS: dict[str, dict[str, Any]] = {
    "1.5B": {
        "model_type": "qwen2",
        "vocab_size": 151_936,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "8B": {
        "model_type": "llama",
        "vocab_size": 128_256,
        "hidden_size": 4096,
        "intermediate_size": 14_336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
SMALL: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
EXACT = SMALL | {"vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 4}


class Scale(NamedTuple):
    """How large everything is."""

    models: dict[str, dict[str, Any]]
    exact_model: dict[str, Any]
    shrink: int  # lengths and numbers of branches are divided by this
    repeats: int
    dtype: torch.dtype
    attention: tuple[int, int, int]  # heads, key heads, head size


FULL = Scale(MODELS, EXACT, 1, 20, torch.bfloat16, (32, 8, 128))
QUICK = Scale({"tiny": SMALL}, SMALL, 64, 2, torch.float32, (4, 2, 16))


class Bench:
    """The device, how fast it copies and multiplies, and how things are timed on it.

    ``bandwidth`` is a copy's, bytes read and written a second; ``arithmetic`` a large product's, operations a second.
    """

    def __init__(self, scale: Scale, device: torch.device, weights: Path | None = None) -> None:
        self.scale = scale
        self.device = device
        self.weights = weights  # of a real model
        self.bandwidth = self._copy_bandwidth()
        self.arithmetic = self._product_rate()

    def sized(self, number: int, least: int = 2) -> int:
        return max(least, number // self.scale.shrink)

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def seconds(self, call: Callable[[], object], inner: int = 5) -> float:
        """Median seconds of a call."""
        for _ in range(3 if self.scale is FULL else 1):
            call()
        times = []
        for _ in range(self.scale.repeats):
            self.synchronize()
            began = time.perf_counter()
            for _ in range(inner):
                call()
            self.synchronize()
            times.append((time.perf_counter() - began) / inner)
        return statistics.median(times)

    def device_seconds(self, call: Callable[[], torch.Tensor], inner: int = 16) -> float:
        """Median seconds of a call on the device alone: a GPU replays a graph of ``inner`` calls, because their
        launches can take longer than they do."""
        if self.device.type != "cuda":
            return self.seconds(call)
        replay = CudaCapture(self.device)(lambda: [call() for _ in range(inner)][-1])
        return self.seconds(replay, inner=1) / inner

    def random(self, *shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
        return torch.randn(shape, device=self.device, dtype=dtype or self.scale.dtype)

    def model(self, settings: dict[str, Any], dtype: torch.dtype) -> Any:
        from transformers import AutoConfig, AutoModelForCausalLM

        fields = {"max_position_embeddings": 16_384, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
        config = AutoConfig.for_model(**fields | settings)
        make: Any = AutoModelForCausalLM
        with torch.device(self.device):
            return make.from_config(config, dtype=dtype).eval()

    def _copy_bandwidth(self) -> float:
        source = torch.empty((1 << 30) // self.scale.shrink**2, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * source.numel() / self.seconds(lambda: target.copy_(source))

    def _product_rate(self) -> float:
        """Operations a second of a product of square matrices."""
        size = 8192 // self.scale.shrink
        left, right = self.random(size, size), self.random(size, size)
        return 2 * size**3 / self.seconds(lambda: left @ right)

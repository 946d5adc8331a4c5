"""One thread, tiny random models, and the devices that tests of tensors run on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

MakeModel = Callable[..., Any]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """Makes a random model of two small layers: grouped heads, and weights large enough that its logits are not flat.

    ``changes`` are fields of the config. The model is new each time, because a runner consumes it.
    """

    def make(model_type: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **changes: Any) -> Any:
        settings: dict[str, Any] = {
            "vocab_size": 96,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 256,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = AutoConfig.for_model(model_type, **settings | changes)
        make_from: Any = AutoModelForCausalLM
        model: Any = make_from.from_config(config, attn_implementation="eager")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                around = 1.0 if weight.dim() == 1 else 0.0  # norms; biases are moved too, which does no harm
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3 + around)
        return model.to(dtype).eval()

    return make

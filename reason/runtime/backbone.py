"""The transformer as one function from a row batch to hidden states, two ways.

``HubBackbone`` runs any ``AutoModelForCausalLM`` that goes through transformers' ``AttentionInterface``: its own
modelling code, our attention. ``FusedBackbone`` runs the Llama family (Llama, Mistral, Qwen2, Qwen3) as one straight
loop: QKV in one product, residuals and gates fused into the products around them, rotary tables made once. Both give
the same logits; tests hold them to it.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from reason.errors import UnsupportedModel
from reason.runtime.attention.forest import forest_attention
from reason.runtime.attention.interface import ATTENTION_NAME, KVBatch
from reason.runtime.attention.plan import RowBatch
from reason.runtime.gpu import gpu_kernels_for
from reason.runtime.kv_pool import KVPool
from reason.runtime.linear import Linear, can_pack
from reason.runtime.native import kernels_for
from reason.runtime.quantized import Gated, Products

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from reason.runtime.gpu import GpuKernels

__all__ = ["TESTED", "Backbone", "FusedBackbone", "HubBackbone", "make_backbone"]

_LLAMA_FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})

EXACT = Products()

TESTED = _LLAMA_FAMILY | {"gemma3_text"}
"""Model types whose logits the tests hold to transformers' own. Others are compared when they are loaded."""


class Backbone(Protocol):
    """Runs the layers over one packed batch, writing its K and V into the pool."""

    def hidden(
        self, batch: RowBatch, kv: KVPool, kept: MutableMapping[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Final-norm hidden states, [rows, hidden_size].

        Args:
            kept: gets, for each layer that is a key of it, the states that leave that layer.
        """
        ...

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """[n, hidden_size] -> [n, vocab]; ``out`` may be written to, where that saves making a tensor."""
        ...


def make_backbone(model: PreTrainedModel, max_positions: int, products: Products = EXACT) -> Backbone:
    """The fastest backbone that runs this model exactly; ``products`` makes what it multiplies by."""
    if model.config.model_type in _LLAMA_FAMILY and model.config.hidden_act == "silu":
        return FusedBackbone(model, max_positions, products)
    return HubBackbone(model, products)


class HubBackbone:
    """transformers' own layers over our attention."""

    def __init__(self, model: PreTrainedModel, products: Products = EXACT) -> None:
        self.model = model.eval()  # type: ignore[no-untyped-call]
        self.base, head = _parts(model)
        self.head = products.head(head.weight.data, _data(head.bias))
        self.softcap: float | None = getattr(model.config, "final_logit_softcapping", None)
        model.set_attn_implementation(ATTENTION_NAME)
        if products.linear is not Linear or can_pack(model.dtype, model.device):
            _replace_linears(self.base, products)

    def hidden(
        self, batch: RowBatch, kv: KVPool, kept: MutableMapping[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        out = self.base(
            input_ids=batch.token_ids.long()[None],
            position_ids=batch.positions.long()[None],
            use_cache=False,
            output_hidden_states=bool(kept),
            kv_batch=KVBatch(kv, batch),
        )
        for layer in kept or ():
            kept[layer] = out.hidden_states[layer + 1][0]  # type: ignore[index]
        hidden: torch.Tensor = out.last_hidden_state[0]
        return hidden

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        logits = self.head(hidden, out)
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


class _PackedModule(nn.Module):
    """A ``Linear`` in the place of an ``nn.Linear``, any leading shape."""

    def __init__(self, linear: Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _replace_linears(module: nn.Module, products: Products) -> None:
    for name, child in module.named_children():
        if type(child) is nn.Linear:
            setattr(module, name, _PackedModule(products.linear(child.weight.data, _data(child.bias))))
        else:
            _replace_linears(child, products)


class _FusedLayer:
    """One decoder layer's weights, fused."""

    def __init__(self, layer: Any, window: int | None, products: Products, gpu: GpuKernels | None) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        biases = [p.bias for p in projections]
        self.qkv = products.linear(
            torch.cat([p.weight.data for p in projections]),
            None if biases[0] is None else torch.cat([b.data for b in biases]),
        )
        self.o = products.linear(attention.o_proj.weight.data, _data(attention.o_proj.bias))
        self.gated = _gated(mlp.gate_proj, mlp.up_proj, products, gpu)
        self.down = products.linear(mlp.down_proj.weight.data, _data(mlp.down_proj.bias))
        self.input_norm = layer.input_layernorm.weight.data
        self.post_norm = layer.post_attention_layernorm.weight.data
        self.q_norm = attention.q_norm.weight.data if hasattr(attention, "q_norm") else None
        self.k_norm = attention.k_norm.weight.data if hasattr(attention, "k_norm") else None
        self.scale = float(attention.scaling)
        self.window = window


class FusedBackbone:
    """The Llama family in one loop. The modules it was made from can be dropped."""

    def __init__(self, model: PreTrainedModel, max_positions: int, products: Products = EXACT) -> None:
        config = model.config
        base, head = _parts(model)
        self.embedding = base.embed_tokens.weight.data
        self.norm = base.norm.weight.data
        self.eps = float(config.rms_norm_eps)
        self.heads = int(config.num_attention_heads)
        self.kv_heads = int(config.num_key_value_heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // self.heads)
        weight = self.embedding
        self.gpu = gpu_kernels_for(weight.device, weight.dtype, self.heads, self.kv_heads, self.head_dim)
        self.layers = []
        for layer in base.layers:
            window = getattr(layer.self_attn, "sliding_window", None) or _window(config)
            self.layers.append(_FusedLayer(layer, window, products, self.gpu))
            _drop_weights(layer)
        self.head = products.head(head.weight.data, _data(head.bias))
        positions = torch.arange(max_positions, device=self.embedding.device)
        cos, sin = base.rotary_emb(self.embedding[:1, None], positions[None])
        kernels = kernels_for(self.embedding.dtype, self.embedding.device)
        fits = self.embedding.shape[1] % 16 == 0 and self.head_dim % 32 == 0
        self.kernels = kernels if fits else None
        plain = all(layer.window is None and layer.q_norm is None for layer in self.layers)
        self.native = self.kernels is not None and plain
        """Whether the compiled kernels do all but the products."""
        half = self.head_dim // 2
        sign = torch.ones(self.head_dim, dtype=sin.dtype, device=sin.device)
        sign[:half] = -1  # rotate_half(x) * sin == roll(x, half) * (sign * sin)
        self.cos = cos[0].unsqueeze(1).contiguous()  # [positions, 1, head_dim]
        self.sin = (sin[0] * sign).unsqueeze(1).contiguous()  # [positions, 1, head_dim]

    def hidden(
        self, batch: RowBatch, kv: KVPool, kept: MutableMapping[int, torch.Tensor] | None = None
    ) -> torch.Tensor:
        hidden = F.embedding(batch.token_ids, self.embedding)
        for i, layer in enumerate(self.layers):
            qkv = layer.qkv(self._norm(hidden, layer.input_norm))
            query = self._rotate_and_write(layer, qkv, batch, kv, i)
            mixed = forest_attention(query, kv.keys[i], kv.values[i], batch.plan, layer.scale, layer.window)
            hidden = layer.o.plus(mixed.view(mixed.shape[0], -1), hidden)
            normed = self._norm(hidden, layer.post_norm)
            hidden = layer.down.plus(layer.gated(normed), hidden)
            if kept and i in kept:
                kept[i] = hidden
        return self._norm(hidden, self.norm)

    def logits(self, hidden: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        return self.head(hidden, out)

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        if self.kernels is not None:
            return self.kernels.rms_norm(x, weight, self.eps)
        if self.gpu is not None:
            return self.gpu.rms_norm(x, weight, self.eps)
        return F.rms_norm(x, (x.shape[-1],), weight, self.eps)

    def _rotate_and_write(
        self, layer: _FusedLayer, qkv: torch.Tensor, batch: RowBatch, kv: KVPool, index: int
    ) -> torch.Tensor:
        """Puts K and V in their slots; returns the rotated query [rows, heads, head_dim]."""
        keys, values = kv.keys[index], kv.values[index]
        if self.kernels is not None and layer.q_norm is None:
            return self.kernels.rotate_and_write(
                qkv, self.cos, self.sin, batch.positions, batch.write_slots, keys, values, self.heads
            )
        if self.gpu is not None:
            norms = None if layer.q_norm is None or layer.k_norm is None else (layer.q_norm, layer.k_norm)
            return self.gpu.rotate_and_write(
                qkv, self.cos, self.sin, batch.positions, batch.write_slots, keys, values, norms, self.eps
            )
        parts = qkv.view(-1, self.heads + 2 * self.kv_heads, self.head_dim)
        rotating = parts[:, : self.heads + self.kv_heads]
        if layer.q_norm is not None and layer.k_norm is not None:
            query, key = torch.split(rotating, [self.heads, self.kv_heads], dim=1)
            shape = (self.head_dim,)
            query = F.rms_norm(query, shape, layer.q_norm, self.eps)
            rotating = torch.cat([query, F.rms_norm(key, shape, layer.k_norm, self.eps)], dim=1)
        cos = self.cos.index_select(0, batch.positions)
        sin = self.sin.index_select(0, batch.positions)
        rotated = torch.addcmul(rotating * cos, torch.roll(rotating, self.head_dim // 2, -1), sin)
        query, key = torch.split(rotated, [self.heads, self.kv_heads], dim=1)
        kv.write(index, batch.write_slots, key, parts[:, self.heads + self.kv_heads :])
        return query


def _gated(gate: Any, up: Any, products: Products, gpu: GpuKernels | None) -> Gated:
    """``silu(gate(x)) * up(x)``, in one product where there is no bias."""
    if gate.bias is None and up.bias is None:
        if gpu is not None:
            both = products.linear(torch.cat([gate.weight.data, up.weight.data]), None)
            return lambda x: gpu.silu_mul(both(x))
        return products.gated(gate.weight.data, up.weight.data)
    first, second = (products.linear(each.weight.data, _data(each.bias)) for each in (gate, up))
    return lambda x: F.silu(first(x)) * second(x)


def _parts(model: Any) -> tuple[Any, Any]:
    """The decoder and the language-model head."""
    head = model.get_output_embeddings()
    if head is None:
        raise UnsupportedModel(f"{type(model).__name__} has no language-model head")
    return model.get_decoder(), head


def _data(parameter: torch.Tensor | None) -> torch.Tensor | None:
    return None if parameter is None else parameter.data


def _window(config: Any) -> int | None:
    """Mistral's window, which its layers read from the config; the others set it on each attention module."""
    return config.sliding_window if config.model_type == "mistral" else None


def _drop_weights(layer: nn.Module) -> None:
    """Frees a layer's own weights once they are fused, so that no more than one layer is held twice."""
    for parameter in layer.parameters():
        parameter.data = parameter.data.new_empty(0)

"""How a GGUF file's metadata and tensors map to a transformers model, for the architectures we convert exactly.

Whatever this module does not know is refused: a metadata key that changes the computation, a tensor without a place.
After the mapping, ``convert`` compares names and shapes with those of the transformers model itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reason.errors import ModelError, UnsupportedModel
from reason.models.gguf_file import GGUFFile

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["ARCHITECTURES", "Architecture", "architecture_of"]

_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_ROPE_FACTORS = "rope_freqs.weight"
_REFUSED = (  # keys that change the computation in ways the mapping below does not carry over
    ".expert_count",
    ".attention.sliding_window",
    ".attention.scale",
    ".attention.clamp_kqv",
    ".attn_logit_softcapping",
    ".final_logit_softcapping",
    ".logit_scale",
    ".residual_scale",
    ".embedding_scale",
)


@dataclass(frozen=True)
class Architecture:
    """One decoder family.

    Args:
        model_type: transformers' name.
        class_name: transformers' model class.
        paired_rope: ggml rotates neighbouring rows of q and k, transformers rows half a head apart, so that the
            converter to GGUF permuted the rows of q and k in every head; we permute them back.
        bias_choice: whether the config says if attention has biases (for the others the class decides).
    """

    model_type: str
    class_name: str
    paired_rope: bool = False
    bias_choice: bool = False

    def config(self, gguf: GGUFFile) -> dict[str, Any]:
        """transformers' config.json without the token ids and the tying of embeddings."""
        _refuse(gguf)
        hidden, heads = int(gguf.require(".embedding_length")), gguf.require(".attention.head_count")
        kv_heads = gguf.get(".attention.head_count_kv", heads)
        if not isinstance(heads, int) or not isinstance(kv_heads, int):
            raise UnsupportedModel(f"{gguf.path} has another number of attention heads in every layer")
        if heads < 1 or kv_heads < 1:
            raise ModelError(f"{gguf.path} is damaged: it has {heads} attention heads, {kv_heads} for keys and values")
        head_dim = int(gguf.get(".attention.key_length", hidden // heads))
        for key in (".attention.value_length", ".rope.dimension_count"):
            if (size := int(gguf.get(key, head_dim))) != head_dim:
                raise UnsupportedModel(f"{gguf.path}: {self.model_type}{key} is {size}, not the head size {head_dim}")
        config: dict[str, Any] = {
            "architectures": [self.class_name],
            "model_type": self.model_type,
            "dtype": "bfloat16",
            "hidden_act": "silu",
            "hidden_size": hidden,
            "intermediate_size": int(gguf.require(".feed_forward_length")),
            "num_hidden_layers": int(gguf.require(".block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": int(gguf.require(".context_length")),
            "rms_norm_eps": _shortest(gguf.require(".attention.layer_norm_rms_epsilon")),
            "rope_parameters": _rope(gguf, head_dim),
            "vocab_size": gguf.shape("token_embd.weight")[0],
        }
        if self.bias_choice:
            config["attention_bias"] = "blk.0.attn_q.bias" in gguf.tensors
        return config

    def names(self, gguf: GGUFFile) -> dict[str, str]:
        """transformers' name of every tensor in the file, by its GGUF name."""
        names = {}
        for name in gguf.tensors:
            if name == _ROPE_FACTORS:
                continue
            if (ours := _TOP_NAMES.get(name) or _block_name(name)) is None:
                raise UnsupportedModel(f"{gguf.path} holds a tensor {name!r} that {self.class_name} has no place for")
            names[name] = ours
        return names

    def row_order(self, name: str, config: dict[str, Any]) -> npt.NDArray[np.intp] | None:
        """Which stored row goes where in the tensor with GGUF name ``name``; None: as stored."""
        if not self.paired_rope or not (".attn_q." in name or ".attn_k." in name):
            return None
        import numpy as np

        heads = config["num_attention_heads" if ".attn_q." in name else "num_key_value_heads"]
        rows = np.arange(heads * config["head_dim"])
        return rows.reshape(heads, config["head_dim"] // 2, 2).swapaxes(1, 2).reshape(-1)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", "LlamaForCausalLM", paired_rope=True, bias_choice=True),
    "qwen2": Architecture("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Architecture("qwen3", "Qwen3ForCausalLM", bias_choice=True),
}
"""By the name that GGUF files give; Mistral files call themselves llama."""


def architecture_of(gguf: GGUFFile) -> Architecture:
    """The file's architecture. Raises ``UnsupportedModel`` with what there is."""
    if (known := ARCHITECTURES.get(gguf.architecture)) is None:
        raise UnsupportedModel(
            f"{gguf.path} has architecture {gguf.architecture!r}; GGUF files can be converted for "
            f"{', '.join(ARCHITECTURES)} (Mistral counts as llama). Pass a folder in transformers format instead."
        )
    return known


def _block_name(name: str) -> str | None:
    """'blk.3.attn_q.weight' as 'model.layers.3.self_attn.q_proj.weight'."""
    match name.split("."):
        case ["blk", layer, part, ("weight" | "bias") as kind] if part in _BLOCK_NAMES:
            return f"model.layers.{layer}.{_BLOCK_NAMES[part]}.{kind}"
    return None


def _refuse(gguf: GGUFFile) -> None:
    for key in _REFUSED:
        if gguf.get(key):
            raise UnsupportedModel(f"{gguf.path} sets {gguf.architecture}{key}, which cannot be converted exactly")


def _shortest(value: float) -> float:
    """A float32 as people wrote it: 1e-06 for 9.999999974752427e-07."""
    import numpy as np

    return float(str(np.float32(value)))


def _rope(gguf: GGUFFile, head_dim: int) -> dict[str, Any]:
    """transformers' rope_parameters."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _shortest(gguf.get(".rope.freq_base", 10000.0))}
    kind = gguf.get(".rope.scaling.type", "linear" if gguf.get(".rope.scale_linear") else "none")
    factor = float(gguf.get(".rope.scaling.factor", gguf.get(".rope.scale_linear", 1.0)))
    if kind == "linear" and factor != 1.0:
        rope |= {"rope_type": "linear", "factor": factor}
    elif kind == "yarn":
        # ggml multiplies the attention factor into the magnitude that YaRN prescribes
        magnitude = float(gguf.get(".rope.scaling.attn_factor", 1.0)) * (0.1 * math.log(factor) + 1.0)
        original = int(gguf.require(".rope.scaling.original_context_length"))
        rope |= {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        rope |= {"attention_factor": magnitude}
    elif kind not in ("none", "linear"):
        raise UnsupportedModel(f"{gguf.path} scales rope by {kind!r}; convertible are none, linear, yarn and Llama 3's")
    if _ROPE_FACTORS in gguf.tensors:
        if rope["rope_type"] != "default":
            raise UnsupportedModel(f"{gguf.path} scales rope twice, by {kind!r} and by {_ROPE_FACTORS}")
        rope |= _llama3_scaling(gguf, head_dim, rope["rope_theta"])
    return rope


def _llama3_scaling(gguf: GGUFFile, head_dim: int, theta: float) -> dict[str, Any]:
    """Llama 3.1's scaling, found again in the divisors that the file stores.

    The file has one divisor per frequency and not the four numbers they come from. All published Llama 3 models share
    three of the four; the fourth, the factor, is the largest divisor. We compute the divisors from them and accept the
    file only if they are the stored ones.
    """
    import numpy as np

    stored = np.concatenate(list(gguf.rows(_ROPE_FACTORS)))
    low, high, original, factor = 1.0, 4.0, 8192, float(stored.max())
    if factor == 1.0:
        return {}
    wavelength = 2 * math.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    smooth = np.clip((original / wavelength - low) / (high - low), 0.0, 1.0)
    expected = 1.0 / ((1 - smooth) / factor + smooth)
    if stored.shape != expected.shape or not np.allclose(stored, expected, rtol=1e-3):
        raise UnsupportedModel(f"{gguf.path} scales rope by a {_ROPE_FACTORS} that is not Llama 3's")
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }

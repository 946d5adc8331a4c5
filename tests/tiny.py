"""Tiny random models of transformers' own classes, in float32, and a tokenizer for them."""

from __future__ import annotations

from typing import Any


def random_model(
    model_type: str, *, vocab_size: int, seed: int = 0, scale: float = 0.2, ends: float | None = None, **changes: Any
) -> Any:
    """A causal language model of two small layers with grouped heads.

    Args:
        scale: of the weights, large enough that the logits are not flat.
        ends: that of the embeddings and of the vocabulary's product, if another.
        changes: fields of the config.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    make_model: Any = AutoModelForCausalLM
    model: Any = make_model.from_config(AutoConfig.for_model(model_type, **fields | changes))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            size = ends if ends is not None and ("embed" in name or "lm_head" in name) else scale
            weight.copy_(torch.randn_like(weight) * size + (weight.dim() == 1))
    return model.eval()


def byte_tokenizer() -> Any:
    """Its tokens are bytes, and "<|end|>", which is 256; it has no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    spelling = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate([*letters, "<|end|>"])}, merges=[]))
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling.decoder = decoders.ByteLevel()
    make_tokenizer: Any = PreTrainedTokenizerFast  # untyped
    return make_tokenizer(tokenizer_object=spelling, eos_token="<|end|>")

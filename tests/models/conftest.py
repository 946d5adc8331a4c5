"""Tiny GGUF files written with the gguf library's own names, and a cache that is never the user's."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.convert_slow_tokenizer import bytes_to_unicode

from reason.models import Cache, ModelEntry, Source

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
WORDS = ("he", "ll", "hell", "Ġw", "Ġhe", "12", "ĠĠ")
MERGES = ("h e", "l l", "he ll", "Ġ w", "Ġ he", "1 2", "Ġ Ġ")
_SPELLING: Any = bytes_to_unicode  # untyped
TOKENS = (
    *_SPELLING().values(),
    *WORDS,
    *SPECIAL,
    "<tool_call>",
    "[PAD0]",
    "[PAD1]",
    "[PAD2]",
    "[PAD3]",
    "[PAD4]",
)
TYPES = (*[1] * (256 + len(WORDS)), *[3] * len(SPECIAL), 4, *[5] * 5)
VOCAB = len(TOKENS)
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"

WriteGGUF = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if request.node.get_closest_marker("weights") is None:
        monkeypatch.setenv("REASON_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cache() -> Cache:
    return Cache.default()


@pytest.fixture
def tiny_model() -> Callable[..., PreTrainedModel]:
    """A random model whose weights bfloat16 holds exactly, so that a correct conversion loses nothing."""

    def make(model_type: str, **changes: Any) -> PreTrainedModel:
        torch.manual_seed(0)
        settings: dict[str, Any] = {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "tie_word_embeddings": True,
        }
        make_model: Any = AutoModelForCausalLM
        model: Any = make_model.from_config(AutoConfig.for_model(model_type, **settings | changes))
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_((torch.randn_like(weight) * 0.2 + (weight.dim() == 1)).bfloat16().float())
        ready: PreTrainedModel = model.eval()
        return ready

    return make


@pytest.fixture
def write_gguf(tmp_path: Path) -> WriteGGUF:
    """Writes a model as GGUF the way llama.cpp's converter does.

    ``quantise`` picks a type by GGUF tensor name; ``extra`` adds tensors; ``edit`` adds metadata.
    """

    def write(
        model: PreTrainedModel,
        *,
        architecture: str | None = None,
        quantise: Callable[[str], gguf.GGMLQuantizationType] = lambda name: gguf.GGMLQuantizationType.F32,
        extra: dict[str, np.ndarray[Any, Any]] | None = None,
        drop: tuple[str, ...] = (),
        edit: Callable[[gguf.GGUFWriter], None] = lambda writer: None,
        pre: str = "qwen2",
    ) -> Path:
        config: Any = model.config
        path = tmp_path / f"tiny-{config.model_type}.gguf"
        writer = gguf.GGUFWriter(path, architecture or config.model_type)
        writer.add_context_length(config.max_position_embeddings)
        writer.add_embedding_length(config.hidden_size)
        writer.add_block_count(config.num_hidden_layers)
        writer.add_feed_forward_length(config.intermediate_size)
        writer.add_head_count(config.num_attention_heads)
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_key_length(16)
        writer.add_value_length(16)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
        _write_tokenizer(writer, pre)
        edit(writer)
        for name, weight in _gguf_tensors(model).items():
            if name not in drop:
                _add(writer, name, weight, quantise(name))
        for name, weight in (extra or {}).items():
            _add(writer, name, weight, quantise(name))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.fixture
def tiny_gguf(tiny_model: Callable[..., PreTrainedModel], write_gguf: WriteGGUF) -> Path:
    return write_gguf(tiny_model("qwen2"))


@pytest.fixture
def make_entry(tiny_gguf: Path) -> Callable[..., ModelEntry]:
    """A catalogue entry for the tiny file, with the sources that a test wants."""
    data = tiny_gguf.read_bytes()
    plain = ModelEntry(
        name="tiny",
        licence="none",
        description="random",
        filename="tiny.gguf",
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        converted_bytes=len(data),
        sources=(),
        family="tiny",
        eos_token_ids=(5, 6),
    )

    def make(*sources: Source, **changes: Any) -> ModelEntry:
        return replace(plain, sources=sources, **changes)

    return make


@pytest.fixture
def child_environment() -> dict[str, str]:
    """For processes that import the package from this checkout."""
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def _write_tokenizer(writer: gguf.GGUFWriter, pre: str) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(list(TOKENS))
    writer.add_token_types(list(TYPES))
    writer.add_token_merges(list(MERGES))
    writer.add_bos_token_id(TOKENS.index("<|endoftext|>"))
    writer.add_eos_token_id(TOKENS.index("<|im_end|>"))
    writer.add_pad_token_id(TOKENS.index("<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def _gguf_tensors(model: PreTrainedModel) -> dict[str, np.ndarray[Any, Any]]:
    config: Any = model.config
    architecture = gguf.MODEL_ARCH[config.model_type.upper()]
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tensors = {}
    for ours, weight in model.state_dict().items():
        if ours == "lm_head.weight" and config.tie_word_embeddings:
            continue
        array = weight.float().numpy()
        if config.model_type == "llama" and (".q_proj." in ours or ".k_proj." in ours):
            heads = config.num_attention_heads if ".q_proj." in ours else config.num_key_value_heads
            # LlamaModel.permute of llama.cpp's convert_hf_to_gguf.py
            paired = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
            array = paired.swapaxes(1, 2).reshape(array.shape)
        theirs = names.get_name(ours, try_suffixes=(".weight", ".bias"))
        assert theirs is not None, ours
        tensors[theirs] = np.ascontiguousarray(array)
    return tensors


def _add(writer: gguf.GGUFWriter, name: str, array: np.ndarray[Any, Any], kind: gguf.GGMLQuantizationType) -> None:
    if kind == gguf.GGMLQuantizationType.F32 or array.ndim == 1:
        writer.add_tensor(name, array.astype(np.float32))
    else:
        writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)

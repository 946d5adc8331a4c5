"""Conversion is exact: the converted folder computes what the model that was written as GGUF computes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors import safe_open
from transformers import PreTrainedModel

from reason.errors import ModelError, UnsupportedModel
from reason.models import convert_gguf, load_model, load_tokenizer

Make = Callable[..., PreTrainedModel]
Write = Callable[..., Path]


@pytest.fixture
def convert(tmp_path: Path) -> Callable[[Path], Path]:
    def run(file: Path) -> Path:
        folder = tmp_path / "converted"
        folder.mkdir()
        convert_gguf(file, folder)
        return folder

    return run


Convert = Callable[[Path], Path]


def _logits(model: Any) -> torch.Tensor:
    tokens = torch.arange(40).reshape(1, -1) * 7 % 256
    with torch.no_grad():
        logits: torch.Tensor = model(tokens).logits
    return logits


def _config(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_same_logits(model_type: str, tied: bool, tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    original = tiny_model(model_type, tie_word_embeddings=tied)
    folder = convert(write_gguf(original))
    converted = load_model(folder, dtype=torch.float32)
    assert type(converted) is type(original)
    assert _config(folder)["tie_word_embeddings"] is tied
    torch.testing.assert_close(_logits(converted), _logits(original), rtol=0, atol=1e-5)
    assert not converted.training
    assert not any(weight.requires_grad for weight in converted.parameters())


def test_llama_with_attention_biases(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    original = tiny_model("llama", attention_bias=True)
    converted = load_model(convert(write_gguf(original)), dtype=torch.float32)
    torch.testing.assert_close(_logits(converted), _logits(original), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.F16, Kind.BF16])
def test_quantised_weights_are_dequantised(kind: Kind, tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    original = tiny_model("llama")
    folder = convert(write_gguf(original, quantise=lambda name: kind))
    expected = original.state_dict()["model.layers.1.mlp.up_proj.weight"].numpy()
    expected = gguf.quants.dequantize(gguf.quants.quantize(expected, kind), kind)
    with safe_open(str(folder / "model.safetensors"), "pt") as file:
        got = file.get_tensor("model.layers.1.mlp.up_proj.weight")
    assert torch.equal(got, torch.from_numpy(expected).bfloat16())


def test_two_quantisations_of_one_matrix_are_tied_to_the_finer(
    tiny_model: Make, write_gguf: Write, convert: Convert
) -> None:
    original = tiny_model("qwen2")
    matrix = original.state_dict()["model.embed_tokens.weight"].numpy()
    kinds = {"token_embd.weight": Kind.Q4_0, "output.weight": Kind.Q8_0}
    file = write_gguf(original, extra={"output.weight": matrix}, quantise=lambda name: kinds.get(name, Kind.F32))
    folder = convert(file)
    assert _config(folder)["tie_word_embeddings"] is True
    with safe_open(str(folder / "model.safetensors"), "pt") as weights:
        got = weights.get_tensor("model.embed_tokens.weight")
        assert "lm_head.weight" not in weights.keys()  # noqa: SIM118 (not a dict)
    finer = gguf.quants.dequantize(gguf.quants.quantize(matrix, Kind.Q8_0), Kind.Q8_0)
    assert torch.equal(got, torch.from_numpy(finer).bfloat16())


def test_rope_scalings_compute_the_same_frequencies(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
    original = tiny_model("qwen2", rope_parameters=rope)

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_scaling_orig_ctx_len(128)

    converted = load_model(convert(write_gguf(original, edit=edit)), dtype=torch.float32)
    torch.testing.assert_close(_logits(converted), _logits(original), rtol=0, atol=1e-5)


def test_linear_rope_scaling(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    original = tiny_model("llama", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})

    def edit(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(2.0)

    converted = load_model(convert(write_gguf(original, edit=edit)), dtype=torch.float32)
    torch.testing.assert_close(_logits(converted), _logits(original), rtol=0, atol=1e-5)


def _llama3_divisors(factor: float, theta: float, head_dim: int) -> np.ndarray[Any, Any]:
    """As llama.cpp's convert_hf_to_gguf.py computes rope_freqs.weight."""
    divisors = []
    for exponent in range(0, head_dim, 2):
        wavelength = 2 * math.pi * theta ** (exponent / head_dim)
        if wavelength < 8192 / 4:
            divisors.append(1.0)
        elif wavelength > 8192 / 1:
            divisors.append(factor)
        else:
            smooth = (8192 / wavelength - 1) / (4 - 1)
            divisors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(divisors, dtype=np.float32)


def test_llama3_rope_scaling_is_found_again(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    rope = {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    original = tiny_model("llama", rope_parameters=rope)
    folder = convert(write_gguf(original, extra={"rope_freqs.weight": _llama3_divisors(32.0, 500000.0, 16)}))
    assert _config(folder)["rope_parameters"] == rope
    converted: Any = load_model(folder, dtype=torch.float32)
    torch.testing.assert_close(converted.model.rotary_emb.inv_freq, original.model.rotary_emb.inv_freq)


def test_other_rope_factors_are_refused(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    file = write_gguf(tiny_model("llama"), extra={"rope_freqs.weight": np.linspace(1, 3, 8)})
    with pytest.raises(UnsupportedModel, match="rope_freqs"):
        convert(file)


def test_unknown_architecture_lists_what_there_is(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    with pytest.raises(UnsupportedModel, match=r"'starcoder2'.*llama, qwen2, qwen3"):
        convert(write_gguf(tiny_model("llama"), architecture="starcoder2"))


def test_what_has_no_place_is_refused(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    file = write_gguf(tiny_model("llama"), extra={"blk.0.ffn_gate_inp.weight": np.zeros((4, 64))})
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_gate_inp\.weight"):
        convert(file)


def test_settings_that_change_the_computation_are_refused(
    tiny_model: Make, write_gguf: Write, convert: Convert
) -> None:
    file = write_gguf(tiny_model("llama"), edit=lambda writer: writer.add_sliding_window(64))
    with pytest.raises(UnsupportedModel, match="sliding_window"):
        convert(file)


def test_missing_weights_are_noticed(tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    file = write_gguf(tiny_model("qwen2"), drop=("blk.1.attn_k.bias",))
    with pytest.raises(UnsupportedModel, match=r"layers\.1\.self_attn\.k_proj\.bias is missing"):
        convert(file)


@pytest.mark.parametrize("keep", [0, 2, 100, 4000, -100])
def test_a_broken_file_is_an_error_of_ours(keep: int, tiny_gguf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"broken\.gguf"):
        convert_gguf(broken, tmp_path)


@pytest.mark.parametrize("key", ["padding", "unknown"])
def test_the_number_of_no_token(key: str, tiny_model: Make, write_gguf: Write, convert: Convert) -> None:
    """Some converters write -1, as 32 bits without a sign."""
    file = write_gguf(
        tiny_model("qwen2"), edit=lambda writer: writer.add_uint32(f"tokenizer.ggml.{key}_token_id", 2**32 - 1)
    )
    assert load_tokenizer(convert(file)).encode("hello")


@pytest.mark.parametrize(
    "edit",
    [lambda writer: writer.add_string("split.count", "many"), lambda writer: writer.add_head_count(0)],
    ids=["no number", "no heads"],
)
def test_values_that_make_no_sense(
    edit: Callable[[Any], None], tiny_model: Make, write_gguf: Write, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="is damaged"):
        convert_gguf(write_gguf(tiny_model("qwen2"), edit=edit), tmp_path)


def test_metadata_that_are_no_text(tiny_gguf: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(tiny_gguf.read_bytes().replace(b"qwen2", b"qw\xffn2", 1))
    with pytest.raises(ModelError, match=r"is damaged: its metadata 'general\.architecture' cannot be read"):
        convert_gguf(broken, tmp_path / "out")


def test_end_tokens(tiny_gguf: Path, tmp_path: Path, convert: Convert) -> None:
    found = json.loads((convert(tiny_gguf) / "generation_config.json").read_text())["eos_token_id"]
    given = tmp_path / "given"
    given.mkdir()
    convert_gguf(tiny_gguf, given, eos=(7, 8))
    assert found == [265, 263]  # <|im_end|> first, which the file names, then <|endoftext|>
    assert json.loads((given / "generation_config.json").read_text())["eos_token_id"] == [7, 8]
    assert _config(given)["eos_token_id"] == [7, 8]

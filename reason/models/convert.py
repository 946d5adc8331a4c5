"""GGUF to a folder in transformers format: model.safetensors (bfloat16), config, generation config and tokenizer.

Why convert at all: ``from_pretrained(..., gguf_file=...)`` takes 40 s and more on every start, unties Qwen's embeddings
and keeps float32. The converted folder is memory-mapped and loads in a tenth of a second. Nothing is held in memory
but a few rows of one tensor.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reason.errors import UnsupportedModel
from reason.models.architectures import Architecture, architecture_of
from reason.models.gguf_file import GGUFFile
from reason.models.progress import Progress
from reason.models.safetensors_file import Bfloat16Tensor, write_bfloat16
from reason.models.tokenizer import eos_token_ids, write_tokenizer

__all__ = ["convert_gguf", "converted_bytes"]

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"
_SAME = 0.25  # relative distance; measured: two quantisations of one matrix differ by 0.03 to 0.1, two matrices by > 1


def convert_gguf(
    source: Path, folder: Path, *, eos: Sequence[int] = (), progress: Progress | None = None, label: str = ""
) -> None:
    """Convert the GGUF file ``source`` into the existing, empty ``folder``.

    Args:
        eos: the tokens that end a generation, if the publisher's are known; otherwise found in the file.
        progress: shows how far it is.
        label: how the progress calls it; the file's name if empty.

    Raises:
        ModelError: the file is broken or incomplete.
        UnsupportedModel: something in the file cannot be converted exactly; says what.
    """
    task = (progress or Progress(quiet=True)).task(label or f"converting {source.name}", None)
    gguf = GGUFFile(source)
    architecture = architecture_of(gguf)
    config = architecture.config(gguf)
    tensors = _tensors(gguf, architecture, config)
    ends = list(eos) or eos_token_ids(gguf)
    ids = {"bos_token_id": gguf.get("tokenizer.ggml.bos_token_id"), "eos_token_id": ends}
    ids["pad_token_id"] = gguf.get("tokenizer.ggml.padding_token_id")
    ids = {name: value for name, value in ids.items() if value is not None}
    _check_against_transformers(source, config, tensors)
    task.expect(sum(tensor.num_bytes for tensor in tensors.values()))
    write_bfloat16(folder / "model.safetensors", tensors, task)
    _write_json(folder / "config.json", config | ids)
    _write_json(folder / "generation_config.json", ids)
    write_tokenizer(gguf, folder)
    task.finish()


def converted_bytes(source: Path) -> int:
    """Roughly what the converted folder will take, from the file's metadata alone."""
    gguf = GGUFFile(source)
    return 2 * sum(int(tensor.n_elements) for tensor in gguf.tensors.values())


def _tensors(gguf: GGUFFile, architecture: Architecture, config: dict[str, Any]) -> dict[str, Bfloat16Tensor]:
    """What to write, by transformers' names; sets ``tie_word_embeddings`` in ``config``."""
    names = architecture.names(gguf)
    config["tie_word_embeddings"] = _tied(gguf)
    if config["tie_word_embeddings"] and _HEAD in names:
        # one matrix in two quantisations: the finer one serves both ends
        finer = max((_HEAD, _EMBEDDING), key=gguf.bits_per_weight)
        del names[_HEAD], names[_EMBEDDING]
        names[finer] = "model.embed_tokens.weight"
    return {
        ours: Bfloat16Tensor(gguf.shape(name), functools.partial(gguf.rows, name, architecture.row_order(name, config)))
        for name, ours in names.items()
    }


def _tied(gguf: GGUFFile) -> bool:
    """Whether the embedding and the output head are one matrix.

    llama.cpp writes a second copy of a tied matrix when it quantises the two differently, and nothing in the file says
    so; we compare every 16th row.
    """
    if _HEAD not in gguf.tensors:
        return True
    if gguf.shape(_HEAD) != gguf.shape(_EMBEDDING):
        return False
    import numpy as np

    every = np.arange(0, gguf.shape(_HEAD)[0], 16)
    distance = size = 0.0
    for head, embedding in zip(gguf.rows(_HEAD, every), gguf.rows(_EMBEDDING, every), strict=True):
        distance += float(np.square(head - embedding, dtype=np.float64).sum())
        size += float(np.square(head, dtype=np.float64).sum())
    return distance < _SAME**2 * size


def _check_against_transformers(source: Path, config: dict[str, Any], tensors: dict[str, Bfloat16Tensor]) -> None:
    """Every weight of the transformers model, no other, and each in its shape: else the conversion is wrong."""
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM  # untyped

    settings = {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    with torch.device("meta"):
        model = auto.from_config(transformers.AutoConfig.for_model(config["model_type"], **settings))
    expected = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        expected.pop("lm_head.weight", None)
    got = {name: tensor.shape for name, tensor in tensors.items()}
    if wrong := sorted(name for name in expected.keys() | got.keys() if expected.get(name) != got.get(name)):
        details = ", ".join(f"{name} {got.get(name, 'is missing')}" for name in wrong[:3])
        raise UnsupportedModel(
            f"{source} does not hold the weights of a {config['architectures'][0]}: {details}"
            + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        )


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

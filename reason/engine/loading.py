"""From a model folder to a runner: device, dtype, threads, KV pool. And the same for a model that drafts for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from reason.engine.codec import HubCodec
from reason.engine.cores import CoreWatch
from reason.errors import OutOfKV, UsageError
from reason.models.load import load_model, load_tokenizer, read_json, resolve
from reason.runtime.kv_pool import KVPool
from reason.runtime.linear import can_pack
from reason.runtime.native import native_kernels
from reason.runtime.runner import ModelRunner, kv_shape
from reason.speculate.rules import Rule
from reason.speculate.sources.draft_model import DraftModel
from reason.speculate.sources.draft_shapes import DraftOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["LoadOptions", "load_codec", "load_draft_model", "load_draft_source", "load_runner"]

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
_MAX_DEFAULT_KV_TOKENS = {"cpu": 131_072, "cuda": 4_194_304}
_KV_MEMORY_SHARE = {"cpu": 0.25, "cuda": 0.6}
_DRAFT_KV_MEMORY_SHARE = 0.1


class LoadOptions(NamedTuple):
    """How a model is to run; see ``LocalEngine.load``."""

    device: str = "auto"
    dtype: str = "auto"
    kv_tokens: int | None = None
    quantize: str | None = None
    threads: int | None = None


def load_codec(folder: Path) -> HubCodec:
    """The tokenizer of a model folder, with what the folder says ends a sequence.

    Raises:
        ModelError: there is none.
    """
    tokenizer = load_tokenizer(folder)
    return HubCodec(tokenizer, _eos_token_ids(folder, tokenizer))


def load_draft_model(name: str, codec: HubCodec, options: LoadOptions, target: str) -> ModelRunner:
    """A model that drafts for one with the tokenizer ``codec``, which the user calls ``target``.

    Raises:
        UnknownName: no such model.
        UsageError: it has another tokenizer. Sizes may differ, by padding and by tokens that only one of them has.
    """
    folder = resolve(name).folder
    own, other = (_tokens_by_id(each) for each in (load_codec(folder), codec))
    different = [number for number in own.keys() & other.keys() if own[number] != other[number]]
    if different:
        first = min(different)
        raise UsageError(
            f"{name} cannot draft for {target}: their tokenizers differ (token {first} is {own[first]!r} in the one, "
            f"{other[first]!r} in the other, and {len(different) - 1} more); use a smaller model of the same family"
        )
    return load_runner(folder, options, kv_memory_share=_DRAFT_KV_MEMORY_SHARE)


def load_draft_source(
    text: str,
    codec: HubCodec,
    options: LoadOptions,
    target: str,
    rule: Rule,
    target_seconds: Callable[[int], float],
) -> DraftModel:
    """The draft source "draft-model:``text``".

    Args:
        codec, options, target: see ``load_draft_model``.
        rule: what verifies its drafts.
        target_seconds: of a target forward of so many rows; asked when drafting begins.

    Raises:
        UsageError: the text is not as ``DraftOptions`` has it; and see ``load_draft_model``.
    """
    asked = DraftOptions.parse(text)
    return DraftModel(
        load_draft_model(asked.model, codec, options, target),
        shape=asked.shape,
        length=asked.length,
        target_seconds=target_seconds,
        stop=asked.stop,
        ngram=asked.ngram,
        coupled=rule.couples,
        on_demand=rule.draws != "any",
        vocab_size=1 + max(codec.backend.get_vocab().values()),
    )


def _tokens_by_id(codec: HubCodec) -> dict[int, str]:
    return {number: token for token, number in codec.backend.get_vocab().items()}


def load_runner(
    folder: Path,
    options: LoadOptions,
    *,
    kv_memory_share: float | None = None,
    load: Callable[..., PreTrainedModel] | None = None,
) -> ModelRunner:
    """The model in a folder. Its KV pool takes ``kv_memory_share`` of the free memory, if ``options`` do not say: by
    default a quarter on a CPU, whose memory others need too, and three fifths on a CUDA device, where what is left is
    for activations, logits and recorded forwards. ``load`` reads the weights instead of ``load_model``.

    Raises:
        OutOfKV: there is no memory for a pool of that size.
    """
    device, dtype, kv_tokens, quantize, threads = options
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        where = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device must be auto, cpu, cuda or cuda:N, got {device!r}") from error
    if where.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees no CUDA device; use --device cpu")
    if dtype != "auto" and dtype not in _DTYPES:
        raise UsageError(f"dtype must be one of auto, {', '.join(_DTYPES)}, got {dtype!r}")
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1, got {threads}")
    watch = CoreWatch()
    chosen = _DTYPES[dtype] if dtype != "auto" else _natural_dtype(where)
    model = (load or load_model)(folder, dtype=chosen, device=where)
    if kv_tokens is not None and kv_tokens < 16:
        raise UsageError(f"kv_tokens must be at least 16, got {kv_tokens}")
    if where.type == "cpu":
        torch.set_num_threads(threads or watch.free_cores())
        if (kernels := native_kernels()) is not None:
            kernels.set_threads(torch.get_num_threads())
    share = _KV_MEMORY_SHARE[_kind(where)] if kv_memory_share is None else kv_memory_share
    num_slots = (kv_tokens or _default_kv_tokens(model, where, share)) + 1  # one slot is scratch
    try:
        return ModelRunner(model, num_slots=num_slots, quantize=quantize)
    except torch.OutOfMemoryError as error:
        raise OutOfKV(f"no memory for {num_slots - 1} KV tokens beside the weights; pass fewer kv_tokens") from error


def _kind(device: torch.device) -> str:
    return "cuda" if device.type == "cuda" else "cpu"


def _natural_dtype(device: torch.device) -> torch.dtype:
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if can_pack(torch.bfloat16, device) else torch.float32


def _default_kv_tokens(model: PreTrainedModel, device: torch.device, share: float) -> int:
    config = model.config.get_text_config()
    layers, _, kv_heads, head_dim = kv_shape(config, 1)
    per_token = KVPool.bytes_per_token(layers, kv_heads, head_dim, model.dtype)
    tokens = int(_free_memory(device) * share) // per_token
    if tokens < 256:
        raise OutOfKV(f"memory for {tokens} KV tokens is left beside the weights; free some, or pass kv_tokens")
    return min(tokens, _MAX_DEFAULT_KV_TOKENS[_kind(device)])


def _free_memory(device: torch.device) -> int:
    """Bytes that could be had on the device now."""
    if device.type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # held by torch, used by nobody
        return int(torch.cuda.mem_get_info(device)[0]) + int(idle)
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: a quarter of 8 GiB is a safe guess
        return 8 << 30


def _eos_token_ids(folder: Path, tokenizer: Any) -> list[int]:
    """End-of-sequence ids: generation_config, else config, else the tokenizer's."""
    for name in ("generation_config.json", "config.json"):
        ids = read_json(folder / name).get("eos_token_id")
        if ids is not None:
            return list(ids) if isinstance(ids, list) else [int(ids)]
    return [] if tokenizer.eos_token_id is None else [int(tokenizer.eos_token_id)]

"""From what the user calls a model to a folder, and from a folder to a tokenizer and a transformers model."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.errors import ModelError, ModelNotFound, UnknownName, UsageError
from reason.models.cache import MANIFEST, Cache
from reason.models.catalogue import CATALOGUE, DEFAULT_CPU, DEFAULT_CUDA, ModelEntry
from reason.models.hub import cached_snapshot, snapshot, tokenizer_snapshot
from reason.models.install import pull, pull_gguf
from reason.models.progress import Progress
from reason.models.sources.hub import hub_problem

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ResolvedModel",
    "default_model",
    "load_backbone",
    "load_model",
    "load_tokenizer",
    "read_json",
    "read_weights",
    "resolve",
    "resolve_tokenizer",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ResolvedModel:
    """A model whose files are on this machine.

    ``name`` is what the user called it, in the catalogue's spelling; ``entry`` is None for everything else than
    catalogue models.
    """

    name: str
    folder: Path
    entry: ModelEntry | None = None


def resolve(
    name: str | os.PathLike[str] | None = None,
    *,
    pull: bool = True,
    cache: Cache | None = None,
    progress: Progress | None = None,
) -> ResolvedModel:
    """Find a model, and get it if need be.

    Args:
        name: a catalogue name, a folder in transformers format, a GGUF file, or a hub repository ("owner/name");
            looked for in this order. None is ``default_model()``.
        pull: False only looks at what is on this machine.
        cache: the user's by default.
        progress: bars on stderr by default.

    Raises:
        UnknownName: it is none of these.
        ModelError: it cannot be had; see ``pull`` and ``hub.snapshot``.
    """
    text = os.fspath(name) if name is not None else default_model()
    if found := CATALOGUE.get(text.lower()):
        return ResolvedModel(found.name, _catalogue_folder(found, pull, cache or Cache.default(), progress), found)
    path = _path_of(text)
    if path.is_dir():
        return ResolvedModel(text, _checked_folder(path))
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise UsageError(f"{path} is neither a .gguf file nor a folder in transformers format")
        return ResolvedModel(text, pull_gguf(path, cache=cache, progress=progress, convert_missing=pull))
    if text.lower().endswith(".gguf"):
        raise ModelNotFound(f"there is no file {path}")
    if _HUB_ID.fullmatch(text):
        return ResolvedModel(text, snapshot(text, pull=pull))
    raise _unknown(text)


def resolve_tokenizer(name: str | os.PathLike[str]) -> Path:
    """The folder of a model's tokenizer, for a model that runs elsewhere. Weights are fetched only where the tokenizer
    is in the same file (catalogue names); otherwise as ``resolve``."""
    text = os.fspath(name)
    path = _path_of(text)
    if text.lower() not in CATALOGUE:
        if path.is_dir():
            return path
        if not path.exists() and _HUB_ID.fullmatch(text) and not text.lower().endswith(".gguf"):
            return tokenizer_snapshot(text)
    return resolve(text).folder


def default_model() -> str:
    """The model for users who name none.

    With a GPU ``DEFAULT_CUDA``, if it is cached or the hub can be reached; else ``DEFAULT_CPU``.
    """
    import torch

    if torch.cuda.is_available() and (cached_snapshot(DEFAULT_CUDA) is not None or hub_problem() is None):
        return DEFAULT_CUDA
    return DEFAULT_CPU


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``.

    What we converted is read from tokenizer.json as it stands: ``AutoTokenizer`` goes by the model's type, may rebuild
    the tokenizer as another class, and takes twice as long (Qwen: 0.9 s against 0.5 s; the ids are the same).
    """
    import transformers

    classes: Any = transformers  # its tokenizers are not typed
    config = read_json(folder / "tokenizer_config.json")
    tokenizer: PreTrainedTokenizerBase
    if (folder / MANIFEST).is_file() and config.get("tokenizer_class") in _GENERIC:
        template = folder / "chat_template.jinja"
        tokenizer = classes.PreTrainedTokenizerFast(
            tokenizer_file=str(folder / "tokenizer.json"),
            chat_template=template.read_text(encoding="utf-8") if template.is_file() else None,
            **{key: value for key, value in config.items() if key in _TOKENIZER_ARGUMENTS},
        )
        return tokenizer
    try:
        tokenizer = classes.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{folder} has no tokenizer that can be loaded: {_in_a_line(error)}") from error
    return tokenizer


_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_TOKENIZER_ARGUMENTS = (
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "model_max_length",
    "clean_up_tokenization_spaces",
)


def load_model(folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The causal language model in ``folder``, ready for inference: eval mode, no gradients.

    On CPU the weights stay memory-mapped, so that a second process on the machine shares them.
    """
    model, _ = _pretrained(folder, "a causal language model", dtype=dtype)
    return _ready(model, device)


def load_backbone(folder: Path, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> PreTrainedModel:
    """The decoder of a checkpoint with another head (sequence or token classification, a value head), as a causal
    language model: its hidden states are the checkpoint's, its logits mean nothing, for its own head is its embeddings.

    Raises:
        ModelError: it cannot be loaded, or some of the decoder's weights are not there.
    """
    from transformers import AutoConfig

    try:
        config: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelError(f"{folder} has no configuration that can be read: {_in_a_line(error)}") from error
    for each in (config, config.get_text_config()):
        each.tie_word_embeddings = True  # no weights of its own for the head
    model, found = _pretrained(folder, "a decoder", dtype=dtype, config=config)
    if missing := sorted(found["missing_keys"]):
        count = len(missing)
        raise ModelError(f"{folder} lacks {count} weights of a {config.model_type} decoder, {missing[0]} the first")
    return _ready(model, device)


def read_weights(folder: Path, prefixes: Iterable[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint whose names begin with one of ``prefixes``, by name.

    Raises:
        ModelError: the folder has no safetensors weights.
    """
    from safetensors import safe_open

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(f"{folder} has no *.safetensors weights")
    wanted, found = tuple(prefixes), {}
    for file in files:
        with safe_open(file, framework="pt") as weights:
            names: list[str] = weights.keys()
            found.update({name: weights.get_tensor(name) for name in names if name.startswith(wanted)})
    return found


def _pretrained(folder: Path, what: str, **options: Any) -> tuple[Any, dict[str, Any]]:
    """A causal language model, and what was found missing or left over."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    make_model: Any = AutoModelForCausalLM
    bars: Any = logging  # untyped
    shown, verbosity = bars.is_progress_bar_enabled(), bars.get_verbosity()
    bars.disable_progress_bar()  # it lasts a fraction of a second
    if "config" in options:
        bars.set_verbosity_error()  # a head that is left over is no news
    try:
        loaded: tuple[Any, dict[str, Any]] = make_model.from_pretrained(
            folder,
            low_cpu_mem_usage=True,
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=False,  # left open, transformers asks on the terminal whether to run a checkpoint's code
            **options,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # what is wrong with a folder surfaces as anything, from any of three libraries
        raise ModelError(f"{folder} cannot be loaded as {what}: {_in_a_line(error)}") from error
    finally:
        bars.set_verbosity(verbosity)
        if shown:
            bars.enable_progress_bar()
    return loaded


def _ready(model: Any, device: torch.device | str) -> PreTrainedModel:
    ready: PreTrainedModel = model.to(device).eval().requires_grad_(False)
    return ready


def _catalogue_folder(entry: ModelEntry, may_pull: bool, cache: Cache, progress: Progress | None) -> Path:
    if may_pull:
        return pull(entry, cache=cache, progress=progress)
    if found := cache.find(entry.name):
        return found
    raise ModelNotFound(f"{entry.name} is not in the cache {cache.root}; `reason models pull {entry.name}` gets it")


def _checked_folder(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    if files := sorted(path.glob("*.gguf")):
        raise UsageError(f"{path} has no config.json, but GGUF files: pass one of them, for example {files[0]}")
    raise UsageError(f"{path} has no config.json: a model folder holds config.json, *.safetensors and tokenizer files")


def _in_a_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__


def _path_of(name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~name, of nobody here
        return Path(name)


def _unknown(text: str) -> UnknownName:
    error = UnknownName("model", text, CATALOGUE)
    error.args = (
        f"{error} A folder in transformers format, a .gguf file and a hub repository (owner/name) are models, too.",
    )
    return error


def read_json(path: Path) -> dict[str, Any]:
    """What a file of a model's folder says; nothing where there is none.

    Raises:
        ModelError: it is torn, or no JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object")
    return content

"""Models of the hub, in the hub client's own cache, which other tools share."""

from __future__ import annotations

import contextlib
import json
import sys
from contextlib import nullcontext
from pathlib import Path

from reason.errors import DiskFull, ModelNotFound
from reason.models.catalogue import CATALOGUE
from reason.models.sources.hub import explain, hub_problem, quiet_hub
from reason.models.sources.protocol import disk_failed

__all__ = ["cached_snapshot", "snapshot", "tokenizer_snapshot"]

_TOKENIZER = ["config.json", "generation_config.json", "tokenizer*", "special_tokens_map.json", "added_tokens.json"]
_TOKENIZER += ["vocab*", "merges.txt", "*.jinja"]
_TOKENS = ["tokenizer.json", "tokenizer.model*", "vocab*", "merges.txt"]  # any of them
_WANTED = ["*.safetensors", "*.safetensors.index.json", *_TOKENIZER]
_NOT = ["*/*", "consolidated*", "adapter_*"]  # other formats and copies, in folders and under other names


def snapshot(repo: str, *, pull: bool = True) -> Path:
    """The folder with weights, config and tokenizer of a hub repository.

    What is cached and complete is used without asking the hub, so that a cached model starts offline and fast.

    Raises:
        ModelNotFound: not cached, and not allowed or not possible to get; says what to do.
    """
    if (cached := cached_snapshot(repo)) is not None:
        return cached
    if not pull:
        raise ModelNotFound(f"{repo} is not in the hub cache; `reason models pull {repo}` gets it")
    folder = _download(repo, _WANTED)
    if not _complete(folder):
        raise ModelNotFound(f"{repo} on the model hub has no config.json with safetensors weights.\n{_advice(repo)}")
    return folder


def tokenizer_snapshot(repo: str) -> Path:
    """The folder with the tokenizer of a hub repository, whose weights are not fetched; otherwise as ``snapshot``."""
    from huggingface_hub import snapshot_download

    with contextlib.suppress(Exception):  # "not cached", and every way of saying so
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=_TOKENIZER, ignore_patterns=_NOT))
        if _has_tokenizer(folder):
            return folder
    return _download(repo, _TOKENIZER)


def _download(repo: str, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    if problem := hub_problem():
        raise ModelNotFound(f"{repo} is not cached, and the model hub: {problem}.\n{_advice(repo)}")
    try:
        with nullcontext() if sys.stderr.isatty() else quiet_hub():
            return Path(snapshot_download(repo, allow_patterns=patterns, ignore_patterns=_NOT))
    except Exception as error:  # the hub client passes on whatever its HTTP library raises
        if disk_failed(error):
            raise DiskFull(f"the model hub's cache (HF_HOME) has no room for {repo}: {explain(error)}") from error
        raise ModelNotFound(f"{repo} cannot be had from the model hub: {explain(error)}\n{_advice(repo)}") from error


def cached_snapshot(repo: str) -> Path | None:
    """The folder of a repository that is cached and complete; asks nobody."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repo, local_files_only=True, allow_patterns=_WANTED, ignore_patterns=_NOT))
    except Exception:  # "not cached", and every way of saying so
        return None
    return folder if _complete(folder) and _has_tokenizer(folder) else None


def _has_tokenizer(folder: Path) -> bool:
    """Whether the tokenizer itself is there: other tools that share the cache may have fetched the weights alone."""
    return any(any(folder.glob(pattern)) for pattern in _TOKENS)


def _complete(folder: Path) -> bool:
    """Whether all weights that the folder speaks of are there."""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return all((folder / file).is_file() for file in files)
    return any(folder.glob("*.safetensors"))


def _advice(repo: str) -> str:
    lines = [f"There is no folder {repo} here, so the name was taken for a hub repository. What you can do:"]
    for entry in CATALOGUE.values():
        if entry.hub_repo is not None and entry.hub_repo.lower() == repo.lower():
            lines.append(f"  - pass --model {entry.name}: the same model, quantised, with another source")
    lines.append("  - go online, or log in with `hf auth login` if the repository asks for it, and try again")
    lines.append(f"  - pass --model with a catalogue name: {', '.join(CATALOGUE)}")
    lines.append("  - pass --model FOLDER (transformers format) or --model FILE.gguf")
    return "\n".join(lines)

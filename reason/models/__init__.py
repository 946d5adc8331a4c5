"""Where weights come from: a small catalogue, downloads with checksums, GGUF to safetensors, loading.

Importing this package is cheap; torch, transformers and the hub client are imported by the functions that need them.
"""

from __future__ import annotations

from reason.models.cache import Cache
from reason.models.catalogue import (
    CATALOGUE,
    DEFAULT_CPU,
    DEFAULT_CUDA,
    EMBEDDING_MODELS,
    EmbeddingEntry,
    ModelEntry,
    ModelFile,
    entry,
)
from reason.models.convert import convert_gguf
from reason.models.install import pull, pull_embedding, pull_gguf
from reason.models.load import ResolvedModel, default_model, load_model, load_tokenizer, resolve
from reason.models.progress import Progress
from reason.models.sources import HubFile, IndexPart, IndexParts, LocalFile, Source, SourceUnavailable

__all__ = [
    "CATALOGUE",
    "DEFAULT_CPU",
    "DEFAULT_CUDA",
    "EMBEDDING_MODELS",
    "Cache",
    "EmbeddingEntry",
    "HubFile",
    "IndexPart",
    "IndexParts",
    "LocalFile",
    "ModelEntry",
    "ModelFile",
    "Progress",
    "ResolvedModel",
    "Source",
    "SourceUnavailable",
    "convert_gguf",
    "default_model",
    "entry",
    "load_model",
    "load_tokenizer",
    "pull",
    "pull_embedding",
    "pull_gguf",
    "resolve",
]

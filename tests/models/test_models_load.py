"""What users may call a model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from reason.errors import ModelError, ModelNotFound, UnknownName, UsageError
from reason.models import (
    CATALOGUE,
    DEFAULT_CPU,
    DEFAULT_CUDA,
    default_model,
    entry,
    load_model,
    load_tokenizer,
    resolve,
)
from reason.models import load as load_module
from tests.tiny import byte_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def test_catalogue_names_have_no_case() -> None:
    assert entry("SmolLM2-135M-Instruct").name == "smollm2-135m-instruct"
    with pytest.raises(UnknownName, match=r"Did you mean 'smollm2-135m-instruct'\?"):
        entry("smollm2-135m")


def test_the_catalogue_is_consistent() -> None:
    for name, model in CATALOGUE.items():
        assert name == model.name == name.lower()
        assert len(model.sha256) == 64
        assert model.sources
    assert DEFAULT_CPU in CATALOGUE


def test_the_default_needs_no_hub_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_model() == DEFAULT_CPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(load_module, "cached_snapshot", lambda repo: None)
    monkeypatch.setattr(load_module, "hub_problem", lambda: "not reachable")
    assert default_model() == DEFAULT_CPU
    monkeypatch.setattr(load_module, "hub_problem", lambda: None)
    assert default_model() == DEFAULT_CUDA
    monkeypatch.setattr(load_module, "hub_problem", lambda: "not reachable")
    monkeypatch.setattr(load_module, "cached_snapshot", lambda repo: Path(repo))
    assert default_model() == DEFAULT_CUDA


def test_a_catalogue_model_that_is_not_here() -> None:
    with pytest.raises(ModelNotFound, match="reason models pull smollm2-135m-instruct"):
        resolve("SmolLM2-135M-Instruct", pull=False)


def test_a_gguf_file_and_the_folder_that_it_becomes(tiny_gguf: Path) -> None:
    found = resolve(tiny_gguf)
    assert found.name == str(tiny_gguf)
    assert found.entry is None
    again = resolve(str(found.folder))
    assert again.folder == found.folder
    assert load_tokenizer(again.folder).eos_token == "<|im_end|>"
    assert load_model(again.folder, dtype=torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        (
            "qwen2.5-coder-0.5b",
            UnknownName,
            "Did you mean 'qwen2.5-coder-0.5b-instruct'.*folder.*gguf.*owner/name",
        ),
        ("missing.gguf", ModelNotFound, "no file missing.gguf"),
        ("./missing/deep/folder", UnknownName, "Known: "),
    ],
)
def test_what_is_no_model(
    name: str, error: type[Exception], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        resolve(name)


def test_folders_and_files_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no config\.json"):
        resolve(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    with pytest.raises(UsageError, match=r"pass one of them.*a\.gguf"):
        resolve(tmp_path)
    with pytest.raises(ModelError, match=r"a\.gguf cannot be read"):
        resolve(tmp_path / "a.gguf")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UsageError, match="neither"):
        resolve(tmp_path / "notes.txt")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    folder = resolve(tmp_path).folder
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(folder, dtype=torch.float32)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", b""),
        ("model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{}"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "x"}'),
        ("config.json", b'{"model_type": "llama", "hidden_size": 24, "num_attention_heads": 2}'),
        ("tokenizer.json", b"{"),
    ],
)
def test_a_damaged_folder_says_so(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path, file: str, content: bytes
) -> None:
    """As an interrupted copy leaves it."""
    tiny_model("llama").save_pretrained(tmp_path)
    byte_tokenizer().save_pretrained(tmp_path)
    load_model(tmp_path, dtype=torch.float32)
    load_tokenizer(tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ModelError, match=re.escape(str(tmp_path))):
        load_tokenizer(tmp_path) if file == "tokenizer.json" else load_model(tmp_path, dtype=torch.float32)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_torn_json_file_says_so(tmp_path: Path, content: str) -> None:
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(ModelError, match=r"generation_config\.json"):
        load_module.read_json(tmp_path / "generation_config.json")


def test_a_folder_of_nobody() -> None:
    with pytest.raises(UnknownName, match="nosuchuser"):
        resolve("~nosuchuser/deep/model")


def test_a_checkpoints_own_code_never_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is anybody asked whether it may."""
    asked: list[str] = []

    def agree(prompt: str = "") -> str:
        asked.append(prompt)
        return "y"

    monkeypatch.setattr("builtins.input", agree)
    ran = tmp_path / "ran"
    (tmp_path / "own.py").write_text(f"from pathlib import Path\nPath({str(ran)!r}).touch()\n", encoding="utf-8")
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model", "AutoTokenizer": ["own.Tokenizer", None]}
    content = json.dumps({"model_type": "of-its-own", "auto_map": own, "tokenizer_class": "OwnTokenizer"})
    for name in ("config.json", "tokenizer_config.json"):
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_model(tmp_path, dtype=torch.float32)
    with pytest.raises(ModelError, match="no tokenizer that can be loaded"):
        load_tokenizer(tmp_path)
    assert not ran.exists()
    assert not asked


def test_a_hub_repository_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REASON_OFFLINE", "1")
    with pytest.raises(ModelNotFound, match=r"owner/name is not cached.*REASON_OFFLINE(.|\n)*FILE\.gguf"):
        resolve("owner/name")


def test_importing_is_light(child_environment: dict[str, str]) -> None:
    code = """
import sys, reason.models
print(sorted({"torch", "transformers", "huggingface_hub", "numpy", "rich", "filelock"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], env=child_environment, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_public_names() -> None:
    import reason.models

    assert all(hasattr(reason.models, name) for name in reason.models.__all__)

"""Repositories in the hub's cache: what is whole, and what somebody else left."""

from __future__ import annotations

from pathlib import Path

import pytest

from reason.errors import ModelNotFound
from reason.models import hub

SHA = "0" * 40


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a repository that has weights."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "hub_problem", lambda: "it is not asked here")
    home = tmp_path / "models--acme--tiny"
    (home / "refs").mkdir(parents=True)
    (home / "refs" / "main").write_text(SHA)
    folder = home / "snapshots" / SHA
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer.model", "vocab.json"])
def test_weights_without_a_tokenizer_are_half_a_model(cached: Path, file: str) -> None:
    assert hub.cached_snapshot("acme/tiny") is None
    with pytest.raises(ModelNotFound, match="it is not asked here"):
        hub.tokenizer_snapshot("acme/tiny")
    (cached / file).write_text("{}")
    assert hub.cached_snapshot("acme/tiny") == cached
    assert hub.tokenizer_snapshot("acme/tiny") == cached

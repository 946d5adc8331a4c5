"""Fixtures for the whole suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# No deadlines: one slow example on a busy machine is not a failure. The same examples in every run of the CI.
settings.register_profile("suite", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _tested_device() -> Iterator[None]:
    """``REASON_TEST_DEVICE=cuda`` has runners take their models to that device, so that what is tested of engines and
    of what calls them is tested there."""
    named = os.environ.get("REASON_TEST_DEVICE")
    if named is None:
        yield
        return
    from reason.runtime.runner import ModelRunner

    make: Any = ModelRunner.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelRunner, "__init__", lambda self, model, **options: make(self, model.to(named), **options))
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of evaluation data: ``REASON_DATA``, or ``shared/data`` beside the repository. Skips without one."""
    named = os.environ.get("REASON_DATA")
    folder = Path(named) if named else ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no evaluation data: {folder} is not a folder; set REASON_DATA to where it is")
    return folder


@pytest.fixture(scope="session")
def fixtures_dir() -> Path:
    """Small data files that come with the tests."""
    return ROOT / "tests" / "fixtures"


@pytest.fixture(scope="session")
def isolation() -> None:
    """Skips where programs cannot be isolated."""
    from reason.sandbox import SandboxUnavailable, check_sandbox

    try:
        check_sandbox()
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Torch computes on one thread: more only get in each other's way in tiny models."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small random model with a byte-level tokenizer and no chat template."""
    from tests.tiny import byte_tokenizer, random_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    byte_tokenizer().save_pretrained(folder)
    model = random_model("llama", vocab_size=264, max_position_embeddings=4096, eos_token_id=256, pad_token_id=None)
    model.save_pretrained(folder)
    return folder

"""Draft models' runners, and one thread for what computes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from reason.runtime.runner import ModelRunner
from tests.speculate.draft_models import VOCAB, MakeRunner, make_model


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Some of what is here computes."""


@pytest.fixture
def make_runner() -> Iterator[MakeRunner]:
    """Runners whose forests must be whole when the test is over."""
    runners: list[ModelRunner] = []

    def make(seed: int = 0, *, kv_tokens: int = 2048, vocab: int = VOCAB, **options: Any) -> ModelRunner:
        runners.append(ModelRunner(make_model(seed, vocab), num_slots=kv_tokens + 1, **options))
        return runners[-1]

    yield make
    for runner in runners:
        runner.forest.check_integrity()
        assert runner.forest.locked_tokens == 0

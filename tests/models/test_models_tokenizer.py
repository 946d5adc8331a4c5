"""Tokenizers built from GGUF metadata split text as their publishers' do."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from reason.models import load_tokenizer, pull_gguf

Build = Callable[[str], Any]


@pytest.fixture
def build(tiny_model: Callable[..., Any], write_gguf: Callable[..., Path]) -> Build:
    return lambda pre: load_tokenizer(pull_gguf(write_gguf(tiny_model("qwen2"), pre=pre)))


def _pieces(tokenizer: Any, text: str) -> list[str]:
    pieces: list[str] = tokenizer.convert_ids_to_tokens(tokenizer.encode(text))
    return pieces


@pytest.mark.parametrize(
    ("pre", "pieces"),
    [
        ("gpt-2", ["hell", "o", "Ġ", "Ġ", "12", "3"]),
        ("smollm", ["hell", "o", "ĠĠ", "1", "2", "3"]),  # digits alone, so that both spaces come before them
        ("qwen2", ["hell", "o", "Ġ", "Ġ", "1", "2", "3"]),
        ("llama-bpe", ["hell", "o", "Ġ", "Ġ", "12", "3"]),
    ],
)
def test_splitting(pre: str, pieces: list[str], build: Build) -> None:
    assert _pieces(build(pre), "hello  123")[-len(pieces) :] == pieces


def test_special_tokens(build: Build) -> None:
    tokenizer = build("qwen2")
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == tokenizer.bos_token == "<|endoftext|>"
    assert _pieces(tokenizer, "he<|im_end|><tool_call>") == ["he", "<|im_end|>", "<tool_call>"]
    assert tokenizer.decode(tokenizer.encode("he<|im_end|><tool_call>"), skip_special_tokens=True) == "he<tool_call>"
    assert len(tokenizer) == 256 + 7 + 3 + 1  # without the padding of the embedding
    assert tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False).endswith("he<|im_end|>\n")


def test_text_survives(build: Build) -> None:
    qwen, gpt = build("qwen2"), build("gpt-2")

    @settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.text())
    def check(text: str) -> None:
        assert qwen.decode(qwen.encode(text)) == unicodedata.normalize("NFC", text)
        assert gpt.decode(gpt.encode(text)) == text

    check()


def test_same_as_through_transformers(tiny_model: Callable[..., Any], write_gguf: Callable[..., Path]) -> None:
    folder = pull_gguf(write_gguf(tiny_model("qwen2")))
    usual: Any = AutoTokenizer
    usual = usual.from_pretrained(folder)
    ours = load_tokenizer(folder)
    for text in ("hello  123 12", "e\u0301 <|im_end|>\n\n x", "he'll 'LL", "\u00a0 \u3000he"):
        assert ours.encode(text) == usual.encode(text)
    message = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(message) == usual.apply_chat_template(message)


def test_families_that_we_do_not_build_go_through_transformers(build: Build) -> None:
    tokenizer = build("some-new-name")
    assert tokenizer.decode(tokenizer.encode("hello world")) == "hello world"

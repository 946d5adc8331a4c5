"""The catalogue's real models. Needs them in the cache: `reason models pull NAME`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reason.models import Cache, entry, load_model, load_tokenizer

pytestmark = pytest.mark.weights
NAMES = ("qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct", "smollm2-135m-instruct")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads than free cores make a forward ten times slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    name: str = request.param
    found = Cache.default().find(name)
    if found is None:
        pytest.skip(f"{name} is not cached; `reason models pull {name}` gets it")
    return found


def _traces(data: Path) -> list[tuple[str, list[int]]]:
    path = data / "traces" / "aime24_long_traces.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        samples = [sample for line in file for sample in json.loads(line)["samples"]]
    return [(sample["text"], sample["token_ids"]) for sample in samples[::6]]


@pytest.mark.parametrize("folder", NAMES[:1], indirect=True)
def test_qwen_token_ids_are_the_published_ones(folder: Path, data_dir: Path) -> None:
    """Against streams made with Qwen's own vocabulary file, by other code."""
    tokenizer = load_tokenizer(folder)
    for text, token_ids in _traces(data_dir):
        assert tokenizer.encode(text, add_special_tokens=False) == token_ids


@pytest.mark.parametrize("folder", NAMES[:1], indirect=True)
def test_qwen_vocabulary_is_the_published_one(folder: Path, data_dir: Path) -> None:
    import base64

    from transformers.convert_slow_tokenizer import bytes_to_unicode

    path = data_dir / "tokenizer" / "qwen.tiktoken.gz"
    untyped: Any = bytes_to_unicode
    spelling = untyped()
    vocabulary: dict[str, int] = load_tokenizer(folder).get_vocab()
    lines = gzip.decompress(path.read_bytes()).splitlines()
    for line in lines:
        token, rank = line.split()
        assert vocabulary["".join(spelling[byte] for byte in base64.b64decode(token))] == int(rank)
    assert len(vocabulary) == len(lines) + 22  # control and tool tokens


@pytest.mark.parametrize("folder", NAMES, indirect=True)
def test_it_speaks(folder: Path) -> None:
    tokenizer: Any = load_tokenizer(folder)
    model: Any = load_model(folder, dtype=torch.bfloat16)
    question = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    tokens = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(tokens)
    ends = entry(folder.name).eos_token_ids
    assert list(model.generation_config.eos_token_id) == list(ends)
    assert tokenizer.eos_token_id == ends[0]

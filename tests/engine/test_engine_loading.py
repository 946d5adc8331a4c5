"""From a model folder to an engine."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import PreTrainedModel

from reason.engine import loading
from reason.engine.local import LocalEngine
from reason.errors import OutOfKV, ReasonError, UsageError
from reason.types import Engine, Request, Sampling

if TYPE_CHECKING:
    from tests.engine.conftest import Finish


@pytest.fixture
def folder(references: dict[str, PreTrainedModel], tokenizer: Any, tmp_path: Path) -> Path:
    references["qwen2"].save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def load(folder: Path) -> Iterator[Callable[..., LocalEngine]]:
    engines: list[LocalEngine] = []

    def make(**options: Any) -> LocalEngine:
        engines.append(LocalEngine.load(folder, **{"device": "cpu", "threads": 1, **options}))
        return engines[-1]

    yield make
    for engine in engines:
        engine.check_integrity()
        engine.close()


async def test_a_loaded_engine_is_the_model(
    load: Callable[..., LocalEngine], finish: Finish, greedy: Callable[..., tuple[int, ...]], tokenizer: Any
) -> None:
    engine = load(dtype="float32", kv_tokens=200)
    assert isinstance(engine, Engine)
    assert engine.name == "tiny"
    assert engine.max_positions == 200
    assert engine.codec.eos_token_ids == {tokenizer.eos_token_id}
    prefix = engine.codec.encode_chat([{"role": "user", "content": "what is the price?"}])
    assert engine.codec.decode(prefix) == "user\nwhat is the price?\nassistant\n"
    request = Request(prefix=prefix, sampling=Sampling(temperature=0.0), max_tokens=12, ignore_eos=True)
    (done,) = await finish(engine, [request])
    assert done.token_ids == greedy(prefix, 12, "qwen2")


async def test_what_the_config_says_goes(folder: Path, load: Callable[..., LocalEngine]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 9}))
    (folder / "generation_config.json").unlink(missing_ok=True)
    engine = load(dtype="float32", kv_tokens=4096, name="mine")
    assert engine.name == "mine"
    assert engine.codec.eos_token_ids == {9}
    assert engine.max_positions == 512  # of the model
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    assert load(dtype="float32", kv_tokens=64).codec.eos_token_ids == {7, 8}


async def test_the_natural_dtype_runs(load: Callable[..., LocalEngine], finish: Finish) -> None:
    engine = load(kv_tokens=100)
    (done,) = await finish(engine, [Request(prefix=(1, 2, 3), max_tokens=5, ignore_eos=True)])
    assert len(done.token_ids) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"dtype": "float64"}, "dtype must be one of auto, bfloat16, float32, float16, got 'float64'"),
        ({"kv_tokens": 15}, "kv_tokens must be at least 16, got 15"),
        ({"kv_tokens": -1}, "kv_tokens must be at least 16, got -1"),
        ({"quantize": "int3"}, "int3"),
    ],
)
def test_options_that_are_not_allowed(load: Callable[..., LocalEngine], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load(**options)


def test_no_cuda(load: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="torch sees no CUDA device"):
        load(device="cuda")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ReasonError):
        LocalEngine.load(tmp_path / "nothing", device="cpu")


def test_the_default_pool_fits_the_memory(load: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    per_token = 2 * 2 * 2 * 16 * 4  # k and v, layers, heads, head size, float32
    monkeypatch.setattr(loading, "_free_memory", lambda device: 4 * per_token * 300)
    assert load(dtype="float32").max_positions == 300
    monkeypatch.setattr(loading, "_free_memory", lambda device: per_token * 300)
    with pytest.raises(OutOfKV, match="memory for 75 KV tokens is left"):
        load(dtype="float32")


def test_a_device_with_memory_of_its_own_has_a_larger_share_and_no_small_limit(
    references: dict[str, PreTrainedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    per_token = 2 * 2 * 2 * 16 * 4  # k and v, layers, heads, head size, float32
    monkeypatch.setattr(loading, "_free_memory", lambda device: per_token * 1_000_000)
    shares = loading._KV_MEMORY_SHARE
    tokens = {
        kind: loading._default_kv_tokens(references["qwen2"], torch.device(kind), shares[kind]) for kind in shares
    }
    assert tokens == {"cpu": 131_072, "cuda": 600_000}


def test_a_pool_that_cannot_be_had_is_out_of_kv(
    load: Callable[..., LocalEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(loading, "ModelRunner", refuse)
    with pytest.raises(OutOfKV, match="no memory for 500 KV tokens"):
        load(dtype="float32", kv_tokens=500)

"""A tiny random model with a real byte-level tokenizer, engines over it, and transformers' own results."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from reason.engine.codec import HubCodec
from reason.engine.local import LocalEngine
from reason.runtime.runner import ModelRunner
from reason.types import Completion, Path, Request

VOCAB = 400  # more than the tokenizer has, as in Qwen's checkpoints
EOS = "<|im_end|>"
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] not in ('system', 'user', 'assistant') %}{{ raise_exception('no such role') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = (
    "the answer is seventeen, because three times four is twelve and five more make it seventeen.",
    "what is the number of apples that remain when some of the nine are given to her sister and another is eaten?",
    "let x be the price of one ticket; then the whole price is 12 times x, which comes to 144 in total.",
    "step by step: first add, then multiply, then divide and compare the remainder with the other one.",
)
MODEL_TYPES = ("llama", "qwen2")

MakeEngine = Callable[..., LocalEngine]
MakePrompts = Callable[..., list[Path]]
Finish = Callable[[LocalEngine, Sequence[Request]], Awaitable[list[Completion]]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    spelling = Tokenizer(models.BPE())
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB - 20,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    spelling.train_from_iterator(CORPUS, trainer)
    make_fast: Any = PreTrainedTokenizerFast  # untyped
    fast = make_fast(tokenizer_object=spelling, eos_token=EOS, pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def codec(tokenizer: Any) -> HubCodec:
    return HubCodec(tokenizer, [tokenizer.eos_token_id])


@pytest.fixture(scope="session")
def references() -> dict[str, PreTrainedModel]:
    """Random models in float32, by type. Engines get copies; these stay transformers' own."""
    made: dict[str, PreTrainedModel] = {}
    for model_type in MODEL_TYPES:
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            model_type,
            vocab_size=VOCAB,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
        make_model: Any = AutoModelForCausalLM
        model: Any = make_model.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():
                weight.copy_(torch.randn_like(weight) * 0.15 + (weight.dim() == 1))
        made[model_type] = model.eval()
    return made


@pytest.fixture(scope="session")
def rows(references: dict[str, PreTrainedModel]) -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Transformers' (logits [len, vocab], final hidden states [len, hidden]) of a whole path."""

    @torch.inference_mode()
    def run(path: Sequence[int], model_type: str = "llama") -> tuple[torch.Tensor, torch.Tensor]:
        model: Any = references[model_type]
        hidden = model.get_decoder()(input_ids=torch.tensor([list(path)])).last_hidden_state[0]
        return model.get_output_embeddings()(hidden), hidden

    return run


@pytest.fixture(scope="session")
def greedy(references: dict[str, PreTrainedModel]) -> Callable[..., Path]:
    """What ``model.generate`` continues a path with."""

    def run(path: Sequence[int], count: int, model_type: str = "llama") -> Path:
        model: Any = references[model_type]
        ids = torch.tensor([list(path)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count)
        return tuple(out[0, len(path) :].tolist())

    return run


@pytest.fixture(scope="session")
def prompts(codec: HubCodec) -> MakePrompts:
    """Different prompts: pieces of the corpus."""

    def make(count: int, length: int = 12) -> list[Path]:
        tokens = codec.encode(" ".join(CORPUS))
        assert count + length <= len(tokens)
        return [tokens[i : i + length] for i in range(count)]

    return make


@pytest.fixture(scope="session")
def open_engine(references: dict[str, PreTrainedModel], codec: HubCodec) -> MakeEngine:
    """An engine that the caller checks and closes."""

    def make(
        *,
        kv_tokens: int = 4096,
        max_running: int = 256,
        max_rows: int = 512,
        model_type: str = "llama",
        max_positions: int | None = None,
        eos: Sequence[int] | None = None,
    ) -> LocalEngine:
        model = copy.deepcopy(references[model_type])
        runner = ModelRunner(model, num_slots=kv_tokens + 1, max_positions=max_positions)
        text = codec if eos is None else HubCodec(codec.tokenizer, eos)
        return LocalEngine(runner, text, name="tiny", max_running=max_running, max_rows=max_rows)

    return make


@pytest.fixture
def make_engine(open_engine: MakeEngine) -> Iterator[MakeEngine]:
    """Engines whose KV forest is checked when the test is over, and which must have nothing left to do."""
    engines: list[LocalEngine] = []

    def make(**options: Any) -> LocalEngine:
        engines.append(open_engine(**options))
        return engines[-1]

    yield make
    for engine in engines:
        try:
            engine.check_integrity()
            assert engine._closing or engine._loop.idle, "work left over"
        finally:
            engine.close()


@pytest.fixture(scope="session")
def finish() -> Finish:
    """All completions of some requests, in the requests' order."""

    async def run(engine: LocalEngine, requests: Sequence[Request]) -> list[Completion]:
        async def collect() -> list[Completion]:
            return [completion async for completion in engine.generate(requests)]

        done = await asyncio.wait_for(collect(), 60)
        assert sorted(c.index for c in done) == list(range(len(requests)))
        return sorted(done, key=lambda completion: completion.index)

    return run

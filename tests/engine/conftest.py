"""A tiny random model with a real byte-level tokenizer, engines over it that draft or do not, and transformers' own
results."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from reason.engine.codec import HubCodec
from reason.engine.local import LocalEngine
from reason.runtime.runner import ModelRunner
from reason.speculate.draft import Source
from reason.speculate.policy import Policy
from reason.types import Completion, Path, Request
from tests.engine.drafts import MANY, WORDS, Compare, MakeDrafting, assert_same, speculator_of
from tests.tiny import random_model

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
def _one_thread(one_thread: None) -> None:
    """Everything here computes."""


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
    return {model_type: random_model(model_type, vocab_size=VOCAB, scale=0.15) for model_type in MODEL_TYPES}


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
        beside: LocalEngine | None = None,
    ) -> LocalEngine:
        model = copy.deepcopy(references[model_type])
        runner = ModelRunner(model, num_slots=kv_tokens + 1, max_positions=max_positions)
        text = codec if eos is None else HubCodec(codec.tokenizer, eos)
        return LocalEngine(runner, text, name="tiny", max_running=max_running, max_rows=max_rows, beside=beside)

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
            assert engine._closed or engine._loop.idle, "work left over"
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


# -- engines that draft ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def talker(references: dict[str, PreTrainedModel]) -> PreTrainedModel:
    """A model of few words, each of which depends on the last ones mostly: it repeats itself, as models do."""
    model: Any = copy.deepcopy(references["llama"])
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 2.0  # the first coordinate stays what it is
        model.model.norm.weight[0] = 1.0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.5)
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        model.lm_head.weight.mul_(2.0)
        model.lm_head.weight[:, 0] = -30.0  # so that what is no word is never said
        model.lm_head.weight[list(WORDS), 0] = 0.0
    return cast("PreTrainedModel", model)


@pytest.fixture
def make_drafting(talker: PreTrainedModel, codec: HubCodec, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDrafting]:
    """Engines of the talker, with nothing locked and nothing left over in the end. Rows cost nothing and the clock is
    not looked at, so that what is drafted is the same each time; unless ``live``."""
    engines: list[LocalEngine] = []

    def make(
        draft: str | Source = MANY,
        *,
        rule: str = "coupled",
        policy: str | Policy = "auto",
        kv_tokens: int = 4096,
        eos: Sequence[int] | None = None,
        max_positions: int | None = None,
        live: bool = False,
        **options: Any,
    ) -> LocalEngine:
        speculator = speculator_of(draft, rule, policy)
        if speculator is not None:
            speculator.times.set({1: 1e-3, 100: 1e-3})
            if not live:
                monkeypatch.setattr(speculator, "account", lambda **counts: None)
        runner = ModelRunner(copy.deepcopy(talker), num_slots=kv_tokens + 1, max_positions=max_positions)
        text = codec if eos is None else HubCodec(codec.tokenizer, eos)
        engines.append(LocalEngine(runner, text, name="talker", speculator=speculator, **options))
        return engines[-1]

    yield make
    for engine in engines:
        try:
            engine.check_integrity()
            assert engine._loop.idle, "work left over"
            assert engine._loop.runner.forest.locked_tokens == 0
        finally:
            engine.close()


@pytest.fixture
def compare(make_drafting: MakeDrafting, finish: Finish) -> Compare:
    """Gives requests to an engine that drafts and to one that does not, and holds them to the same completions. Returns
    the one that drafts, which is made by ``options`` or given; it must have had drafts accepted."""

    async def run(
        requests: Sequence[Request], engine: LocalEngine | None = None, *, accepts: bool = True, **options: Any
    ) -> LocalEngine:
        kept = {name: options[name] for name in ("eos", "max_positions") if name in options}
        expected = await finish(make_drafting("none", **kept), requests)
        engine = engine or make_drafting(**options)
        before, usage = engine.stats(), engine.usage("p")
        done = await finish(engine, requests)
        assert_same(done, expected)
        after, row = engine.stats(), engine.usage("p")
        assert row.policy_tokens - usage.policy_tokens == sum(len(c.token_ids) for c in done)
        accepted = row.accepted_tokens - usage.accepted_tokens
        assert accepted == after.accepted - before.accepted
        assert accepted == sum(bool(name) for c in done for name in c.proposers)
        assert all(len(c.proposers) in (0, len(c.token_ids)) for c in done)
        assert row.drafted_tokens - usage.drafted_tokens == after.drafted - before.drafted >= accepted
        if accepts:
            assert accepted > 0
        engine.check_integrity()
        return engine

    return run

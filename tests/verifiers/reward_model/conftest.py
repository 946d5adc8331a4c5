"""Tiny random reward models in each published format, saved as checkpoints, and what transformers' own classes say
in one forward over the text that the originals tokenise as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedTokenizerFast,
)

from reason.types import Problem, Step, Trajectory
from reason.verifiers.reward_model import ProcessRewardModel

QUESTION = "What is 3 * (4 + 2), and what remains of it when 5 are taken away?"
STEPS = (
    "First add: 4 + 2 = 6.",
    "Then multiply: 3 * 6 = 18,\nwhich is less than 20.",
    "Take 5 away:\n  18 - 5 = 13",
    "So the answer is \\boxed{13}.",
)
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TAG, GOOD, BAD = 12902, 648, 387  # of peiyi9979/math-shepherd-mistral-7b-prm

MakeVerifier = Callable[..., ProcessRewardModel]


class Reference(NamedTuple):
    """``ids`` of the whole text; ``places`` where its steps are scored; their ``scores``."""

    ids: list[int]
    places: list[int]
    scores: list[float]


class Kind(NamedTuple):
    """A published format: its key, its checkpoint, and what the original makes of a question and steps."""

    format: str
    folder: Path
    refer: Callable[[str, Sequence[str]], Reference]


@pytest.fixture(scope="session", autouse=True)
def _one_thread(one_thread: None) -> None:
    """Everything here computes."""


def make_tokenizer() -> Any:
    """Byte-level BPE, as Llama-3 and Qwen have it, that splits text as Qwen's does."""
    split = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    spelling = Tokenizer(models.BPE())
    spelling.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    spelling.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<extra_0>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        show_progress=False,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    spelling.train_from_iterator(
        [QUESTION, *STEPS, "a step.\n\nanother step.\n\n", "user\nassistant\nsystem\n"], trainer
    )
    make_fast: Any = PreTrainedTokenizerFast
    fast = make_fast(tokenizer_object=spelling, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    fast.chat_template = TEMPLATE
    return fast


def make_spm_tokenizer() -> Any:
    """SentencePiece BPE with byte fallback, as Mistral has it, with Math-Shepherd's tags in their places."""
    pieces = ["▁+", "▁-", "▁ки", "ки", "St", "ep", "Step", "▁Step"]
    merges = [("▁", "+"), ("▁", "-"), ("к", "и"), ("▁", "ки"), ("S", "t"), ("e", "p"), ("St", "ep"), ("▁", "Step")]
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    vocab |= {"▁+": GOOD, "▁-": BAD, "▁ки": TAG}
    wanted = [*"▁ки", *(chr(code) for code in range(33, 127)), *pieces]
    free = iter(number for number in range(259, TAG) if number not in (GOOD, BAD))
    for piece in wanted:
        if piece not in vocab:
            vocab[piece] = next(free)
    vocab |= {f"<fill {number}>": number for number in free}
    spelling = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    spelling.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spelling.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    spelling.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    make_fast: Any = PreTrainedTokenizerFast
    return make_fast(tokenizer_object=spelling, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def make_model(make: Any, model_type: str, vocab_size: int, **changes: Any) -> Any:
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }
    torch.manual_seed(7)
    model = make.from_config(AutoConfig.for_model(model_type, **fields | changes))
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.15 + (weight.dim() == 1))
    return model.eval()


def save(model: Any, tokenizer: Any, folder: Path, extra: dict[str, torch.Tensor] | None = None, **config: Any) -> Path:
    """A checkpoint, with further weights and another class name where the format has them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if extra:
        file = folder / "model.safetensors"
        save_file(load_file(file) | extra, file, metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return folder


@torch.inference_mode()
def states(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Final hidden states, [len, hidden_size]."""
    found: torch.Tensor = model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True).hidden_states[-1][0]
    return found


@torch.inference_mode()
def logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0]
    return found


def math_shepherd(root: Path) -> Kind:
    tokenizer = make_spm_tokenizer()
    model = make_model(AutoModelForCausalLM, "mistral", TAG + 1, sliding_window=None)
    folder = save(model, tokenizer, root / "math-shepherd-mistral")

    def refer(question: str, steps: Sequence[str]) -> Reference:
        text = "\n".join(f"Step {i}: {step} ки" for i, step in enumerate(steps, 1))
        ids = tokenizer.encode(f"{question} {text}")
        places = [i for i, token in enumerate(ids) if token == TAG]
        return Reference(ids, places, logits(model, ids)[places][:, [GOOD, BAD]].softmax(-1)[:, 0].tolist())

    return Kind("math-shepherd", folder, refer)


def rlhflow(root: Path) -> Kind:
    tokenizer = make_tokenizer()
    model = make_model(AutoModelForCausalLM, "llama", len(tokenizer))
    folder = save(model, tokenizer, root / "llama3.1-8b-prm-deepseek-data")
    good, bad = (tokenizer.encode(word)[-1] for word in "+-")

    def refer(question: str, steps: Sequence[str]) -> Reference:
        turns: list[dict[str, str]] = []
        places = []
        for i, step in enumerate(steps):
            turns += [{"role": "user", "content": step if i else f"{question} {step}"}]
            turns += [{"role": "assistant", "content": "+"}]
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            ids = tokenizer.encode(text, add_special_tokens=False)
            places.append(len(ids) - 4)  # before "+", the turn's end and a line break, which Llama's template has not
        return Reference(ids, places, logits(model, ids)[places][:, [good, bad]].softmax(-1)[:, 0].tolist())

    return Kind("rlhflow", folder, refer)


def skywork(root: Path) -> Kind:
    tokenizer = make_tokenizer()
    tokenizer.bos_token = "<|endoftext|>"
    model = make_model(AutoModelForCausalLM, "qwen2", len(tokenizer))
    weight, bias = torch.randn(1, 64) * 0.1, torch.tensor([0.3])
    extra = {"v_head.summary.weight": weight, "v_head.summary.bias": bias}
    folder = save(model, tokenizer, root / "skywork", extra, architectures=["Qwen2ForPrmModel"])

    def refer(question: str, steps: Sequence[str]) -> Reference:
        ids = tokenizer.encode(tokenizer.bos_token + question + "\n")
        mark = tokenizer.encode("\n")[-1]
        places = []
        for step in steps:
            for line in step.split("\n"):
                ids = [*ids, *tokenizer.encode(line), mark]
            places.append(len(ids) - 1)
        values = states(model, ids)[places] @ weight[0] + bias
        return Reference(ids, places, values.sigmoid().tolist())

    return Kind("skywork-o1", folder, refer)


def qwen_prm(root: Path) -> Kind:
    tokenizer = make_tokenizer()
    model = make_model(AutoModelForCausalLM, "qwen2", len(tokenizer))
    last = torch.nn.Linear(64, 2)
    head = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), last)
    with torch.no_grad():
        last.weight.copy_(torch.randn_like(last.weight) * 0.3)  # so that scores differ
    extra = {f"score.{name}": weight.clone() for name, weight in head.state_dict().items()}
    code = {"AutoModel": "modeling_qwen2_rm.Qwen2ForProcessRewardModel", "AutoConfig": "configuration.Qwen2RMConfig"}
    folder = save(model, tokenizer, root / "qwen", extra, architectures=["Qwen2ForProcessRewardModel"], auto_map=code)
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"]  # it has none
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    def refer(question: str, steps: Sequence[str]) -> Reference:
        turns = [
            {"role": "system", "content": "Please reason step by step, and put your final answer within \\boxed{}."},
            {"role": "user", "content": question},
            {"role": "assistant", "content": "<extra_0>".join(steps) + "<extra_0>"},
        ]
        ids = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False))
        places = [i for i, token in enumerate(ids) if token == tokenizer.encode("<extra_0>")[0]]
        with torch.inference_mode():
            return Reference(ids, places, head(states(model, ids)[places]).softmax(-1)[:, 1].tolist())

    return Kind("qwen2.5-math-prm", folder, refer)


def token_classes(root: Path) -> Kind:
    tokenizer = make_spm_tokenizer()  # whose every text begins with a space
    model = make_model(AutoModelForTokenClassification, "llama", TAG + 1, num_labels=2)
    folder = save(model, tokenizer, root / "tokens")

    def refer(question: str, steps: Sequence[str]) -> Reference:
        ids = [tokenizer.bos_token_id, *tokenizer.encode(question, add_special_tokens=False)]
        places = []
        for step in steps:
            ids += tokenizer.encode(step, add_special_tokens=False) + tokenizer.encode("\n", add_special_tokens=False)
            places.append(len(ids) - 1)
        return Reference(ids, places, logits(model, ids)[places].softmax(-1)[:, 1].tolist())

    return Kind("token-classification", folder, refer)


def sequence_classes(root: Path) -> Kind:
    tokenizer = make_tokenizer()
    model = make_model(AutoModelForSequenceClassification, "qwen2", len(tokenizer), num_labels=1)
    folder = save(model, tokenizer, root / "sequences")

    def refer(question: str, steps: Sequence[str]) -> Reference:
        scores = []
        for count in range(1, len(steps) + 1):
            turns = [{"role": "user", "content": question}]
            turns += [{"role": "assistant", "content": "\n\n".join(steps[:count])}]
            ids = tokenizer.encode(tokenizer.apply_chat_template(turns, tokenize=False))
            scores.append(logits(model, ids).sigmoid().item())
        return Reference(ids, [len(ids) - 1], scores)

    return Kind("sequence-classification", folder, refer)


KINDS = {make.__name__: make for make in (math_shepherd, rlhflow, skywork, qwen_prm, token_classes, sequence_classes)}


@pytest.fixture(scope="session")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    """A format's checkpoint and reference by name, made once."""
    root, made = tmp_path_factory.mktemp("reward-models"), dict[str, Kind]()

    def get(name: str) -> Kind:
        if name not in made:
            made[name] = KINDS[name](root)
        return made[name]

    return get


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest, kinds: Callable[[str], Kind]) -> Kind:
    return kinds(request.param)


@pytest.fixture
def make_prm() -> Iterator[MakeVerifier]:
    """Reward models in float32, whose KV forests are checked when the test is over."""
    made: list[ProcessRewardModel] = []

    def make(kind: Kind, **fields: Any) -> ProcessRewardModel:
        settings: dict[str, Any] = {"dtype": "float32", "kv_tokens": 4096, "threads": 1, **fields}
        verifier = ProcessRewardModel(model=str(kind.folder), **settings)
        made.append(verifier)
        return verifier

    yield make
    for verifier in made:
        try:
            verifier.load().engine.check_integrity()
        finally:
            verifier.close()


def trajectory(*steps: str, question: str = QUESTION) -> Trajectory:
    """Steps as a search makes them: all but the last keep their delimiter."""
    texts = [f"{step}\n\n" for step in steps[:-1]] + list(steps[-1:])
    return Trajectory(
        problem=Problem(content=question), prompt=(1,), steps=tuple(Step(text=t, tokens=()) for t in texts)
    )

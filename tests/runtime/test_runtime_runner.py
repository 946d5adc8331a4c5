"""The packed forward against transformers' own eager forward over whole sequences."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
import torch

from reason.errors import UnsupportedModel, UsageError
from reason.runtime import backbone
from reason.runtime.backbone import FusedBackbone, HubBackbone
from reason.runtime.forest import Branch
from reason.runtime.runner import ModelRunner, RowPlanner, kv_shape

MakeModel = Callable[..., Any]
ATOL = 1e-4


class Case(NamedTuple):
    """A model and the window that its sequences must outgrow, if it has one."""

    model_type: str
    changes: dict[str, Any]


LLAMA_FAMILY = {
    "llama": Case("llama", {}),
    "llama with biases": Case("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama tied": Case("llama", {"tie_word_embeddings": True}),
    "llama one head a key": Case("llama", {"num_key_value_heads": 4}),
    "llama one key head": Case("llama", {"num_key_value_heads": 1}),
    "llama wide heads": Case("llama", {"head_dim": 32}),
    "mistral windowed": Case("mistral", {"sliding_window": 5}),
    "mistral unlimited": Case("mistral", {"sliding_window": None}),
    "qwen2": Case("qwen2", {}),
    "qwen2 windowed above": Case("qwen2", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}),
    "qwen3": Case("qwen3", {}),
    "qwen3 windowed above": Case("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
}
GEMMA3 = {
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention"],
    "query_pre_attn_scalar": 8,
    "head_dim": 16,
}
HUB_ONLY = {
    "gemma3": Case("gemma3_text", GEMMA3),
    "gemma3 soft-capped": Case("gemma3_text", GEMMA3 | {"final_logit_softcapping": 4.0}),
    "phi3": Case("phi3", {}),
    "mixtral": Case("mixtral", {"num_local_experts": 4}),
}
CASES = [(name, kind) for name in LLAMA_FAMILY for kind in ("fused", "hub")] + [(name, "hub") for name in HUB_ONLY]
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 32},
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has every model run through transformers' own layers."""
    return lambda: monkeypatch.setattr(backbone, "_LLAMA_FAMILY", frozenset())


@pytest.fixture
def runner(make_model: MakeModel) -> ModelRunner:
    return ModelRunner(make_model("llama"), num_slots=256)


@pytest.fixture(autouse=True)
def _sound() -> Iterator[None]:
    """After each test: every forest that it made is intact."""
    made: list[ModelRunner] = []
    original = ModelRunner.__init__

    def remember(self: ModelRunner, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelRunner, "__init__", remember)
        yield
    for runner in made:
        runner.forest.check_integrity()


def sequence(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, 96, (length,), generator=generator).tolist()


def eager(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """transformers' logits of the whole sequence, [len(tokens), vocab]."""
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([list(tokens)], device=model.device)).logits[0]
    return logits


def last_logits(runner: ModelRunner, branch: Branch) -> torch.Tensor:
    return runner.forward([branch]).logits([branch])[0]


def decode(runner: ModelRunner, tokens: Sequence[int], prompt: int) -> torch.Tensor:
    """Prefill of ``tokens[:prompt]``, then one token at a time: logits [len(tokens) - prompt + 1, vocab]."""
    branch = runner.forest.open(tokens[:prompt])
    rows = [last_logits(runner, branch)]
    for token in tokens[prompt:]:
        runner.forest.append(branch, token)
        rows.append(last_logits(runner, branch))
    runner.forest.close(branch)
    return torch.stack(rows)


def assert_close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=ATOL, rtol=0)


# -- equal to transformers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_prefill_and_decode_equal_the_eager_forward(
    name: str, kind: str, make_model: MakeModel, hub: Callable[[], None]
) -> None:
    model_type, changes = (LLAMA_FAMILY | HUB_ONLY)[name]
    if kind == "hub":
        hub()
    model = make_model(model_type, **changes)
    reference = copy.deepcopy(model)
    runner = ModelRunner(model, num_slots=64)
    assert type(runner.backbone) is {"fused": FusedBackbone, "hub": HubBackbone}[kind]
    tokens = sequence(24)
    expected = eager(reference, tokens)
    assert float(expected.std()) > 0.1, "flat logits would prove nothing"
    assert_close(decode(runner, tokens, prompt=11), expected[10:])


@pytest.mark.parametrize("kind", ["fused", "hub"])
@pytest.mark.parametrize("rope", ROPES)
def test_scaled_rope_is_right(rope: str, kind: str, make_model: MakeModel, hub: Callable[[], None]) -> None:
    if kind == "hub":
        hub()
    tokens = sequence(90)  # beyond the original 32 positions
    plain = eager(make_model("llama"), tokens)
    model = make_model("llama", rope_parameters={"rope_theta": 10000.0, **ROPES[rope]})
    expected = eager(model, tokens)
    assert float((expected - plain).abs().max()) > 0.1, "the scaling must make a difference to be tested"
    assert_close(decode(ModelRunner(model, num_slots=128), tokens, prompt=80), expected[79:])


@pytest.mark.parametrize(
    ("model_type", "rope"),
    [
        ("llama", {"rope_type": "dynamic", "factor": 2.0}),
        (
            "phi3",
            {
                "rope_type": "longrope",
                "short_factor": [1.0] * 4,
                "long_factor": [2.0] * 4,
                "original_max_position_embeddings": 64,
            },
        ),
    ],
)
def test_rope_that_moves_with_the_length_is_refused(
    model_type: str, rope: dict[str, Any], make_model: MakeModel
) -> None:
    model = make_model(model_type, rope_parameters={"rope_theta": 10000.0, **rope}, original_max_position_embeddings=64)
    weights = [weight.shape for weight in model.parameters()]
    with pytest.raises(UnsupportedModel, match=str(rope["rope_type"])):
        ModelRunner(model, num_slots=64)
    assert [weight.shape for weight in model.parameters()] == weights, "a refused model stays whole"


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("granite", {"logits_scaling": 4.0, "embedding_multiplier": 2.0, "residual_multiplier": 0.5}),
        ("cohere", {"logit_scale": 0.25}),
        ("gemma2", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
        ("gpt_oss", {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 5}),
        ("stablelm", {}),
        ("olmo2", {}),
        ("phi", {}),
        ("gpt2", {"n_embd": 32, "n_head": 4, "n_layer": 2, "num_key_value_heads": 4}),
        ("llama", {"hidden_act": "gelu"}),
        # A state of their own beside KV, or none of our attention.
        ("lfm2", {"layer_types": ["conv", "full_attention"], "block_dim": 32, "block_ff_dim": 48}),
        ("falcon_h1", {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8}),
        ("mamba", {"state_size": 8}),
        ("bloom", {"n_head": 4, "n_layer": 2}),
        ("gptj", {"n_embd": 32, "n_head": 4, "n_layer": 2, "rotary_dim": 8}),
    ],
)
def test_any_other_model_runs_exactly_or_is_refused(
    model_type: str, changes: dict[str, Any], make_model: MakeModel
) -> None:
    """Never wrong logits without a word: what a model does beside the common layers is computed or refused."""
    model = make_model(model_type, **changes)
    reference = copy.deepcopy(model)
    tokens = sequence(16)
    try:
        got = decode(ModelRunner(model, num_slots=64), tokens, prompt=8)
    except UnsupportedModel:
        return
    assert_close(got, eager(reference, tokens)[7:])


def test_dropout_is_off_even_if_the_model_was_training(make_model: MakeModel) -> None:
    model = make_model("phi", resid_pdrop=0.5, embd_pdrop=0.5, attention_dropout=0.5)
    expected = eager(model, sequence(10))
    runner = ModelRunner(model.train(), num_slots=64)
    assert_close(decode(runner, sequence(10), prompt=5), expected[4:])


def test_a_device_changes_nothing(make_model: MakeModel, device: torch.device) -> None:
    tokens = sequence(24)
    model = make_model("qwen3").to(device)
    expected = eager(model, tokens)
    assert_close(decode(ModelRunner(model, num_slots=64), tokens, prompt=11), expected[10:])


# -- batches, sharing, chunks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["fused", "hub"])
@pytest.mark.parametrize("name", ["llama", "mistral windowed", "qwen3 windowed above"])
def test_branches_in_one_forward_equal_each_alone(
    name: str, kind: str, make_model: MakeModel, hub: Callable[[], None]
) -> None:
    if kind == "hub":
        hub()
    model_type, changes = LLAMA_FAMILY[name]
    model = make_model(model_type, **changes)
    reference = copy.deepcopy(model)
    runner = ModelRunner(model, num_slots=256)
    stem = sequence(14)
    paths = [
        stem,
        stem[:9] + sequence(1, seed=1),
        stem[:9] + sequence(20, seed=2),
        stem + sequence(3, seed=3),
        sequence(5, seed=4),
        sequence(1, seed=5),
    ]
    branches = [runner.forest.open(path) for path in paths]
    for _ in range(4):
        logits = runner.forward(branches).logits(branches)
        for row, path in zip(logits, paths, strict=True):
            assert_close(row, eager(reference, path)[-1])
        for branch, path in zip(branches, paths, strict=True):
            path.append((7 * len(path)) % 96)
            runner.forest.append(branch, path[-1])


def test_prompts_that_part_at_their_last_token(runner: ModelRunner, make_model: MakeModel) -> None:
    """Each last token is a run of its own, and what they share is still to be computed."""
    stem = sequence(8)
    branches = [runner.forest.open([*stem, token]) for token in (5, 6, 7)]
    logits = runner.forward(branches).logits(branches)
    expected = [eager(make_model("llama"), [*stem, token])[-1] for token in (5, 6, 7)]
    assert_close(logits, torch.stack(expected))


def test_shared_and_unshared_prefixes_give_the_same_logits(runner: ModelRunner) -> None:
    paths = [sequence(12) + sequence(4, seed=seed) for seed in (1, 2, 3)]
    together = [runner.forest.open(path) for path in paths]
    apart = [runner.forest.open(path, namespace=i) for i, path in enumerate(paths)]
    shared, unshared = (runner.forward(group).logits(group) for group in (together, apart))
    assert_close(shared, unshared)


@pytest.mark.parametrize("limit", [1, 3, 7, 100])
def test_a_prefill_in_chunks_equals_one_at_once(limit: int, make_model: MakeModel) -> None:
    """Two prompts share a stem; a third branch decodes beside them. No forward exceeds the limit by more than the
    rows that were wanted whatever the limit."""
    runner = ModelRunner(make_model("mistral", sliding_window=6), num_slots=256)
    reference = make_model("mistral", sliding_window=6)
    stem = sequence(15)
    paths = [stem + sequence(6, seed=1), stem + sequence(9, seed=2), stem[:4]]
    branches = [runner.forest.open(path) for path in paths]
    waiting = dict(enumerate(branches))
    for _ in range(200):
        planner = RowPlanner(limit)
        ready = [i for i, branch in waiting.items() if planner.add_last(branch)]
        assert planner.rows, "no progress"
        assert len(planner.rows) <= limit + len(branches)
        assert (planner.room == 0) or len(ready) == len(waiting)
        forward = runner.forward_rows(planner.rows)
        for i in ready:
            assert_close(forward.logits([branches[i]])[0], eager(reference, paths[i])[-1])
            del waiting[i]
        if not waiting:
            break
    assert not waiting


def test_a_cached_row_can_be_had_again(runner: ModelRunner) -> None:
    tokens = sequence(10)
    branch = runner.forest.open(tokens)
    first = last_logits(runner, branch)
    keys = [layer.clone() for layer in runner.kv.keys]
    assert_close(last_logits(runner, branch), first)
    runner.forest.close(branch)
    again = runner.forest.open(tokens[:6])
    inner = last_logits(runner, again)
    assert_close(inner, decode(runner, sequence(6), prompt=6)[0])
    for layer, before in zip(runner.kv.keys, keys, strict=True):
        # As bits, for slots that nobody has written may hold NaN.
        assert torch.equal(layer[1:].view(torch.int32), before[1:].view(torch.int32)), "cached KV was written again"


def test_branches_at_one_place_share_a_row(runner: ModelRunner) -> None:
    branch = runner.forest.open(sequence(5))
    twins = [branch, runner.forest.fork(branch), runner.forest.fork(branch)]
    forward = runner.forward(twins)
    assert forward.hidden.shape[0] == 5
    assert forward.places(twins) == ([4], [0, 0, 0])
    logits = forward.logits(twins)
    assert torch.equal(logits[0], logits[2])


def test_rows_of_logits_come_in_the_order_asked(runner: ModelRunner) -> None:
    branches = [runner.forest.open(sequence(4, seed=seed)) for seed in range(4)]
    forward = runner.forward(branches)
    logits = forward.logits(branches)
    assert torch.equal(forward.logits(branches[::-1]), logits.flip(0))
    assert_close(forward.logits([branches[2]]), logits[2:3])
    numbers = [forward.batch.row_number(branch) for branch in branches]
    assert torch.equal(forward.row_logits(numbers), logits)
    node = branches[1].node
    wanted = [(node, 1), (node, 2), (runner.forest.open(sequence(9, seed=9)).node, 0), (node, 3)]
    assert forward.known_rows(wanted) == [forward.batch.number[id(node), 1], forward.batch.number[id(node), 2]]


def test_draft_tokens_are_computed_like_any_other(runner: ModelRunner, make_model: MakeModel) -> None:
    """A tree of claims in the forward of its prompt; then one way is accepted and decoding goes on from its KV."""
    prompt = sequence(6)
    branch = runner.forest.open(prompt)
    first, second = runner.forest.claim(branch, 10), runner.forest.claim(branch, 11)
    deep = runner.forest.claim(first, 12)
    cursors = [branch, first, second, deep]
    tails = [[], [10], [11], [10, 12]]
    reference = make_model("llama")
    logits = runner.forward(cursors).logits(cursors)
    for row, tail in zip(logits, tails, strict=True):
        assert_close(row, eager(reference, prompt + tail)[-1])
    for token in (10, 12):
        runner.forest.append(branch, token)
    for claim in (first, second, deep):
        runner.forest.close(claim)
    runner.forest.append(branch, 13)
    forward = runner.forward([branch])
    assert forward.hidden.shape[0] == 1, "accepted tokens are not computed again"
    assert_close(forward.logits([branch])[0], eager(reference, [*prompt, 10, 12, 13])[-1])


def test_evicted_kv_is_computed_again(make_model: MakeModel) -> None:
    runner = ModelRunner(make_model("qwen2"), num_slots=33)
    reference = make_model("qwen2")
    for seed in (0, 1, 2, 0, 1):  # three paths of 20 do not fit 32 slots
        tokens = sequence(20, seed)
        assert_close(decode(runner, tokens, prompt=12), eager(reference, tokens)[11:])


# -- what a runner takes over --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "gemma3_text"])
def test_the_model_it_was_made_from_can_be_dropped(model_type: str, tied: bool, make_model: MakeModel) -> None:
    changes = GEMMA3 if model_type == "gemma3_text" else {}
    model = make_model(model_type, tie_word_embeddings=tied, **changes)
    expected = eager(model, sequence(12))
    layers = model.get_decoder().layers
    runner = ModelRunner(model, num_slots=64)
    if model_type != "gemma3_text":
        assert sum(weight.numel() for weight in layers.parameters()) == 0, "the layers' weights are held twice"
    del model, layers
    gc.collect()
    assert_close(decode(runner, sequence(12), prompt=6), expected[5:])


def test_positions_are_limited_by_the_config_the_caller_and_the_pool(make_model: MakeModel) -> None:
    assert ModelRunner(make_model("llama"), num_slots=1000).max_positions == 256
    assert ModelRunner(make_model("llama"), num_slots=100).max_positions == 99
    assert ModelRunner(make_model("llama"), num_slots=1000, max_positions=50).max_positions == 50


def test_the_pool_has_the_shape_of_the_model(make_model: MakeModel) -> None:
    config = make_model("gemma3_text", **GEMMA3).config
    assert kv_shape(config, 10) == (2, 10, 2, 16)
    runner = ModelRunner(make_model("llama", num_key_value_heads=1, num_hidden_layers=3), num_slots=10)
    assert [tuple(layer.shape) for layer in runner.kv.keys] == [(10, 1, 8)] * 3
    assert runner.kv.bytes_per_token(3, 1, 8, torch.bfloat16) == 2 * 3 * 8 * 2


# -- bf16 and quantised --------------------------------------------------------------------------------------------

WIDE = {"hidden_size": 128, "intermediate_size": 160, "head_dim": 64, "num_attention_heads": 4}


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.float() - exact).norm() / exact.norm())


@pytest.mark.parametrize("kind", ["fused", "hub"])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("size", ["narrow", "wide"])
def test_bf16_is_as_near_to_the_truth_as_eager_bf16(
    size: str, model_type: str, kind: str, make_model: MakeModel, hub: Callable[[], None]
) -> None:
    """Packed linears and, where the shape fits, compiled kernels: rounding may differ, but not be worse."""
    if kind == "hub":
        hub()
    changes = WIDE if size == "wide" else {}
    tokens = sequence(24)
    model = make_model(model_type, dtype=torch.bfloat16, **changes)
    exact = eager(copy.deepcopy(model).float(), tokens)[10:]
    usual = relative_error(eager(model, tokens)[10:], exact)
    ours = relative_error(decode(ModelRunner(model, num_slots=64), tokens, prompt=11), exact)
    assert ours < 1.5 * usual + 1e-3


@pytest.mark.parametrize("kind", ["fused", "hub"])
@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.06), ("int4", 0.5)])
def test_quantised_layers_stay_near(
    quantize: str, most: float, kind: str, make_model: MakeModel, hub: Callable[[], None]
) -> None:
    if kind == "hub":
        hub()
    tokens = sequence(24)
    model = make_model("qwen3", dtype=torch.bfloat16, **WIDE)
    exact = eager(copy.deepcopy(model).float(), tokens)[10:]
    runner = ModelRunner(model, num_slots=64, quantize=quantize)
    error = relative_error(decode(runner, tokens, prompt=11), exact)
    assert 1e-4 < error < most


def test_quantising_what_has_no_kernel_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UsageError, match="bfloat16"):
        ModelRunner(make_model("llama"), num_slots=64, quantize="int8")
    with pytest.raises(UsageError, match="int8 or int4"):
        ModelRunner(make_model("llama", dtype=torch.bfloat16), num_slots=64, quantize="int2")
    with pytest.raises(UsageError, match="multiples"):  # 48 inputs of the second MLP product
        ModelRunner(make_model("llama", dtype=torch.bfloat16), num_slots=64, quantize="int4")

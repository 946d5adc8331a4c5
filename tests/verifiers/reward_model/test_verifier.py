"""What incremental scoring costs, small pools, cancellation, names and mistakes."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from reason.engine.scripted import ScriptedEngine
from reason.errors import ModelError, ModelNotFound, OutOfKV, UnknownName, UsageError
from reason.search.driver import Run
from reason.search.strategies.beam import Beam
from reason.types import Budget, Engine, Problem, Trajectory, Verifier
from reason.verifiers import make_measure, make_verifier
from reason.verifiers.reward_model import ProcessRewardModel
from tests.verifiers.reward_model.conftest import QUESTION, STEPS, Kind, MakeVerifier, trajectory

ENGINE = ScriptedEngine(["x"])
DEPTH = 10

Kinds = Callable[[str], Kind]


def sentence(*numbers: int) -> str:
    """A step of some length, another for other numbers."""
    return (
        f"Take {'.'.join(map(str, numbers))} of them, which makes {sum(numbers)} and leaves the others where they are."
    )


class Watched:
    """A verifier that notes what it is asked."""

    name = "watched"
    statistics = False
    top_logprobs = None
    probability = True

    def __init__(self, inner: ProcessRewardModel) -> None:
        self.inner = inner
        self.asked: list[Trajectory] = []
        self.owner = ""

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        self.asked += trajectories
        self.owner = owner
        return await self.inner.score(trajectories, engine, owner)


async def test_a_beam_of_ten_steps_costs_a_fraction_of_scoring_paths_again(kind: Kind, make_prm: MakeVerifier) -> None:
    def script(prefix: str) -> list[str]:
        steps = prefix.rpartition("<assistant>")[2].count("\n\n")
        end = "\\boxed{1}" if steps == DEPTH - 1 else "\n\n"
        return [f"{sentence(steps, i)}{end}" for i in range(8)]

    verifier = make_prm(kind, kv_tokens=16384)
    watched, model = Watched(verifier), verifier.load()
    run = Run(
        ScriptedEngine(script),
        Problem(content=QUESTION, equivalent=str.__eq__),
        Beam(width=8, beam_width=4, max_steps=20, verifier="watched", drop_duplicates=False),
        strategy_name="beam",
        budget=Budget(),
        seed=0,
        owner="run",
        verifiers={"watched": watched},
    )
    solution = await run.solve()
    assert solution.answer == "1"
    assert max(len(each.steps) for each in watched.asked) == DEPTH
    distinct = {model.path(each) or () for each in watched.asked}
    assert len(distinct) > 5 * DEPTH
    whole = sum(map(len, distinct))
    used = model.engine.usage(watched.owner).verifier_tokens
    assert used * 4 <= whole, f"{used} of {whole} tokens"


async def test_a_new_step_costs_its_own_tokens(kind: Kind, make_prm: MakeVerifier) -> None:
    verifier = make_prm(kind)
    model = verifier.load()
    steps = [sentence(i) for i in range(6)]
    await verifier.score([trajectory(*steps[:5])], ENGINE, "p")
    before = verifier.usage("p").verifier_tokens
    short, long = (model.path(trajectory(*steps[:count])) or () for count in (5, 6))
    await verifier.score([trajectory(*steps)], ENGINE, "p")
    new = verifier.usage("p").verifier_tokens - before
    assert len(long) - len(short) <= new <= len(long) - len(short) + 6  # the mark's row, and a turn's end
    await verifier.score([trajectory(*steps)], ENGINE, "p")
    assert verifier.usage("p").verifier_tokens - before - new <= 2
    assert verifier.usage("q").verifier_tokens == 0
    verifier.forget("p")
    await asyncio.sleep(0.05)
    assert verifier.usage("p").verifier_tokens == 0


async def test_equal_paths_are_scored_once_and_others_together(kind: Kind, make_prm: MakeVerifier) -> None:
    verifier = make_prm(kind)
    paths = [trajectory(*STEPS[:1], sentence(i)) for i in range(5)]
    alone = [(await verifier.score([path], ENGINE, "p"))[0] for path in paths]
    verifier.load().engine.drop_cache()
    together = await verifier.score([*paths, paths[0]], ENGINE, "q")
    assert together == pytest.approx([*alone, alone[0]], abs=1e-4)
    assert verifier.usage("q").verifier_tokens < verifier.usage("p").verifier_tokens + 8


async def test_a_small_pool_gives_the_same_scores(kind: Kind, make_prm: MakeVerifier) -> None:
    large = make_prm(kind)
    paths = [trajectory(*STEPS[:2], sentence(i, i)) for i in range(6)]
    expected = await large.score(paths, ENGINE, "p")
    longest = max(len(large.load().path(path) or ()) for path in paths)
    small = make_prm(kind, kv_tokens=longest + 8)
    for _ in range(2):
        assert await small.score(paths, ENGINE, "p") == pytest.approx(expected, abs=1e-4)
    assert small.usage("p").verifier_tokens > large.usage("p").verifier_tokens
    with pytest.raises(OutOfKV, match="tokens; this engine holds"):
        await small.score([trajectory(*STEPS, *(sentence(i) for i in range(9)))], ENGINE, "p")


async def test_cancelling_leaves_nothing_locked(kind: Kind, make_prm: MakeVerifier) -> None:
    verifier = make_prm(kind)
    engine = verifier.load().engine
    paths = [trajectory(*(sentence(i, k) for k in range(6))) for i in range(12)]
    for pause in (0.0, 0.005, 0.02):
        task = asyncio.ensure_future(verifier.score(paths, ENGINE, "p"))
        await asyncio.sleep(pause)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (score,) = await verifier.score(paths[:1], ENGINE, "p")
    assert engine._loop.idle
    assert engine._loop.runner.forest.locked_tokens == 0
    engine.drop_cache()
    assert await verifier.score(paths[:1], ENGINE, "p") == pytest.approx([score], abs=1e-4)


async def test_closing_and_loading_again(kinds: Kinds, make_prm: MakeVerifier) -> None:
    verifier = make_prm(kinds("qwen_prm"))
    first = verifier.load()
    assert replace(verifier).load() is first  # shared by equal verifiers
    (score,) = await verifier.score([trajectory(*STEPS)], ENGINE, "p")
    verifier.close()
    verifier.close()
    assert verifier.usage("p").verifier_tokens == 0
    assert await verifier.score([trajectory(*STEPS)], ENGINE, "p") == pytest.approx([score], abs=1e-5)
    assert verifier.load() is not first


# -- heads ---------------------------------------------------------------------------------------------------------


async def test_activations_and_labels(kinds: Kinds, make_prm: MakeVerifier) -> None:
    path = [trajectory(*STEPS)]
    sequence, tokens = kinds("sequence_classes"), kinds("token_classes")
    (value,) = await make_prm(sequence, activation="none").score(path, ENGINE, "p")
    (sigmoid,) = await make_prm(sequence).score(path, ENGINE, "p")
    (unit,) = await make_prm(sequence, activation="unit").score(path, ENGINE, "p")
    assert sigmoid == pytest.approx(torch.tensor(value).sigmoid().item(), abs=1e-5)
    assert unit == pytest.approx((min(1.0, max(-1.0, value)) + 1) / 2, abs=1e-5)
    first, second = [(await make_prm(tokens, label=label).score(path, ENGINE, "p"))[0] for label in (0, 1)]
    assert first + second == pytest.approx(1.0, abs=1e-5)
    assert make_prm(sequence).probability
    assert not make_prm(sequence, activation="none").probability


async def test_bfloat16_is_close(kinds: Kinds, make_prm: MakeVerifier) -> None:
    kind = kinds("qwen_prm")
    (exact,), (rounded,) = [
        await make_prm(kind, dtype=dtype).score([trajectory(*STEPS)], ENGINE, "p") for dtype in ("float32", "bfloat16")
    ]
    assert rounded == pytest.approx(exact, abs=0.1)


# -- names and mistakes --------------------------------------------------------------------------------------------


def test_names() -> None:
    expected = ProcessRewardModel(model="some/model", format="rlhflow", kv_tokens=4096)
    assert make_verifier("prm:some/model,format=rlhflow,kv_tokens=4096") == expected
    assert make_verifier("PRM: some/model, format=rlhflow", kv_tokens=4096) == expected
    assert make_verifier("prm:model=some/model,format=rlhflow,kv_tokens=4096") == expected
    assert make_verifier("prm", model="some/model", format="rlhflow", kv_tokens=4096) == expected
    assert make_measure("prm:some/model,format=rlhflow,kv_tokens=4096") == expected
    assert isinstance(expected, Verifier)
    assert expected.name == "prm"


@pytest.mark.parametrize(
    ("name", "fields", "error", "message"),
    [
        ("prm", {}, UsageError, "prm needs its model: prm:MODEL"),
        ("prm:", {}, UsageError, "written field=value, got ''"),
        ("prm:a/b,c/d", {}, UsageError, "written field=value, got 'c/d'"),
        ("prm:a/b,model=c", {}, UsageError, "model is given twice"),
        ("prm:a/b,formt=x", {}, UnknownName, "unknown field of prm 'formt'. Did you mean 'format'"),
        ("prm:a/b,format=rlhf", {}, UnknownName, "unknown reward model format 'rlhf'. Did you mean 'rlhflow'"),
        ("prm:a/b,activation=relu", {}, UsageError, "activation must be one of auto"),
        ("prm:a/b,label=-2", {}, UsageError, "label must be at least -1"),
        ("prm", {"model": ""}, UsageError, "a reward model needs a name"),
    ],
)
def test_mistaken_names(name: str, fields: dict[str, Any], error: type[UsageError], message: str) -> None:
    with pytest.raises(error, match=message):
        make_verifier(name, **fields)


async def test_models_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for model, error, message in (
        ("no-such-model", UnknownName, "unknown model 'no-such-model'"),
        ("nobody/no-such-prm", ModelNotFound, "nobody/no-such-prm"),
        (str(tmp_path), UsageError, "has no config.json"),
    ):
        with pytest.raises(error, match=message):
            await ProcessRewardModel(model=model).score([trajectory(*STEPS)], ENGINE, "p")


@pytest.fixture
def altered(kinds: Kinds, tmp_path: Path) -> Callable[..., Kind]:
    """A copy of a checkpoint with another config, tokenizer or other weights."""

    def make(
        name: str,
        *,
        drop: str = "",
        add: dict[str, torch.Tensor] | None = None,
        template: bool = True,
        **config: Any,
    ) -> Kind:
        kind = kinds(name)
        folder = tmp_path / "model"
        shutil.copytree(kind.folder, folder)
        weights = load_file(folder / "model.safetensors")
        kept = {key: weight for key, weight in weights.items() if not drop or not key.startswith(drop)}
        save_file(kept | (add or {}), folder / "model.safetensors", metadata={"format": "pt"})
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        if not template:
            (folder / "chat_template.jinja").unlink()
        return kind._replace(folder=folder)

    return make


@pytest.mark.parametrize(
    ("name", "changes", "fields", "error", "message"),
    [
        ("qwen_prm", {"drop": "score"}, {}, ModelError, r"has no reward head \(score.weight"),
        ("qwen_prm", {"drop": "score.2.weight"}, {}, ModelError, "has no reward head .*it has score.0.bias"),
        ("qwen_prm", {"drop": "model.layers.1.mlp"}, {}, ModelError, "lacks 3 weights of a qwen2 decoder"),
        ("skywork", {"drop": "v_head.summary.w", "add": {"v_head.summary.weight": torch.ones(1, 32)}}, {},
         ModelError, r"takes \[1, 32\], not 64 values"),
        ("skywork", {"architectures": ["GPT"]}, {}, UsageError, r"how .* is to be asked \(GPT\); pass format=NAME"),
        ("qwen_prm", {"template": False}, {}, UsageError, "has no chat template"),
        ("token_classes", {}, {"format": "qwen2.5-math-prm"}, UsageError, "has no chat template"),
        ("rlhflow", {}, {"label": 1, "format": "rlhflow"}, UsageError, "compares two words"),
        ("token_classes", {}, {"label": 2}, UsageError, r"label must be in \[0, 2\), got 2"),
        ("token_classes", {"drop": "score", "add": {"score.weight": torch.ones(3, 64)}}, {}, UsageError, "3 outputs"),
        ("sequence_classes", {}, {"activation": "softmax"}, UsageError, "only output is always 1"),
        ("skywork", {}, {"dtype": "float8"}, UsageError, "dtype must be one of"),
    ],
)  # fmt: skip
async def test_what_does_not_go_together(
    altered: Callable[..., Kind],
    name: str,
    changes: dict[str, Any],
    fields: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    kind = altered(name, **changes)
    settings: dict[str, Any] = {"dtype": "float32", "kv_tokens": 256, **fields}
    verifier = ProcessRewardModel(model=str(kind.folder), **settings)
    with pytest.raises(error, match=message):
        await verifier.score([trajectory(*STEPS)], ENGINE, "p")


async def test_sequence_classifiers_without_a_chat_template(
    altered: Callable[..., Kind], make_prm: MakeVerifier
) -> None:
    kind = altered("sequence_classes", template=False)
    verifier = make_prm(kind)
    codec = verifier.load()._tokens._codec
    path = verifier.load().path(trajectory(*STEPS))
    assert path == codec.encode(f"{QUESTION}\n\n" + "\n\n".join(STEPS))
    (score,) = await verifier.score([trajectory(*STEPS)], ENGINE, "p")
    assert 0 < score < 1


async def test_sequence_classifiers_are_read_before_padding(
    altered: Callable[..., Kind], make_prm: MakeVerifier
) -> None:
    probe = altered("sequence_classes")
    last = make_prm(probe).load().path(trajectory(*STEPS)) or ()
    file = probe.folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token_id": last[-1]}))
    verifier = make_prm(probe, kv_tokens=2048)
    assert verifier.load().path(trajectory(*STEPS)) == last[:-1]
    with torch.inference_mode():
        model: Any = AutoModelForSequenceClassification.from_pretrained(probe.folder)
        expected = model(input_ids=torch.tensor([last])).logits.sigmoid().item()
    assert await verifier.score([trajectory(*STEPS)], ENGINE, "p") == pytest.approx([expected], abs=1e-4)


def test_chats_and_questions(kinds: Kinds, make_prm: MakeVerifier) -> None:
    model = make_prm(kinds("qwen_prm")).load()
    steps = trajectory(*STEPS).steps
    plain = Problem(content=QUESTION)
    chat = Problem(content=({"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}))
    wrapped = Problem(content=f"Solve this. {QUESTION} Box the answer.", question=QUESTION)
    paths = {model.path(Trajectory(problem=p, prompt=(1,), steps=steps)) for p in (plain, chat, wrapped)}
    assert len(paths) == 1

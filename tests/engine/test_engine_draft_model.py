"""A draft model in the engine: the tokens stay those of plain decoding, its KV goes, and names are checked early."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tokenizers import Tokenizer

from reason.engine import loading
from reason.engine.codec import HubCodec
from reason.engine.jobs import GenerateJob
from reason.engine.local import LocalEngine
from reason.engine.loop import EngineLoop
from reason.errors import UnknownName, UsageError
from reason.runtime.runner import ModelRunner
from reason.speculate.policy import Fixed, Goodput, Policy, wide_template
from reason.speculate.sources.draft_model import DraftModel
from reason.speculate.sources.draft_shapes import make_shape
from reason.speculate.sources.lookup import Lookup
from reason.speculate.sources.union import Union
from reason.speculate.speculator import Speculator
from reason.types import Completion, Path, Request, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tests.engine.conftest import Finish, MakePrompts

ALL_SHAPES = ["chain", "rsd-c:3,2,1", "rsd-s:3", "dyspec:16"]


@pytest.fixture(scope="module")
def models(references: dict[str, PreTrainedModel]) -> dict[str, Any]:
    """A target that is as sure of itself as trained models are, and something much like it."""
    target: Any = copy.deepcopy(references["qwen2"])
    with torch.no_grad():
        target.lm_head.weight.mul_(4.0)
        draft = copy.deepcopy(target)
        torch.manual_seed(1)
        for weight in draft.parameters():
            weight.add_(torch.randn_like(weight) * 0.03)
    return {"target": target, "draft": draft}


MakeDrafted = Callable[..., LocalEngine]


@pytest.fixture
def make_drafted(models: dict[str, Any], codec: HubCodec) -> Iterator[MakeDrafted]:
    """Engines with a draft model, in whose forests nothing is locked once nothing is in flight."""
    engines: list[tuple[LocalEngine, ModelRunner | None]] = []

    def make(
        draft: str | None = "draft",
        *,
        shape: str = "chain",
        rule: str = "coupled",
        policy: Policy | None = None,
        lookup: bool = False,
        ngram: bool = False,
        kv_tokens: int = 4096,
        draft_kv_tokens: int = 4096,
    ) -> LocalEngine:
        speculator = own = None
        if draft is not None:
            own = ModelRunner(copy.deepcopy(models[draft]), num_slots=draft_kv_tokens + 1)
            source = DraftModel(
                own,
                shape=make_shape(shape),
                length=4,
                ngram=ngram,
                coupled=rule == "coupled",
                on_demand=rule in ("without-replacement", "traversal", "iid"),
            )
            joint = Union([Lookup(), source]) if lookup else source
            speculator = Speculator(joint, rule=rule, policy=policy or Goodput(nodes=5))
        runner = ModelRunner(copy.deepcopy(models["target"]), num_slots=kv_tokens + 1)
        engines.append((LocalEngine(runner, codec, name="tiny", speculator=speculator), own))
        return engines[-1][0]

    yield make
    for engine, own in engines:
        try:
            engine.check_integrity()
            if own is not None:
                own.forest.check_integrity()
                assert own.forest.locked_tokens == 0
        finally:
            engine.close()


def requests_for(prompts: list[Path], temperature: float, *, samples: int = 1, tokens: int = 24) -> list[Request]:
    return [
        Request(
            prefix=prompt,
            seed=3,
            key=10 * i + k,
            sampling=Sampling(temperature=temperature),
            max_tokens=tokens,
            ignore_eos=True,
        )
        for i, prompt in enumerate(prompts)
        for k in range(samples)
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("samples", [1, 8])
@pytest.mark.parametrize("shape", ALL_SHAPES)
async def test_the_tokens_are_those_of_plain_decoding(
    make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish, shape: str, samples: int, temperature: float
) -> None:
    requests = requests_for(prompts(1), temperature, samples=samples)
    plain = await finish(make_drafted(None), requests)
    engine = make_drafted(shape=shape)
    assert [c.token_ids for c in await finish(engine, requests)] == [c.token_ids for c in plain]
    stats = engine.stats()
    assert stats.accepted >= 6 * samples  # of 24 tokens each
    assert stats.drafted > stats.accepted  # it is another model


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("ngram", [False, True])
async def test_what_drafts_for_itself_is_accepted_whole(
    make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish, temperature: float, ngram: bool
) -> None:
    requests = requests_for(prompts(2), temperature, samples=2, tokens=41)
    plain = await finish(make_drafted(None), requests)
    engine = make_drafted("target", policy=Fixed(tuple((0,) * depth for depth in range(1, 5))), ngram=ngram)
    assert [c.token_ids for c in await finish(engine, requests)] == [c.token_ids for c in plain]
    stats = engine.stats()
    if temperature:  # but for tokens less likely than the eight that are ranked
        assert stats.accepted >= 0.9 * stats.drafted
    else:
        assert stats.accepted == stats.drafted == 4 * 4 * 8


async def test_in_a_union_and_with_copies(make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish) -> None:
    requests = [*requests_for(prompts(3), 0.8, samples=3), *requests_for(prompts(2), 0.0)]
    plain = await finish(make_drafted(None), requests)
    engine = make_drafted(lookup=True, ngram=True, policy=Goodput(nodes=8))
    assert [c.token_ids for c in await finish(engine, requests)] == [c.token_ids for c in plain]
    assert engine.stats().accepted > 0


@pytest.mark.parametrize("rule", ["without-replacement", "traversal", "iid", "match"])
async def test_rules_that_draw(make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish, rule: str) -> None:
    policy = Fixed(wide_template(nodes=8, depth=4, width=3))
    requests = requests_for(prompts(2), 0.0, samples=2)
    plain = await finish(make_drafted(None), requests)
    engine = make_drafted(rule=rule, policy=policy)
    assert [c.token_ids for c in await finish(engine, requests)] == [c.token_ids for c in plain]
    before = engine.stats()
    assert before.accepted > 0
    sampled = requests_for(prompts(2), 0.8, samples=2)
    again = [await finish(engine, sampled) for _ in range(2)]
    assert [c.token_ids for c in again[0]] == [c.token_ids for c in again[1]]  # seeded
    assert engine.stats().accepted > before.accepted


@pytest.mark.parametrize("shape", ["chain", "rsd-s:3"])
@pytest.mark.parametrize(("kv_tokens", "draft_kv_tokens"), [(90, 4096), (4096, 60), (90, 60)])
async def test_small_pools_break_nothing(
    make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish, shape: str, kv_tokens: int, draft_kv_tokens: int
) -> None:
    requests = [
        Request(
            prefix=(300 + i, *prompt),
            key=i,
            seed=2,
            sampling=Sampling(temperature=0.8 * (i % 2)),
            max_tokens=20,
            ignore_eos=True,
        )
        for i, prompt in enumerate(prompts(6, 10))
    ]
    plain = await finish(make_drafted(None), requests)
    engine = make_drafted(shape=shape, kv_tokens=kv_tokens, draft_kv_tokens=draft_kv_tokens)
    assert [c.token_ids for c in await finish(engine, requests)] == [c.token_ids for c in plain]
    stats = engine.stats()
    assert stats.accepted > 0
    assert (stats.preemptions > 0) == (kv_tokens == 90)


async def test_a_cancelled_request_gives_up_its_drafts(make_drafted: MakeDrafted, prompts: MakePrompts) -> None:
    engine = make_drafted()

    async def first() -> None:
        async for _ in engine.generate([*requests_for(prompts(1), 0.8, tokens=3), *requests_for(prompts(2), 0.8)]):
            return

    await asyncio.wait_for(first(), 60)


@pytest.mark.parametrize("ending", ["finished", "cancelled", "failed"])
def test_nothing_in_flight_holds_no_draft_kv(
    models: dict[str, Any], codec: HubCodec, prompts: MakePrompts, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """From the moment on that nothing is; no other iteration has to come first."""
    runner, own = (ModelRunner(copy.deepcopy(models[name]), num_slots=500) for name in ("target", "draft"))
    loop = EngineLoop(runner, codec, speculator=Speculator(DraftModel(own, length=4), policy=Goodput(nodes=5)))
    done: list[Completion] = []
    (request,) = requests_for(prompts(1), 0.8)
    job = GenerateJob(request, 0, done.append)
    loop.submit(job)
    for _ in range(4):
        loop.step()
    assert own.forest.locked_tokens > 0
    if ending == "cancelled":
        loop.cancel(job)
    if ending == "failed":
        monkeypatch.setattr(runner, "forward_rows", lambda rows: 1 / 0)
    while not loop.idle:
        loop.step()
    assert len(done) == 1
    assert runner.forest.locked_tokens == own.forest.locked_tokens == 0


@pytest.mark.filterwarnings("error")
async def test_a_draft_model_that_fails_gives_up_its_kv(
    make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where warnings are errors; the requests do not notice."""
    requests = requests_for(prompts(2), 0.8)
    plain = await finish(make_drafted(None), requests)
    engine = make_drafted()
    own = engine._loop.runners()[1]
    forward, calls = own.forward_rows, iter(range(1000))

    def failing(*arguments: Any) -> Any:
        if next(calls) == 6:
            raise RuntimeError("lost")
        return forward(*arguments)

    monkeypatch.setattr(own, "forward_rows", failing)
    done = await finish(engine, requests)
    assert [c.token_ids for c in done] == [c.token_ids for c in plain]
    assert next(calls) > 6
    assert own.forest.locked_tokens == 0


async def test_the_integrity_check_looks_at_the_draft_kv_too(
    make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish
) -> None:
    engine = make_drafted()
    await finish(engine, requests_for(prompts(1), 0.8))
    forest = engine._loop.runners()[1].forest
    held = forest.open([1, 2, 3])
    with pytest.raises(AssertionError, match="KV locked with nothing in flight"):
        engine.check_integrity()
    forest.close(held)


@pytest.mark.parametrize("lookup", [False, True])
def test_closing_releases_both_models(make_drafted: MakeDrafted, lookup: bool) -> None:
    engine = make_drafted(lookup=lookup)
    runners = engine._loop.runners()
    assert len(runners) == 2
    engine.close()
    assert not any(hasattr(runner, "backbone") or hasattr(runner, "kv") for runner in runners)


@pytest.mark.parametrize(("lookup", "rule"), [(False, "coupled"), (True, "coupled"), (False, "iid")])
async def test_draft_forwards_are_on_their_owners_accounts(
    make_drafted: MakeDrafted, prompts: MakePrompts, finish: Finish, lookup: bool, rule: str
) -> None:
    """A forward counts once for each owner that had rows in it, however many requests of its had."""
    engine = make_drafted(lookup=lookup, rule=rule, policy=Fixed() if rule == "iid" else None)
    own = engine._loop.runners()[1]
    requests = [replace(request, owner="a") for request in requests_for(prompts(1), 0.8, samples=3)]
    await finish(engine, requests)
    assert engine.usage("a").draft_forwards == own.forwards > 0
    before = own.forwards
    short = [replace(request, owner="b", max_tokens=8) for request in requests_for(prompts(2), 0.8)]
    await finish(engine, [*requests, *short])
    a, b = engine.usage("a").draft_forwards - before, engine.usage("b").draft_forwards
    assert 0 < b < a <= own.forwards - before <= a + b
    if rule == "coupled":  # the first is there as long as the second is
        assert a == own.forwards - before


# -- loaded by name ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(models: dict[str, Any], tokenizer: Any, tmp_path: FilePath) -> FilePath:
    """``target`` and ``draft``; and ``stranger``, which has another tokenizer."""
    for name in ("target", "draft"):
        models[name].save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    models["draft"].save_pretrained(tmp_path / "stranger")
    numbers = tokenizer.get_vocab()
    first, second = sorted(numbers, key=numbers.__getitem__)[5:7]
    text = tokenizer.backend_tokenizer.to_str()
    for token, number in ((first, numbers[second]), (second, numbers[first])):
        assert f'"{token}":{numbers[token]}' in text
        text = text.replace(f'"{token}":{numbers[token]}', f'"{token}":{number}')
    tokenizer.__class__(tokenizer_object=Tokenizer.from_str(text), eos_token=tokenizer.eos_token).save_pretrained(
        tmp_path / "stranger"
    )
    return tmp_path


def load(folders: FilePath, draft: str, **options: Any) -> LocalEngine:
    return LocalEngine.load(
        folders / "target", device="cpu", dtype="float32", threads=1, kv_tokens=2000, draft=draft, **options
    )


@pytest.mark.parametrize(
    ("options", "rule", "policy"),
    [
        ("", "coupled", "auto"),
        ("", "coupled", "nodes:4"),
        (",shape=rsd-c:2,1,1,length=3,stop=0.8", "coupled", "fixed"),
        ("", "without-replacement", "fixed"),
    ],
)
async def test_loaded_by_name(
    folders: FilePath,
    make_drafted: MakeDrafted,
    prompts: MakePrompts,
    finish: Finish,
    options: str,
    rule: str,
    policy: str,
) -> None:
    requests = requests_for(prompts(2), 0.0 if rule != "coupled" else 0.8, samples=2)
    plain = await finish(make_drafted(None), requests)
    draft = f"draft-model:{folders / 'draft'}{options}"
    if rule == "coupled":
        draft = f"lookup+{draft}"
    engine = load(folders, draft, draft_rule=rule, draft_policy=policy)
    try:
        assert [c.token_ids for c in await finish(engine, requests)] == [c.token_ids for c in plain]
        if policy != "auto":  # else it is up to the clock
            assert engine.stats().drafted > 0
        engine.check_integrity()
    finally:
        engine.close()


def test_another_tokenizer_is_refused(folders: FilePath) -> None:
    with pytest.raises(UsageError, match="their tokenizers differ") as caught:
        load(folders, f"draft-model:{folders / 'stranger'}")
    assert f"{folders / 'stranger'} cannot draft for target" in str(caught.value)


@pytest.mark.parametrize(
    ("draft", "rule", "error"),
    [
        ("draft-model:no-such-model", "coupled", UnknownName),
        ("suffix+draft-modle:{}", "coupled", UnknownName),
        ("sufix+draft-model:{}", "coupled", UnknownName),
        ("draft-model:{},length=no", "coupled", UsageError),
        ("draft-model:{},shape=bush", "coupled", UnknownName),
        ("draft-model:{}", "coupling", UnknownName),
        ("draft-model:", "coupled", UsageError),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(
    folders: FilePath, monkeypatch: pytest.MonkeyPatch, draft: str, rule: str, error: type[Exception]
) -> None:
    loaded: list[FilePath] = []
    monkeypatch.setattr(loading, "load_model", lambda folder, **options: loaded.append(folder))
    with pytest.raises(error):
        load(folders, draft.format(folders / "draft"), draft_rule=rule)
    assert not loaded

"""Drawing and verifying on the model's device gives what the host's path gives, with one copy an iteration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from reason.engine import device_verifying
from reason.engine.codec import HubCodec
from reason.engine.drafting import Drafting
from reason.engine.jobs import GenerateJob
from reason.engine.local import LocalEngine
from reason.engine.loop import EngineLoop
from reason.engine.table_work import TableWork
from reason.errors import UsageError
from reason.runtime import device_laws
from reason.runtime.gpu.kernels import AttentionShape
from reason.runtime.gpu.work import make_work
from reason.runtime.runner import ModelRunner
from reason.runtime.transfer import Fetch
from reason.speculate.draft import Distribution, Source, State, Stream
from reason.speculate.policy import Fixed
from reason.speculate.sources.union import Union
from reason.speculate.tables import StandTable
from reason.types import Completion, Request, Sampling
from tests.engine.drafts import (
    BUSH,
    MANY,
    REJECTION,
    WORDS,
    Compare,
    MakeDrafting,
    assert_same,
    eight,
    requests_for,
    speculator_of,
)
from tests.runtime.flat import flat_kernels
from tests.tiny import random_model

if TYPE_CHECKING:
    from tests.engine.conftest import Finish, MakePrompts


def forbid_one(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    return logits.index_fill(0, torch.tensor([70 + len(tokens) % 8], device=logits.device), -torch.inf)


def fail_later(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    if len(tokens) > 20:
        raise ValueError("a processor's own error")
    return logits


MIXED = (
    Sampling(temperature=0.0, logprobs=2),
    Sampling(temperature=0.8, statistics=True),
    Sampling(temperature=1.3, top_k=3, logprobs=0),
    Sampling(temperature=1.0, top_p=0.7, min_p=0.01),
    Sampling(temperature=0.7, repetition_penalty=1.2, frequency_penalty=0.1, logprobs=1),
    Sampling(temperature=0.0, processors=(forbid_one,)),
)


@pytest.mark.parametrize("drafted", [False, True])
async def test_all_kinds_of_requests_beside_each_other(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, drafted: bool
) -> None:
    requests = [
        Request(
            prefix=path,
            seed=7,
            key=i,
            sampling=sampling,
            max_tokens=30,
            ignore_eos=True,
            hidden=i % 2 == 0,
            states=(0,),
        )
        for i, (path, sampling) in enumerate(zip(eight(prompts), MIXED * 2, strict=False))
    ]
    draft = MANY if drafted else "none"
    expected = await finish(make_drafting(draft), requests)
    engine = make_drafting(draft, draws_on_device=True)
    done = await finish(engine, requests)
    for one, other in zip(done, expected, strict=True):
        assert one.hidden is None or other.hidden is None or torch.allclose(one.hidden, other.hidden, atol=1e-5)
        assert torch.allclose(one.states[0], other.states[0], atol=1e-5)
    assert_same(*([without_states(completion) for completion in each] for each in (done, expected)))
    assert drafted is (engine.stats().accepted > 0)


def without_states(completion: Completion) -> Completion:
    return replace(completion, hidden=None, states={}, proposers=())


@pytest.mark.parametrize("draft", ["stand", "token-recycling", "suffix+stand+token-recycling"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_tables_on_the_device_draft_about_as_well(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, draft: str, temperature: float
) -> None:
    """They say less beyond the first tokens, and never change what is drawn."""
    requests = requests_for(eight(prompts), temperature=temperature, max_tokens=60)
    host, device = make_drafting(draft), make_drafting(draft, draws_on_device=True)
    assert_same(await finish(device, requests), await finish(host, requests))
    assert device.stats().accepted > 0.8 * host.stats().accepted > 20


@pytest.mark.parametrize("rule", ["coupled", "without-replacement"])
async def test_what_a_table_said_is_of_the_stream_s_end(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
    rule: str,
) -> None:
    """Also of requests that were preempted, of those that share a row, and where some draws are made again."""
    monkeypatch.setattr(device_laws, "NUCLEUS_TOKENS", 2)
    monkeypatch.setattr("reason.runtime.sampler.HEAD_TOKENS", 2)
    ends: dict[int, tuple[Any, list[int]]] = {}
    checked = 0
    take, stream_of = TableWork.take, Drafting._stream

    def taking(self: TableWork, *args: Any) -> None:
        take(self, *args)
        for drawing in self._drawings:
            if drawing.ahead:
                path = [*drawing.job.request.prefix, *drawing.job.generated, *(token for _, token in drawing.emitted())]
                ends[id(drawing.ahead)] = drawing.ahead, path

    def checking(self: Drafting, job: GenerateJob) -> Stream:
        nonlocal checked
        stream = stream_of(self, job)
        if stream.ahead:
            assert ends[id(stream.ahead)][1] == stream.tokens
            checked += 1
        return stream

    monkeypatch.setattr(TableWork, "take", taking)
    monkeypatch.setattr(Drafting, "_stream", checking)
    requests = [
        *requests_for(eight(prompts), temperature=0.9, max_tokens=40),
        *requests_for(eight(prompts)[:2], temperature=1.5, top_p=0.9, max_tokens=40),
    ]
    engine = make_drafting("stand", rule=rule, policy=Fixed(BUSH), draws_on_device=True, kv_tokens=260)
    done = await finish(engine, requests)
    assert [completion.error for completion in done] == [None] * 10
    assert engine.stats().preemptions > 0
    assert checked > 100


async def test_a_table_that_fails_ends_drafting_alone(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise torch.OutOfMemoryError("no room for a table")

    requests = requests_for(eight(prompts), temperature=0.8)
    expected = await finish(make_drafting("none"), requests)
    engine = make_drafting("stand", draws_on_device=True)
    monkeypatch.setattr(StandTable, "observe", fail)
    with pytest.warns(RuntimeWarning, match="drafting failed and is off from here on.*no room for a table"):
        done = await finish(engine, requests)
    assert_same([replace(each, proposers=()) for each in done], expected)


def test_nothing_is_kept_of_requests_that_end_at_once(codec: HubCodec, prompts: MakePrompts) -> None:
    loop = loop_of(codec, "cpu", "coupled")
    assert loop._drafting is not None
    submit(loop, prompts)
    while not loop._drafting._ahead:
        loop.step()
    for job in loop.running_jobs():
        loop.cancel(job)
    assert loop._drafting._ahead == {}


def test_plans_are_made_while_the_device_computes(
    codec: HubCodec, prompts: MakePrompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = loop_of(codec, "cpu", None)
    if loop.runner.device.type != "cpu":
        pytest.skip("these kernels are the CPU's")
    config = loop.runner.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    shape = AttentionShape(heads, kv_heads, config.hidden_size // heads, torch.float32)
    loop.runner.gpu = flat_kernels(shape)
    made: list[Any] = []

    def counted(*args: Any) -> Any:
        made.append(args)
        return make_work(*args)

    monkeypatch.setattr("reason.runtime.gpu.kernels.make_work", counted)
    done = submit(loop, prompts)
    run(loop)
    assert [completion.error for completion in done] == [None] * 8
    assert len(made) < loop.stats.iterations // 2


async def test_a_large_nucleus_is_drawn_in_a_second_round(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_laws, "NUCLEUS_TOKENS", 2)
    monkeypatch.setattr("reason.runtime.sampler.HEAD_TOKENS", 2)
    requests = requests_for(eight(prompts), temperature=1.5, top_p=0.9, logprobs=1)
    expected = await finish(make_drafting(MANY), requests)
    assert_same(await finish(make_drafting(MANY, draws_on_device=True), requests), expected)


async def test_grammars_walk_the_draft_trees(compare: Compare, prompts: MakePrompts) -> None:
    pytest.importorskip("llguidance")
    requests = requests_for(eight(prompts), temperature=0.8, regex="((ab|cd)+x){4,9}")
    await compare(requests, draft=MANY, draws_on_device=True, accepts=False)


class Constant(Source):
    """Some words, always alike: what it drafts depends on nothing learnt, whose last bits may differ."""

    stochastic = True

    def __init__(self, name: str, words: Sequence[int]) -> None:
        self.name = name
        self.words = words

    def state(self, stream: Stream) -> State:
        return True

    def step(self, state: State, token: int) -> State:
        return True

    def distribution(self, state: State) -> Distribution:
        return Distribution(self.words, [0.5, 0.25, 0.125, 0.125])


@pytest.mark.parametrize("rule", [*REJECTION, "match"])
async def test_every_rule_gives_the_hosts_tokens(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, rule: str
) -> None:
    """Sampled ones too: the coins are the same."""
    requests = [
        *requests_for(eight(prompts), temperature=0.9, max_tokens=24, logprobs=1),
        *requests_for(eight(prompts)[:2], temperature=0.8, top_k=4, frequency_penalty=0.1),
    ]

    def make(**options: Any) -> LocalEngine:
        source: Source = Constant("words", WORDS[3:7])
        if rule == "mixed":
            source = Union([Constant("others", WORDS[4:8]), source])
        return make_drafting(source, rule=rule, policy=Fixed(BUSH), **options)

    engine = make(draws_on_device=True)
    assert_same(await finish(engine, requests), await finish(make(), requests))
    assert engine.stats().accepted > 20


async def test_one_requests_error_is_its_own(make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish) -> None:
    nothing = Sampling(temperature=1.0, processors=(lambda tokens, logits: logits.fill_(-torch.inf),))
    samplings = [Sampling(temperature=1.0), Sampling(temperature=1.0, processors=(fail_later,)), nothing]
    requests = [
        Request(prefix=path, key=i, sampling=sampling, max_tokens=20, ignore_eos=True)
        for i, (path, sampling) in enumerate(zip(prompts(3), samplings, strict=True))
    ]
    for draft in ("none", MANY):
        fine, failed, impossible = await finish(make_drafting(draft, draws_on_device=True), requests)
        assert fine.error is None
        assert isinstance(failed.error, ValueError)
        assert len(failed.token_ids) == 21 - len(requests[1].prefix)
        assert isinstance(impossible.error, UsageError)
        assert impossible.token_ids == ()


# -- who waits for whom ------------------------------------------------------------------------------------------------

WAITS = {"cpu", "item", "tolist", "numpy", "nonzero", "__bool__", "__float__", "__int__", "__index__"}


class NoWaiting(TorchFunctionMode):
    """Refuses what would make the host wait for a device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.__name__ not in WAITS, f"{func.__name__} waits for the device"
        masks = args[1] if func.__name__ in ("__getitem__", "__setitem__") else ()
        for mask in masks if isinstance(masks, tuple) else (masks,):
            assert not (isinstance(mask, torch.Tensor) and mask.dtype == torch.bool), "a mask's size is asked for"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> list[Fetch]:
    made: list[Fetch] = []

    def make(tensors: Sequence[torch.Tensor]) -> Fetch:
        made.append(Fetch(tensors))
        return made[-1]

    monkeypatch.setattr(device_verifying, "Fetch", make)
    return made


def test_what_would_wait_is_noticed() -> None:
    tensor = torch.ones(2)
    for wait in (
        tensor.tolist,
        tensor.cpu,
        lambda: bool(tensor[0]),
        lambda: float(tensor[0]),
        lambda: tensor[tensor > 0],
    ):
        with NoWaiting(), pytest.raises(AssertionError):
            wait()


def loop_of(codec: HubCodec, device: str, rule: str | None) -> EngineLoop:
    model: Any = random_model("llama", vocab_size=400, scale=0.15)
    speculator = None if rule is None else speculator_of(REJECTION.get(rule, MANY), rule, Fixed(BUSH))
    return EngineLoop(ModelRunner(model.to(device), num_slots=4096), codec, speculator=speculator, draws_on_device=True)


def submit(loop: EngineLoop, prompts: MakePrompts) -> list[Completion]:
    done: list[Completion] = []
    for i, (path, sampling) in enumerate(zip(eight(prompts), MIXED[:5] * 2, strict=False)):
        request = Request(
            prefix=path, key=i, sampling=sampling, max_tokens=12, ignore_eos=True, hidden=True, states=(0,)
        )
        loop.submit(GenerateJob(request, i, done.append))
    return done


def run(loop: EngineLoop) -> None:
    while not loop.idle:
        loop.step()


@pytest.mark.parametrize("rule", [None, "coupled", *REJECTION])
def test_an_iteration_waits_once(
    codec: HubCodec, prompts: MakePrompts, fetches: list[Fetch], monkeypatch: pytest.MonkeyPatch, rule: str | None
) -> None:
    """Nothing is asked of the device while draws are launched, and one fetch brings all that is wanted."""
    loop = loop_of(codec, "cpu", rule)
    launch = loop._launch_draws

    def watched(*args: Any) -> Any:
        with NoWaiting():
            draws = launch(*args)
        monkeypatch.setattr(draws.verification, "_logits", None)  # later nobody looks at them
        return draws

    monkeypatch.setattr(loop, "_launch_draws", watched)
    done = submit(loop, prompts)
    run(loop)
    assert [completion.error for completion in done] == [None] * 8
    assert len(fetches) == loop.stats.iterations > 5
    assert 0.0 < loop.stats.exposed_seconds < loop.stats.seconds


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("rule", [None, "coupled", *REJECTION])
def test_on_a_gpu_nothing_waits_but_the_fetch(
    codec: HubCodec, prompts: MakePrompts, monkeypatch: pytest.MonkeyPatch, rule: str | None
) -> None:
    """Launching the draws, once all is compiled."""
    loop = loop_of(codec, "cuda", rule)
    submit(loop, prompts)
    run(loop)
    launch = loop._launch_draws

    def watched(*args: Any) -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            return launch(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(loop, "_launch_draws", watched)
    done = submit(loop, prompts)
    run(loop)
    assert [completion.error for completion in done] == [None] * 8

"""Drafting changes nothing but the number of forwards. The tokens are those of plain decoding: one by one under the
rules that follow the plain samples, in distribution under those that draw and reject."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from reason.engine.codec import HubCodec
from reason.engine.local import LocalEngine
from reason.runtime.forest import Branch, KVForest
from reason.runtime.runner import ModelRunner
from reason.speculate.build import make_speculator
from reason.speculate.draft import Distribution, Rows, Source, State, Stream
from reason.speculate.policy import Fixed, Policy, wide_template
from reason.speculate.sources import AUTO, SOURCES, make_source
from reason.speculate.sources.lookup import Lookup
from reason.speculate.sources.stand import Stand
from reason.speculate.sources.suffix import Suffix
from reason.speculate.sources.union import Union
from reason.speculate.speculator import Speculator
from reason.types import Completion, Path, Request, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from tests.engine.conftest import Finish, MakePrompts

WORDS = range(67, 79)
"""The tokens that the model says."""
BUSH = wide_template(nodes=10, depth=4, width=3)
MANY = "stand+goose+suffix"
REJECTION = {
    "iid": "stand",
    "k-seq": "stand",
    "without-replacement": "stand",
    "traversal": "stand",
    "traversal-iid": "stand",
    "mixed": "lookup+stand",
}

MakeDrafting = Callable[..., LocalEngine]
Compare = Callable[..., Awaitable[LocalEngine]]


@pytest.fixture(scope="module")
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


def speculator_of(draft: str | Source, rule: str, policy: str | Policy) -> Speculator | None:
    if isinstance(draft, str) and isinstance(policy, str):
        return make_speculator(draft, rule=rule, policy=policy)
    source = make_source(draft) if isinstance(draft, str) else draft
    return Speculator(source, rule=rule, policy=None if isinstance(policy, str) else policy)


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
        assert row.drafted_tokens - usage.drafted_tokens == after.drafted - before.drafted >= accepted
        if accepts:
            assert accepted > 0
        engine.check_integrity()
        return engine

    return run


def assert_same(done: Sequence[Completion], expected: Sequence[Completion]) -> None:
    for one, other in zip(done, expected, strict=True):
        assert one.error is None, one.error
        assert one.token_ids == other.token_ids
        assert replace(one, logprobs=()) == replace(other, logprobs=())
        assert len(one.logprobs) == len(other.logprobs)
        for row, wanted in zip(one.logprobs, other.logprobs, strict=True):
            assert row.token == pytest.approx(wanted.token, abs=1e-4)
            assert [value for _, value in row.top] == pytest.approx([value for _, value in wanted.top], abs=1e-4)
            assert (row.entropy is None, row.self_certainty is None) == (wanted.entropy is None, wanted.entropy is None)
            if wanted.entropy is not None and wanted.self_certainty is not None:
                assert row.entropy == pytest.approx(wanted.entropy, abs=1e-4)
                assert row.self_certainty == pytest.approx(wanted.self_certainty, abs=1e-4)


def requests_for(paths: Sequence[Path], *, max_tokens: int = 40, **sampling: Any) -> list[Request]:
    made = Sampling(**sampling)
    return [
        Request(prefix=path, seed=7, key=i, sampling=made, max_tokens=max_tokens, ignore_eos=True, owner="p")
        for i, path in enumerate(paths)
    ]


def eight(prompts: MakePrompts) -> list[Path]:
    """Eight branches: six rollouts of one prompt, and two others."""
    paths = prompts(3, 12)
    return [paths[0]] * 6 + paths[1:]


# -- every source, policy and rule that follows the plain samples ---------------------------------------------------


@pytest.mark.parametrize("draft", [*SOURCES, AUTO, "stand+token-recycling", "+".join(SOURCES)])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("branches", [1, 8])
async def test_every_source_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, draft: str, temperature: float, branches: int
) -> None:
    engine = await compare(requests_for(eight(prompts)[-branches:], temperature=temperature), draft=draft)
    assert engine.stats().iterations < 40


@pytest.mark.parametrize(
    "policy",
    ["goodput", "nodes:1", "nodes:9", "fixed", Fixed(BUSH)],
    ids=lambda policy: policy if isinstance(policy, str) else policy.name + " bush",
)
@pytest.mark.parametrize("rule", ["coupled", "match"])
async def test_every_policy_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, rule: str, policy: str | Policy
) -> None:
    for temperature in (0.0, 0.8):
        await compare(requests_for(eight(prompts), temperature=temperature), rule=rule, policy=policy)


async def test_what_is_drafted_by_the_clock_changes_nothing(compare: Compare, prompts: MakePrompts) -> None:
    engine = await compare(requests_for(eight(prompts), max_tokens=100, temperature=0.6), live=True)
    assert engine.stats().draft_seconds > 0.0


SETTINGS: dict[str, dict[str, Any]] = {
    "top k": {"temperature": 0.8, "top_k": 3},
    "top p": {"temperature": 1.0, "top_p": 0.7},
    "min p": {"temperature": 1.0, "min_p": 0.2},
    "all three": {"temperature": 0.9, "top_k": 6, "top_p": 0.9, "min_p": 0.05},
    "penalties": {"temperature": 0.8, "repetition_penalty": 1.05, "presence_penalty": 0.2, "frequency_penalty": 0.05},
    "greedy penalties": {"temperature": 0.0, "frequency_penalty": 0.1},
    "processor": {"temperature": 0.8, "processors": (lambda tokens, logits: logits * (1.0 + 0.1 * (len(tokens) % 2)),)},
    "logprobs": {"temperature": 0.8, "logprobs": 3},
    "greedy logprobs": {"temperature": 0.0, "logprobs": 0},
    "statistics": {"temperature": 0.8, "statistics": True},
    "logprobs of processed rows": {"temperature": 0.8, "logprobs": 2, "statistics": True, "repetition_penalty": 1.05},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("draft", ["token-recycling+lookup", MANY])
async def test_every_setting_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, name: str, draft: str
) -> None:
    await compare(requests_for(eight(prompts), **SETTINGS[name]), draft=draft)


async def test_settings_beside_each_other_give_the_plain_tokens(compare: Compare, prompts: MakePrompts) -> None:
    requests = [
        replace(request, key=i) for i, s in enumerate(SETTINGS.values()) for request in requests_for(prompts(1), **s)
    ]
    await compare(requests)


@pytest.mark.parametrize("policy", ["auto", Fixed(BUSH)], ids=["auto", "fixed"])
async def test_a_grammar_gives_the_plain_tokens(compare: Compare, prompts: MakePrompts, policy: str | Policy) -> None:
    pytest.importorskip("llguidance")
    schema = {
        "type": "array",
        "items": {"enum": ["one", "two", "three"]},
        "minItems": 8,
        "maxItems": 20,
        "x-guidance": {"whitespace_flexible": False},
    }
    grammars = [{"json_schema": json.dumps(schema)}, {"regex": "((ab|cd)+x){4,9}"}]
    requests = [
        replace(request, key=10 * i, ignore_eos=False)
        for i, grammar in enumerate(grammars)
        for request in requests_for(prompts(3), max_tokens=80, temperature=0.8, **grammar)
    ]
    await compare([*requests, *requests_for(prompts(2), temperature=0.8)], draft="lookup+suffix", policy=policy)


# -- how requests end ----------------------------------------------------------------------------------------------


async def test_stop_strings_within_a_draft(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, codec: HubCodec
) -> None:
    """The same requests were answered before, so that drafts run past every stop."""
    engine = make_drafting()
    requests = requests_for(eight(prompts), temperature=0.8)
    whole = await finish(engine, requests)
    stopped = [
        replace(request, stop=(codec.decode(c.token_ids[place : place + 2]),))
        for request, c, place in zip(requests, whole, range(1, 33, 4), strict=True)
    ]
    engine = await compare(stopped, engine)
    assert {c.finish_reason for c in await finish(engine, stopped)} == {"stop"}


@pytest.mark.parametrize("kind", ["stop token", "eos"])
async def test_stop_tokens_within_a_draft(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, kind: str
) -> None:
    requests = requests_for(eight(prompts), temperature=0.8)
    whole = await finish(make_drafting("none"), requests)
    last = [WORDS[0], *(next(token for token in reversed(c.token_ids)) for c in whole[:2])]
    eos = last if kind == "eos" else []
    stops = () if kind == "eos" else tuple(last)
    engine = make_drafting(eos=eos)
    await finish(engine, requests)
    stopped = [replace(request, stop_token_ids=stops, ignore_eos=False) for request in requests]
    await compare(stopped, engine, eos=eos)
    reasons = {c.finish_reason for c in await finish(engine, stopped)}
    assert ("eos" if kind == "eos" else "stop") in reasons


@pytest.mark.parametrize("max_tokens", range(1, 6))
async def test_few_tokens(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, max_tokens: int
) -> None:
    engine = make_drafting()
    await finish(engine, requests_for(eight(prompts), temperature=0.6))
    drafted = engine.stats().drafted
    engine = await compare(
        requests_for(eight(prompts), max_tokens=max_tokens, temperature=0.6), engine, accepts=max_tokens > 1
    )
    assert (engine.stats().drafted == drafted) == (max_tokens == 1), "nothing is drafted where one token is left"


@pytest.mark.parametrize("draft", [MANY, "lookup"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
async def test_the_end_of_the_context(compare: Compare, prompts: MakePrompts, draft: str, temperature: float) -> None:
    requests = requests_for(eight(prompts), max_tokens=400, temperature=temperature)
    await compare(requests, draft=draft, max_positions=64)


# -- company -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kv_tokens", [70, 100, 150])
@pytest.mark.parametrize("draft", [MANY, "token-recycling"])
async def test_preemption_gives_the_plain_tokens(
    compare: Compare, prompts: MakePrompts, draft: str, kv_tokens: int
) -> None:
    engine = await compare(requests_for(eight(prompts), temperature=0.8), draft=draft, kv_tokens=kv_tokens)
    assert engine.stats().preemptions > 0


class Watched(Lookup):
    """Keeps every stream."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[Stream] = []
        self.open: set[Stream] = set()

    def begin(self, stream: Stream) -> None:
        self.streams.append(stream)
        self.open.add(stream)
        super().begin(stream)

    def extend(self, stream: Stream, count: int) -> None:
        assert 0 <= count <= len(stream.tokens) - stream.prompt_length
        super().extend(stream, count)

    def end(self, stream: Stream) -> None:
        self.open.remove(stream)
        super().end(stream)


@pytest.mark.parametrize("kv_tokens", [4096, 80])
@pytest.mark.parametrize("rule", ["coupled", "match"])
async def test_sources_see_the_paths_as_they_are(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, rule: str, kv_tokens: int
) -> None:
    """Preempted or not."""
    source = Watched()
    engine = make_drafting(source, rule=rule, kv_tokens=kv_tokens)
    requests = requests_for(eight(prompts), temperature=0.8)
    done = await finish(engine, requests)
    assert (engine.stats().preemptions > 0) == (kv_tokens == 80)
    seen = {stream.key: stream for stream in source.streams}
    assert len(seen) == len(source.streams) == 8
    for request, completion in zip(requests, done, strict=True):
        assert seen[request.key].tokens == [*request.prefix, *completion.token_ids]
    await finish(engine, requests[:1])
    assert source.open <= {source.streams[-1]}, "streams are ended when their requests are over"


async def test_cancelling_midway(make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish) -> None:
    requests = requests_for(eight(prompts), max_tokens=200, temperature=0.8)
    expected = await finish(make_drafting("none"), requests[:4])
    engine = make_drafting()
    other = asyncio.ensure_future(finish(engine, requests[:4]))
    short = [replace(requests[4], key=90, max_tokens=3), *requests[4:]]
    stream = cast(Any, engine.generate(short))
    first = await anext(stream)
    assert first.index == 0
    await stream.aclose()
    assert_same(await other, expected)
    assert engine.stats().accepted > 0
    engine.check_integrity()


async def test_scoring_beside_gives_the_plain_scores(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish
) -> None:
    """Some of the paths are those that branches are on, which their drafts part and join."""
    plain, engine = make_drafting("none"), make_drafting(max_rows=32)
    requests = requests_for(eight(prompts), max_tokens=60, temperature=0.8)
    expected = await finish(plain, requests)
    paths = [(*request.prefix, *c.token_ids[:40]) for request, c in zip(requests, expected, strict=True)]
    paths += [(*path[:30], 105, 3, 50) for path in paths[:3]]
    scores = await plain.score(paths, 5, hidden=True)
    work = asyncio.ensure_future(finish(engine, requests))
    for start in range(0, len(paths), 3):
        await asyncio.sleep(0.005)
        found = await engine.score(paths[start : start + 3], 5, hidden=True, owner="v")
        for scored, wanted in zip(found, scores[start : start + 3], strict=True):
            torch.testing.assert_close(scored.logprobs, wanted.logprobs, rtol=0, atol=1e-4)
            assert scored.hidden is not None
            assert wanted.hidden is not None
            torch.testing.assert_close(scored.hidden, wanted.hidden, rtol=0, atol=1e-3)
    assert_same(await work, expected)
    assert engine.stats().accepted > 0


class Guess(Source):
    """The same token everywhere, or after prompts only."""

    name = "guess"

    def __init__(self, token: int, *, after_prompts: bool = False) -> None:
        self.token = token
        self.after_prompts = after_prompts

    def state(self, stream: Stream) -> State:
        return True if not self.after_prompts or len(stream.tokens) == stream.prompt_length else None

    def step(self, state: State, token: int) -> State:
        return None

    def distribution(self, state: State) -> Distribution:
        return Distribution([self.token], [0.9])


async def test_drafts_do_not_hold_up_the_scores_of_the_path_they_are_on(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish
) -> None:
    """Wrong drafts part the run that is being scored in every iteration, and it is joined again."""
    engine = make_drafting(Guess(3))
    (request,) = requests_for(prompts(1), max_tokens=200, temperature=0.0)
    (whole,) = await finish(engine, [request])
    engine.drop_cache()
    before = engine.stats()
    work = asyncio.ensure_future(finish(engine, [request]))
    while engine.stats().iterations < before.iterations + 3:
        await asyncio.sleep(0)
    start = engine.stats()
    await engine.score([(*request.prefix, *whole.token_ids)], 5)
    assert engine.stats().rows - start.rows < 2 * 212 + 100, "rows were computed again and again"
    assert [c.token_ids for c in await work] == [whole.token_ids]
    assert engine.stats().drafted > before.drafted


async def test_a_forward_that_fails_gives_the_drafts_up(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_drafting()
    requests = requests_for(eight(prompts), temperature=0.0)
    expected = await finish(engine, requests)
    forward = ModelRunner.forward_rows
    calls = iter(range(1000))

    def failing(runner: ModelRunner, rows: Any) -> Any:
        if next(calls) == 1:
            raise RuntimeError("lost")
        return forward(runner, rows)

    monkeypatch.setattr(ModelRunner, "forward_rows", failing)
    done = await finish(engine, requests)
    assert {c.finish_reason for c in done} == {"error"}
    engine.check_integrity()
    assert engine._loop.runner.forest.locked_tokens == 0
    assert_same(await finish(engine, requests), expected)


@pytest.mark.parametrize("failing_at", [1, 9, 10, 11])
async def test_a_processor_that_fails_within_a_draft_fails_its_request_only(
    make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish, failing_at: int
) -> None:
    def processor(tokens: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
        if len(tokens) == 12 + failing_at:
            raise ValueError("no more")
        return logits

    engine = make_drafting()
    requests = requests_for(eight(prompts), temperature=0.0)
    expected = await finish(engine, requests)
    bad = [replace(r, key=50 + r.key, sampling=replace(r.sampling, processors=(processor,))) for r in requests[:3]]
    done = await finish(engine, [*bad, *requests])
    assert_same([replace(c, index=c.index - 3) for c in done[3:]], expected)
    for completion, wanted in zip(done[:3], expected, strict=False):
        assert completion.finish_reason == "error"
        assert isinstance(completion.error, ValueError)
        assert completion.token_ids == wanted.token_ids[:failing_at]


@pytest.mark.parametrize("accepting_first", [True, False])
async def test_of_two_branches_on_one_draft_node_one_accepts(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    monkeypatch: pytest.MonkeyPatch,
    accepting_first: bool,
) -> None:
    plain = await finish(make_drafting("none"), requests_for([prompts(1)[0]] * 12, max_tokens=8, temperature=1.0))
    guessed = plain[0].token_ids[0]
    other = next(c.index for c in plain if c.token_ids[0] != guessed)
    keys = [0, other] if accepting_first else [other, 0]
    requests = [replace(requests_for(prompts(1), max_tokens=8, temperature=1.0)[0], key=key) for key in keys]

    engine = make_drafting(Guess(guessed, after_prompts=True))
    await finish(engine, [replace(requests[0], max_tokens=1, owner="warm")])  # the prompt is in the cache from now on
    claimed: list[Branch] = []
    claim = KVForest.claim

    def watched(forest: KVForest, branch: Branch, token: int) -> Branch:
        claimed.append(claim(forest, branch, token))
        nodes.add(id(claimed[-1].node))
        return claimed[-1]

    nodes: set[int] = set()
    monkeypatch.setattr(KVForest, "claim", watched)
    done = await finish(engine, requests)
    assert [c.token_ids for c in done] == [plain[key].token_ids for key in keys]
    assert len(claimed) == 2
    assert len(nodes) == 1, "both claimed one node"
    usage = engine.usage("p")
    assert (usage.drafted_tokens, usage.accepted_tokens, usage.policy_tokens) == (2, 1, 16)


# -- rules that draw and reject --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", REJECTION)
async def test_rejection_rules_give_the_greedy_tokens(compare: Compare, prompts: MakePrompts, rule: str) -> None:
    requests = requests_for(eight(prompts), temperature=0.0)
    engine = await compare(requests, draft=REJECTION[rule], rule=rule, policy=Fixed(BUSH))
    await compare(requests, engine)
    await compare(requests_for(eight(prompts), temperature=0.0, frequency_penalty=0.1, logprobs=1), engine)
    await compare(requests, draft=REJECTION[rule], rule=rule, policy=Fixed(BUSH), kv_tokens=100)


@pytest.mark.parametrize("rule", REJECTION)
async def test_rejection_rules_leave_grammars_alone(
    compare: Compare, make_drafting: MakeDrafting, prompts: MakePrompts, rule: str
) -> None:
    """What a grammar allows at a draft node is not known beforehand, so nothing is drafted: the tokens are plain."""
    pytest.importorskip("llguidance")
    constrained = [
        replace(request, key=20 + request.key, ignore_eos=False)
        for request in requests_for(prompts(3), temperature=0.8, regex="((ab|cd)+x){4,9}")
    ]
    engine = make_drafting(REJECTION[rule], rule=rule, policy=Fixed(BUSH))
    await compare([*constrained, *requests_for(eight(prompts), temperature=0.0)], engine)


@pytest.fixture(scope="module")
def law(talker: PreTrainedModel, prompts: MakePrompts) -> tuple[list[int], npt.NDArray[np.float64]]:
    """The words that may follow a prompt when three are drawn (temperature 1.5, from the best four), and the
    probability of each three of them, [words, words, words]."""
    (prompt,) = prompts(1)
    p: dict[Path, npt.NDArray[np.float64]] = {}
    words: set[int] = set()
    level: list[Path] = [()]
    for _ in range(3):
        after: list[Path] = []
        for path in level:
            with torch.inference_mode():
                logits = cast(Any, talker)(input_ids=torch.tensor([[*prompt, *path]])).logits[0, -1].double() / 1.5
            best = logits.topk(4)
            p[path] = np.zeros(400)
            p[path][best.indices.numpy()] = torch.softmax(best.values, 0).numpy()
            words.update(best.indices.tolist())
            after += [(*path, token) for token in best.indices.tolist()]
        level = after
    names = sorted(words)
    joint = np.zeros((len(names),) * 3)
    for a, b, c in level:
        joint[names.index(a), names.index(b), names.index(c)] = p[()][a] * p[(a,)][b] * p[a, b][c]
    return names, joint


def assert_fits(counts: npt.NDArray[np.float64], probabilities: npt.NDArray[np.float64]) -> None:
    """Chi-square; what is expected fewer than five times is one cell."""
    expected = probabilities.ravel() * counts.sum()
    observed = counts.ravel()
    assert observed[expected == 0.0].sum() == 0, "what cannot be drawn was drawn"
    rare = expected < 5
    cells = np.append(observed[~rare], observed[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    kept = cells[1] > 0.5
    assert kept.sum() > 3
    assert chisquare(cells[0][kept], cells[1][kept] * cells[0][kept].sum() / cells[1][kept].sum()).pvalue > 1e-4


class Frozen(Stand):
    """Knows what it learnt at first only, so that it stays wrong."""

    frozen = False

    def observe(self, rows: Rows) -> None:
        if not self.frozen:
            super().observe(rows)


@pytest.mark.parametrize("rule", [*REJECTION, "match"])
async def test_rejection_rules_keep_the_distribution(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    law: tuple[list[int], npt.NDArray[np.float64]],
    rule: str,
) -> None:
    """Of three tokens, and of the first of two rollouts beside each other, which must be independent."""
    names, joint = law
    stand = Frozen()
    source = Union([Suffix(), stand]) if rule == "mixed" else stand
    engine = make_drafting(source, rule=rule, policy=Fixed(((0,), (1,), (2,), (0, 0), (0, 1), (1, 0), (0, 0, 0))))

    def requests(count: int, seed: int, sampling: Sampling, max_tokens: int) -> list[Request]:
        (prompt,) = prompts(1)
        same = Request(prefix=prompt, seed=seed, sampling=sampling, max_tokens=max_tokens, ignore_eos=True)
        return [replace(same, key=key) for key in range(count)]

    await finish(engine, requests(1, 9, Sampling(temperature=0.0), 2))  # the prompt is in the cache from now on
    await finish(engine, requests(24, 1, Sampling(temperature=0.9), 8))
    stand.frozen = True
    before = engine.stats()
    done = await finish(engine, requests(3000, 2, Sampling(temperature=1.5, top_k=4), 4))
    after = engine.stats()
    accepted, drafted = after.accepted - before.accepted, after.drafted - before.drafted
    assert 1500 < accepted < drafted / 2
    place = {name: i for i, name in enumerate(names)}
    drawn = np.array([[place[token] for token in c.token_ids[:3]] for c in done])
    counts = np.zeros_like(joint)
    np.add.at(counts, tuple(drawn.T), 1.0)
    assert_fits(counts, joint)
    first = joint.sum(axis=(1, 2))
    pairs = np.zeros((len(names),) * 2)
    np.add.at(pairs, (drawn[::2, 0], drawn[1::2, 0]), 1.0)
    assert_fits(pairs, np.outer(first, first))


class Uneven(Source):
    """One of two tokens after prompts; the first is followed by more, the second by nothing."""

    name = "uneven"
    stochastic = True

    def __init__(self, tokens: Sequence[int]) -> None:
        self.tokens = tokens

    def state(self, stream: Stream) -> State:
        return "prompt" if len(stream.tokens) == stream.prompt_length else None

    def step(self, state: State, token: int) -> State:
        return "more" if state == "more" or token == self.tokens[0] else None

    def distribution(self, state: State) -> Distribution:
        return Distribution(self.tokens, [0.5, 0.5])


@pytest.mark.parametrize("rule", ["iid", "without-replacement"])
async def test_what_was_drawn_does_not_decide_whether_it_is_verified(
    make_drafting: MakeDrafting,
    prompts: MakePrompts,
    finish: Finish,
    law: tuple[list[int], npt.NDArray[np.float64]],
    rule: str,
) -> None:
    """The pool has room for two draft tokens: for all that follows the second token, not for what follows the first."""
    names, joint = law
    first = joint.sum(axis=(1, 2))
    likely = [names[i] for i in np.argsort(-first)[:2]]
    chain = Fixed(((0,), (0, 0), (0, 0, 0)))
    engine = make_drafting(Uneven(likely), rule=rule, policy=chain, kv_tokens=16, max_running=1)
    sampling = Sampling(temperature=1.5, top_k=4)
    done = await finish(
        engine,
        [
            Request(prefix=prompts(1)[0], seed=2, key=key, sampling=sampling, max_tokens=4, ignore_eos=True)
            for key in range(500)
        ],
    )
    counts = np.array([sum(c.token_ids[0] == name for c in done) for name in names], dtype=np.float64)
    assert_fits(counts, first)


# -- any schedule --------------------------------------------------------------------------------------------------

SAMPLINGS = (
    Sampling(temperature=0.8),
    Sampling(temperature=0.0, logprobs=1),
    Sampling(temperature=0.8, top_p=0.8),
    Sampling(temperature=0.8, frequency_penalty=0.1),
)
request_parts = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(1, 25), st.integers(0, len(SAMPLINGS) - 1))
groups = st.tuples(
    st.integers(0, 6),  # turns of the event loop before it starts
    st.lists(request_parts, min_size=1, max_size=6),
    st.none() | st.integers(0, 2),  # completions taken before the iterator is closed
)


def test_any_schedule(make_drafting: MakeDrafting, prompts: MakePrompts, finish: Finish) -> None:
    first, second = prompts(2, 12)
    paths = [first, (*first[:8], *second[:4]), first[:9], second, (*first, WORDS[0], WORDS[1])]
    roomy = make_drafting("none")
    unloaded: dict[Request, Completion] = {}

    def request(parts: tuple[int, int, int, int]) -> Request:
        prompt, key, tokens, sampling = parts
        made = Request(prefix=paths[prompt], key=key, max_tokens=tokens, sampling=SAMPLINGS[sampling], owner="p")
        return replace(made, ignore_eos=True)

    async def alone(one: Request) -> Completion:
        if one not in unloaded:
            (unloaded[one],) = await finish(roomy, [one])
        return unloaded[one]

    async def generate(engine: LocalEngine, wait: int, parts: Sequence[Any], cancel_after: int | None) -> None:
        for _ in range(wait):
            await asyncio.sleep(0)
        wanted = [request(each) for each in parts]
        stream = cast(Any, engine.generate(wanted))
        taken = 0
        if cancel_after != 0:
            async for completion in stream:
                expected = await alone(wanted[completion.index])
                assert_same([replace(completion, index=0)], [replace(expected, index=0)])
                engine.check_integrity()
                taken += 1
                if taken == cancel_after:
                    break
        await stream.aclose()

    async def score(engine: LocalEngine, path: Path) -> None:
        await asyncio.sleep(0)
        (found,), (wanted,) = await engine.score([path], 2), await roomy.score([path], 2)
        torch.testing.assert_close(found.logprobs, wanted.logprobs, rtol=0, atol=1e-4)

    async def run(engine: LocalEngine, schedule: Sequence[Any]) -> None:
        work = [generate(engine, *group) for group in schedule]
        await asyncio.wait_for(asyncio.gather(*work, score(engine, (*first, WORDS[0], *second))), 60)
        engine.check_integrity()
        assert engine._loop.idle
        assert engine._loop.runner.forest.locked_tokens == 0

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        schedule=st.lists(groups, min_size=1, max_size=5),
        kv_tokens=st.integers(40, 90),
        max_rows=st.sampled_from([3, 8, 64]),
        draft=st.sampled_from([MANY, "token-recycling"]),
        policy=st.sampled_from(["auto", "nodes:5"]),
    )
    def holds(schedule: Sequence[Any], kv_tokens: int, max_rows: int, draft: str, policy: str) -> None:
        engine = make_drafting(draft, policy=policy, kv_tokens=kv_tokens, max_rows=max_rows)
        asyncio.run(run(engine, schedule))

    holds()

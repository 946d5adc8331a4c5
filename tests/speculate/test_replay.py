"""Replays: every token is counted once, hand-made streams give known counts, a real engine's give the engine's."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from reason.engine.codec import HubCodec
from reason.engine.local import LocalEngine
from reason.runtime.runner import ModelRunner
from reason.speculate.draft import Distribution, Rows, Source, State, Stream
from reason.speculate.policy import Fixed, Goodput, NodeCounts, wide_template
from reason.speculate.recording import RecordedProblem, RecordedSample, Recording
from reason.speculate.replay import Replayed, replay, replay_rejection
from reason.speculate.rules import make_rule
from reason.speculate.sources import SOURCES, make_source
from reason.speculate.speculator import Speculator
from reason.types import Completion, Request, Sampling
from tests.tiny import random_model

VOCAB = 48


def problem(*samples: Sequence[int], prompt: Sequence[int] = (90, 91), rows: bool = False, id: str = "a") -> Any:
    """A problem with these samples; with ``rows`` each row is sure of its token, as a greedy model is."""
    made = []
    for key, tokens in enumerate(samples):
        ids = np.array(tokens, dtype=np.int64)
        others = np.stack([ids, *(100 + ids + i for i in range(9))], axis=1).astype(np.int32) if rows else None
        sure = np.tile([0.0] + [-30.0] * 9, (len(ids), 1)).astype(np.float16) if rows else None
        made.append(RecordedSample(key=key, tokens=ids, top_tokens=others, top_logprobs=sure))
    return RecordedProblem(id=id, seed=0, prompt=tuple(prompt), samples=tuple(made))


def recording(*problems: RecordedProblem, temperature: float = 0.0) -> Recording:
    return Recording(model="tiny", temperature=temperature, problems=problems)


def speculator(source: str | Source, nodes: int = 8, rule: str = "coupled") -> Speculator:
    made = make_source(source) if isinstance(source, str) else source
    return Speculator(made, rule=rule, policy=Goodput(nodes=nodes))


# -- hand-made streams ---------------------------------------------------------------------------------------------

PERIODIC = [1, 2, 3, 4, 5, 6, 7] * 20


def test_a_known_stream_is_accepted_whole() -> None:
    """With an equal sample behind it each step drafts eight nodes in a row, and all stand."""
    (counted,) = replay(recording(problem(PERIODIC, PERIODIC)), speculator("suffix"), history=1)
    assert counted.tokens == len(PERIODIC) - 1  # the first comes with the prompt
    assert counted.steps == math.ceil(counted.tokens / 9)
    assert counted.nodes == counted.accepted == counted.tokens - counted.steps
    assert counted.utilisation == 1.0
    assert counted.tokens_per_step == pytest.approx(counted.tokens / counted.steps)


def test_a_periodic_stream_teaches_itself() -> None:
    """Two periods have to be seen; from then on everything stands."""
    (counted,) = replay(recording(problem(PERIODIC)), speculator("suffix"))
    assert counted.utilisation == 1.0
    assert counted.steps <= 2 * 7 + math.ceil(len(PERIODIC) / 9)


def test_what_is_never_right_costs_nodes_only() -> None:
    random = np.random.default_rng(0).permutation(200).tolist()  # no token twice
    for source in ("suffix", "lookup", "goose", "retrieval"):
        (counted,) = replay(recording(problem(random)), speculator(source))
        assert (counted.tokens, counted.steps, counted.accepted) == (199, 199, 0)


def test_rows_teach_tables() -> None:
    """Tables that merge rows know every continuation once the first sample has gone by; without rows, nothing."""
    tokens = np.random.default_rng(0).permutation(80).tolist()
    for source in ("stand", "token-recycling"):
        (counted,) = replay(recording(problem(tokens, tokens, rows=True)), speculator(source), history=1)
        assert counted.tokens_per_step > 5
        (counted,) = replay(recording(problem(tokens, tokens)), speculator(source), history=1)
        assert (counted.nodes, counted.steps) == (0, 79)


def test_learning_is_forgotten_between_problems_or_kept() -> None:
    tokens = np.random.default_rng(0).permutation(80).tolist()
    both = recording(problem(tokens, id="a"), problem(tokens, id="b"))
    for fresh in (True, False):
        first, second = replay(both, speculator("suffix"), fresh=fresh)
        assert first.steps == 79
        assert (second.steps == 79) == fresh


def test_samples_in_turn_and_side_by_side() -> None:
    """Side by side an equal sample is always as far as the others: nobody is ahead to learn from."""
    tokens = np.random.default_rng(0).permutation(80).tolist()
    alike = recording(problem(tokens, tokens, tokens))
    (in_turn,) = replay(alike, speculator("suffix"))
    (together,) = replay(alike, speculator("suffix"), side_by_side=True)
    assert in_turn.tokens == together.tokens == 3 * 79
    assert together.steps == 3 * 79
    assert in_turn.steps < 2 * 79


@pytest.mark.parametrize("side_by_side", [False, True])
@pytest.mark.parametrize("rule", ["coupled", "match"])
@pytest.mark.parametrize("source", [*SOURCES, "goose+suffix"])
def test_every_token_is_counted_once(source: str, rule: str, side_by_side: bool) -> None:
    random = np.random.default_rng(1)
    samples = [random.integers(0, 5, size=length).tolist() for length in (60, 1, 2, 33)]
    whole = recording(problem(*samples, rows=True), problem(samples[0], samples[0], id="b", rows=True), temperature=0.7)
    found = replay(whole, speculator(source, rule=rule), side_by_side=side_by_side)
    for counted, lengths in zip(found, [(60, 1, 2, 33), (60, 60)], strict=True):
        assert counted.tokens == sum(lengths) - len(lengths)
        assert counted.accepted == counted.tokens - counted.steps
        assert counted.accepted <= counted.nodes <= 8 * counted.steps


class Told(Source):
    """Notes what it is told, and drafts nothing."""

    name = "told"

    def __init__(self) -> None:
        self.running: dict[Stream, list[int]] = {}
        self.done: list[list[int]] = []
        self.contexts: list[tuple[int, ...]] = []

    def state(self, stream: Stream) -> State:
        assert self.running[stream] == stream.tokens
        return None

    def step(self, state: State, token: int) -> State:
        raise AssertionError

    def distribution(self, state: State) -> Distribution:
        raise AssertionError

    def begin(self, stream: Stream) -> None:
        self.running[stream] = list(stream.tokens)

    def extend(self, stream: Stream, count: int) -> None:
        self.running[stream] += stream.tokens[-count:]

    def end(self, stream: Stream) -> None:
        self.done.append(self.running.pop(stream))

    def observe(self, rows: Rows) -> None:
        self.contexts += [tuple(context) for context in rows.contexts.tolist()]


@pytest.mark.parametrize("side_by_side", [False, True])
def test_what_sources_are_told(side_by_side: bool) -> None:
    source = Told()
    given = recording(problem([1, 2, 3], [1, 2, 4, 5], prompt=[9], rows=True))
    replay(given, speculator(source), side_by_side=side_by_side)
    assert source.running == {}
    assert source.done == [[9, 1, 2, 3], [9, 1, 2, 4, 5]]
    seen = [(-1, -1, 9, 1), (-1, 9, 1, 2), (9, 1, 2, 4)]
    if not side_by_side:  # else the samples share the rows of what they share
        seen[2:2] = seen[:2]
    assert sorted(source.contexts) == sorted(seen)


def test_counts_of_places() -> None:
    """A template is measured by what a replay accepts: here only the first candidate ever comes."""
    made = Speculator(make_source("suffix"), policy=Fixed(wide_template(nodes=40)))
    made.counts = NodeCounts()
    replay(recording(problem(PERIODIC, PERIODIC)), made)
    assert made.counts.best(6) == tuple((0,) * depth for depth in range(1, 7))


# -- rejection rules -----------------------------------------------------------------------------------------------


class Known(Source):
    """Says at each place what the recorded row says, after temperature 1."""

    name = "known"
    stochastic = True

    def __init__(self, sample: RecordedSample) -> None:
        self._sample = sample

    def state(self, stream: Stream) -> State:
        return len(stream.tokens) - stream.prompt_length

    def step(self, state: State, token: int) -> State:
        return state + 1

    def distribution(self, state: State) -> Distribution:
        assert self._sample.top_tokens is not None
        assert self._sample.top_logprobs is not None
        weights = np.exp(self._sample.top_logprobs[state].astype(np.float64))
        return Distribution(self._sample.top_tokens[state].tolist(), (weights / weights.sum()).tolist())


def drawn_sample(length: int) -> RecordedSample:
    """Tokens drawn from rows of four tokens that hold all of the mass."""
    random = np.random.default_rng(3)
    shares = np.sort(random.dirichlet([1.0] * 4, size=length))[:, ::-1]
    tops = np.stack([random.permutation(50)[:4] for _ in range(length)])
    drawn = [random.choice(row, p=share) for row, share in zip(tops, shares, strict=True)]
    return RecordedSample(
        key=0,
        tokens=np.array(drawn, dtype=np.int64),
        top_tokens=tops.astype(np.int32),
        top_logprobs=np.log(shares).astype(np.float16),
    )


@pytest.mark.parametrize("rule", ["iid", "k-seq", "without-replacement"])
def test_what_is_drawn_from_the_target_is_accepted(rule: str) -> None:
    """q = p at every node: the one child is always accepted, as deep as the template goes."""
    sample = drawn_sample(200)
    given = recording(RecordedProblem(id="a", seed=5, prompt=(1,), samples=(sample,)), temperature=1.0)
    chain = tuple((0,) * depth for depth in range(1, 5))
    (counted,) = replay_rejection(given, Known(sample), make_rule(rule), chain)
    assert counted.tokens == 199
    assert counted.steps == math.ceil(199 / 5)
    assert counted.accepted == counted.tokens - counted.steps
    assert counted.nodes == 4 * counted.steps


@pytest.mark.parametrize("rule", ["iid", "without-replacement"])
def test_rejection_accepts_its_share(rule: str) -> None:
    """One child drawn from q is accepted with probability sum of min(p, q)."""
    sample = drawn_sample(600)

    class Flat(Known):
        def distribution(self, state: State) -> Distribution:
            return Distribution(super().distribution(state).tokens, (0.25,) * 4)

    given = recording(RecordedProblem(id="a", seed=5, prompt=(1,), samples=(sample,)), temperature=1.0)
    (counted,) = replay_rejection(given, Flat(sample), make_rule(rule), ((0,),))
    assert sample.top_logprobs is not None
    expected = float(np.minimum(np.exp(sample.top_logprobs.astype(np.float64)), 0.25).sum(axis=1).mean())
    assert counted.accepted / counted.steps == pytest.approx(expected, abs=0.06)


def test_samples_of_one_step_do_not_teach_each_other() -> None:
    """Two equal streams side by side without repetition: what a step brings comes too late for its samples."""
    tokens = list(range(100, 160))
    given = recording(problem(tokens, tokens, rows=True), temperature=0.8)
    (coupled,) = replay(given, speculator("stand", nodes=1), side_by_side=True)
    template = ((0,),)
    (drawn,) = replay_rejection(
        given, make_source("stand"), make_rule("without-replacement"), template, side_by_side=True
    )
    assert coupled.accepted == drawn.accepted == 0
    (in_turn,) = replay_rejection(given, make_source("stand"), make_rule("without-replacement"), template)
    assert in_turn.accepted > 20


def test_rejection_at_temperature_0_is_of_the_greedy_target() -> None:
    """The child is right with the probability that it is drawn with: 0.4, however unsure the row is."""
    length, random = 800, np.random.default_rng(0)
    tops = np.stack([random.permutation(50)[:4] for _ in range(length)]).astype(np.int32)
    shares = np.log(np.tile([0.4, 0.3, 0.2, 0.1], (length, 1))).astype(np.float16)
    sample = RecordedSample(key=0, tokens=tops[:, 0].astype(np.int64), top_tokens=tops, top_logprobs=shares)
    given = recording(RecordedProblem(id="a", seed=5, prompt=(1,), samples=(sample,)), temperature=0.0)
    (counted,) = replay_rejection(given, Known(sample), make_rule("iid"), ((0,),))
    assert counted.accepted / counted.steps == pytest.approx(0.4, abs=0.06)


def test_samples_share_a_row_where_they_share_the_path() -> None:
    class Counting(Known):
        def __init__(self) -> None:
            self.rows: list[int] = []

        def state(self, stream: Stream) -> State:
            return None

        def observe(self, rows: Rows) -> None:
            self.rows.append(len(rows.tokens))

    same, other = [5, 6, 7, 8, 9, 10], [4, 6, 7, 8, 9, 10]
    for second, expected in ((same, 1), (other, 2)):
        source = Counting()
        given = recording(problem(same, second, rows=True), temperature=0.8)
        replay(given, speculator(source), side_by_side=True)
        assert set(source.rows) == {expected}


# -- a real engine -------------------------------------------------------------------------------------------------


def repeating_model() -> Any:
    """A random model in which little but the last token matters, so that it repeats what it said."""
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 1}
    return random_model("llama", vocab_size=VOCAB, scale=0.1, ends=0.5, num_hidden_layers=1, **small)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[LocalEngine]:
    """An engine that drafts eight nodes from the source that the test's parameter names."""
    make: Any = PreTrainedTokenizerFast
    words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0"))
    runner = ModelRunner(repeating_model(), num_slots=1025)
    codec = HubCodec(make(tokenizer_object=words), [])
    made = LocalEngine(runner, codec, name="tiny", speculator=speculator(request.param))
    yield made
    made.check_integrity()
    made.close()


async def live(engine: LocalEngine, requests: Sequence[Request]) -> tuple[Recording, Replayed]:
    """The requests one after another: their recording, and what was drafted and accepted."""
    samples = []
    for request in requests:
        engine.drop_cache()  # else the prompt is known, and the first token can be drafted too
        (done,) = [completion async for completion in engine.generate([request])]
        assert isinstance(done, Completion)
        assert done.error is None
        samples.append(RecordedSample(key=request.key, tokens=np.array(done.token_ids, dtype=np.int64)))
    stats = engine.stats()  # waits for the last iteration's end
    usage = engine.usage("run")
    assert (usage.drafted_tokens, usage.accepted_tokens) == (stats.drafted, stats.accepted)
    first = requests[0]
    problems = (RecordedProblem(id="a", seed=first.seed, prompt=first.prefix, samples=tuple(samples)),)
    counted = Replayed(nodes=usage.drafted_tokens, accepted=usage.accepted_tokens)
    return Recording(model="tiny", temperature=first.sampling.temperature, problems=problems), counted


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("engine", ["lookup", "suffix", "retrieval"], indirect=True)
def test_a_replay_accepts_what_the_engine_accepted(
    engine: LocalEngine, temperature: float, request: pytest.FixtureRequest
) -> None:
    """Of sources that learn from tokens alone: rejected rows are not recorded."""
    source = request.node.callspec.params["engine"]
    prefix = (3, 1, 4, 1, 5)
    requests = [
        Request(
            prefix=prefix,
            seed=7,
            key=key,
            sampling=Sampling(temperature=temperature),
            max_tokens=length,
            ignore_eos=True,
            owner="run",
        )
        for key, length in enumerate((90, 40, 70))
    ]
    recorded, counted = asyncio.run(live(engine, requests))
    assert counted.accepted > 20  # else there is nothing to compare
    (replayed,) = replay(recorded, speculator(source))
    assert (replayed.nodes, replayed.accepted) == (counted.nodes, counted.accepted)
    assert replayed.tokens == 89 + 39 + 69
    if temperature > 0.0 and source == "retrieval":  # it offers several tokens: another seed ranks them otherwise
        other = replace(recorded, problems=(replace(recorded.problems[0], seed=8),))
        (shifted,) = replay(other, speculator(source))
        assert (shifted.nodes, shifted.accepted) != (replayed.nodes, replayed.accepted)

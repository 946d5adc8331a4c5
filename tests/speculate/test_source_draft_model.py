"""A draft model's places, distributions and KV, on tiny random models; how many levels it computes; its options."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from reason.errors import UnknownName, UsageError
from reason.runtime.noise import StreamNoise
from reason.runtime.runner import ModelRunner
from reason.runtime.sampler import Draw, draw_tokens
from reason.speculate.draft import Distribution, State, Stream
from reason.speculate.policy.ranking import Candidate, Ranking
from reason.speculate.sources import DRAFT_MODEL, make_source
from reason.speculate.sources.draft_model import DraftModel
from reason.speculate.sources.draft_shapes import MAX_LEVELS, DraftOptions, best_length, make_shape
from reason.speculate.sources.lookup import Lookup
from reason.speculate.sources.union import Union
from reason.types import Sampling

VOCAB = 60
ALL_SHAPES = ["chain", "rsd-c:3,2,1", "rsd-s:3", "dyspec:24"]
PROMPT = [3, 14, 15, 9, 2, 6, 5]

MakeRunner = Callable[..., ModelRunner]


def make_model(seed: int, vocab: int = VOCAB) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(
        "qwen2",
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        tie_word_embeddings=False,
    )
    maker: Any = AutoModelForCausalLM
    model = maker.from_config(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) * 0.2 + (weight.dim() == 1))
        model.get_output_embeddings().weight.mul_(3.0)  # as sure of itself as a trained model
    return model.eval()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def make_runner() -> Iterator[MakeRunner]:
    """Runners whose forests must be whole when the test is over."""
    runners: list[ModelRunner] = []

    def make(seed: int = 0, *, kv_tokens: int = 2048, vocab: int = VOCAB, **options: Any) -> ModelRunner:
        runners.append(ModelRunner(make_model(seed, vocab), num_slots=kv_tokens + 1, **options))
        return runners[-1]

    yield make
    for runner in runners:
        runner.forest.check_integrity()
        assert runner.forest.locked_tokens == 0


def begun(source: DraftModel, tokens: Sequence[int], *, temperature: float = 0.0, key: int = 0) -> Stream:
    stream = Stream(list(tokens), len(tokens), temperature, seed=5, key=key)
    source.begin(stream)
    return stream


def told(source: DraftModel, stream: Stream, tokens: Sequence[int]) -> None:
    stream.tokens.extend(tokens)
    source.extend(stream, len(tokens))


def computed(source: DraftModel, stream: Stream) -> dict[tuple[int, ...], Distribution]:
    """Every place that can be reached by what is proposed."""
    found: dict[tuple[int, ...], Distribution] = {}

    def visit(path: tuple[int, ...], state: State) -> None:
        if state is not None:
            found[path] = source.distribution(state)
            for token in range(VOCAB):
                visit((*path, token), source.step(state, token))

    visit((), source.state(stream))
    return found


def expect(model: Any, tokens: Sequence[int], temperature: float) -> torch.Tensor:
    """The model's own next-token probabilities, [vocab]."""
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1]
    return torch.softmax(logits.double() / (temperature or 1.0), dim=-1)


def check_distribution(model: Any, tokens: Sequence[int], temperature: float, got: Distribution) -> None:
    p = expect(model, tokens, temperature)
    assert list(got.probabilities) == pytest.approx(p.topk(10).values.tolist(), rel=1e-3, abs=1e-6)
    assert p[list(got.tokens)].tolist() == pytest.approx(list(got.probabilities), rel=1e-3, abs=1e-6)


def sample(model: Any, tokens: Sequence[int], stream: Stream) -> int:
    """The plain sample at the end of ``tokens``."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0, -1:]
    draw = Draw(0, stream.seed, stream.key, len(tokens), Sampling(temperature=stream.temperature))
    return draw_tokens(logits, [draw])[0]


def candidates(stream: Stream, path: tuple[int, ...], expected: Distribution) -> list[Candidate]:
    return Ranking().candidates(stream, StreamNoise(stream.seed, stream.key), len(path) + 1, expected)


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_distributions_are_the_models_own_whatever_was_accepted(
    make_runner: MakeRunner, shape: str, temperature: float
) -> None:
    model, rng = make_model(0), random.Random(1)
    source = DraftModel(make_runner(0), shape=make_shape(shape), length=3)
    streams = [begun(source, [*PROMPT, key % 2], temperature=temperature, key=key) for key in range(4)]
    places = 0
    for _ in range(4):
        source.prepare(streams)
        for stream in streams:
            found = computed(source, stream)
            places += len(found)
            for path, expected in found.items():
                check_distribution(model, [*stream.tokens, *path], temperature, expected)
            # Some of what was drafted is accepted, and then another token comes.
            accepted = rng.choice(sorted(found))
            told(source, stream, [*accepted, rng.randrange(VOCAB)])
    assert places >= 4 * 4 * 3
    for stream in streams:
        source.end(stream)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("ngram", [False, True])
def test_its_own_target_accepts_the_whole_chain_and_nothing_is_computed_twice(
    make_runner: MakeRunner, temperature: float, ngram: bool
) -> None:
    model, runner = make_model(0), make_runner(0)
    rows = count_rows(runner)
    source = DraftModel(runner, length=4, ngram=ngram)
    stream = begun(source, PROMPT, temperature=temperature)
    agreed = emitted = 0
    for _ in range(12):
        source.prepare([stream])
        path: tuple[int, ...] = ()
        state = source.state(stream)
        new: list[int] = []
        while state is not None:
            expected = source.distribution(state)
            best = candidates(stream, path, expected)[0].token
            new.append(sample(model, [*stream.tokens, *new], stream))
            if new[-1] != best:
                assert temperature > 0.0
                assert new[-1] not in expected.tokens[:8]  # ranking looks no further
                break
            path = (*path, best)
            state = source.step(state, best)
        else:
            new.append(sample(model, [*stream.tokens, *new], stream))
            assert len(path) == 4
        agreed += len(path)
        emitted += len(new)
        told(source, stream, new)
    assert agreed >= 0.8 * 12 * 4
    if not temperature and not ngram:
        assert emitted == 12 * 5
        assert sum(rows) == len(PROMPT) + 3 + 11 * 5  # one row for each token
    source.end(stream)


def count_rows(runner: ModelRunner) -> list[int]:
    """The rows of each forward from now on."""
    counts: list[int] = []
    forward_rows = runner.forward_rows

    def counting(rows: Any) -> Any:
        counts.append(len(rows))
        return forward_rows(rows)

    runner.forward_rows = counting  # type: ignore[method-assign]
    return counts


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("shape", ALL_SHAPES)
def test_the_places_are_those_that_the_shape_says(make_runner: MakeRunner, shape: str, temperature: float) -> None:
    source = DraftModel(make_runner(0), shape=make_shape(shape), length=3)
    oracle = DraftModel(make_runner(0), on_demand=True)
    for key in range(5):
        stream, twin = (begun(each, PROMPT, temperature=temperature, key=key) for each in (source, oracle))
        source.prepare([stream])
        level: dict[tuple[int, ...], float] = {(): 1.0}
        places = dict(level)
        for depth in range(2):
            offered: list[list[tuple[tuple[int, ...], float]]] = []
            for path, value in level.items():
                found = candidates(twin, path, at(oracle, twin, path))
                offered.append([((*path, c.token), value * c.estimate) for c in found])
            merged = sorted(itertools.chain(*offered), key=lambda entry: -entry[1])
            level = dict(
                {
                    "chain": [entries[0] for entries in offered],
                    "rsd-c:3,2,1": [entry for entries in offered for entry in entries[: (3, 2)[depth]]],
                    "rsd-s:3": merged[:3],
                    "dyspec:24": [entry for entry in merged if entry[1] > 1 / 24],
                }[shape]
            )
            places |= level
        assert computed(source, stream).keys() == places.keys()
        source.end(stream)
        oracle.end(twin)


def at(source: DraftModel, stream: Stream, path: tuple[int, ...]) -> Distribution:
    state = source.state(stream)
    for token in path:
        state = source.step(state, token)
    return source.distribution(state)


def test_constant_branching_ends_with_its_last_number(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0), shape=make_shape("rsd-c:2,2"), length=5)
    stream = begun(source, PROMPT)
    source.prepare([stream])
    assert sorted(map(len, computed(source, stream))) == [0, 1, 1, 2, 2, 2, 2]
    source.end(stream)


def test_nothing_is_computed_behind_a_likely_rejection(make_runner: MakeRunner) -> None:
    lengths: list[int] = []
    for stop in (None, 0.9, 0.5, 0.1):
        source = DraftModel(make_runner(0), length=6, stop=stop)
        total = 0
        for key in range(6):
            stream = begun(source, PROMPT, temperature=0.8, key=key)
            source.prepare([stream])
            found = computed(source, stream)
            for path in found:
                value = 1.0
                for depth in range(len(path)):
                    (own,) = (
                        c for c in candidates(stream, path[:depth], found[path[:depth]]) if c.token == path[depth]
                    )
                    value *= own.estimate
                assert stop is None or value >= 1.0 - stop
            total += len(found)
            source.end(stream)
        lengths.append(total)
    assert lengths == sorted(lengths, reverse=True)
    assert lengths[0] == 36
    assert lengths[-1] < 12


def test_one_forward_a_level_over_all_streams(make_runner: MakeRunner) -> None:
    runner = make_runner(0)
    told_of: list[int] = []
    source = DraftModel(runner, length=4)
    source.on_forward = lambda streams: told_of.append(len(streams))
    streams = [begun(source, [*PROMPT, key]) for key in range(6)]
    streams[0].room = 2
    streams[1].room = 0
    source.prepare(streams)
    assert runner.forwards == 4
    assert told_of == [5, 5, 4, 4]
    assert [len(computed(source, stream)) for stream in streams] == [2, 0, 4, 4, 4, 4]
    source.prepare(streams)  # nobody's end has moved
    assert runner.forwards == 4
    for stream in streams:
        source.end(stream)


def test_copies_save_forwards_and_change_nothing(make_runner: MakeRunner) -> None:
    model = make_model(0)
    tokens = list(PROMPT)
    for _ in range(60):  # greedy text of a small model runs in circles
        tokens.append(int(expect(model, tokens, 0.0).argmax()))
    forwards: dict[bool, int] = {}
    drafted: dict[bool, list[list[tuple[int, ...]]]] = {}
    for ngram in (False, True):
        runner = make_runner(0)
        source = DraftModel(runner, length=8, ngram=ngram)
        stream = begun(source, PROMPT)
        drafted[ngram] = []
        for start in range(len(PROMPT), 50, 9):
            source.prepare([stream])
            chain = [path for path in computed(source, stream) if list(path) == tokens[start : start + len(path)]]
            drafted[ngram].append(sorted(chain, key=len))
            told(source, stream, tokens[start : start + 9])
        forwards[ngram] = runner.forwards
        source.end(stream)
    assert [chain[:8] for chain in drafted[True]] == drafted[False]
    assert all(len(chain) == 8 for chain in drafted[False])
    assert forwards[False] == 5 * 8
    assert forwards[True] <= 0.75 * forwards[False]  # it does not run in circles from the start


def test_on_demand_computes_what_is_asked_about(make_runner: MakeRunner) -> None:
    model, runner = make_model(0), make_runner(0)
    source = DraftModel(runner, on_demand=True)
    stream = begun(source, PROMPT, temperature=1.3)
    state = source.state(stream)  # nobody prepared anything
    assert runner.forwards == 0
    for path in [(4,), (4, 5), (4, 6), (7, 8, 9), ()]:
        check_distribution(model, [*PROMPT, *path], 1.3, at(source, stream, path))
    forwards = runner.forwards
    assert forwards == 5
    assert at(source, stream, (4, 5)) == at(source, stream, (4, 5))
    assert runner.forwards == forwards
    assert source.state(stream).place is state.place
    told(source, stream, [7, 8, 1])
    check_distribution(model, [*PROMPT, 7, 8, 1], 1.3, source.distribution(source.state(stream)))
    source.end(stream)


def test_a_pool_too_small_for_all_streams(make_runner: MakeRunner) -> None:
    model, runner = make_model(0), make_runner(0, kv_tokens=30)
    source = DraftModel(runner, length=3, shape=make_shape("rsd-s:2"))
    # Two paths of 12 fit, the third does not; what is left is too small for all drafts.
    streams = [begun(source, [key, *PROMPT, 1, 2, 3, 4]) for key in range(3)]
    rng = random.Random(0)
    for iteration in range(12):
        source.prepare(streams)
        runner.forest.check_integrity()
        found = [computed(source, stream) for stream in streams]
        assert any(found)
        assert iteration >= 3 or list(map(bool, found)) == [True, True, False]
        for stream, places in zip(streams, found, strict=True):
            for path, expected in places.items():
                check_distribution(model, [*stream.tokens, *path], 0.0, expected)
            told(source, stream, [rng.randrange(VOCAB)])
    source.prepare(streams[2:])  # the others make room
    assert len(computed(source, streams[2])) == 5
    for stream in streams:
        source.end(stream)
    assert runner.forest.locked_tokens == 0
    long = begun(source, [1] * 31)
    source.prepare([long])
    assert source.state(long) is None
    source.end(long)


def test_a_prompt_longer_than_a_forward_is_computed_in_parts(
    make_runner: MakeRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reason.speculate.sources.draft_model._MAX_ROWS", 20)
    model, runner = make_model(0), make_runner(0)
    rows = count_rows(runner)
    source = DraftModel(runner, length=1)
    rng = random.Random(0)
    streams = [begun(source, [rng.randrange(VOCAB) for _ in range(length)]) for length in (50, 30, 1)]
    source.prepare(streams)
    for stream in streams:
        check_distribution(model, stream.tokens, 0.0, source.distribution(source.state(stream)))
        source.end(stream)
    assert max(rows) <= 26
    assert len(rows) >= 4


def test_the_end_of_the_models_positions(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0, max_positions=10), length=6)
    stream = begun(source, PROMPT)
    source.prepare([stream])
    assert len(computed(source, stream)) == 3  # at 7, 8 and 9 tokens
    told(source, stream, [1, 2, 3])
    source.prepare([stream])
    assert source.state(stream) is None
    source.end(stream)


def test_tokens_that_only_one_of_the_models_has(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0), length=2, vocab_size=20)
    stream = begun(source, PROMPT)
    source.prepare([stream])
    found = computed(source, stream)
    assert len(found) == 2
    assert all(token < 20 for expected in found.values() for token in expected.tokens)
    told(source, stream, [VOCAB])  # padding of a larger vocabulary
    source.prepare([stream])
    assert source.state(stream) is None
    told(source, stream, [1, 2])
    source.prepare([stream])
    assert source.state(stream) is None
    source.end(stream)
    other = begun(source, [1, VOCAB + 3, 2])
    source.prepare([other])
    assert source.state(other) is None
    source.end(other)


def test_reset_closes_everything_and_streams_go_on(make_runner: MakeRunner) -> None:
    model, runner = make_model(0), make_runner(0)
    source = DraftModel(runner, length=3, ngram=True)
    streams = [begun(source, [*PROMPT, key]) for key in range(3)]
    source.prepare(streams)
    source.acceptance = 0.1
    source.reset()
    assert source.acceptance > 0.5
    assert runner.forest.cached_tokens == 0
    assert [source.state(stream) for stream in streams] == [None] * 3
    for stream in streams:
        told(source, stream, [1])
    source.prepare(streams)
    for stream in streams:
        check_distribution(model, stream.tokens, 0.0, source.distribution(source.state(stream)))
        source.end(stream)


def test_what_was_drafted_and_came_makes_the_acceptance(make_runner: MakeRunner) -> None:
    source = DraftModel(make_runner(0), length=2)
    stream = begun(source, PROMPT)
    before = source.acceptance
    for good in (True, True, False, False, False):
        source.prepare([stream])
        expected = source.distribution(source.state(stream)).tokens
        told(source, stream, [expected[0] if good else expected[3]])
        assert (source.acceptance > before) == good
        before = source.acceptance
    stream.tokens.append(1)
    source.extend(stream, 1)  # nothing was drafted there
    assert source.acceptance == before
    source.end(stream)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_length_is_the_best_of_all(seed: int) -> None:
    rng = random.Random(seed)
    a = rng.choice([0.0, 0.3, 0.7, 0.95])
    draft = [rng.uniform(0.001, 0.02)] * 8
    target = [0.05 + 0.002 * rng.random() * rows for rows in range(9)]
    goodput = [(1 - a ** (n + 1)) / (1 - a) / (sum(draft[:n]) + target[n]) for n in range(9)]
    assert best_length(a, draft, target) == goodput.index(max(goodput))


def test_the_best_length_at_its_ends() -> None:
    assert best_length(1.0, [0.01] * 8, [0.1] * 9) == 8
    assert best_length(0.9, [1.0] * 8, [0.1] * 9) == 0
    assert best_length(0.9, [], [0.1]) == 0


def test_levels_follow_what_both_models_cost(make_runner: MakeRunner) -> None:
    seconds = 10.0
    source = DraftModel(make_runner(0), target_seconds=lambda rows: seconds)
    source.acceptance = 0.9
    assert source.levels(1) == MAX_LEVELS
    seconds = 1e-7
    assert source.levels(1) == 0
    stream = begun(source, PROMPT)
    source.prepare([stream])
    assert source.state(stream) is None
    source.acceptance = 0.0
    for _ in range(100):  # what looked bad is tried again
        source.prepare([stream])
    assert source.acceptance > 0.4
    source.end(stream)
    many = DraftModel(make_runner(0), target_seconds=lambda rows: 0.001 * rows)  # rows are all that costs
    assert many.levels(64) == 0
    assert DraftModel(make_runner(0), shape=make_shape("rsd-c:2,1"), target_seconds=lambda rows: 9.0).levels(1) == 2


def test_options_as_they_are_written() -> None:
    plain = DraftOptions.parse("some/model-0.5b")
    assert (plain.model, plain.shape.name, plain.length, plain.stop, plain.ngram) == (
        "some/model-0.5b",
        "chain",
        None,
        None,
        True,
    )
    full = DraftOptions.parse("a,b:c, shape=rsd-c:4,2,1,length=6,stop=0.3")
    assert (full.model, full.shape.name, full.length, full.stop, full.ngram) == ("a,b:c", "rsd-c", 6, 0.3, False)
    assert [full.shape.width(depth) for depth in range(1, 5)] == [4, 8, 8, 0]
    assert not DraftOptions.parse("m,ngram=false").ngram


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs the name of a model"),
        (",length=3", "needs the name of a model"),
        ("m,size=3", "knows no option 'size'"),
        ("m,length=0", "'length' wants whole numbers from 1 to 32, got '0'"),
        ("m,length=many", "'length' wants whole numbers"),
        ("m,length=2,length=3", "'length' is given twice"),
        ("m,stop=1", "'stop' wants a number between 0 and 1, got '1'"),
        ("m,stop=x", "'stop' wants a number"),
        ("m,shape=rsd-c", "'rsd-c' wants whole numbers from 1 to 8, got ''"),
        ("m,shape=rsd-c:2,9", "'rsd-c:2,9' wants whole numbers from 1 to 8, got '9'"),
        ("m,shape=rsd-s:0", "from 1 to 64"),
        ("m,shape=dyspec:1", "from 2 to 512"),
        ("m,ngram=maybe", "ngram is true or false"),
        ("m,shape=rsd-s:2,ngram=true", "true for shape=chain only"),
    ],
)
def test_options_that_are_not_allowed(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        DraftOptions.parse(text)
    assert message in str(caught.value)


@pytest.mark.parametrize("shape", ["tree", "chain:3", "rsd"])
def test_shapes_that_do_not_exist(shape: str) -> None:
    with pytest.raises(UnknownName, match="unknown draft shape"):
        DraftOptions.parse(f"m,shape={shape}")


def test_made_by_name() -> None:
    asked: list[str] = []

    def make(text: str) -> Lookup:
        asked.append(text)
        return Lookup()

    source = make_source("suffix+draft-model:some/model,shape=rsd-c:2,1", {DRAFT_MODEL: make})
    assert asked == ["some/model,shape=rsd-c:2,1"]
    assert isinstance(source, Union)
    with pytest.raises(UnknownName, match="draft-model:NAME"):
        make_source("draft-model", {DRAFT_MODEL: make})

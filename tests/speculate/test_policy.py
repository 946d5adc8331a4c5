"""Policies: which nodes are drafted, against a search over everything that could be; and what they learn from."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from pathlib import Path as FilePath
from typing import NamedTuple

import numpy as np
import pytest
import torch

from reason.errors import UsageError
from reason.runtime.noise import StreamNoise, gumbel, position_state
from reason.runtime.sampler import Draw, draw_tokens
from reason.speculate.draft import Distribution, DraftTree, Source, State, Stream, Template
from reason.speculate.policy import (
    PROBED_ROWS,
    Fixed,
    ForwardTimes,
    Goodput,
    Growth,
    NodeCounts,
    Policy,
    Ranking,
    Switch,
    load_template,
    save_template,
    wide_template,
)
from reason.speculate.policy.fixed import CHAIN, check_template
from reason.types import Path, Sampling


class Toy(Source):
    """Random distributions, a function of the path; some places have nothing, or no state."""

    name = "toy"

    def __init__(self, seed: int, *, width: int = 3, least: int = 0) -> None:
        self.seed, self.width, self.least = seed, width, least

    def state(self, stream: Stream) -> State:
        return (stream.key, *stream.tokens)

    def step(self, state: State, token: int) -> State:
        after = (*state, token)
        return None if self.least == 0 and random.Random(f"{self.seed} none {after}").random() < 0.1 else after

    def distribution(self, state: State) -> Distribution:
        rng = random.Random(f"{self.seed} {state}")
        count = rng.randrange(self.least, self.width + 1)
        weights = sorted((rng.random() ** 2 + 0.02 for _ in range(count)), reverse=True)
        total = sum(weights) * rng.uniform(1.0, 1.5)
        return Distribution(rng.sample(range(50), count), [weight / total for weight in weights])


class Chain(Source):
    """One token of probability ``sure`` after another."""

    name = "chain"

    def __init__(self, sure: float) -> None:
        self.sure = sure

    def state(self, stream: Stream) -> State:
        return 0

    def step(self, state: State, token: int) -> State:
        return state + 1

    def distribution(self, state: State) -> Distribution:
        return Distribution([state], [self.sure])


class Place(NamedTuple):
    """A node that may be drafted."""

    tree: int
    path: Path
    probability: float  # of the whole path


def greedy_streams(count: int, room: int = 1 << 30) -> list[Stream]:
    return [Stream([1, 2, key], 2, temperature=0.0, key=key, room=room) for key in range(count)]


def places(streams: Sequence[Stream], source: Source, depth: int, floor: float) -> list[Place]:
    """Every node that is at least as likely as ``floor``, for greedy requests without calibration (by q)."""
    found: list[Place] = []
    for tree, stream in enumerate(streams):
        waiting: list[tuple[Path, float, State]] = [((), 1.0, source.state(stream))]
        for path, probability, state in waiting:  # grows as it is read
            if state is None or len(path) == min(depth, stream.room):
                continue
            expected = source.distribution(state)
            for token, q in zip(expected.tokens, expected.probabilities, strict=True):
                if probability * q >= floor:
                    found.append(Place(tree, (*path, token), probability * q))
                    waiting.append(((*path, token), probability * q, source.step(state, token)))
    return found


def drafted(growth: Growth | None) -> list[Place]:
    return (
        []
        if growth is None
        else [
            Place(index, tree.path(node), math.prod(tree.estimates[i] for i in line_to(tree, node)))
            for index, tree in enumerate(growth.trees)
            for node in range(1, len(tree.tokens))
        ]
    )


def line_to(tree: DraftTree, node: int) -> list[int]:
    line: list[int] = []
    while node:
        line.append(node)
        node = tree.parents[node]
    return line


def check_growth(growth: Growth, streams: Sequence[Stream], source: Source) -> None:
    """Trees whose columns agree, with the states that the source has there."""
    assert len(growth.trees) == len(streams)
    assert sorted(growth.order) == [i for i, tree in enumerate(growth.trees) for _ in range(len(tree))]
    for index, (tree, stream) in enumerate(zip(growth.trees, streams, strict=True)):
        size = len(tree.tokens)
        columns: list[Sequence[object]] = [tree.parents, tree.depths, tree.estimates, tree.proposers, tree.children]
        columns += [growth.states[index], growth.buckets[index]]
        assert all(len(column) == size for column in columns)
        assert tree.tokens[0] == stream.tokens[-1]
        assert tree.parents[0] == -1
        for node in range(1, size):
            parent = tree.parents[node]
            assert 0 <= parent < node
            assert tree.depths[node] == tree.depths[parent] + 1 <= stream.room
            state = growth.states[index][parent]
            assert tree.tokens[node] in source.distribution(state).tokens
            assert growth.states[index][node] == source.step(state, tree.tokens[node])
        for node in range(size):
            below = [child for child in range(1, size) if tree.parents[child] == node]
            assert tree.children[node] == below
            assert len({tree.tokens[child] for child in below}) == len(below)


def times_of(seconds: dict[int, float]) -> ForwardTimes:
    times = ForwardTimes()
    times.set(seconds)
    return times


def random_times(rng: random.Random) -> ForwardTimes:
    """Steps and slopes of any size, also none."""
    seconds, value = dict[int, float](), 1.0
    for rows in (1, 4, 5, 8, 9, 16, 17, 32):
        seconds[rows] = value
        value += rng.choice([0.0, 0.01, 0.1, 0.5, 2.0]) * rng.random()
    return times_of(seconds)


def goodput_of(chosen: Sequence[Place], branches: int, times: ForwardTimes) -> float:
    rows = branches + len(chosen)
    return (branches + sum(place.probability for place in chosen)) / float(times.upto(rows)[rows])


# -- goodput -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(6))
def test_goodput_is_the_best_that_candidates_allow(block: int) -> None:
    """The best n nodes are the best tree of n nodes, as a node is never likelier than its parent."""
    some, none = 0, 0
    for seed in range(60 * block, 60 * (block + 1)):
        rng = random.Random(seed)
        times, source, streams = random_times(rng), Toy(seed), greedy_streams(rng.randrange(1, 4))
        policy = Goodput(times, max_nodes=16, max_depth=3)
        growth = policy.grow(streams, source, Ranking())
        chosen = drafted(growth)
        if growth is not None:
            check_growth(growth, streams, source)
        every = sorted(places(streams, source, 3, 0.02), key=lambda place: -place.probability)
        best = max(goodput_of(every[:n], len(streams), times) for n in range(min(16, len(every)) + 1))
        assert goodput_of(chosen, len(streams), times) == pytest.approx(best, rel=0.03), f"seed {seed}"
        expected = sum(place.probability for place in chosen)
        assert policy.expected == pytest.approx(expected)
        some, none = some + bool(chosen), none + (not chosen)
    assert some > 10
    assert none > 3


@pytest.mark.parametrize("seed", range(25))
def test_no_subtree_is_better(seed: int) -> None:
    rng = random.Random(seed)
    streams, source, times = greedy_streams(1 + seed % 2), Toy(seed, width=2), random_times(rng)
    every = places(streams, source, 3, 0.05)[:11]
    slots = {(place.tree, place.path): i for i, place in enumerate(every)}
    parents = [slots[place.tree, place.path[:-1]] if len(place.path) > 1 else None for place in every]
    best = 0.0
    for taken in product([False, True], repeat=len(every)):
        if all(not here or parent is None or taken[parent] for here, parent in zip(taken, parents, strict=True)):
            subtrees = [place for place, here in zip(every, taken, strict=True) if here]
            best = max(best, goodput_of(subtrees, len(streams), times))
    growth = Goodput(times, max_nodes=30, max_depth=3, floor=0.05).grow(streams, source, Ranking())
    assert goodput_of(drafted(growth), len(streams), times) >= best * 0.97


def test_a_step_is_climbed_for_all_that_fits_on_it() -> None:
    """Where rows cost nothing once a step is taken, it is all of them together that must pay for it."""
    times = times_of({1: 1.0, 16: 1.0, 17: 1.6, 32: 1.6, 33: 3.0, 48: 3.0})
    sixteen = Goodput(times).grow(greedy_streams(16), Chain(0.75), Ranking())
    assert len(drafted(sixteen)) == 16  # 0.75 each is 12 for 0.6 seconds, where 16 a second is had without
    eight = Goodput(times).grow(greedy_streams(8), Chain(0.8), Ranking())
    assert len(drafted(eight)) == 24  # up to the next step: 8 of 0.8, of 0.64 and of 0.51
    twelve = times_of({1: 1.0, 12: 1.0, 13: 1.5, 32: 1.5, 33: 3.0})
    assert len(drafted(Goodput(twelve).grow(greedy_streams(12), Chain(0.5), Ranking()))) == 20  # 12 of 0.5, 8 of 0.25


def test_never_below_plain_decoding_by_the_estimates() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        times, streams = random_times(rng), greedy_streams(rng.randrange(1, 5))
        chosen = drafted(Goodput(times).grow(streams, Toy(seed), Ranking()))
        assert goodput_of(chosen, len(streams), times) >= goodput_of([], len(streams), times)


def test_nothing_is_drafted_where_rows_are_expensive() -> None:
    linear = times_of({1: 1.0, 100: 100.0})
    assert not drafted(Goodput(linear).grow(greedy_streams(2), Chain(0.99), Ranking()))
    dear = times_of({1: 1.0, 2: 1.7, 100: 1.0 + 0.7 * 99})
    assert not drafted(Goodput(dear).grow(greedy_streams(1), Chain(0.6), Ranking()))
    assert len(drafted(Goodput(dear).grow(greedy_streams(1), Chain(0.9), Ranking()))) == 2  # 0.9, 0.81 for 0.7 each


def test_overhead_counts() -> None:
    times = times_of({1: 1.0, 100: 1.0})
    policy = Goodput(times)
    assert len(drafted(policy.grow(greedy_streams(1), Chain(0.8), Ranking()))) == 16
    for _ in range(200):
        policy.overhead(1.0, 0.05)
    assert not drafted(policy.grow(greedy_streams(1), Chain(0.8), Ranking()))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("sure", [0.9, 0.7])
def test_a_floor_stops_where_a_rejection_is_likely(threshold: float, sure: float) -> None:
    """SpecDec++: a chain goes on as long as P(some token of it is rejected) is at most h; rows cost nothing here."""
    free = times_of({1: 1.0, 100: 1.0})
    growth = Goodput(free, floor=1.0 - threshold, max_depth=30).grow(greedy_streams(1), Chain(sure), Ranking())
    assert len(drafted(growth)) == int(math.log(1.0 - threshold) / math.log(sure))


@pytest.mark.parametrize("branches", [1, 3])
@pytest.mark.parametrize("nodes", [1, 2, 7, 20])
def test_a_number_of_nodes_is_kept_exactly(branches: int, nodes: int) -> None:
    source, streams = Toy(nodes, least=1), greedy_streams(branches)
    policy = Goodput(nodes=nodes, max_depth=6)
    assert not policy.decides
    growth = policy.grow(streams, source, Ranking())
    assert growth is not None
    check_growth(growth, streams, source)
    chosen = drafted(growth)
    assert len(chosen) == nodes * branches
    assert policy.expected == pytest.approx(sum(place.probability for place in chosen))
    best = sorted((place.probability for place in places(streams, source, 6, 0.004)), reverse=True)[: len(chosen)]
    assert sorted((place.probability for place in chosen), reverse=True) == pytest.approx(best)


def test_a_number_of_nodes_ends_with_the_candidates() -> None:
    streams = greedy_streams(2, room=2)
    growth = Goodput(nodes=50).grow(streams, Chain(0.9), Ranking())
    assert growth is not None
    assert [len(tree) for tree in growth.trees] == [2, 2]


@pytest.mark.parametrize("policy", ["goodput", "nodes", "fixed"])
def test_room_is_respected(policy: str) -> None:
    policies: dict[str, Policy] = {
        "goodput": Goodput(times_of({1: 1.0, 100: 1.0})),
        "nodes": Goodput(nodes=9),
        "fixed": Fixed(wide_template(nodes=30, depth=6, width=3)),
    }
    for seed in range(20):
        source, streams = Toy(seed, least=1), greedy_streams(4)
        for room, stream in enumerate(streams):
            stream.room = room
        growth = policies[policy].grow(streams, source, Ranking())
        assert growth is not None
        check_growth(growth, streams, source)
        assert [max(tree.depths) for tree in growth.trees[:2]] == [0, 1]
        assert max(growth.trees[2].depths) == 2


@pytest.mark.parametrize("seed", range(10))
def test_cutting_back_leaves_trees(seed: int) -> None:
    source, streams = Toy(seed), greedy_streams(3)
    growth = Growth(streams, source, Ranking(), max_depth=5, floor=0.0)
    taken: list[float] = []
    while growth.best and len(taken) < 40:
        best = growth.best
        taken.append(growth.take())
        assert taken[-1] == best
    assert taken == sorted(taken, reverse=True)
    whole = [list(tree.tokens) for tree in growth.trees]
    for count in range(len(taken), -1, -1):
        growth.cut(count)
        check_growth(growth, streams, source)
        assert len(growth.order) == count
        assert sorted((place.probability for place in drafted(growth)), reverse=True) == pytest.approx(taken[:count])
        assert all(tree.tokens == tokens[: len(tree.tokens)] for tree, tokens in zip(growth.trees, whole, strict=True))


# -- fixed templates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("coupled", [True, False])
def test_a_template_follows_the_ranks(seed: int, coupled: bool) -> None:
    template: Template = ((0,), (1,), (2,), (0, 0), (0, 1), (2, 0), (0, 0, 0), (2, 0, 0))
    source, ranking = Toy(seed), Ranking(coupled=coupled)
    streams = [Stream([1, 2, key], 2, temperature=0.8, seed=seed, key=key) for key in range(3)]
    growth = Fixed(template).grow(streams, source, ranking)
    check_growth(growth, streams, source)
    for stream, tree in zip(streams, growth.trees, strict=True):
        noise = StreamNoise(stream.seed, stream.key)
        expected: dict[Path, int] = {}  # ranks -> token
        states: dict[Path, State] = {(): source.state(stream)}
        for ranks in template:
            state = states.get(ranks[:-1])
            offered = [] if state is None else ranking.candidates(stream, noise, len(ranks), source.distribution(state))
            if ranks[-1] < len(offered):
                expected[ranks] = offered[ranks[-1]].token
                states[ranks] = source.step(state, expected[ranks])
        found = {tuple(rank_of(tree, i) for i in reversed(line_to(tree, n))): n for n in range(1, len(tree.tokens))}
        assert {ranks: tree.tokens[node] for ranks, node in found.items()} == expected


def rank_of(tree: DraftTree, node: int) -> int:
    return tree.children[tree.parents[node]].index(node)


def test_the_chain_is_the_default() -> None:
    growth = Fixed().grow(greedy_streams(1), Chain(0.01), Ranking())
    assert [len(path) for path in CHAIN] == list(range(1, len(CHAIN) + 1))
    assert growth.trees[0].path(len(CHAIN)) == tuple(range(len(CHAIN)))


def test_templates_are_sorted_parents_first() -> None:
    assert check_template([[1, 0], [0], [1], [0, 0], [0]]) == ((0,), (1,), (0, 0), (1, 0))


BAD_TEMPLATES: dict[str, tuple[list[list[int]], str]] = {
    "empty": ([], "empty"),
    "root": ([[0], []], "ranks"),
    "negative": ([[0], [-1]], "ranks"),
    "no parent": ([[0], [1, 0]], "parent"),
    "no elder sibling": ([[0], [2]], "sibling"),
    "no elder sibling below": ([[0], [0, 1]], "sibling"),
}


@pytest.mark.parametrize("name", BAD_TEMPLATES)
def test_a_bad_template_is_refused(name: str, tmp_path: FilePath) -> None:
    paths, message = BAD_TEMPLATES[name]
    with pytest.raises(UsageError, match=message):
        check_template(paths)
    with pytest.raises(UsageError, match=message):
        Fixed(tuple(tuple(path) for path in paths))
    file = tmp_path / "tree.json"
    file.write_text(json.dumps({"paths": paths}), encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        load_template(file)


@pytest.mark.parametrize("template", [CHAIN, wide_template(nodes=80), ((0,),)], ids=["chain", "wide", "one"])
def test_templates_survive_a_file(template: Template, tmp_path: FilePath) -> None:
    file = tmp_path / "tree.json"
    save_template(file, template, "three problems")
    assert load_template(file) == template
    assert json.loads(file.read_text(encoding="utf-8"))["made_from"] == "three problems"


BAD_FILES = {
    "not JSON": "paths: [[0]]",
    "a list": "[[0]]",
    "no paths": '{"tree": [[0]]}',
    "a number": '{"paths": 3}',
    "numbers": '{"paths": [0]}',
    "text": '{"paths": ["0"]}',
    "null": '{"paths": [[null]]}',
    "fractions": '{"paths": [[0.5]]}',
    "ranks that are no integers": '{"paths": [[0.0]]}',
    "empty": "",
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_template_is_refused(name: str, tmp_path: FilePath) -> None:
    file = tmp_path / "tree.json"
    file.write_text(BAD_FILES[name], encoding="utf-8")
    with pytest.raises(UsageError):
        load_template(file)


def test_a_file_that_cannot_be_read_is_named(tmp_path: FilePath) -> None:
    with pytest.raises(UsageError, match=r"missing\.json"):
        load_template(tmp_path / "missing.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"binary\.json"):
        load_template(tmp_path / "binary.json")


# -- data-driven templates -----------------------------------------------------------------------------------------


def test_counts_by_hand() -> None:
    """Drafts of a tree with places (0), (1), (00), (01), (10)."""
    tree = DraftTree([9])
    first, second = tree.add(0, 5), tree.add(0, 6)
    left, right = tree.add(first, 7), tree.add(first, 8)
    below = tree.add(second, 7)
    counts = NodeCounts()
    came: list[tuple[tuple[int, ...], int]] = [((first, right), 4), ((second, below), 3), ((first,), 2), ((), 5)]
    for accepted, times in came:
        for _ in range(times):
            counts.count(tree, accepted)
    counts.count(tree, (first, left))
    assert counts.drafts == 15
    # accepted: (0) 7, (01) 4, (1) 3, (10) 3, (00) 1; and (01) needs its elder sibling (00)
    assert counts.best(1) == ((0,),)
    assert counts.best(2) == ((0,), (1,))
    assert counts.best(3) == ((0,), (0, 0), (0, 1))
    assert counts.best(4) == ((0,), (1,), (0, 0), (0, 1))
    assert counts.best(5) == counts.best(50) == ((0,), (1,), (0, 0), (0, 1), (1, 0))


def test_a_template_from_nothing_is_one_node() -> None:
    assert NodeCounts().best(10) == ((0,),)


@pytest.mark.parametrize("seed", range(5))
def test_the_best_places_are_a_template_within_the_size(seed: int) -> None:
    rng = random.Random(seed)
    counts = NodeCounts()
    template = wide_template(nodes=60, depth=5, width=4)
    growth = Fixed(template).grow(greedy_streams(1), Toy(seed, width=4, least=4), Ranking())
    (tree,) = growth.trees
    for _ in range(300):
        node, accepted = 0, list[int]()
        while tree.children[node] and rng.random() < 0.7:
            node = tree.children[node][min(len(tree.children[node]) - 1, int(rng.expovariate(1.5)))]
            accepted.append(node)
        counts.count(tree, tuple(accepted))
    for size in (1, 2, 5, 12, 30):
        best = counts.best(size)
        assert best == check_template(best)
        assert len(best) <= size
        assert set(best) <= set(template)
    assert len(counts.best(12)) >= 10


def test_the_wide_template() -> None:
    template = wide_template()
    assert len(template) == len(set(template)) == 625
    assert template == check_template(template)
    assert max(map(len, template)) <= 20
    assert max(map(max, template)) <= 9
    assert max(map(len, template)) > 8
    assert max(map(max, template)) > 4
    small = wide_template(nodes=1000, depth=2, width=3)
    assert set(small) == {(a,) for a in range(3)} | {(a, b) for a in range(3) for b in range(3)}


# -- forward times -------------------------------------------------------------------------------------------------


def test_times_are_interpolated_and_go_on() -> None:
    times = times_of({1: 2.0, 16: 2.0, 17: 3.0, 32: 3.3, 100: 10.0})
    table = times.upto(300)
    assert len(table) == 301
    assert table[:17].tolist() == [2.0] * 17  # no rows cost what one does
    assert table[[17, 32, 100]].tolist() == [3.0, 3.3, 10.0]
    assert table[66] == pytest.approx((3.3 + 10.0) / 2)
    assert table[200] > table[150] > table[100]
    assert (np.diff(table) >= 0.0).all()
    assert times.upto(20).tolist() == table[:21].tolist()


@pytest.mark.parametrize("seed", range(20))
def test_times_never_fall(seed: int) -> None:
    rng = random.Random(seed)
    assert not ForwardTimes().measured
    times = ForwardTimes()
    times.probe(lambda rows: rng.random() + 0.01, 300)
    assert times.measured
    for _ in range(60):
        table = times.upto(600)
        assert len(table) == 601
        assert (table > 0.0).all()
        assert (np.diff(table) >= 0.0).all()
        times.observe(rng.randrange(1, 90), rng.random() * 2)


@pytest.mark.parametrize("most", [0, 1, 7, 40, 1000])
def test_probing_measures_what_fits(most: int) -> None:
    asked: list[int] = []

    def measure(rows: int) -> float:
        asked.append(rows)
        return 1.0 if len(asked) > 1 else 100.0  # the first forward pays for its memory

    times = ForwardTimes()
    times.probe(measure, most)
    assert max(asked) <= max(1, most)
    assert set(asked) == {rows for rows in PROBED_ROWS if rows <= max(1, most)}
    assert times.upto(3).tolist() == [1.0] * 4


def test_times_follow_a_machine_that_slows_down() -> None:
    times = times_of({1: 1.0, 32: 1.0, 33: 2.0, 64: 2.0})
    for _ in range(300):
        times.observe(8, 1.6)
        times.observe(40, 3.2)
    assert times.upto(40)[[8, 40]].tolist() == pytest.approx([1.6, 3.2], rel=0.05)
    for _ in range(400):
        times.observe(8, 0.8)
        times.observe(40, 1.6)
    assert times.upto(40)[[8, 40]].tolist() == pytest.approx([0.8, 1.6], rel=0.05)


def test_outliers_are_not_believed() -> None:
    times = times_of({1: 1.0, 64: 2.0})
    before = times.upto(64).tolist()
    for rows in (1, 8, 64):
        times.observe(rows, 50.0)
    assert times.upto(64).tolist() == before


# -- ranking -------------------------------------------------------------------------------------------------------

ROW = Distribution([40, 41, 42, 43], [0.4, 0.3, 0.15, 0.05])


def offered(ranking: Ranking, stream: Stream, depth: int, expected: Distribution) -> dict[int, float]:
    found = ranking.candidates(stream, StreamNoise(stream.seed, stream.key), depth, expected)
    assert len({candidate.token for candidate in found}) == len(found)
    return {candidate.token: candidate.estimate for candidate in found}


@pytest.mark.parametrize(("seed", "key"), [(0, 0), (7, 3), (-5, -9), (1 << 62, -(1 << 62))])
def test_coupled_candidates_are_ranked_by_log_q_plus_the_samplers_noise(seed: int, key: int) -> None:
    for length, depth in product((1, 2, 50), (1, 2, 5)):
        stream = Stream(list(range(length)), 1, temperature=0.7, seed=seed, key=key)
        state = position_state(seed, key, length + depth - 1)
        scores = np.log(ROW.probabilities) + gumbel(state, list(ROW.tokens))
        found = offered(Ranking(), stream, depth, ROW)
        assert list(found) == [ROW.tokens[i] for i in np.argsort(-scores)][: len(found)]
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert sum(found.values()) < 1.0


def test_a_source_that_knows_the_target_is_always_right() -> None:
    """With q = p the first candidate is the token that the sampler draws."""
    p = torch.softmax(torch.randn(8, generator=torch.Generator().manual_seed(0)), dim=0)
    order = p.argsort(descending=True)
    expected = Distribution(order.tolist(), p[order].double().tolist())
    right = 0
    for key in range(200):
        stream = Stream([1, 2, 3], 1, temperature=1.0, seed=5, key=key)
        (drawn,) = draw_tokens(p.log()[None], [Draw(0, 5, key, 3 + 2 - 1, Sampling(temperature=1.0))])
        found = offered(Ranking(), stream, 2, expected)
        right += next(iter(found)) == drawn
        assert found[drawn] > 0.1
    assert right == 200


def test_a_clear_lead_is_a_high_estimate() -> None:
    leads: list[tuple[float, float]] = []
    for key in range(100):
        stream = Stream([1], 1, temperature=1.0, key=key)
        scores = np.sort(np.log(ROW.probabilities) + gumbel(position_state(0, key, 1), list(ROW.tokens)))
        leads.append((float(scores[-1] - scores[-2]), max(offered(Ranking(), stream, 1, ROW).values())))
    leads.sort()
    assert np.mean([estimate for _, estimate in leads[80:]]) > 1.5 * np.mean([estimate for _, estimate in leads[:20]])


@pytest.mark.parametrize(("coupled", "temperature"), [(True, 0.0), (False, 0.0), (False, 0.8)])
def test_without_noise_the_estimate_is_q(coupled: bool, temperature: float) -> None:
    stream = Stream([1, 2], 1, temperature=temperature)
    found = offered(Ranking(coupled=coupled), stream, 1, ROW)
    assert found == dict(zip(ROW.tokens, ROW.probabilities, strict=True))


def test_candidates_below_the_floor_are_left_out() -> None:
    stream, noise = Stream([1, 2], 1, temperature=0.0), StreamNoise(0, 0)
    assert [c.token for c in Ranking().candidates(stream, noise, 1, ROW, 0.2)] == [40, 41]
    assert Ranking().candidates(stream, noise, 1, ROW, 0.9) == []
    assert Ranking().candidates(stream, noise, 1, Distribution((), ())) == []


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_probability_of_zero_is_no_candidate(temperature: float) -> None:
    stream = Stream([1, 2], 1, temperature=temperature)
    assert set(offered(Ranking(), stream, 1, Distribution([40, 41, 42], [0.6, 0.2, 0.0]))) <= {40, 41}


def settle_many(ranking: Ranking, stream: Stream, rate: float, proposer: str, depth: int = 1) -> None:
    noise = StreamNoise(stream.seed, stream.key)
    rng = random.Random(0)
    for _ in range(800):
        candidate, *_ = ranking.candidates(stream, noise, depth, Distribution([40], [0.5], [proposer]))
        ranking.settle(candidate.proposer, candidate.bucket, rng.random() < rate)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_calibration_moves_estimates_to_what_happens(rate: float, temperature: float) -> None:
    stream = Stream([1, 2], 1, temperature=temperature)
    ranking = Ranking()

    def estimate(proposer: str, depth: int = 1) -> float:
        return offered(ranking, stream, depth, Distribution([40], [0.5], [proposer]))[40]

    start, other, deeper = estimate("a"), estimate("b"), estimate("a", 5)
    settle_many(ranking, stream, rate, "a")
    assert estimate("a") == pytest.approx(rate, abs=0.08)
    assert estimate("b") == other
    assert estimate("a", 5) == deeper
    ranking.reset()
    assert estimate("a") == start


# -- switch --------------------------------------------------------------------------------------------------------


def pause_of(switch: Switch, branches: int = 4) -> int:
    length = 0
    while not switch.on(branches):
        length += 1
    return length


def until_off(switch: Switch, advantage: Callable[[], float], branches: int = 4, most: int = 200) -> int:
    """How many iterations with drafts it takes until the switch is off."""
    for count in range(most):
        if not switch.on(branches):
            return count
        switch.settle(branches, advantage())
    return most


def test_the_switch_pauses_where_drafting_loses_and_tries_again_later_and_later() -> None:
    switch = Switch()
    pauses: list[int] = []
    for _ in range(9):
        assert 1 < until_off(switch, lambda: -0.2) <= 20
        pauses.append(1 + pause_of(switch))  # one was counted by the trial
    assert all(later == 2 * earlier for earlier, later in pairwise(pauses) if later < 1536)
    assert pauses[-1] == pauses[-2] == max(pauses)


def test_the_switch_stays_on_where_drafting_wins() -> None:
    switch, rng = Switch(), random.Random(0)
    assert until_off(switch, lambda: rng.gauss(0.3, 0.3), most=500) == 500


def test_the_switch_comes_back_and_forgets_its_long_pauses() -> None:
    switch = Switch()
    for _ in range(4):
        until_off(switch, lambda: -0.2)
        last = 1 + pause_of(switch)
    assert last > 100
    assert until_off(switch, lambda: 0.3, most=100) == 100
    until_off(switch, lambda: -1.0)
    assert 1 + pause_of(switch) < 50


def test_one_bad_iteration_does_not_switch_off() -> None:
    switch = Switch()
    advantages = iter([-3.0, *[0.8] * 100])
    assert until_off(switch, lambda: next(advantages), most=60) == 60


def test_batch_sizes_are_judged_apart() -> None:
    switch = Switch()
    until_off(switch, lambda: -0.2, branches=64)
    assert not switch.on(64)
    assert not switch.on(66)  # much the same size
    assert switch.on(1)
    assert switch.on(8)

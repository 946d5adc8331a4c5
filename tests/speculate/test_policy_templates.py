"""Templates: their shape is drafted whatever it costs; files of them; the best places by what was accepted."""

from __future__ import annotations

import json
import random
from pathlib import Path as FilePath

import pytest

from reason.errors import UsageError
from reason.runtime.noise import StreamNoise
from reason.speculate.draft import DraftTree, State, Stream, Template
from reason.speculate.policy import (
    Fixed,
    NodeCounts,
    Ranking,
    load_template,
    save_template,
    wide_template,
)
from reason.speculate.policy.fixed import CHAIN, check_template
from reason.types import Path
from tests.speculate.trees import Chain, Toy, check_growth, greedy_streams, line_to

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

"""AB-MCTS: whose posterior a score counts for, choices against frequencies, what is sampled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import pytest

from reason.errors import UsageError
from reason.search.bandits import Beta, Gaussian, Moments, scale_of
from reason.search.strategies.ab_mcts import ABMCTS, Arms
from reason.search.tree import ROOT, Action, Expand, Measure, Node, Room, Tree
from reason.types import Problem

VERIFIER = ABMCTS().verifier


def moments(*values: float) -> Moments:
    return reduce(Moments.plus, values, Moments())


def grown(strategy: ABMCTS, parents: Sequence[int], scores: Sequence[float], *, seed: int = 0) -> Tree:
    """Solution i + 1 below parents[i], told of one by one."""
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, finish_reason="step")], seed=seed)
    for parent, score in zip(parents, scores, strict=True):
        add(tree, strategy, parent, score)
    return tree


def add(tree: Tree, strategy: ABMCTS, parent: int, score: float, *, answer: str | None = "1") -> None:
    node = Node(id=len(tree), parent=parent, begins=parent != ROOT, finish_reason="eos", answer=answer)
    tree.add(node)
    node.scores[VERIFIER] = (score,)
    strategy.tell(tree, [node.id])


def expansions(actions: Sequence[Action]) -> list[Expand]:
    return [action for action in actions if isinstance(action, Expand)]


# -- whose posterior a score counts for ----------------------------------------------------------------------------


def test_without_an_answer_a_solution_counts_as_the_least() -> None:
    for scale, scores, least in (("auto", (0.5, 0.9), 0.0), ("auto", (12.0, 19.0), 12.0), ("none", (-3.0, -1.0), -3.0)):
        strategy = ABMCTS(scale=scale)  # type: ignore[arg-type]
        tree = grown(strategy, parents=(0,), scores=scores[:1])
        add(tree, strategy, ROOT, scores[1], answer=None)
        assert [node.notes["value"] for node in tree.nodes[1:]] == [scores[0], least]


def test_a_score_counts_along_its_path() -> None:
    """1 and 2 below the root, 3 improves 1, 4 improves 3."""
    tree = grown(ABMCTS(), parents=(0, 0, 1, 3), scores=(0.5, 0.8, 0.6, 0.9))
    notes = [{key: tuple(value) for key, value in node.notes.items() if isinstance(value, list)} for node in tree.nodes]
    assert set(notes[0]) == {"gen", "cont"}
    assert notes[0]["gen"] == pytest.approx(moments(0.5, 0.8))
    assert notes[0]["cont"] == pytest.approx(moments(0.6, 0.9))
    assert notes[1]["below"] == pytest.approx(moments(0.5, 0.6, 0.9))
    assert notes[1]["gen"] == pytest.approx(moments(0.6))
    assert notes[1]["cont"] == pytest.approx(moments(0.9))
    assert notes[2] == {"below": moments(0.8)}
    assert notes[3]["below"] == pytest.approx(moments(0.6, 0.9))
    assert notes[3]["gen"] == moments(0.9)
    assert set(notes[3]) == {"below", "gen"}
    assert notes[4] == {"below": moments(0.9)}


def test_what_is_told_twice_counts_once() -> None:
    tree = grown(ABMCTS(), parents=(0,), scores=(0.5,))
    ABMCTS().tell(tree, [1])
    assert tree[0].notes["gen"][0] == 1


def test_without_an_answer_it_is_worth_the_least() -> None:
    strategy = ABMCTS()
    tree = grown(strategy, parents=(0, 0), scores=(14.0, 12.0))
    add(tree, strategy, ROOT, 19.0, answer=None)
    assert tree[3].notes["value"] == 12.0
    assert tree[3].notes["score"] == 19.0
    tree = grown(strategy, parents=(0,), scores=(0.4,))
    add(tree, strategy, ROOT, 0.9, answer=None)
    assert tree[2].notes["value"] == 0.0


# -- choosing ------------------------------------------------------------------------------------------------------


def frequencies(tree: Tree, prior: Gaussian | Beta, count: int = 4000) -> dict[int, float]:
    values = [node.notes["value"] for node in tree.nodes[1:]]
    arms = Arms(tree, scale_of(values), prior)
    chosen = Counter(arms.choose(tree.coins("test", i)) for i in range(count))
    return {node: chosen[node] / count for node in range(len(tree))}


@pytest.mark.parametrize("kind", ["gaussian", "beta"])
def test_choices_are_as_frequent_as_the_posteriors_say(kind: str) -> None:
    """Against numpy's draws from the same posteriors, for 1 and 2 below the root and 3 below 1."""
    tree = grown(ABMCTS(), parents=(0, 0, 1), scores=(0.5, 0.7, 0.9))
    numbers, count = np.random.default_rng(0), 100_000

    def draws(*values: float) -> Any:
        if kind == "beta":
            return numbers.beta(0.5 + sum(values), 0.5 + len(values) - sum(values), count)
        n, mean = len(values), sum(values) / max(1, len(values))
        squares = sum((value - mean) ** 2 for value in values)
        tau_squared = (0.1 + squares + n / (1 + n) * mean**2) / (1 + n)
        variance = (1 + n) * tau_squared / numbers.chisquare(1 + n, count)
        return numbers.normal(n * mean / (1 + n), np.sqrt(variance / (1 + n)))

    deeper = draws(0.9) > draws(0.5, 0.7)  # CONT against GEN at the root
    first = draws(0.5, 0.9) > draws(0.7)
    below_first = draws() > draws(0.9)  # then 3, which has no children
    expected = {
        0: 1 - deeper.mean(),
        1: (deeper & first & ~below_first).mean(),
        2: (deeper & ~first).mean(),
        3: (deeper & first & below_first).mean(),
    }
    found = frequencies(tree, Beta() if kind == "beta" else Gaussian())
    for node, share in expected.items():
        assert found[node] == pytest.approx(share, abs=4 * (share * (1 - share) / 4000) ** 0.5 + 0.005)
    assert min(expected.values()) > 0.05


def test_scores_of_any_size_give_the_same_choices() -> None:
    parents, scores = (0, 0, 1, 1, 2), (0.0, 1.0, 0.4, 0.6, 0.3)
    tree = grown(ABMCTS(), parents, scores)
    nats = grown(ABMCTS(), parents, [12 + 5 * score for score in scores])
    assert frequencies(tree, Gaussian(), 500) == frequencies(nats, Gaussian(), 500)


def test_a_batch_does_not_go_one_way() -> None:
    strategy = ABMCTS(num_samples=40, in_flight=20)
    tree = grown(strategy, parents=(0, 0, 1, 2), scores=(0.5, 0.7, 0.9, 0.4))
    actions = expansions(strategy.ask(tree, Room(64)))
    assert len(actions) == 20
    assert strategy.ask(tree, Room(64)) == actions
    chosen = Counter(action.node for action in actions)
    assert len(chosen) >= 3
    assert max(chosen.values()) < 15
    assert [action.node for action in expansions(strategy.ask(tree, Room(7)))] == [a.node for a in actions[:7]]


# -- samples -------------------------------------------------------------------------------------------------------


def test_it_samples_below_the_root_and_improves_below_a_solution() -> None:
    strategy = ABMCTS(num_samples=60, in_flight=3, max_tokens=77)
    tree = grown(strategy, parents=(), scores=())
    first = expansions(strategy.ask(tree, Room(64)))
    assert [(action.node, action.prompt, action.max_tokens) for action in first] == [(ROOT, "", 77)] * 3
    tree = grown(strategy, parents=(0, 1, 2), scores=(0.3, 0.6, 0.9), seed=3)
    strategy = ABMCTS(num_samples=60, in_flight=30)
    below = [action for action in expansions(strategy.ask(tree, Room(64))) if action.node != ROOT]
    assert below
    assert all(action.keep and not action.aside and not isinstance(action.prompt, str) for action in below)


def test_it_keeps_so_many_under_way_until_all_are_there() -> None:
    strategy = ABMCTS(num_samples=5, in_flight=3)
    tree = grown(strategy, parents=(0, 0), scores=(0.3, 0.6))
    for node in (3, 4):
        tree.add(Node(id=node, parent=0))
    for num_samples, in_flight, new in ((5, 3, 1), (9, 3, 1), (9, 6, 4), (6, 6, 2), (4, 6, 0), (9, 2, 0)):
        wanted = ABMCTS(num_samples=num_samples, in_flight=in_flight).ask(tree, Room(64))
        assert len(expansions(wanted)) == new
    tree[3].finish_reason = "eos"  # to be scored, and so under way still
    (measure, _) = strategy.ask(tree, Room(64))
    assert measure == Measure(nodes=(3,), name=VERIFIER)
    tree.measuring.add((3, VERIFIER))
    assert len(strategy.ask(tree, Room(64))) == 1
    tree.add(Node(id=5, parent=0))
    assert strategy.ask(tree, Room(64)) == []
    tree[3].finish_reason = tree[4].finish_reason = "error"  # a failure is one of the samples
    tree[5].finish_reason = "length"
    tree.measuring.clear()
    strategy.tell(tree, [3, 4])
    assert strategy.ask(tree, Room(0)) == [Measure(nodes=(5,), name=VERIFIER)]
    tree[5].scores[VERIFIER] = (0.5,)
    strategy.tell(tree, [5])
    assert strategy.ask(tree, Room(64)) == []
    assert tree[0].notes["gen"][0] == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_samples": 0}, "num_samples must be at least 1, got 0"),
        ({"in_flight": 0}, "in_flight must be at least 1, got 0"),
        ({"posterior": "gamma"}, "posterior"),
        ({"verifier": "agreement"}, "agreement compares solutions that are there together"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ABMCTS(**fields)

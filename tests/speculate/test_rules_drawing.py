"""What rules are made of: draws of children, seeded coins, names."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from reason.errors import UnknownName
from reason.speculate.draft import Distribution, DraftTree
from reason.speculate.rules import (
    RULES,
    SeededCoins,
    draw_children,
    draw_tree,
    grow,
    make_rule,
)
from reason.speculate.rules import coins as coins_module
from reason.types import Path
from tests.speculate.enumeration import (
    EXACT,
    F64,
    outcomes,
)


@pytest.mark.parametrize(
    ("replacement", "expected"),
    [(True, {(5, 5): 4 / 9, (5, 2): 2 / 9, (2, 5): 2 / 9, (2, 2): 1 / 9}), (False, {(5, 2): 2 / 3, (2, 5): 1 / 3})],
)
def test_draws_have_the_law_they_should(replacement: bool, expected: dict[Path, float]) -> None:
    q = Distribution((5, 2, 9), (0.5, 0.25, 0.0))  # normalised when drawn from; 9 cannot be drawn
    count = 2 if replacement else 3
    drawn = outcomes(lambda coins: tuple(draw_children(q, count, coins, replacement=replacement)))
    assert dict(drawn) == pytest.approx(expected, abs=EXACT)


def test_a_drawn_tree_records_what_it_was_drawn_from() -> None:
    names = ("table", "copy", "copy")
    q = {0: Distribution((3, 1, 2), (0.5, 0.2, 0.1), names), 1: Distribution((4,), (0.8,)), 2: Distribution((), ())}

    def deeper(depth: int, token: int) -> int | None:
        return depth + 1 if token != 3 else None  # nothing more to say after a 3

    template = ((0,), (1,), (2,), (3,), (0, 0), (1, 0), (2, 0), (2, 0, 0))
    seen = set()
    for seed in range(20):
        tree = draw_tree(8, 0, deeper, q.__getitem__, template, SeededCoins(seed, 0, 0), replacement=False)
        first = [tree.tokens[child] for child in tree.children[0]]
        assert sorted(first) == [1, 2, 3]
        assert len(tree) == 5  # 4 after two of the three
        seen.add(tuple(first))
        assert set(tree.drawn_from) == {node for node, children in enumerate(tree.children) if children}
        assert sum(tree.drawn_from[0].probabilities) == pytest.approx(1.0)
        for child in tree.children[0]:
            token = tree.tokens[child]
            assert tree.estimates[child] == {3: 0.5, 1: 0.2, 2: 0.1}[token]
            assert tree.proposers[child] == ("table" if token == 3 else "copy")
            assert bool(tree.children[child]) == (token != 3)
    assert len(seen) > 3


def test_fixed_children_are_not_drawn_again() -> None:
    tree = DraftTree([-1])
    tree.add(0, 7)
    tree.fixed[0] = 1
    children = grow(tree, 0, Distribution((7, 8, 9), (0.5, 0.3, 0.2)), 3, SeededCoins(0, 0, 0))
    assert sorted(tree.tokens[child] for child in children) == [8, 9]
    assert tree.drawn_from[0].probabilities == pytest.approx((0.0, 0.6, 0.4))


def test_rules_by_name() -> None:
    assert all(make_rule(name) is rule and rule.name == name for name, rule in RULES.items())
    assert [rule.name for rule in RULES.values() if rule.couples] == ["coupled"]
    with pytest.raises(UnknownName, match=r"verification rule 'travesal'\. Did you mean 'traversal'"):
        make_rule("travesal")


def test_seeded_coins_are_uniform_and_repeat() -> None:
    coins, again, other = SeededCoins(1, 2, 3), SeededCoins(1, 2, 3), SeededCoins(1, 2, 4)
    weights = np.array([0.0, 3.0, 0.0, 1.0, 4.0, 0.0])
    drawn = [coins.choose(weights) for _ in range(8000)]
    assert drawn == [again.choose(weights) for _ in range(8000)]
    assert drawn != [other.choose(weights) for _ in range(8000)]
    counts = np.bincount(drawn, minlength=6)
    assert counts[weights == 0.0].sum() == 0
    assert stats.chisquare(counts[weights > 0.0], 1000 * weights[weights > 0.0]).pvalue > 1e-4
    heads = sum(coins.flip(0.3) for _ in range(4000))
    assert stats.binomtest(heads, 4000, 0.3).pvalue > 1e-4
    assert not any(coins.flip(0.0) for _ in range(100))
    assert all(coins.flip(1.0) for _ in range(100))


@pytest.mark.parametrize("u", [2.0**-53, 0.5, 1.0 - 2.0**-53])
def test_coins_at_the_ends_choose_nothing_impossible(monkeypatch: pytest.MonkeyPatch, u: float) -> None:
    counters: list[int] = []

    def extreme(state: Any, tokens: list[int]) -> F64:
        counters.extend(tokens)
        return np.array([u])

    monkeypatch.setattr(coins_module, "uniform", extreme)
    coins = SeededCoins(0, 0, 0)
    for weights in ([0.0, 5e-324, 0.0], [0.0, 0.0, 1.0, 0.1, 1e-30, 0.0], [0.0, 0.1, 0.1, 0.1, 0.7, 0.0, 0.0]):
        assert weights[coins.choose(np.array(weights))] > 0.0
    assert coins.flip(1.0)
    assert not coins.flip(0.0)
    assert counters == [-16, -17, -18, -19, -20]  # no token's noise, nor the sampler's tail's

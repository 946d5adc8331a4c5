"""ETS's program: optimal against brute force, its tree passes and fallbacks one by one, and what costs are made of."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, combinations
from types import SimpleNamespace
from typing import Any

import pytest

from reason.search import cost_model
from reason.search.cost_model import Held, Program, best_leaves, bracket, greedy, held_tokens


def subsets(leaves: int) -> Iterator[tuple[int, ...]]:
    """All but the empty one."""
    return chain.from_iterable(combinations(range(leaves), size) for size in range(1, leaves + 1))


def best_value(program: Program) -> float:
    return max(program.value(chosen) for chosen in subsets(len(program.gains)))


def random_program(coins: random.Random, leaves: int, inner: int) -> Program:
    """Trees of any shape, weights that sum to 1 with ties among them, equal or random sizes, clusters anywhere."""
    weights = [coins.choice([0, 1, 1, 2, 3, coins.random()]) for _ in range(leaves)]
    total = sum(weights) or 1.0
    held = Held(
        parents=[-1, *(coins.randrange(node) for node in range(1, inner))],
        sizes=[coins.choice([1, coins.randint(1, 90)]) for _ in range(inner)],
        above=[coins.randrange(inner) for _ in range(leaves)],
        own=[coins.choice([1, coins.randint(0, 90)]) for _ in range(leaves)],
    )
    return held.program(
        [weight / total for weight in weights],
        [coins.randrange(coins.randint(1, leaves)) for _ in range(leaves)],
        kv_weight=coins.choice([0, 0.5, 1, 1, 2, 4, 8]),
        diversity_weight=coins.choice([0, 0.3, 1, 1.5, 3]),
    )


def odd_cycle(gain: float = 0.0) -> Program:
    """Three nodes of cost 1.2, each with two of three clusters worth 1 below it: one node brings 0.8, two 0.6; half of
    each 1.2, which is the fractional optimum."""
    return Program(
        parents=[-1, 0, 0, 0],
        costs=[0.0, 1.2, 1.2, 1.2],
        above=[1, 1, 2, 2, 3, 3],
        gains=[gain] * 6,
        clusters=[0, 1, 1, 2, 2, 0],
        bonus=1.0,
    )


def test_it_is_optimal() -> None:
    coins = random.Random(5)
    undecided = 0
    for _ in range(400):
        program = random_program(coins, coins.randint(1, 8), coins.randint(1, 7))
        kept = best_leaves(program)
        assert kept == sorted(set(kept))
        assert program.value(kept) == pytest.approx(best_value(program), abs=1e-9)
        inside, open_to = bracket(program)
        undecided += len(inside) != len(open_to) or not inside
    assert 40 < undecided < 200  # both ways were taken


def test_cbc_finds_the_same_value() -> None:
    coins = random.Random(6)
    programs = (random_program(coins, 7, 6) for _ in range(200))
    undecided = [program for program in programs if len(bracket(program)[0]) != len(bracket(program)[1])]
    for program in [odd_cycle(), *undecided[:8]]:
        kept = best_leaves(program, solver="cbc")
        assert program.value(kept) == pytest.approx(best_value(program), abs=1e-9)


def test_an_optimal_set_lies_between_the_passes() -> None:
    coins = random.Random(7)
    for _ in range(200):
        program = random_program(coins, coins.randint(2, 7), coins.randint(1, 6))
        inside, open_to = bracket(program)
        assert inside <= open_to
        between = [chosen for chosen in subsets(len(program.gains)) if inside <= set(chosen) <= open_to]
        best = max([program.value(chosen) for chosen in between] + ([] if inside else [0.0]))
        assert best == pytest.approx(max(best_value(program), best if inside else 0.0), abs=1e-9)


def test_passes_decide_wherever_clusters_count_for_nothing() -> None:
    """Also where no two leaves share one, or no two nodes do."""
    coins = random.Random(8)
    for _ in range(100):
        base = random_program(coins, 40, 30)
        for clusters, bonus in ((base.clusters, 0.0), (list(range(40)), 0.05), (base.above, 0.05)):
            inside, open_to = bracket(replace(base, clusters=clusters, bonus=bonus))
            assert inside == open_to


def test_a_tree_by_hand() -> None:
    """Nodes of cost .3 and .2, the second below the first: a and b pay for both (.25 + .2 + .1 > .3 and .2), c at a
    node of .4 does not pay for itself, d costs nothing and brings nothing."""
    program = Program(
        parents=[-1, 0, 1, 0],
        costs=[0.0, 0.3, 0.2, 0.4],
        above=[1, 2, 2, 3, 0],
        gains=[0.25, 0.2, 0.1, 0.35, 0.0],
        clusters=[0, 0, 0, 0, 0],
    )
    assert best_leaves(program) == [0, 1, 2, 4]
    assert program.value([0, 1, 2, 4]) == pytest.approx(0.05)
    assert program.value([3]) == pytest.approx(-0.05)


def test_of_each_cluster_one_is_kept_if_that_is_all_it_is_good_for() -> None:
    program = Program(
        parents=[-1],
        costs=[0.0],
        above=[0] * 5,
        gains=[-0.2, -0.1, -0.1, -0.3, 0.1],
        clusters=[0, 0, 1, 2, 2],
        bonus=0.25,
    )
    assert best_leaves(program) == [1, 2, 4]
    dear = Program(parents=[-1], costs=[0.0], above=[0, 0], gains=[-0.2, -0.1], clusters=[0, 1], bonus=0.05)
    assert best_leaves(dear) == [1]


@pytest.mark.parametrize("gains", [[-3.0], [0.5], [-2.0, -2.0, -2.0], [0.0, 0.0]])
@pytest.mark.parametrize("bonus", [0.0, 0.5])
def test_at_least_one_is_kept_and_ties_are(gains: list[float], bonus: float) -> None:
    program = Program(
        parents=[-1, 0],
        costs=[0.0, 1.0],
        above=[1] * len(gains),
        gains=gains,
        clusters=[0] * len(gains),
        bonus=bonus,
    )
    kept = best_leaves(program)
    assert len(kept) == (1 if gains[0] < 0 else len(gains))
    assert kept == best_leaves(program)


def test_joint_worth_below_a_node_that_none_pays_alone() -> None:
    """0.4 for a node that each of two leaves brings 0.3; the third, elsewhere, brings less than nothing."""
    program = Program(
        parents=[-1, 0], costs=[0.0, 0.4], above=[1, 1, 0], gains=[0.3, 0.3, -0.1], clusters=[0, 0, 0], bonus=0.0
    )
    assert best_leaves(program) == [0, 1]
    costly = Program(
        parents=[-1, 0], costs=[0.0, 1.4], above=[1, 1, 0], gains=[0.3, 0.3, -0.9], clusters=[0, 0, 0], bonus=0.0
    )
    assert best_leaves(costly) == [0, 1]  # -0.8, where one alone is -1.1 and the third -0.9


def test_without_a_price_all_are_kept() -> None:
    coins = random.Random(9)
    for _ in range(50):
        held = held_tokens([tuple(coins.choices(range(3), k=coins.randint(2, 9))) for _ in range(9)], 0)
        weights = [0.0, 0.5, 0.5, *[0.0] * 6]
        for diversity_weight in (0.0, 1.5):
            program = held.program(weights, [0] * 9, kv_weight=0.0, diversity_weight=diversity_weight)
            assert best_leaves(program) == list(range(9))


# -- what passes leave ---------------------------------------------------------------------------------------------


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What scipy was asked for."""
    import scipy.optimize

    asked: list[str] = []

    def watched(name: str, of: Any) -> Any:
        def call(*args: Any, **named: Any) -> Any:
            asked.append(name)
            return of(*args, **named)

        return call

    for name in ("linprog", "milp"):
        monkeypatch.setattr(scipy.optimize, name, watched(name, getattr(scipy.optimize, name)))
    return asked


def test_a_fractional_relaxation_is_solved_in_integers(solved: list[str]) -> None:
    program = odd_cycle()
    assert bracket(program) == (set(), set(range(6)))
    kept = best_leaves(program)
    assert solved == ["linprog", "milp"]
    assert program.value(kept) == pytest.approx(0.8)
    assert len(program.inner(kept)) == 2


def test_an_integral_relaxation_is_enough(solved: list[str]) -> None:
    """Two nodes, one pays for both clusters, and the passes cannot know which."""
    program = Program(
        parents=[-1, 0, 0],
        costs=[0.0, 0.5, 0.4],
        above=[1, 1, 2, 2],
        gains=[0.0] * 4,
        clusters=[0, 1, 0, 1],
        bonus=0.3,
    )
    assert best_leaves(program) == [2, 3]
    assert solved == ["linprog"]


@pytest.mark.parametrize("incumbent", [None, [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0]])
def test_at_the_limit_a_greedy_choice_competes(monkeypatch: pytest.MonkeyPatch, incumbent: Any) -> None:
    """The incumbent keeps two nodes, 0.6; greedy one, 0.8."""
    import scipy.optimize

    monkeypatch.setattr(scipy.optimize, "milp", lambda *args, **named: SimpleNamespace(x=incumbent, status=1))
    program = odd_cycle()
    kept = best_leaves(program)
    assert program.value(kept) == pytest.approx(0.8)
    assert kept == sorted(greedy(program, set(), set(range(6))))


def test_greedy_by_hand() -> None:
    """0 brings .5, 2 then .2 more, 1 nothing; 3 would cost. With 3 inside, it stays."""
    program = Program(
        parents=[-1, 0], costs=[0.0, 0.1], above=[0, 0, 1, 1], gains=[0.5, -0.1, 0.3, -0.2], clusters=[0, 0, 1, 0]
    )
    assert greedy(program, set(), {0, 1, 2, 3}) == {0, 2}
    assert greedy(program, {3}, {0, 2, 3}) == {0, 2, 3}
    assert greedy(program, set(), {1}) == {1}
    everywhere = [random_program(random.Random(seed), 7, 6) for seed in range(60)]
    for each in everywhere:
        found = each.value(greedy(each, set(), set(range(7))))
        assert found <= best_value(each) + 1e-9


def test_large_programs_end_and_agree_with_one_big_integer_program() -> None:
    from scipy.optimize import LinearConstraint, milp

    for seed in range(6):
        program = random_program(random.Random(seed), 120, 90)
        whole = cost_model._Undecided.of(program, set(), set(range(120)))
        matrix = [[row.get(column, 0.0) for column in range(len(whole.costs))] for row in whole.rows]
        options = {"mip_rel_gap": 0.0}
        best = milp(
            whole.costs,
            constraints=LinearConstraint(matrix, ub=whole.bounds),
            integrality=[1] * len(whole.costs),
            bounds=(0, 1),
            options=options,
        )
        assert program.value(best_leaves(program)) == pytest.approx(-best.fun, abs=1e-6)


# -- what is held --------------------------------------------------------------------------------------------------


def test_tokens_are_held_once_where_paths_are_equal() -> None:
    held = held_tokens([(1, 2, 3, 4), (1, 2, 7), (1, 2, 3, 5, 6), (1, 2, 3, 4), (1, 2, 3)], 2)
    # below the prompt 1 2: a 3, and below that a 4 that two leaves have; 5 6 and 7 are one's alone
    assert held.parents == [-1, 0, 1]
    assert held.sizes == [0, 1, 1]
    assert held.above == [2, 0, 1, 2, 1]
    assert held.own == [0, 1, 2, 0, 0]


def test_one_path_alone_and_paths_that_are_all_equal() -> None:
    assert held_tokens([(1, 2, 3)], 1) == Held([-1], [0], [0], [2])
    assert held_tokens([(1, 2, 3)] * 2, 1) == Held([-1, 0], [0, 2], [1, 1], [0, 0])
    assert held_tokens([(1,)] * 2, 1) == Held([-1], [0], [0, 0], [0, 0])


def test_any_leaves_hold_their_distinct_prefixes() -> None:
    coins = random.Random(11)
    for _ in range(100):
        contexts = [(9, 9, *coins.choices(range(2), k=coins.randint(0, 8))) for _ in range(coins.randint(1, 7))]
        held = held_tokens(contexts, 2)
        assert all(parent < node for node, parent in enumerate(held.parents))
        total = sum(held.sizes) + sum(held.own)
        program = held.program([0.0] * len(contexts), [0] * len(contexts), kv_weight=1.0, diversity_weight=0.0)
        assert total == distinct(contexts)
        for chosen in subsets(len(contexts)):
            cost = -program.value(chosen) * max(1, total)
            assert cost == pytest.approx(distinct([contexts[leaf] for leaf in chosen]))


def distinct(contexts: Sequence[tuple[int, ...]]) -> int:
    """Prefixes longer than the two tokens of the prompt."""
    return len({context[:end] for context in contexts for end in range(3, len(context) + 1)})


def test_weights_and_prices_make_the_program() -> None:
    held = Held(parents=[-1, 0], sizes=[1, 1], above=[1, 0], own=[1, 1])
    program = held.program([0.75, 0.25], [0, 1], kv_weight=2.0, diversity_weight=1.5)
    assert program.costs == [0.0, 0.5]  # 2 of 4 nodes' worth, the root's counted and not charged
    assert program.gains == [0.25, -0.25]
    assert program.bonus == 0.75

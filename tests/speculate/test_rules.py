"""The verification rules, proved by enumeration: on small tables of probabilities every outcome of the draws and of the
verification is tried with its exact weight, and what is emitted has the law of plain sampling to 1e-12."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from reason.speculate.draft import Distribution, DraftTree, Template
from reason.speculate.rules import (
    RULES,
    Coins,
    Draws,
)
from reason.speculate.rules.drawing import Proposal
from reason.types import Path
from tests.speculate.enumeration import (
    EXACT,
    F64,
    PAIR,
    REJECTION,
    SINGLE,
    TEMPLATES,
    VERIFY,
    Tables,
    bias,
    contexts,
    draft,
    drafts_for,
    emitted,
    mean_accepted,
    outcomes,
    random_tables,
    tables_of,
    target_of,
)

SMALL: list[Template] = [SINGLE, PAIR, ((0,), (0, 0)), (*PAIR, (0, 0)), (*PAIR, (1, 0))]
KINDS = ("full", "partial", "equal", "disjoint", "zeros")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", TEMPLATES)
@pytest.mark.parametrize("name", VERIFY)
def test_what_is_emitted_has_the_targets_law(name: str, shape: str, kind: str) -> None:
    template = TEMPLATES[shape]
    vocab = 4 if shape == "wide" else 3
    tables = random_tables(kind, vocab=vocab, length=max(map(len, template)) + 1)
    assert bias(tables, drafts_for(name, tables, template), VERIFY[name]) < EXACT


@st.composite
def small_tables(draw: st.DrawFn) -> Tables:
    """Probabilities that are ratios of small integers: many zeros, ties and exact equalities; q may have nothing."""
    vocab = draw(st.integers(2, 3))
    rows = st.lists(st.integers(0, 3), min_size=vocab, max_size=vocab)
    p: dict[Path, F64] = {}
    q: dict[Path, Distribution] = {}
    for path in contexts(vocab, 3):
        weights = np.array(draw(rows), np.float64) if len(path) < 2 else np.ones(vocab)
        p[path] = weights / weights.sum() if weights.any() else np.full(vocab, 1.0 / vocab)
        own = draw(rows) if len(path) < 2 else []
        q[path] = Distribution(range(len(own)), [w / (sum(own) or 1) for w in own])
    return tables_of(p, q)


@pytest.mark.parametrize("name", VERIFY)
@given(tables=small_tables(), template=st.sampled_from(SMALL))
@settings(max_examples=25)
def test_any_tables_and_tree(name: str, tables: Tables, template: Template) -> None:
    assert bias(tables, drafts_for(name, tables, template), VERIFY[name]) < EXACT


@pytest.mark.parametrize("draws", ["replacement", "without-replacement", "mixed"])
def test_match_takes_drawn_children_too(draws: Draws) -> None:
    tables = random_tables("full", length=4)
    assert bias(tables, outcomes(partial(draft, tables, TEMPLATES["uneven"], draws)), VERIFY["match"]) < EXACT


# How much is accepted. A rule that rejects everything would be exact too.


@pytest.mark.parametrize("name", REJECTION)
@pytest.mark.parametrize("seed", range(3))
def test_one_child_is_accepted_where_p_and_q_overlap(name: str, seed: int) -> None:
    tables = random_tables("full", seed=seed)
    q = Proposal.of(tables.q[()], replacement=True)
    overlap = np.minimum(tables.p[()][q.tokens], q.probabilities).sum()
    drafts = drafts_for(name, tables, SINGLE)
    assert mean_accepted(tables, drafts, VERIFY[name]) == pytest.approx(overlap, abs=EXACT)


@pytest.mark.parametrize("name", REJECTION)
def test_where_q_is_p_a_whole_path_is_accepted(name: str) -> None:
    tables = random_tables("equal", length=3)
    accepted = mean_accepted(tables, drafts_for(name, tables, (*PAIR, (0, 0), (1, 0))), VERIFY[name])
    assert accepted == pytest.approx(2.0, abs=1e-6)  # k-seq finds its ratio by bisection


def test_match_accepts_the_childrens_mass() -> None:
    tables = random_tables("full", vocab=4)
    drafts = drafts_for("match", tables, PAIR)
    mass = sum(tables.p[()][token] for token in drafts[0][0].tokens[1:])
    assert mean_accepted(tables, drafts, VERIFY["match"]) == pytest.approx(mass, abs=EXACT)


@pytest.mark.parametrize("seed", range(3))
def test_two_independent_children_are_accepted_as_the_papers_say(seed: int) -> None:
    tables = random_tables("full", seed=seed)
    p, q = tables.p[()], np.zeros(3)
    q[list(tables.q[()].tokens)] = tables.q[()].probabilities
    drafts = drafts_for("iid", tables, PAIR)
    overlap = np.minimum(p, q).sum()
    residual = np.maximum(p - q, 0.0) / (1.0 - overlap)
    by_recursion = overlap + (1.0 - overlap) * np.minimum(residual, q).sum()
    assert mean_accepted(tables, drafts, VERIFY["iid"]) == pytest.approx(by_recursion, abs=EXACT)

    def excess(r: float) -> float:
        return float(1.0 - (1.0 - np.minimum(p / r, q).sum()) ** 2 - r * np.minimum(p / r, q).sum())

    ratio = brentq(excess, 1.0, 2.0)
    by_ratio = ratio * np.minimum(p / ratio, q).sum()
    assert mean_accepted(tables, drafts, VERIFY["k-seq"]) == pytest.approx(by_ratio, abs=1e-6)


def test_traversal_accepts_more_on_chains() -> None:
    gains = []
    for seed in range(8):
        tables = random_tables("full", length=4, seed=seed)
        drafts = drafts_for("traversal", tables, TEMPLATES["chain"])
        from_the_root = mean_accepted(tables, drafts, VERIFY["without-replacement"])
        gains.append(mean_accepted(tables, drafts, VERIFY["traversal"]) - from_the_root)
    assert min(gains) > -EXACT
    assert max(gains) > 0.01


# Several rollouts from one node.


def two_rollouts(tables: Tables, name: str, shared: DraftTree | None, coins: Coins) -> tuple[Path, Path]:
    """What two rollouts emit, each by coins of its own; from the shared tree or from a tree for each."""
    paths = []
    for _ in range(2):
        tree = draft(tables, PAIR, RULES[name].draws, coins) if shared is None else shared
        paths.append(emitted(tree, VERIFY[name](tree, target_of(tables, tree), coins)))
    return paths[0], paths[1]


def pair_law(tables: Tables, pairs: list[tuple[tuple[Path, Path], float]]) -> F64:
    """The joint law of two rollouts, [vocab] * (2 * length)."""
    law = np.zeros(tables.law.shape * 2)
    for (one, other), chance in pairs:
        place: tuple[Any, ...] = (*one, *[slice(None)] * (tables.law.ndim - len(one)), *other)
        law[place] += chance * np.multiply.outer(tables.rest[one], tables.rest[other])
    return law


@pytest.mark.parametrize("name", REJECTION)
def test_rollouts_with_trees_of_their_own_are_independent(name: str) -> None:
    tables = random_tables("partial")
    law = pair_law(tables, outcomes(partial(two_rollouts, tables, name, None)))
    assert np.abs(law - np.multiply.outer(tables.law, tables.law)).max() < EXACT


def test_rollouts_may_share_a_tree_under_match() -> None:
    tables = random_tables("full")
    [(tree, _)] = drafts_for("match", tables, PAIR)
    law = pair_law(tables, outcomes(partial(two_rollouts, tables, "match", tree)))
    assert np.abs(law - np.multiply.outer(tables.law, tables.law)).max() < EXACT


def test_rollouts_that_share_a_drawn_tree_are_correlated() -> None:
    """Why the rejection rules need a tree for each rollout: one at a time each is exact, together they are not."""
    tables = random_tables("full")
    name = "without-replacement"
    law = sum(
        weight * pair_law(tables, outcomes(partial(two_rollouts, tables, name, tree)))
        for tree, weight in drafts_for(name, tables, PAIR)
    )
    assert isinstance(law, np.ndarray)
    assert np.abs(law.sum(axis=(2, 3)) - tables.law).max() < EXACT
    assert np.abs(law.sum(axis=(0, 1)) - tables.law).max() < EXACT
    assert np.abs(law - np.multiply.outer(tables.law, tables.law)).max() > 1e-2

"""What the rules are not exact for, which shows that the proofs by enumeration can fail; and what they allow."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from reason.speculate.draft import DraftTree
from reason.speculate.rules import (
    RULES,
    Coins,
)
from reason.speculate.rules.drawing import Proposal
from tests.speculate.enumeration import (
    EXACT,
    PAIR,
    REJECTION,
    VERIFY,
    Tables,
    bias,
    drafts_for,
    outcomes,
    random_tables,
)


def dropped_below(least: float, tree: DraftTree) -> DraftTree:
    """Of a tree of depth 1 the children of at least that probability."""
    new = DraftTree([-1], drawn_from=tree.drawn_from)
    for child in tree.children[0]:
        if tree.estimates[child] >= least:
            new.add(0, tree.tokens[child])
    return new


def test_the_iid_rule_is_biased_for_draws_without_replacement() -> None:
    tables = random_tables("full", seed=2)  # after one rejection p must have more than one token left
    assert bias(tables, drafts_for("without-replacement", tables, PAIR), VERIFY["iid"]) > 1e-3
    assert bias(tables, drafts_for("traversal", tables, PAIR), VERIFY["traversal-iid"]) > 1e-3


def test_a_soft_q_is_biased_for_children_that_were_put_there() -> None:
    tables = random_tables("full")
    [(tree, _)] = drafts_for("match", tables, PAIR)
    tree.drawn_from[0] = tables.q[()]
    for name in ("without-replacement", "traversal"):
        assert bias(tables, [(tree, 1.0)], VERIFY[name]) > 1e-2


def test_dropping_children_by_their_own_probability_is_biased() -> None:
    tables = random_tables("full")
    drafts = drafts_for("without-replacement", tables, PAIR)
    median = float(np.median(tables.q[()].probabilities))
    kept = [(dropped_below(median, tree), weight) for tree, weight in drafts]
    assert bias(tables, kept, VERIFY["without-replacement"]) > 1e-2


def test_the_order_of_the_draws_matters() -> None:
    tables = random_tables("full")
    drafts = drafts_for("without-replacement", tables, PAIR)
    for tree, _ in drafts:
        tree.children[0].reverse()
    assert bias(tables, drafts, VERIFY["without-replacement"]) > 1e-3


def adaptive(tables: Tables, replacement: bool, coins: Coins) -> DraftTree:
    """Every draw is decided by the tokens drawn before, elsewhere in the tree too; never by the drawn token itself."""
    tree = DraftTree([-1])
    left: dict[int, Proposal] = {}

    def draw(node: int) -> int:
        tree.drawn_from[node] = tables.q[tree.path(node)]
        proposal = left.get(node, Proposal.of(tree.drawn_from[node], replacement=replacement))
        token = int(proposal.tokens[coins.choose(proposal.probabilities)])
        left[node] = proposal.after(token)
        return tree.add(node, token)

    first = draw(0)
    below = draw(first)
    if tree.tokens[below] != 0:
        second = draw(0)
        if tree.tokens[draw(second)] != tree.tokens[first]:
            draw(first)
        if tree.tokens[below] == tree.tokens[second]:
            draw(0)
    return tree


@pytest.mark.parametrize("name", REJECTION)
def test_draws_may_depend_on_what_was_drawn_before(name: str) -> None:
    """Except under k-seq, whose first test looks at how many children there will be."""
    tables = random_tables("full", length=3)
    drafts = outcomes(partial(adaptive, tables, RULES[name].draws == "replacement"))
    error = bias(tables, drafts, VERIFY[name])
    assert error > 1e-3 if name == "k-seq" else error < EXACT

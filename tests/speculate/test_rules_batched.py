"""The rules for all trees at once, against the rules themselves, which are proved by enumeration: with the same coins
the same verdicts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from reason.runtime.device_laws import Laws
from reason.runtime.sampler import Draw
from reason.speculate.draft import DraftTree
from reason.speculate.rules import RULES, SeededCoins, Verdict
from reason.speculate.rules.batched import BATCHED, decide, verdict_of
from reason.types import Sampling
from tests.speculate.enumeration import F64, TEMPLATES, VERIFY, draft, random_tables, target_of

KINDS = ("full", "partial", "equal", "disjoint", "zeros")


def test_every_rule_that_rejects_has_its_batch() -> None:
    assert set(BATCHED) == {rule.name for rule in RULES.values() if rule.draws != "any"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BATCHED)
def test_the_verdicts_are_the_rules(name: str, kind: str) -> None:
    """Trees of all shapes in one batch."""
    trees: list[DraftTree] = []
    coins: list[SeededCoins] = []
    draws: list[Draw] = []
    rows: list[F64] = []
    expected: list[Verdict] = []
    for template in TEMPLATES.values():
        tables = random_tables(kind, vocab=4, length=max(map(len, template)) + 1, seed=3)
        for key in range(60):
            own, same = SeededCoins(1, key, 5), SeededCoins(1, key, 5)
            tree = draft(tables, template, RULES[name].draws, own)
            draft(tables, template, RULES[name].draws, same)
            expected.append(VERIFY[name](tree, target_of(tables, tree), own))
            trees.append(tree)
            coins.append(same)
            for node, depth in enumerate(tree.depths):
                draws.append(Draw(len(rows), 1, key, 5 + depth, Sampling(temperature=1.0)))
                rows.append(tables.p[tree.path(node)])
    with np.errstate(divide="ignore"):
        logits = torch.from_numpy(np.log(np.array(rows)))
    decisions = decide(name, Laws(logits, draws), trees, coins)
    outcomes, tokens = decisions.outcomes.tolist(), decisions.tokens.tolist()
    begin = 0
    for tree, verdict in zip(trees, expected, strict=True):
        end = begin + len(tree.tokens)
        assert verdict_of(name, tree, outcomes[begin:end], tokens[begin:end]) == verdict
        begin = end
    accepted = {len(verdict.accepted) for verdict in expected}
    assert len(accepted) > 1 or kind == "disjoint"

"""Small tables of probabilities, and every outcome of draws and verification over them with its exact weight."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import Distribution, DraftTree, Template
from reason.speculate.rules import (
    RULES,
    Coins,
    Draws,
    Verdict,
    Verify,
    draw_tree,
    grow,
)
from reason.types import Path

F64 = npt.NDArray[np.float64]
T = TypeVar("T")

EXACT = 1e-12
SINGLE: Template = ((0,),)
PAIR: Template = ((0,), (1,))
TEMPLATES: dict[str, Template] = {
    "chain": ((0,), (0, 0), (0, 0, 0)),
    "binary": ((0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)),
    "wide": ((0,), (1,), (2,)),
    "uneven": ((0,), (1,), (1, 0), (1, 0, 0)),
}
VERIFY: dict[str, Verify] = {rule.name: rule.verify for rule in RULES.values() if rule.verify is not None}
REJECTION = [rule.name for rule in RULES.values() if rule.draws in ("replacement", "without-replacement")]


class Every:
    """Coins that take the outcomes of ``way``, then always the first one, and note what else was possible."""

    def __init__(self, way: tuple[int, ...]) -> None:
        self.way, self.taken = way, list[int]()
        self.weight = 1.0
        self.open: list[tuple[int, ...]] = []

    def flip(self, probability: float) -> bool:
        assert 0.0 <= probability <= 1.0
        return self._outcome((1.0 - probability, probability)) == 1

    def choose(self, weights: F64) -> int:
        assert (weights >= 0.0).all()
        return self._outcome((weights / weights.sum()).tolist())

    def _outcome(self, chances: tuple[float, ...] | list[float]) -> int:
        if len(self.taken) < len(self.way):
            outcome = self.way[len(self.taken)]
        else:
            outcome, *others = [i for i, chance in enumerate(chances) if chance > 0.0]
            self.open += [(*self.taken, other) for other in others]
        self.taken.append(outcome)
        self.weight *= chances[outcome]
        return outcome


def outcomes(experiment: Callable[[Coins], T]) -> list[tuple[T, float]]:
    """Every result of an experiment with coins, with its probability."""
    results: list[tuple[T, float]] = []
    ways: list[tuple[int, ...]] = [()]
    while ways:
        coins = Every(ways.pop())
        results.append((experiment(coins), coins.weight))
        ways += coins.open
    return results


class Tables(NamedTuple):
    """A target and a draft source whose distributions depend on the whole prefix."""

    p: dict[Path, F64]
    q: dict[Path, Distribution]
    rest: dict[Path, F64]  # by prefix: the law of the tokens that complete it, [vocab] * how many

    @property
    def law(self) -> F64:
        return self.rest[()]


def tables_of(p: dict[Path, F64], q: dict[Path, Distribution]) -> Tables:
    vocab, length = len(p[()]), max(map(len, p)) + 1
    for row in p.values():
        row.flags.writeable = False  # no rule may change them
    rest: dict[Path, F64] = {path: np.ones(()) for path in product(range(vocab), repeat=length)}
    for path in sorted(p, key=len, reverse=True):
        rest[path] = np.stack([p[path][token] * rest[(*path, token)] for token in range(vocab)])
    return Tables(p, q, rest)


def contexts(vocab: int, length: int) -> list[Path]:
    return [path for n in range(length) for path in product(range(vocab), repeat=n)]


def random_tables(kind: str, *, vocab: int = 3, length: int = 2, seed: int = 0) -> Tables:
    rng = np.random.default_rng([seed, vocab, length])
    p: dict[Path, F64] = {}
    q: dict[Path, Distribution] = {}
    for path in contexts(vocab, length):
        p[path], tokens = rng.dirichlet(np.ones(vocab)), rng.permutation(vocab)
        weights = rng.dirichlet(np.ones(vocab))
        if kind == "partial":  # with one token that is listed and cannot be drawn
            weights[2:] = 0.0
            tokens, weights = tokens[:3], weights[:3]
        elif kind == "equal":
            weights = p[path][tokens]
        elif kind == "disjoint":
            p[path][tokens[:-2]] = 0.0
            tokens, weights = tokens[:-2], weights[:-2]
        elif kind == "zeros":
            p[path][tokens[1]] = 0.0
        p[path] /= p[path].sum()
        q[path] = Distribution(tokens.tolist(), (weights / weights.sum()).tolist())
    return tables_of(p, q)


def step(path: Path, token: int) -> Path:
    return (*path, token)


def draft(tables: Tables, template: Template, draws: Draws, coins: Coins) -> DraftTree:
    """A tree as a rule wants it. With ``any`` all children are the likeliest of q, with ``mixed`` the first is."""
    if draws in ("replacement", "without-replacement"):
        return draw_tree(-1, (), step, tables.q.__getitem__, template, coins, replacement=draws == "replacement")
    tree, slots = DraftTree([-1]), {0: tuple[int, ...]()}
    node = 0
    while node < len(tree.tokens):
        width = sum(slot[:-1] == slots[node] for slot in template)
        q = tables.q[tree.path(node)]
        ranked = sorted(zip(q.probabilities, q.tokens, strict=True), reverse=True)
        for _, token in ranked[: min(width, 1) if draws == "mixed" else width]:
            tree.add(node, token)
        if draws == "mixed" and width:
            tree.fixed[node] = len(tree.children[node])
            grow(tree, node, q, width - tree.fixed[node], coins)
        slots |= {child: (*slots[node], rank) for rank, child in enumerate(tree.children[node])}
        node += 1
    return tree


def target_of(tables: Tables, tree: DraftTree) -> Callable[[int], F64]:
    return lambda node: tables.p[tree.path(node)]


def emitted(tree: DraftTree, verdict: Verdict) -> Path:
    assert all(tree.parents[child] == node for node, child in pairwise((0, *verdict.accepted)))
    return (*tree.path((0, *verdict.accepted)[-1]), verdict.token)


Drafts = list[tuple[DraftTree, float]]


def drafts_for(name: str, tables: Tables, template: Template) -> Drafts:
    return outcomes(partial(draft, tables, template, RULES[name].draws))


def emission(tables: Tables, drafts: Drafts, verify: Verify) -> F64:
    """The law of what is emitted and then completed by plain sampling, [vocab] * length."""
    law = np.zeros_like(tables.law)
    for tree, weight in drafts:
        for verdict, chance in outcomes(partial(verify, tree, target_of(tables, tree))):
            path = emitted(tree, verdict)
            law[path] += weight * chance * tables.rest[path]
    return law


def bias(tables: Tables, drafts: Drafts, verify: Verify) -> float:
    return float(np.abs(emission(tables, drafts, verify) - tables.law).max())


def mean_accepted(tables: Tables, drafts: Drafts, verify: Verify) -> float:
    return sum(
        weight * chance * len(verdict.accepted)
        for tree, weight in drafts
        for verdict, chance in outcomes(partial(verify, tree, target_of(tables, tree)))
    )

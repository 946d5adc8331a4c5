"""The verification rules, proved by enumeration: on small tables of probabilities every outcome of the draws and of the
verification is tried with its exact weight, and what is emitted has the law of plain sampling to 1e-12."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from reason.errors import UnknownName
from reason.runtime.noise import gumbel, position_state
from reason.speculate.draft import Distribution, DraftTree, Template
from reason.speculate.rules import (
    RULES,
    Coins,
    Draws,
    SeededCoins,
    Verdict,
    Verify,
    draw_children,
    draw_tree,
    follow,
    grow,
    make_rule,
)
from reason.speculate.rules import coins as coins_module
from reason.speculate.rules.drawing import Proposal
from reason.types import Path

F64 = npt.NDArray[np.float64]
T = TypeVar("T")

EXACT = 1e-12
SINGLE: Template = ((0,),)
PAIR: Template = ((0,), (1,))
SMALL: list[Template] = [SINGLE, PAIR, ((0,), (0, 0)), (*PAIR, (0, 0)), (*PAIR, (1, 0))]
TEMPLATES: dict[str, Template] = {
    "chain": ((0,), (0, 0), (0, 0, 0)),
    "binary": ((0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1)),
    "wide": ((0,), (1,), (2,)),
    "uneven": ((0,), (1,), (1, 0), (1, 0, 0)),
}
KINDS = ("full", "partial", "equal", "disjoint", "zeros")
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


# The coupled rule.

Change = Callable[[DraftTree], DraftTree]


def random_tree(rng: np.random.Generator, sample: Callable[[Path], int]) -> DraftTree:
    """Some nodes carry the plain sample, the others any token, so that duplicates and dead ends occur."""
    tree = DraftTree([-1])
    for _ in range(rng.integers(0, 12)):
        parent = int(rng.integers(0, len(tree.tokens)))
        tree.add(parent, sample(tree.path(parent)) if rng.random() < 0.5 else int(rng.integers(0, 4)))
    return tree


def rearranged(tree: DraftTree, rng: np.random.Generator) -> DraftTree:
    """Siblings shuffled, some with all below them dropped, and duplicates merged."""
    new = DraftTree([-1])
    places = [(0, 0)]
    for old, node in places:
        for child in rng.permutation(tree.children[old]).tolist():
            if rng.random() < 0.8:
                merged = new.child(node, tree.tokens[child])
                places.append((child, new.add(node, tree.tokens[child]) if merged is None else merged))
    return new


def coupled_step(path: Path, sample: Callable[[Path], int], change: Change, rng: np.random.Generator) -> Path:
    """What one step emits after ``path``."""
    tree = change(random_tree(rng, lambda below: sample((*path, *below))))
    return emitted(tree, follow(tree, lambda node: sample((*path, *tree.path(node)))))


@pytest.mark.parametrize("seed", range(20))
def test_coupled_emits_the_plain_sample_whatever_is_drafted(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(4, 0.5), size=(4, 4)) * (rng.random((4, 4, 4)) < 0.8)
    table[..., 0] += 1e-3

    def sample(path: Path) -> int:
        p = table[(0, 0, *path)[-2:]]
        with np.errstate(divide="ignore"):
            return int(np.argmax(np.log(p / p.sum()) + gumbel(position_state(seed, 7, len(path)), np.arange(4))))

    plain: Path = ()
    while len(plain) < 40:
        plain = step(plain, sample(plain))
    changes: tuple[Change, ...] = (lambda tree: tree, partial(rearranged, rng=rng))
    for change in changes:
        path, steps = tuple[int, ...](), 0
        while len(path) < 40:
            path = (*path, *coupled_step(path, sample, change, rng))
            steps += 1
        assert path[:40] == plain
        assert steps < 35  # something was accepted


# What the rules are not exact for: these show that the tests above can fail.


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


# Draws, names and coins.


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

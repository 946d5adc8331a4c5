"""The coupled rule: whatever is drafted, the plain sample is emitted."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from reason.runtime.noise import gumbel, position_state
from reason.speculate.draft import DraftTree
from reason.speculate.rules import (
    follow,
)
from reason.types import Path
from tests.speculate.enumeration import (
    emitted,
    step,
)

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

"""What every rule is given and gives back: the target's distributions, and a verdict on a draft tree.

A rule reads a draft tree and says which of its tokens stand and which token comes after them, such that what is emitted
has exactly the law of plain sampling from the target: per node, given everything that happened before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from reason.speculate.draft import DraftTree
from reason.speculate.rules.coins import Coins

__all__ = ["F64", "Attempt", "Target", "Verdict", "Verify", "descend"]

F64: TypeAlias = npt.NDArray[np.float64]

Target: TypeAlias = Callable[[int], F64]
"""By node of the draft tree: the target's distribution of the token after it, [vocab], sum 1, with penalties, grammar,
temperature and truncation applied. Called for the nodes that are visited only; its arrays are never changed."""


class Verdict(NamedTuple):
    """What stands of a draft: ``len(accepted) + 1`` tokens are emitted, the last of them undrafted."""

    accepted: tuple[int, ...]  # nodes of the draft tree, root side first, the root left out
    token: int


Verify: TypeAlias = Callable[[DraftTree, Target, Coins], Verdict]


class Attempt(NamedTuple):
    """How one node's children fared: the one accepted, or what the node's token is drawn from since there is none."""

    child: int | None
    rest: F64  # [vocab], not negative, any positive sum


def descend(tree: DraftTree, target: Target, coins: Coins, attempt: Callable[[int, F64], Attempt]) -> Verdict:
    """The rules that go from the root down: from node to accepted child, by ``attempt(node, p)``, to where there is
    none."""
    node, accepted = 0, list[int]()
    while True:
        child, rest = attempt(node, target(node))
        if child is None:
            return Verdict(tuple(accepted), coins.choose(rest))
        accepted.append(child)
        node = child

"""The strategy and its breadth for a budget, from a table of what they came to (``reason compare`` makes it).

Choosing by measured accuracy at equal cost is the compute-optimal strategy of Snell et al.
(https://arxiv.org/abs/2408.03314). We depart from it in not looking at the problem's difficulty: that would need a
verifier that knows it. It may well choose best-of-n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from reason.fields import hints
from reason.search.calibration import choose, read_calibration
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.tree import Action, Room, Strategy, Tree
from reason.types import Answer

__all__ = ["Auto"]


@dataclass(frozen=True, kw_only=True)
class Auto(Decoding):
    """Args:
    budget_tokens: what a problem may cost; ``solve`` and the command line fill it in from the budget.
    table: a calibration.json that ``reason compare`` wrote; "" is the package's own.
    """

    budget_tokens: int = 4096
    table: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "budget_tokens")
        assert self.inner is not None

    @cached_property
    def inner(self) -> Strategy:
        """What was chosen."""
        from reason.search.strategies import STRATEGIES, make_strategy

        row = choose(read_calibration(self.table), self.budget_tokens)
        known = hints(STRATEGIES[row.strategy]) if row.strategy in STRATEGIES else {}
        own = {name: getattr(self, name) for name in hints(Decoding) if name in known and name not in row.fields}
        return make_strategy(row.strategy, **{**own, **row.fields})

    @property
    def measures(self) -> tuple[str, ...]:
        return self.inner.measures

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        return self.inner.ask(tree, room)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        self.inner.tell(tree, done)

    def answer(self, tree: Tree) -> Answer:
        return self.inner.answer(tree)

"""The strategy and its breadth for a budget, from a table of what they came to (``reason compare`` makes it).

Choosing by measured accuracy at equal cost is the compute-optimal strategy of Snell et al.
(https://arxiv.org/abs/2408.03314). We depart from it in not looking at the problem's difficulty: that would need a
verifier that knows it. It may well choose best-of-n.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from reason.fields import hints, label
from reason.search.calibration import choose, read_calibration
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.tree import Action, Room, Strategy, Tree
from reason.types import Answer

__all__ = ["Auto"]


@dataclass(frozen=True, kw_only=True)
class Auto:
    """Args:
    budget_tokens: what a problem may cost; ``solve`` and the command line fill it in from the budget.
    table: a calibration.json that ``reason compare`` wrote; "" is the package's own.
    max_tokens, temperature, top_k, top_p, min_p: what is chosen gets these; by default those it was measured with.
    chosen: the row of the table; not to be given.
    inner: the strategy that it names; not to be given.
    """

    budget_tokens: int = 4096
    table: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    chosen: str = field(init=False)
    inner: Strategy = field(init=False)

    def __post_init__(self) -> None:
        from reason.search.strategies import make_strategy

        check_at_least(self, 1, "budget_tokens")
        row = choose(read_calibration(self.table), self.budget_tokens)
        given = {name: value for name in hints(Decoding) if (value := getattr(self, name)) is not None}
        object.__setattr__(self, "chosen", label(row.strategy, row.fields))
        object.__setattr__(self, "inner", make_strategy(row.strategy, **{**row.fields, **given}))

    @property
    def measures(self) -> tuple[str, ...]:
        return self.inner.measures

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        return self.inner.ask(tree, room)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        self.inner.tell(tree, done)

    def answer(self, tree: Tree) -> Answer:
        return self.inner.answer(tree)

"""Verification rules: which drafted tokens stand, so that what is emitted has exactly the target's law. A new one is a
file here and a line below.

Several samples from one node: ``coupled`` and ``match`` may share a draft tree among them. Under the other rules
samples that share a drawn tree are each exact but correlated, so each needs a tree of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from reason.errors import UnknownName
from reason.speculate.rules import iid, match, mixed, traversal, without_replacement
from reason.speculate.rules.coins import Coins, SeededCoins
from reason.speculate.rules.coupled import follow
from reason.speculate.rules.drawing import draw_children, draw_tree, grow
from reason.speculate.rules.verdict import Target, Verdict, Verify

__all__ = [
    "RULES",
    "Coins",
    "Draws",
    "Rule",
    "SeededCoins",
    "Target",
    "Verdict",
    "Verify",
    "draw_children",
    "draw_tree",
    "follow",
    "grow",
    "make_rule",
]

Draws: TypeAlias = Literal["any", "replacement", "without-replacement", "mixed"]
"""What children a rule is exact for: any at all; drawn from ``DraftTree.drawn_from`` with or without replacement; the
first ``DraftTree.fixed`` put there and the others drawn without replacement."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule by name. ``verify`` is None for the one that couples, which follows the plain samples (``follow``)."""

    name: str
    verify: Verify | None
    draws: Draws

    @property
    def couples(self) -> bool:
        return self.verify is None


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("coupled", None, "any"),
        Rule("match", match.verify, "any"),
        Rule("iid", iid.verify, "replacement"),
        Rule("k-seq", iid.verify_k_seq, "replacement"),
        Rule("without-replacement", without_replacement.verify, "without-replacement"),
        Rule("traversal", traversal.verify, "without-replacement"),
        Rule("traversal-iid", traversal.verify_iid, "replacement"),
        Rule("mixed", mixed.verify, "mixed"),
    )
}


def make_rule(name: str) -> Rule:
    """A rule by name.

    Raises:
        UnknownName: no rule of that name.
    """
    rule = RULES.get(name.lower())
    if rule is None:
        raise UnknownName("verification rule", name, RULES)
    return rule

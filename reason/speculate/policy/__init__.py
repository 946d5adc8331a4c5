"""Tree policies: which draft nodes are worth a row of the forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from reason.speculate.draft import Source, Stream
from reason.speculate.policy.cost import PROBED_ROWS, ForwardTimes
from reason.speculate.policy.data_driven import NodeCounts, wide_template
from reason.speculate.policy.fixed import Fixed, load_template, save_template
from reason.speculate.policy.goodput import Goodput
from reason.speculate.policy.growing import Growth
from reason.speculate.policy.ranking import Ranking
from reason.speculate.policy.switch import Switch

__all__ = [
    "PROBED_ROWS",
    "Fixed",
    "ForwardTimes",
    "Goodput",
    "Growth",
    "NodeCounts",
    "Policy",
    "Ranking",
    "Switch",
    "load_template",
    "save_template",
    "wide_template",
]


class Policy(Protocol):
    """Grows the draft trees of one iteration over all its branches."""

    name: str

    def grow(self, streams: Sequence[Stream], source: Source, ranking: Ranking) -> Growth | None:
        """One tree a stream, any of them empty; None if nothing is drafted at all."""
        ...

"""REBASE: reward-balanced search (Wu et al., https://arxiv.org/abs/2408.00724).

    B = width - solutions that have ended;  of the B next steps candidate i gets about B softmax_i(R_i / T_b)

R is the score of a candidate's last step. Every depth is a barrier: all steps of one are there and scored before the
next is allocated. What is allocated nothing is pruned; solutions that failed or ran into a limit count as ended, what
``merge`` merged does not: its width goes on from the state. Those that finished vote.

T_b is meant for rewards in [0, 1]. Scores of another unit (self-certainty: 10 to 25 nats, where T_b = 0.2 would give
everything to the best) are spread over [0, 1] at each depth first: Phi((R - mean) / standard deviation). The paper
rounds, its code takes ceilings, best first, which takes the last candidate's share even where all are almost equal. We
depart from both at the depth limit: the last allowed step is written to the solution's end instead of being dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from reason.errors import UsageError
from reason.search.allocation import Rounding, allocate, evened
from reason.search.strategies.beam import StepSearch
from reason.search.strategies.scoring import missing_scores
from reason.search.tree import ROOT, Action, Node, Room, Tree

__all__ = ["REBASE"]


@dataclass(frozen=True, kw_only=True)
class REBASE(StepSearch):
    """See the module's docstring. A node's note ``kept`` is its allocation.

    Args:
        balance_temperature: T_b, how evenly next steps are spread.
        rounding: "round" is the paper's, "ceil" its code's, see ``allocation``.
        scale: of scores as rewards. "even" spreads those of each depth over [0, 1], see above; "none" takes all as they
            are, in whose unit T_b is then; "auto" does so while all of the tree are in [0, 1], and else is "even".
    """

    beam_width: ClassVar[int] = 1  # type: ignore[misc]  # no field here: allocations take its place

    balance_temperature: float = 0.2
    rounding: Rounding = "round"
    scale: Literal["auto", "none", "even"] = "auto"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.balance_temperature > 0:
            raise UsageError(f"balance_temperature must be more than 0, got {self.balance_temperature}")

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if (last := self.last_scores(tree, room)) is not None:
            return last
        allocated, level = self._level(tree)
        missing = {node: count - len(tree.children(node)) for node, count in allocated.items()}
        if any(missing.values()):
            return [self.step(tree, node, count) for node, count in missing.items() if count]
        if any(node.pending for node in level):
            return []
        return self.due(tree, level)

    def due(self, tree: Tree, level: Sequence[Node]) -> list[Action]:
        """What has to be measured before a whole level is decided about."""
        return missing_scores(tree, level, self.verifier)

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        super().tell(tree, done)
        allocated, level = self._level(tree)
        whole = len(level) == sum(allocated.values()) and all(map(_settled, level))
        candidates = [node for node in level if node.open]
        if not whole or not candidates or not self.ready(tree, candidates):
            return
        shares = self.shares(tree, candidates, self.rewards(tree, candidates))
        for node, share in zip(candidates, shares, strict=True):
            tree.note(node.id, **({"kept": share} if share else {"pruned": True}))

    def ready(self, tree: Tree, candidates: Sequence[Node]) -> bool:
        """Whether all that is to be known of a level's scored candidates is."""
        return True

    def rewards(self, tree: Tree, candidates: Sequence[Node]) -> list[float]:
        """Candidates' scores, in a unit that suits the balance temperature."""
        scores = [float(node.notes["score"]) for node in candidates]
        if self.scale == "none":
            return scores
        probabilities = all(0 <= node.notes.get("score", 0.0) <= 1 for node in tree.nodes)
        return scores if self.scale == "auto" and probabilities else evened(scores)

    def shares(self, tree: Tree, candidates: Sequence[Node], rewards: Sequence[float]) -> list[int]:
        """How many next steps each candidate gets."""
        return self.allocate(tree, rewards)

    def allocate(self, tree: Tree, rewards: Sequence[float]) -> list[int]:
        """The remaining width, shared out."""
        ended = sum(not node.open and "merged_into" not in node.notes for node in tree.nodes[1:])
        return allocate(rewards, self.width - ended, temperature=self.balance_temperature, rounding=self.rounding)

    def _level(self, tree: Tree) -> tuple[dict[int, int], list[Node]]:
        """The deepest nodes that were allocated next steps, with how many, and those steps so far."""
        kept: list[Node] = []
        for node in reversed(tree.nodes):
            if kept and node.depth < kept[-1].depth:
                break
            if "kept" in node.notes:
                kept.append(node)
        allocated = {node.id: int(node.notes["kept"]) for node in reversed(kept)} or {ROOT: self.width}
        return allocated, [child for node in allocated for child in tree.children(node)]


def _settled(node: Node) -> bool:
    return not node.pending and (node.failed or "score" in node.notes)

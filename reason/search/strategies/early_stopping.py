"""Early stopping: wrappers that end a vote when more samples would hardly change it.

    adaptive-consistency   stop when P(leader's true share > runner-up's) = 1 - I_0.5(a + 1, b + 1) >= confidence
                           (Aggarwal et al., https://arxiv.org/abs/2305.11860; a, b: votes of the first two answers)
    esc                    stop when a window of consecutive samples is unanimous
                           (early-stopping self-consistency; Li et al., https://arxiv.org/abs/2401.10480)

They wrap any strategy that votes over finished solutions. Samples are drawn ``in_flight`` at a time, for a batch
costs little more than one; what is under way when the vote is decided is cancelled. Samples without an answer count
as none, and pruned ones are no part of the vote.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass, replace

from reason.errors import UsageError
from reason.fields import hints
from reason.search.strategies.best_of_n import BestOfN
from reason.search.strategies.decoding import check_at_least, layers
from reason.search.tree import Action, Cancel, Expand, Node, Room, Strategy, Tree
from reason.types import Answer

__all__ = ["AdaptiveConsistency", "EarlyStopping", "UnanimousWindow"]


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(ABC):
    """Args:
    inner: the strategy that samples and votes.
    in_flight: samples under way at once.
    """

    inner: Strategy = field(default_factory=lambda: BestOfN(num_samples=16))
    in_flight: int = 4

    def __post_init__(self) -> None:
        check_at_least(self, 1, "in_flight")
        _check_votes(self.inner)

    @abstractmethod
    def decided(self, solutions: Sequence[Node]) -> bool:
        """Whether the vote over solutions, in the order asked for, needs no more of them."""

    @property
    def measures(self) -> tuple[str, ...]:
        return self.inner.measures

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        pending = tuple(node.id for node in tree.nodes if node.pending)
        voters = [node for node in tree.finished() if "pruned" not in node.notes]
        stopped = any(node.finish_reason == "cancelled" for node in tree.nodes) or self.decided(voters)
        if stopped and pending:
            return [Cancel(nodes=pending)]
        free = 0 if stopped else min(room.expansions, self.in_flight - len(pending))
        allowed: list[Action] = []
        for action in self.inner.ask(tree, Room(free)):
            if not isinstance(action, Expand):
                allowed.append(action)
            elif free > 0:
                allowed.append(replace(action, num_samples=min(action.num_samples, free)))
                free -= action.num_samples
        return allowed

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        self.inner.tell(tree, done)

    def answer(self, tree: Tree) -> Answer:
        return self.inner.answer(tree)


@dataclass(frozen=True, kw_only=True)
class AdaptiveConsistency(EarlyStopping):
    """Args:
    confidence: stop when the leader is ahead for good with this probability.
    """

    confidence: float = 0.95

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.5 < self.confidence < 1:
            raise UsageError(f"confidence must be in (0.5, 1), got {self.confidence}")

    def decided(self, solutions: Sequence[Node]) -> bool:
        from scipy.special import betainc

        votes = Counter(node.answer_class for node in solutions if node.answer_class is not None)
        leading = [count for _, count in votes.most_common(2)] + [0, 0]
        return bool(1.0 - betainc(leading[0] + 1, leading[1] + 1, 0.5) >= self.confidence)


@dataclass(frozen=True, kw_only=True)
class UnanimousWindow(EarlyStopping):
    """Args:
    window: consecutive samples that must agree. ``in_flight`` should be no less, or it waits for itself.
    """

    window: int = 4
    in_flight: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 2, "window")

    def decided(self, solutions: Sequence[Node]) -> bool:
        whole = len(solutions) // self.window * self.window
        windows = [solutions[start : start + self.window] for start in range(0, whole, self.window)]
        classes = ({node.answer_class for node in window} for window in windows)
        return any(len(found) == 1 and None not in found for found in classes)


def _check_votes(inner: Strategy) -> None:
    """Raises UsageError if a strategy's answer is not voted on."""
    *_, innermost = layers(inner)
    select = getattr(innermost, "select", "majority")
    if select not in ("majority", "weighted"):
        has_choice = is_dataclass(innermost) and "select" in hints(type(innermost))
        remedy = "; use select=majority" if has_choice else ", and it has no other way to answer"
        kind = type(innermost).__name__
        raise UsageError(f"early stopping ends votes, and {kind} answers by select={select}, without one{remedy}")

"""Budgets: what may be started, so that no limit is overshot.

An expansion reserves its token limit, and as much again for what its engine may generate and throw away, until the
strategy is told of it; what it leaves over then goes to others. While no solution has an answer, a closing reserve is
kept out of the budget for an unfinished one to give its answer. What a verifier generates counts once its measurement
is told, so that limits hold but for the last of those.
"""

from __future__ import annotations

from reason.errors import UsageError
from reason.search.tree import ROOT, Node, Tree
from reason.types import Budget, StoppedBy

__all__ = ["CLOSING_TOKENS", "MIN_TOKENS", "Admission", "check_budget"]

MIN_TOKENS = 16
"""An expansion that could not have at least so many tokens is not started."""

CLOSING_TOKENS = 48
"""At most so many tokens of a limit, and at most an eighth of it, are kept for the closing answer."""


class Admission:
    """Counts one run's spending. All counts change in the order in which results are told, never by their timing."""

    def __init__(self, budget: Budget, tree: Tree, *, calls_each: int = 1, tokens_between: int = 0) -> None:
        check_budget(budget)
        self._calls_each = calls_each  # at most so many engine calls make one sample
        self._tokens_between = tokens_between  # that may be put between them: KV, but not generated
        self._budget = budget
        self._tree = tree
        self._spent = 0
        self._reserved: dict[int, int] = {}  # pending node -> tokens it may still have
        self._own: dict[int, int] = {}  # node -> tokens that its context adds to its parent's
        self._locks: dict[int, int] = {}  # node -> pending nodes below it or at it
        self._kv = 0  # tokens that locked nodes add, the root's aside
        self._calls = 0  # of settled samples
        self._started = False
        self.answered = False  # some solution has an answer, so no reserve is needed

    @property
    def closing_tokens(self) -> int:
        limit = self._budget.policy_tokens
        return CLOSING_TOKENS if limit is None else min(CLOSING_TOKENS, limit // 8)

    def grant(self, parent: int, wanted: int, given: int, *, closing: bool) -> int | StoppedBy:
        """How many tokens a sample below ``parent`` may have, or the limit that keeps it from starting. It is cut short
        only when nothing else is in flight, whose unused tokens it could wait for.

        Args:
            given: tokens put before the sample.
            closing: this is the closing answer, which may use the reserve.
        """
        budget, tokens = self._budget, wanted
        least = wanted if self._reserved else 1 if closing else min(MIN_TOKENS, wanted)
        keep = not closing and not self.answered
        calls = self._calls + self._calls_each * len(self._reserved) + (1 if closing else self._calls_each)
        calls += keep and self._started
        if budget.calls is not None and calls > budget.calls:
            return "calls"
        if budget.policy_tokens is not None:
            reserve = self.closing_tokens if keep else 0
            tokens = min(tokens, budget.policy_tokens - reserve - self._spent - sum(self._reserved.values()))
            if tokens < least:
                return "policy_tokens"
        if budget.kv_tokens is not None:
            root = len(self._tree[ROOT].context)
            held = root + self._kv + sum(self._reserved.values()) + given
            held += self._tokens_between * (len(self._reserved) + 1)
            held += sum(self._own.get(node.id, 0) for node in self._tree.path(parent) if not self._locks.get(node.id))
            tokens = min(tokens, budget.kv_tokens - held)
            if tokens < least:
                return "kv_tokens"
        return tokens

    def start(self, node: Node, tokens: int, given: int) -> None:
        """A granted sample is in flight."""
        self._started = True
        self._reserved[node.id] = tokens
        self._own[node.id] = given
        self._lock(node.id, +1)

    def settle(self, node: Node, generated: int, calls: int, own: int) -> None:
        """The strategy is told of a sample: what it did not use is free again."""
        self._spent += generated
        self._calls += calls
        del self._reserved[node.id]
        self._lock(node.id, -1)
        self._own[node.id] = own

    def spend(self, generated: int, calls: int) -> None:
        """The strategy is told of a measurement, for which a verifier generated so much."""
        self._spent += generated
        self._calls += calls

    def drop(self, node: Node) -> None:
        """A sample was cancelled. How much it had generated depends on timing, so all it might have is spent."""
        self.settle(node, self._reserved[node.id], self._calls_each, 0)

    @property
    def in_flight(self) -> int:
        return len(self._reserved)

    def _lock(self, node: int, change: int) -> None:
        for step in self._tree.path(node):
            before = self._locks.get(step.id, 0)
            self._locks[step.id] = before + change
            if before == 0 or before + change == 0:
                self._kv += change * self._own.get(step.id, 0)


def check_budget(budget: Budget) -> None:
    """Raises UsageError if a limit is not more than 0."""
    for name in ("policy_tokens", "seconds", "kv_tokens", "calls"):
        value = getattr(budget, name)
        if value is not None and not value > 0:
            raise UsageError(f"budget {name} must be more than 0, got {value}")

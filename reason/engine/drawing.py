"""What the branches of one forward draw from, and what is recorded of it: the same wherever the draws are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from reason.engine.jobs import GenerateJob
from reason.runtime.sampler import Draw
from reason.speculate.draft import DraftTree
from reason.speculate.rules import SeededCoins, Verdict
from reason.speculate.tables import Ahead, Table
from reason.types import Path, Request, TokenLogprobs

__all__ = ["Drawing", "recorded_of"]


class Drawing:
    """What one branch draws from: its rows of logits, by node of its draft (the root first)."""

    __slots__ = ("ahead", "coins", "job", "logprobs", "rows", "tree", "verdict")

    def __init__(
        self, job: GenerateJob, rows: Sequence[int], tree: DraftTree | None = None, coins: SeededCoins | None = None
    ) -> None:
        self.job = job
        self.rows = rows
        self.tree = tree
        self.coins = coins
        self.verdict: Verdict | None = None
        self.logprobs: list[TokenLogprobs] = []  # of the verdict's tokens, where they are recorded
        self.ahead: Mapping[Table, Ahead] = {}  # beyond the verdict's end, by table

    def row(self, emitted: int) -> int:
        """The row of logits that an emitted token was drawn from, by how many were emitted before it."""
        return self.rows[self._node(emitted)]

    def proposer(self, emitted: int, token: int) -> str | None:
        """Who had proposed an emitted token, by how many were emitted before it; None: nobody."""
        child = None if self.tree is None else self.tree.child(self._node(emitted), token)
        return None if child is None or self.tree is None else self.tree.proposers[child]

    def draw(self, row: int, depth: int = 0) -> Draw:
        """The plain sample of a row, ``depth`` tokens beyond the end of what was taken."""
        request = self.job.request
        position = len(request.prefix) + len(self.job.generated) + depth
        return Draw(row, request.seed, request.key, position, request.sampling)

    def draws(self) -> list[Draw]:
        """One a node: the plain sample at the node's position."""
        depths = [0] if self.tree is None else self.tree.depths
        return [self.draw(row, depth) for row, depth in zip(self.rows, depths, strict=True)]

    def drafted(self, node: int) -> Path:
        """The drafted tokens on the way to a node."""
        return () if self.tree is None else self.tree.path(node)

    def emitted(self) -> Iterator[tuple[int, int]]:
        """(node, token drawn there) of the verdict, in order."""
        assert self.verdict is not None
        accepted, bonus = self.verdict
        if self.tree is not None:
            yield from zip((0, *accepted), (self.tree.tokens[node] for node in accepted), strict=False)
        yield (accepted[-1] if accepted else 0), bonus

    def _node(self, emitted: int) -> int:
        assert self.verdict is not None
        return self.verdict.accepted[emitted - 1] if emitted else 0


def recorded_of(request: Request) -> tuple[int, bool] | None:
    """What is recorded of the rows that a request's tokens are drawn from: (top, statistics); None is nothing."""
    sampling = request.sampling
    if sampling.logprobs is None and not sampling.statistics and not request.probes:
        return None
    return sampling.logprobs or 0, sampling.statistics

"""From the logits of one forward to the tokens that each branch emits: drawing, and verifying what was drafted.

Without a draft a branch has one row and emits one token. With one it has a row for each draft node too, and emits the
tokens that stand and one more. Under ``coupled`` and ``match`` these are the very tokens that plain drawing would give,
position by position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from reason.engine.jobs import GenerateJob
from reason.runtime.processors import needs_processing, process_row
from reason.runtime.sampler import Draw, TopRows, draw_tokens, probabilities, raw_logprobs
from reason.speculate.draft import DraftTree
from reason.speculate.rules import Rule, SeededCoins, Verdict, follow
from reason.speculate.rules.verdict import F64
from reason.types import Request, TokenLogprobs

__all__ = ["Drawing", "Verification"]


class Drawing:
    """What one branch draws from: its rows of logits, by node of its draft (the root first)."""

    __slots__ = ("coins", "job", "logprobs", "rows", "tree", "verdict")

    def __init__(
        self, job: GenerateJob, rows: Sequence[int], tree: DraftTree | None = None, coins: SeededCoins | None = None
    ) -> None:
        self.job = job
        self.rows = rows
        self.tree = tree
        self.coins = coins
        self.verdict: Verdict | None = None
        self.logprobs: list[TokenLogprobs] = []  # of the verdict's tokens, where they are recorded

    def row(self, emitted: int) -> int:
        """The row of logits that an emitted token was drawn from, by how many were emitted before it."""
        return self.rows[self._node(emitted)]

    def proposer(self, emitted: int, token: int) -> str | None:
        """Who had proposed an emitted token, by how many were emitted before it; None: nobody."""
        child = None if self.tree is None else self.tree.child(self._node(emitted), token)
        return None if child is None or self.tree is None else self.tree.proposers[child]

    def _node(self, emitted: int) -> int:
        assert self.verdict is not None
        return self.verdict.accepted[emitted - 1] if emitted else 0


class Verification:
    """The draws of one forward.

    Args:
        logits: [rows, vocab], good until the next forward.
        drawings: one a branch.
        rule: verifies the drafts; None where nothing is ever drafted.
        tops: gets the likeliest tokens of the rows drawn from, for draft sources; None if nobody wants them.
    """

    def __init__(
        self, logits: torch.Tensor, drawings: Sequence[Drawing], rule: Rule | None, tops: list[TopRows] | None
    ) -> None:
        self._logits = logits
        self._rule = rule
        self._tops = tops
        self._follows = rule is None or rule.draws == "any"
        at_once = [
            drawing
            for drawing in drawings
            if not needs_processing(drawing.job.request.sampling) and (self._follows or drawing.tree is None)
        ]
        self._draw_at_once(at_once)
        self._record(at_once)

    def tokens(self, drawing: Drawing) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """The tokens that a branch emits, with what is recorded of each. The caller takes each token in before it asks
        for the next, and may stop asking; ``drawing.verdict`` is known afterwards.

        Raises:
            UsageError: a processor or a grammar left no token possible; a processor may raise anything.
        """
        if drawing.verdict is None and not self._follows and drawing.tree is not None:
            drawing.verdict = self._reject(drawing)
            self._record([drawing])
        verdict = drawing.verdict
        if verdict is None:
            yield from self._draw_in_turn(drawing)
            return
        tree = drawing.tree
        emitted = [tree.tokens[node] for node in verdict.accepted] if tree is not None else []
        recorded = iter(drawing.logprobs)
        for token in (*emitted, verdict.token):
            yield token, next(recorded, None)

    def _draw_at_once(self, drawings: Sequence[Drawing]) -> None:
        """Draws at every node of every branch, wanted or not, because one call costs little more than one row."""
        draws = [draw for drawing in drawings for draw in _draws(drawing)]
        drawn = iter(draw_tokens(self._logits, draws, self._tops) if draws else ())
        for drawing in drawings:
            tokens = [next(drawn) for _ in drawing.rows]
            tree = drawing.tree
            drawing.verdict = Verdict((), tokens[0]) if tree is None else follow(tree, tokens.__getitem__)

    def _record(self, drawings: Sequence[Drawing]) -> None:
        """Raw log-probabilities of the verdicts' tokens, for the branches that want them."""
        wanted: dict[tuple[int, bool], list[tuple[Drawing, int, int]]] = {}
        for drawing in drawings:
            assert drawing.verdict is not None
            kind = _recorded(drawing.job.request)
            if kind is None:
                continue
            accepted, bonus = drawing.verdict
            nodes = (0, *accepted)
            tokens = [*(drawing.tree.tokens[node] for node in accepted), bonus] if drawing.tree is not None else [bonus]
            wanted.setdefault(kind, []).extend(
                (drawing, drawing.rows[node], token) for node, token in zip(nodes, tokens, strict=True)
            )
        for (top, statistics), entries in wanted.items():
            rows, tokens = [row for _, row, _ in entries], [token for _, _, token in entries]
            for (drawing, _, _), found in zip(
                entries, raw_logprobs(self._logits, rows, tokens, top, statistics), strict=True
            ):
                drawing.logprobs.append(found)

    def _draw_in_turn(self, drawing: Drawing) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """Node by node, for rows that depend on what was taken before: penalties, processors, grammars."""
        job, request = drawing.job, drawing.job.request
        kind = _recorded(request)
        accepted: list[int] = []
        node: int | None = 0
        while node is not None:
            logits = self._logits[drawing.rows[node]]
            row = process_row(logits, request.prefix, job.generated, request.sampling, job.grammar)
            (token,) = draw_tokens(row[None], [_draw(job, 0)])
            drawing.verdict = Verdict(tuple(accepted), token)
            yield token, raw_logprobs(logits[None], [0], [token], *kind)[0] if kind is not None else None
            node = None if drawing.tree is None else drawing.tree.child(node, token)
            if node is not None:
                accepted.append(node)

    def _reject(self, drawing: Drawing) -> Verdict:
        """The verdict of a rejection rule."""
        tree, coins, job, rule = drawing.tree, drawing.coins, drawing.job, self._rule
        assert tree is not None and coins is not None and rule is not None and rule.verify is not None
        assert job.grammar is None, "a grammar's state is not known at draft nodes"
        request = job.request

        def target(node: int) -> F64:
            row = self._logits[drawing.rows[node]]
            if needs_processing(request.sampling):
                row = process_row(row, request.prefix, [*job.generated, *tree.path(node)], request.sampling, None)
            return probabilities(row, request.sampling)

        if self._tops is not None:  # the draws are not wanted, the likeliest tokens are
            draw_tokens(self._logits, _draws(drawing), self._tops)
        return rule.verify(tree, target, coins)


def _draws(drawing: Drawing) -> list[Draw]:
    """One a node: the plain sample at the node's position."""
    depths = [0] if drawing.tree is None else drawing.tree.depths
    return [_draw(drawing.job, row, depth) for row, depth in zip(drawing.rows, depths, strict=True)]


def _draw(job: GenerateJob, row: int, depth: int = 0) -> Draw:
    """The draw ``depth`` tokens beyond the end of what was taken."""
    request = job.request
    position = len(request.prefix) + len(job.generated) + depth
    return Draw(row, request.seed, request.key, position, request.sampling)


def _recorded(request: Request) -> tuple[int, bool] | None:
    """What is recorded of the rows that a request's tokens are drawn from: (top, statistics); None is nothing."""
    sampling = request.sampling
    if sampling.logprobs is None and not sampling.statistics and not request.probes:
        return None
    return sampling.logprobs or 0, sampling.statistics

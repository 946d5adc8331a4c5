"""From the logits of one forward to the tokens that each branch emits: drawing, and verifying what was drafted.

Without a draft a branch has one row and emits one token. With one it has a row for each draft node too, and emits the
tokens that stand and one more. Under ``coupled`` and ``match`` these are the very tokens that plain drawing would give,
position by position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from reason.engine.drawing import Drawing, recorded_of
from reason.runtime.processors import needs_processing, process_row
from reason.runtime.sampler import TopRows, draw_tokens, probabilities, raw_logprobs
from reason.speculate.rules import Rule, Verdict, follow
from reason.speculate.rules.verdict import F64
from reason.types import TokenLogprobs

__all__ = ["HostVerification"]


class HostVerification:
    """The draws of one forward, made at once; the CPU's way (``DeviceVerification`` is the other).

    Args:
        logits: [rows, vocab], good until the next forward.
        drawings: one a branch.
        rule: verifies the drafts; None where nothing is ever drafted.
        beside: what else is wanted on the host, see ``wait``.
        learns: whether ``tops`` is wanted, the likeliest tokens of the rows drawn from, for draft sources.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        drawings: Sequence[Drawing],
        rule: Rule | None,
        beside: Sequence[torch.Tensor] = (),
        *,
        learns: bool = False,
    ) -> None:
        self.tops: list[TopRows] = []
        self._logits = logits
        self._beside = beside
        self._rule = rule
        self._tops = self.tops if learns else None
        self._follows = rule is None or rule.draws == "any"
        at_once = [
            drawing
            for drawing in drawings
            if not needs_processing(drawing.job.request.sampling) and (self._follows or drawing.tree is None)
        ]
        self._draw_at_once(at_once)
        self._record(at_once)

    def wait(self) -> list[torch.Tensor]:
        """What was wanted beside the draws, on the host."""
        return [tensor.cpu() for tensor in self._beside]

    def tokens(self, drawing: Drawing) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """The tokens that a branch emits, with what is recorded of each. The caller takes each token in before it asks
        for the next, and may stop asking; ``drawing.verdict`` is known afterwards.

        Raises:
            UsageError: a processor or a grammar left no token possible; a processor may raise anything.
        """
        if drawing.verdict is None and not self._follows and drawing.tree is not None:
            drawing.verdict = self._reject(drawing)
            self._record([drawing])
        if drawing.verdict is None:
            yield from self._draw_in_turn(drawing)
            return
        recorded = iter(drawing.logprobs)
        for _, token in drawing.emitted():
            yield token, next(recorded, None)

    def _draw_at_once(self, drawings: Sequence[Drawing]) -> None:
        """Draws at every node of every branch, wanted or not, because one call costs little more than one row."""
        draws = [draw for drawing in drawings for draw in drawing.draws()]
        drawn = iter(draw_tokens(self._logits, draws, self._tops) if draws else ())
        for drawing in drawings:
            tokens = [next(drawn) for _ in drawing.rows]
            tree = drawing.tree
            drawing.verdict = Verdict((), tokens[0]) if tree is None else follow(tree, tokens.__getitem__)

    def _record(self, drawings: Sequence[Drawing]) -> None:
        """Raw log-probabilities of the verdicts' tokens, for the branches that want them."""
        wanted: dict[tuple[int, bool], list[tuple[Drawing, int, int]]] = {}
        for drawing in drawings:
            kind = recorded_of(drawing.job.request)
            if kind is None:
                continue
            wanted.setdefault(kind, []).extend(
                (drawing, drawing.rows[node], token) for node, token in drawing.emitted()
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
        kind = recorded_of(request)
        accepted: list[int] = []
        node: int | None = 0
        while node is not None:
            logits = self._logits[drawing.rows[node]]
            row = process_row(logits, request.prefix, job.generated, request.sampling, job.grammar)
            (token,) = draw_tokens(row[None], [drawing.draw(0)])
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
            draw_tokens(self._logits, drawing.draws(), self._tops)
        return rule.verify(tree, target, coins)

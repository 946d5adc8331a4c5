"""``HostVerification`` where the logits are: they never leave the device, and all that is wanted of them comes to the
host in one copy.

Everything is launched at once: every node's plain sample or, under a rejection rule, every node's outcome, whether the
walk comes there or not; and the log-probabilities of all tokens that may be emitted. Rows that depend on what was taken
before (penalties, processors, grammars) are no exception: on the way to a node, what is taken is what was drafted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from reason.engine.drawing import Drawing, recorded_of
from reason.engine.table_work import TableWork
from reason.errors import UsageError
from reason.runtime.device_laws import Laws, RawRows
from reason.runtime.grammar import Grammar
from reason.runtime.processors import NOTHING_POSSIBLE, change_row, needs_processing
from reason.runtime.sampler import TopRows
from reason.runtime.transfer import Fetch, send
from reason.speculate.rules import Rule, Verdict, follow
from reason.speculate.rules.batched import decide, verdict_of
from reason.types import TokenLogprobs

__all__ = ["DeviceVerification"]

Errors: TypeAlias = dict[tuple[Drawing, int], Exception]
"""By drawing and node: why no token can be drawn there, should the walk come there."""


class DeviceVerification:
    """The draws of one forward. Launched when it is made; ``wait`` comes before ``tokens``.

    Args:
        logits: [rows, vocab], good until the next forward.
        drawings: one a branch.
        rule: verifies the drafts; None where nothing is ever drafted.
        beside: what else is fetched with it, see ``wait``.
        learns: whether ``tops`` is wanted, the likeliest tokens of the rows drawn from, for draft sources.
        tables: what the sources' tables have to do with the draws.
        whole: looks at whole rows, see ``Laws``.
    """

    @torch.inference_mode()
    def __init__(
        self,
        logits: torch.Tensor,
        drawings: Sequence[Drawing],
        rule: Rule | None,
        beside: Sequence[torch.Tensor] = (),
        *,
        learns: bool = False,
        tables: TableWork | None = None,
        whole: bool = False,
    ) -> None:
        self.tops: list[TopRows] = []
        self._logits = logits
        self._rule = rule
        self._beside = len(beside)
        self._errors: Errors = {}
        self.tables = tables or TableWork((), ())
        kinds = [kind for drawing in drawings if (kind := recorded_of(drawing.job.request)) is not None]
        top, statistics = max((top for top, _ in kinds), default=0), any(more for _, more in kinds)
        raw = RawRows(logits, top, statistics) if kinds else None
        self._records = raw is not None
        self._batches: list[_Batch] = []
        for changed in (False, True):
            some = [drawing for drawing in drawings if needs_processing(drawing.job.request.sampling) is changed]
            for rejects in (False, True):
                own = [drawing for drawing in some if self._rejects(drawing) is rejects]
                if own:
                    name = rule.name if rule is not None and rejects else None
                    rows = _changed_rows(logits, own, self._errors) if changed else None
                    batch = _Batch(logits, own, name, raw, rows, learns=learns, tables=self.tables, whole=whole)
                    self._batches.append(batch)
        if self.tables:
            self.tables.launch()
        recorded = [] if raw is None else [raw.numbers, raw.top_tokens, raw.top_logprobs]
        wanted = [*beside, *recorded, *(result for batch in self._batches for result in batch.results)]
        self._fetch = Fetch([*wanted, *self.tables.results])

    def wait(self) -> list[torch.Tensor]:
        """Waits for what was launched, and returns what was to be fetched beside it. Verdicts are known from now on."""
        arrived = self._fetch.wait()
        beside, rest = arrived[: self._beside], iter(arrived[self._beside :])
        recorded = _Recorded(next(rest), next(rest), next(rest)) if self._records else None
        undecided: list[Drawing] = []
        for batch in self._batches:
            undecided += batch.take(rest, recorded, self._errors)
            self.tops += batch.tops()
        self.tables.take(rest, undecided)
        if undecided:  # a nucleus that reaches beyond what was looked at
            again = DeviceVerification(self._logits, undecided, self._rule, whole=True)
            again.wait()
            self._errors |= again._errors
        return beside

    def tokens(self, drawing: Drawing) -> Iterator[tuple[int, TokenLogprobs | None]]:
        """See ``HostVerification.tokens``."""
        recorded = iter(drawing.logprobs)
        for node, token in drawing.emitted():
            if (error := self._errors.get((drawing, node))) is not None:
                raise error
            yield token, next(recorded, None)

    def _rejects(self, drawing: Drawing) -> bool:
        return drawing.tree is not None and self._rule is not None and self._rule.draws != "any"


class _Batch:
    """Draws of one kind from one matrix, and what is fetched of them.

    Args:
        logits: the forward's, [rows, vocab].
        rule: the rejection rule's name; None draws plain samples.
        raw: what log-probabilities are read from, where any are recorded.
        changed: the rows to draw from instead, [nodes, vocab], node after node; None: the forward's.
        learns: whether the likeliest tokens of the rows are wanted.
        tables: gets the draws; changed rows are not to be learnt.
    """

    def __init__(
        self,
        logits: torch.Tensor,
        drawings: list[Drawing],
        rule: str | None,
        raw: RawRows | None,
        changed: torch.Tensor | None,
        *,
        learns: bool,
        tables: TableWork,
        whole: bool,
    ) -> None:
        self._drawings = drawings
        self._rule = rule
        self._learns = learns and changed is None
        draws = [draw for drawing in drawings for draw in drawing.draws()]
        self._kinds = [(draw.sampling.temperature, draw.row) for draw in draws]
        if changed is not None:
            draws = [draw._replace(row=row) for row, draw in enumerate(draws)]
        laws = Laws(logits if changed is None else changed, draws, whole=whole)
        outcomes = []
        if rule is None:
            tokens = laws.draw()
        else:
            trees = [drawing.tree for drawing in drawings if drawing.tree is not None]
            coins = [drawing.coins for drawing in drawings if drawing.coins is not None]
            decisions = decide(rule, laws, trees, coins)
            tokens, outcomes = decisions.tokens, [decisions.outcomes]
        self.results = [tokens, laws.possible, laws.undecided, *outcomes]
        if self._learns or tables:
            likeliest = laws.likeliest()
            if self._learns:
                self.results += likeliest
            if tables:
                tables.add(drawings, self._kinds, tokens, likeliest, learnt=changed is None)
        if raw is not None:
            places = np.concatenate([_places(drawing) for drawing in drawings], axis=1)
            rows, parents, drafted = send(places, logits.device)
            self.results += [raw.logprobs(rows, tokens), raw.logprobs(parents, drafted)]

    def take(self, arrived: Iterator[torch.Tensor], recorded: _Recorded | None, errors: Errors) -> list[Drawing]:
        """Reads the results off ``arrived`` and gives the drawings their verdicts and log-probabilities; returns those
        that are undecided."""
        tokens, possible, undecided = (next(arrived).tolist() for _ in range(3))
        outcomes = None if self._rule is None else next(arrived).tolist()
        if self._learns:
            self._likeliest = next(arrived).numpy(), next(arrived).numpy()
        bonus, drafted = (next(arrived).tolist(), next(arrived).tolist()) if recorded is not None else ([], [])
        open_ones: list[Drawing] = []
        begin = 0
        for drawing in self._drawings:
            end = begin + len(drawing.rows)
            walked: Sequence[int]
            if self._rule is not None and outcomes is not None and drawing.tree is not None:
                drawing.verdict = verdict_of(self._rule, drawing.tree, outcomes[begin:end], tokens[begin:end])
                walked = range(end - begin)  # how the walk ends may depend on any node
            elif drawing.tree is not None:
                drawing.verdict = follow(drawing.tree, tokens[begin:end].__getitem__)
                walked = (0, *drawing.verdict.accepted)
            else:
                drawing.verdict = Verdict((), tokens[begin])
                walked = (0,)
            for node in walked:
                if not possible[begin + node]:
                    errors.setdefault((drawing, node), UsageError(NOTHING_POSSIBLE))
            if any(undecided[begin + node] for node in walked):
                open_ones.append(drawing)
            elif recorded is not None and (kind := recorded_of(drawing.job.request)) is not None:
                nodes = (0, *drawing.verdict.accepted)
                values = [*(drafted[begin + node] for node in nodes[1:]), bonus[begin + nodes[-1]]]
                drawing.logprobs = [
                    recorded.of(drawing.rows[node], value, *kind) for node, value in zip(nodes, values, strict=True)
                ]
            begin = end
        return open_ones

    def tops(self) -> list[TopRows]:
        """The likeliest tokens of the rows, each row once a temperature."""
        if not self._learns:
            return []
        tokens, probabilities = self._likeliest
        draws: dict[float, dict[int, int]] = {}  # by temperature and row, any of the draws there
        for number, (temperature, row) in enumerate(self._kinds):
            draws.setdefault(temperature, {})[row] = number
        found: list[TopRows] = []
        for _, by_row in sorted(draws.items()):
            rows = sorted(by_row)
            numbers = [by_row[row] for row in rows]
            found.append(TopRows.padded(rows, tokens[numbers], probabilities[numbers]))
        return found


class _Recorded:
    """What is recorded of rows, on the host; see ``RawRows``."""

    def __init__(self, numbers: torch.Tensor, top_tokens: torch.Tensor, top_logprobs: torch.Tensor) -> None:
        self._numbers: list[list[float]] = numbers.tolist()
        self._tops = [
            tuple(zip(tokens, values, strict=True))
            for tokens, values in zip(top_tokens.tolist(), top_logprobs.tolist(), strict=True)
        ]

    def of(self, row: int, logprob: float, top: int, statistics: bool) -> TokenLogprobs:
        tops = self._tops[row][:top]
        _, entropy, certainty = self._numbers[row]
        return TokenLogprobs(logprob, tops, entropy, certainty) if statistics else TokenLogprobs(logprob, tops)


def _places(drawing: Drawing) -> npt.NDArray[np.int64]:
    """Of each node the row that its bonus is drawn from, and the row and the token that it was drafted as (its own, and
    any token, at the root); [3, nodes]."""
    tree, rows = drawing.tree, drawing.rows
    if tree is None:
        return np.array([[rows[0]], [rows[0]], [0]])
    parents = [rows[max(parent, 0)] for parent in tree.parents]
    return np.array([list(rows), parents, tree.tokens])


def _changed_rows(logits: torch.Tensor, drawings: Sequence[Drawing], errors: Errors) -> torch.Tensor:
    """The rows of all nodes as penalties, processors and grammars leave them, [nodes, vocab] float32. A node where that
    fails keeps its row, and an error of its own."""
    rows: list[torch.Tensor] = []
    for drawing in drawings:
        request, generated = drawing.job.request, drawing.job.generated
        grammars: list[Grammar | None] = []
        for node, number in enumerate(drawing.rows):
            row = logits[number]
            grammar = drawing.job.grammar if node == 0 else _grammar_at(drawing, node, grammars)
            grammars.append(grammar)
            if grammar is not None or drawing.job.grammar is None:  # else the walk never comes there
                path = [*generated, *drawing.drafted(node)]
                try:
                    row = change_row(row, request.prefix, path, request.sampling, grammar)
                except Exception as error:  # a user's processor may raise anything
                    errors[drawing, node] = error
            rows.append(row.float())
    return torch.stack(rows)


def _grammar_at(drawing: Drawing, node: int, grammars: Sequence[Grammar | None]) -> Grammar | None:
    """A draft node's grammar, after its parent's; None where there is none, or nothing is drawn any more."""
    assert drawing.tree is not None
    parent = grammars[drawing.tree.parents[node]]
    grammar = None if parent is None else parent.after(drawing.tree.tokens[node])
    return None if grammar is None or grammar.finished else grammar

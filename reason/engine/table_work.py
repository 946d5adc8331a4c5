"""What the draft sources' tables have to do with one forward's draws, all of them at once."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from reason.engine.drawing import Drawing
from reason.runtime.transfer import send
from reason.speculate.draft import CONTEXT
from reason.speculate.speculator import contexts
from reason.speculate.tables import Ahead, Table, look_ahead

__all__ = ["TableWork"]


class TableWork:
    """Launched by ``launch``; ``take`` comes once the results have arrived. What fails in between is ``error``, and no
    request's.

    Args:
        learning: the tables that learn the rows where they are.
        asked: those that say what may come behind each row: the drawings' ``ahead``.
    """

    def __init__(self, learning: Sequence[Table], asked: Sequence[Table]) -> None:
        self.results: list[torch.Tensor] = []
        self.error: Exception | None = None
        self._learning = learning
        self._asked = asked
        self._drawings: list[Drawing] = []
        self._kinds: list[tuple[float, int] | None] = []  # by draw, temperature and row; None: not to be learnt
        self._tokens: list[torch.Tensor] = []
        self._likeliest: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._marks: list[Any] = []

    def __bool__(self) -> bool:
        return bool(self._learning or self._asked)

    def add(
        self,
        drawings: Sequence[Drawing],
        kinds: Sequence[tuple[float, int]],
        tokens: torch.Tensor,
        likeliest: tuple[torch.Tensor, torch.Tensor],
        *,
        learnt: bool,
    ) -> None:
        """Draws that were launched: one for each node of ``drawings``.

        Args:
            kinds: [draws], temperature and row.
            tokens: [draws] int64, what is drawn there.
            likeliest: of the rows, tokens and probabilities [draws, n].
            learnt: whether the rows are the model's own.
        """
        self._drawings += drawings
        self._kinds += kinds if learnt else [None] * len(kinds)
        self._tokens.append(tokens)
        self._likeliest.append(likeliest)

    def launch(self) -> None:
        """Has the tables learn, and asks them."""
        try:
            self._mark()
            found = [context for drawing in self._drawings for context in _contexts(drawing)]
            sent = send(np.column_stack([np.array(found, dtype=np.int64), self._firsts()]), self._tokens[0].device)
            at, counted = sent[:, :-1], sent[:, -1] > 0
            tokens, probabilities = (torch.cat(part) for part in zip(*self._likeliest, strict=True))
            for table in self._learning:
                table.observe(at, tokens, probabilities, counted)
            ends = torch.cat([at[:, 1:], torch.cat(self._tokens)[:, None]], dim=1)
            self.results = [said for table in self._asked for said in look_ahead(table, ends)]
            self._mark()
        except Exception as error:  # drafting may end of it, requests may not
            self.error, self.results = error, []

    def take(self, arrived: Iterator[torch.Tensor], undecided: Collection[Drawing]) -> None:
        """Reads the results off ``arrived`` and gives the drawings what lies ahead of their verdicts' ends; nothing to
        those whose draws are to be made again."""
        if not self.results:
            return
        said = [(table, Ahead(*(next(arrived).numpy() for _ in range(3)))) for table in self._asked]
        begin = 0
        for drawing in self._drawings:
            if drawing not in undecided and drawing.verdict is not None:
                number = begin + (drawing.verdict.accepted[-1] if drawing.verdict.accepted else 0)
                drawing.ahead = {table: Ahead(*(part[number].copy() for part in ahead)) for table, ahead in said}
            begin += len(drawing.rows)

    @property
    def seconds(self) -> float:
        """What the device took for it, once the results have arrived."""
        if len(self._marks) < 2:
            return 0.0
        begin, end = self._marks
        return end - begin if isinstance(begin, float) else float(begin.elapsed_time(end)) / 1e3

    def _mark(self) -> None:
        device = self._tokens[0].device
        if device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        make_event: Any = torch.cuda.Event
        self._marks.append(make_event(enable_timing=True))
        self._marks[-1].record(torch.cuda.current_stream(device))

    def _firsts(self) -> npt.NDArray[np.int64]:
        """1 for the first draw of each temperature and row, 0 for those that draw from it again, [draws]."""
        firsts = {kind: number for number, kind in reversed(list(enumerate(self._kinds)))}
        counts = [kind is not None and firsts[kind] == number for number, kind in enumerate(self._kinds)]
        return np.array(counts, dtype=np.int64)


def _contexts(drawing: Drawing) -> list[list[int]]:
    """The tokens before each node's draw, the node's own the last."""
    request, generated = drawing.job.request, drawing.job.generated
    return contexts((*request.prefix[-CONTEXT:], *generated[-CONTEXT:]), drawing.tree)

"""One problem under a plan: a run of the small model, the gate, and, if need be, the full run."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path as FilePath

from reason.errors import EngineClosed, EngineError, ServerError
from reason.plan.speceyes import AGREEMENT, SpecEyes, followed_by
from reason.search.driver import Run
from reason.search.journal import Journal
from reason.search.tree import ROOT, Tree
from reason.types import Engine, Path, Solution, Usage
from reason.verifiers.judge import log_masses, spellings

__all__ = ["PlannedRun"]

_SCREEN = "screen"

_QUESTION = (
    "Does the problem above need several steps of reasoning, a search or a tool, so that a quick answer would likely "
    "be wrong? Answer with Yes or No only."
)


class PlannedRun:
    """As a ``Run``: ``tree``, ``engine`` and ``owner`` are those of the run that is under way.

    Args:
        plan: its settings.
        small: the small model's run, not begun.
        full: the run that is spared if the gate opens, not begun.
        journal: the file of the screen's verdict; one that is there is not asked for again.
    """

    def __init__(self, plan: SpecEyes, small: Run, full: Run, journal: FilePath | None = None) -> None:
        self._plan = plan
        self._small = small
        self._full = full
        self._journal = journal
        self._active = small
        self._interrupted = False

    @property
    def tree(self) -> Tree:
        return self._active.tree

    @property
    def engine(self) -> Engine:
        return self._active.engine

    @property
    def owner(self) -> str:
        return self._active.owner

    def interrupt(self) -> None:
        """Ends it as soon as possible; ``solve`` then returns the best answer so far."""
        self._interrupted = True
        self._small.interrupt()
        self._full.interrupt()

    def progress(self) -> dict[int, str]:
        """See ``Run``."""
        return self._active.progress()

    async def solve(self) -> Solution:
        """The small model's solution if it passes the gate, else the full run's; also where the small model can give
        none, whose ledger is lost then. Either has the ledger of both.

        Raises:
            EngineError: as ``Run``; also where the small model's server fails.
        """
        screened = Usage()
        if self._plan.screen is not None:
            sure, screened = await self._screened()
            if sure >= self._plan.screen:
                return await self._searched(screened)
        try:
            quick = self._with(await self._small.solve(), screened)
        except EngineError as error:  # what it cannot read, say; a server that fails is to be seen
            if isinstance(error, (EngineClosed, ServerError)) or isinstance(error.__cause__, ServerError):
                raise
            return await self._searched(screened)
        quick.usage.draft_model_tokens = quick.usage.policy_tokens
        if quick.answer is not None and self.score(quick) >= self._plan.limit:
            quick.usage.short_cuts = 1
            return quick
        if self._interrupted:  # what did not pass is no result
            return replace(quick, stopped_by="interrupt")
        return await self._searched(quick.usage)

    def score(self, quick: Solution) -> float:
        """What the gate says of the small model's solution."""
        if self._plan.gate == AGREEMENT:
            return quick.confidence
        scores = [each.score for each in quick.candidates if each.score is not None and each.answer == quick.answer]
        return max(scores, default=-math.inf)

    async def _searched(self, before: Usage) -> Solution:
        """The full run's solution, with what was spent before it."""
        self._active = self._full
        return self._with(await self._full.solve(), before)

    def _with(self, solution: Solution, usage: Usage) -> Solution:
        return replace(solution, usage=solution.usage.plus(usage))

    async def _screened(self) -> tuple[float, Usage]:
        """How likely the large model says that the problem needs more, and what asking cost."""
        asked = followed_by(self._full.tree.problem, _QUESTION).content
        assert not isinstance(asked, str)
        path = self._full.engine.codec.encode_chat(asked)
        if self._journal is None:
            return await self._ask(path)
        with Journal(self._journal) as journal:
            journal.begin({"problem": self._full.tree.problem.id, "model": self._full.engine.name, "prompt": path})
            known = journal.measured(_SCREEN, (ROOT,))
            if known is not None:
                return known["values"][0][0], Usage(**(journal.usage or {}))
            sure, usage = await self._ask(path)
            journal.add_measure(_SCREEN, (ROOT,), [(sure,)], usage=usage.as_dict())
            return sure, usage

    async def _ask(self, path: Path) -> tuple[float, Usage]:
        engine, owner = self._full.engine, f"{self._full.owner}#screen"
        answers = [spellings(engine.codec, words) for words in (("Yes", " Yes", "yes"), ("No", " No", "no"))]
        try:
            yes, no = await log_masses(engine, path, answers, owner)
            usage = engine.usage(owner)
        finally:
            engine.forget(owner)
        if max(yes, no) == -math.inf:  # the model rules out both
            return 1.0, usage
        return 1.0 / (1.0 + math.exp(min(no - yes, 700.0))), usage

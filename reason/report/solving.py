"""The sitting of an evaluation that solves problems: has searches run and graded, and sums up what comes of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reason.report.results import ProblemResult
from reason.report.sitting import Sitting
from reason.report.summary import Summary, summarize

if TYPE_CHECKING:
    from reason.errors import ReasonError
    from reason.report.assignment import Place
    from reason.report.evaluate import Evaluation
    from reason.tasks.task import Example

__all__ = ["Solving"]


class Solving(Sitting[ProblemResult, Summary]):
    """See the module."""

    _evaluation: Evaluation

    def __init__(self, evaluation: Evaluation, place: Place, config: Mapping[str, Any]) -> None:
        super().__init__(evaluation, config)
        self._place = place

    @property
    def lanes(self) -> int:
        return super().lanes * self._place.engines

    async def come_to(self, example: Example) -> ProblemResult | None:
        outcome = await self._place.outcome(example, self._evaluation.folder)
        if outcome is None:
            return None
        if outcome.sample is not None:
            self._folder.append("samples.jsonl", outcome.sample)
        return outcome.result

    def failed(self, example: Example, error: ReasonError) -> ProblemResult:
        return ProblemResult(
            id=example.problem.id,
            answer=None,
            reference=example.reference,
            correct=False,
            confidence=0.0,
            stopped_by=None,
            usage={},
            part=self._task.part(example) if self._task.part else "",
            error=f"{type(error).__name__}: {error}",
        )

    def summarize(
        self, results: Sequence[ProblemResult], sittings: Sequence[Mapping[str, Any]]
    ) -> tuple[Summary, dict[str, Any]]:
        summary = summarize(results, total=len(self._task), config=self._config, sittings=sittings)
        return summary, summary.as_dict()

    def correct(self, results: Collection[ProblemResult]) -> int:
        return sum(result.correct for result in results)

    def tokens(self) -> int:
        return self._place.tokens()

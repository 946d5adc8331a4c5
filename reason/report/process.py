"""Has a verifier score solutions that rows come with: the steps of ProcessBench, or recorded samples.

    scoring = Scoring(load_task("processbench-gsm8k"), "judge", out=Path("runs/judge"))
    summary = await scoring.run(solver)

Nothing is generated but by verifiers that generate. Results are the scores, a line for each row, so that a threshold is
a matter of the summary: the same folder gives the figures for another. What ended early goes on as
other evaluations do.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.errors import UsageError
from reason.fields import describe
from reason.report.process_samples import SampleSummary, summarize_samples
from reason.report.process_steps import StepSummary, Threshold, summarize_steps
from reason.report.results import ResultsOf
from reason.report.resumable import Resumable, environment
from reason.report.sitting import OnProgress, Sitting
from reason.search.measuring import checked_scores
from reason.tasks.answers import extract_answer
from reason.tasks.code import check_sandbox
from reason.tasks.equivalence import group
from reason.tasks.process import Given, GivenSolution, given, has_solutions, has_steps
from reason.types import Engine, Problem, Review, Step, TokenLogprobs, Trajectory, Usage, Verifier
from reason.types import Path as TokenPath
from reason.verifiers import VERIFIERS, VERIFIERS_OF, check_aggregation, make_verifier
from reason.verifiers.probes import fingerprint

if TYPE_CHECKING:
    from typing_extensions import Self

    from reason.api import Solver
    from reason.errors import ReasonError
    from reason.tasks.task import Example, Task

__all__ = ["RECORDED", "ScoredSolutions", "Scoring", "check_scores_text", "score_text"]

RECORDED = "recorded"

_ROWS_UNDER_WAY = 16
"""Of five steps and ten spellings of a verdict each: some hundred paths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredSolutions:
    """What a verifier makes of a row.

    Args:
        scores: of each solution, those of its steps, or the one of the whole.
        classes: of each solution, the class of its answer among equivalent ones; None abstains.
    """

    id: str
    scores: tuple[tuple[float, ...], ...]
    classes: tuple[int | None, ...]
    usage: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def settled(self) -> bool:
        return self.error is None

    @property
    def verdict(self) -> str:
        if self.error is not None:
            return f"✗ failed {self.id}"
        return f"{self.id}: {' | '.join(' '.join(f'{score:.2f}' for score in row) for row in self.scores)}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, line: Mapping[str, Any]) -> Self:
        scores = tuple(tuple(float(score) for score in row) for row in line["scores"])
        return cls(**{**line, "scores": scores, "classes": tuple(line["classes"])})


Summary = StepSummary | SampleSummary


class Scoring(Resumable[ScoredSolutions, Summary]):
    """A verifier over the solutions of a task's rows. All rows have steps with a label, or all have samples.

    Args:
        verifier: a name, with its settings, or an object; "recorded" is the reward that samples were recorded with,
            for which no model is needed.
        out: the folder of the results; one that was interrupted is gone on with.
        threshold: below which score a step is wrong, or on how many rows to choose it, which are left out of the
            figures; by default 0.5 for scores that are probabilities.
        aggregation: how step scores make a sample's; "none" scores the sample as one step.
        seed: decides which rows a threshold is chosen on.
        concurrency, overwrite, model_options, on_progress: see ``Evaluation``.

    Raises:
        UsageError: the rows have no solutions, the verifier cannot score given text, a value is not allowed.
        SandboxUnavailable: answers are programs, and they cannot be isolated here.
    """

    def __init__(
        self,
        task: Task,
        verifier: str | Verifier,
        *,
        out: Path,
        threshold: Threshold | None = None,
        aggregation: str = "none",
        seed: int = 0,
        concurrency: int = _ROWS_UNDER_WAY,
        overwrite: bool = False,
        model_options: Mapping[str, Any] | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(
            task,
            ResultsOf(out, ScoredSolutions),
            concurrency=concurrency,
            overwrite=overwrite,
            on_progress=on_progress,
        )
        if not has_solutions(task.examples[0].row):
            raise UsageError(
                f"the rows of {task.name} have no solutions to score: take processbench-gsm8k or the like, "
                "or a file with samples; the verifier of a strategy is among its settings"
            )
        self.has_steps = has_steps(task.examples[0].row)
        other = next((each for each in task.examples if has_steps(each.row) != self.has_steps), None)
        if other is not None:
            kinds = ("in steps", "as samples") if self.has_steps else ("as samples", "in steps")
            raise UsageError(f"the first row has its solution {kinds[0]}, and {other.problem.id} {kinds[1]}")
        if task.runs_programs:
            check_sandbox()
        self.given: dict[str, Given] = {example.problem.id: given(example) for example in task.examples}
        self.needs_model = verifier != RECORDED
        self.verifier = make_verifier(verifier) if self.needs_model else _Recorded(self.given)
        check_scores_text(self.verifier)
        self.label = verifier if isinstance(verifier, str) else self.verifier.name
        self.aggregation = aggregation
        self.seed = seed
        self.threshold = threshold or Threshold(value=0.5 if self.verifier.probability else None)
        self._model_options = dict(model_options or {})
        if self.has_steps:
            if aggregation != "none":
                raise UsageError("aggregation is for samples; of a solution in steps, each step's score counts")
            self.threshold.check([example.reference != "-1" for example in task.examples], seed)
        elif threshold is not None:
            raise UsageError("a threshold is for solutions in steps; of samples, the best-scored one counts")
        elif aggregation != "none" and not self.needs_model:
            raise UsageError("a recorded reward is of a whole sample: there is nothing to aggregate")
        elif aggregation != "none":
            check_aggregation(self.verifier, aggregation)

    @property
    def by_step(self) -> bool:
        """Whether steps are scored one by one."""
        return self.has_steps or self.aggregation != "none"

    def sitting(self, solver: Solver, config: dict[str, Any]) -> ScoringSitting:
        return ScoringSitting(self, solver.engine, config)

    def config(self, *, model: str | None) -> dict[str, Any]:
        head = fingerprint(self.verifier, model)
        return {
            "task": self.task.describe(),
            "model": {"name": model, **self._model_options} if self.needs_model else {"name": "none"},
            "verifier": {"name": self.label, "fields": describe(self.verifier)},
            **({"heads": {self.verifier.name: head}} if head else {}),
            "aggregation": self.aggregation,
            "environment": {**environment(), "concurrency": self.concurrency},
        }


class ScoringSitting(Sitting[ScoredSolutions, Summary]):
    """One sitting of it."""

    _evaluation: Scoring

    def __init__(self, scoring: Scoring, engine: Engine, config: Mapping[str, Any]) -> None:
        super().__init__(scoring, config)
        self._engine = engine
        self._verifier = scoring.verifier
        self._owners: set[str] = set()
        self._tokens = 0
        self._numbers = itertools.count()

    async def come_to(self, example: Example) -> ScoredSolutions:
        row = self._evaluation.given[example.problem.id]
        owner = f"{example.problem.id}#score{next(self._numbers)}"
        self._owners.add(owner)
        began = time.perf_counter()
        try:
            answers = [solution.answer for solution in row.solutions]
            classes = await asyncio.to_thread(_answer_classes, answers, row.problem)
            scores = await self._score(row, classes, owner)
            usage = self._usage(owner)
            usage.seconds = time.perf_counter() - began
            self._tokens += usage.policy_tokens + usage.verifier_tokens
        finally:
            self._owners.discard(owner)
            for ledger in (self._engine, self._verifier):
                if (forget := getattr(ledger, "forget", None)) is not None:
                    forget(owner)
        return ScoredSolutions(id=example.problem.id, scores=scores, classes=tuple(classes), usage=usage.as_dict())

    def failed(self, example: Example, error: ReasonError) -> ScoredSolutions:
        return ScoredSolutions(id=example.problem.id, scores=(), classes=(), error=f"{type(error).__name__}: {error}")

    def summarize(
        self, results: Sequence[ScoredSolutions], sittings: Sequence[Mapping[str, Any]]
    ) -> tuple[Summary, dict[str, Any]]:
        evaluation = self._evaluation
        summary: Summary
        if evaluation.has_steps:
            summary = summarize_steps(evaluation, results, config=self._config, sittings=sittings)
        else:
            summary = summarize_samples(evaluation, results, config=self._config, sittings=sittings)
        return summary, summary.as_dict()

    def correct(self, results: Collection[ScoredSolutions]) -> None:
        return None

    def tokens(self) -> int:
        running = [self._usage(owner) for owner in list(self._owners)]
        return self._tokens + sum(usage.policy_tokens + usage.verifier_tokens for usage in running)

    def _usage(self, owner: str) -> Usage:
        usage = self._engine.usage(owner)
        of_its_own = getattr(self._verifier, "usage", None)
        return usage if of_its_own is None else usage.plus(of_its_own(owner))

    async def _score(self, row: Given, classes: Sequence[int | None], owner: str) -> tuple[tuple[float, ...], ...]:
        """The scores of each solution. All are asked for at once: they may be relative to each other."""
        by_step = self._evaluation.by_step
        prompt = _prompt(self._engine, row.problem)
        steps = [_steps(self._engine, solution, by_step) for solution in row.solutions]
        if _reads_logprobs(self._verifier):
            steps = await _recorded(self._engine, prompt, steps, owner)
        paths = [
            Trajectory(
                problem=row.problem,
                prompt=prompt,
                steps=part[:count],
                finished=count == len(part),
                answer=solution.answer if count == len(part) else None,
                answer_class=answer_class if count == len(part) else None,
            )
            for solution, part, answer_class in zip(row.solutions, steps, classes, strict=True)
            for count in range(1, len(part) + 1)
        ]
        found = await self._verifier.score(paths, self._engine, owner)
        scores = iter(checked_scores(self._verifier, found, len(paths)))
        return tuple(tuple(itertools.islice(scores, len(part))) for part in steps)


class _Recorded:
    """The recorded rewards as a verifier's scores."""

    name, statistics, top_logprobs, probability = RECORDED, False, None, False

    def __init__(self, rows: Mapping[str, Given]) -> None:
        self._rewards: dict[str, list[float]] = {}
        for name, row in rows.items():
            rewards = [solution.reward for solution in row.solutions if solution.reward is not None]
            if len(rewards) < len(row.solutions):
                raise UsageError(f"{name}: there are samples without a recorded reward")
            self._rewards[name] = rewards

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return self._rewards[trajectories[0].problem.id]


def check_scores_text(verifier: Verifier) -> None:
    """Whether a verifier can score text that nobody generated.

    Raises:
        UsageError: it reads what is recorded while text is generated; says who can.
    """
    if _scores_text(verifier):
        return
    able = [name for name, kind in VERIFIERS.items() if _scores_text(kind())]
    raise UsageError(
        f"{verifier.name} reads the model's distributions, which are recorded while a solution is generated; solutions "
        f"that are there already have none. Those can score them: {', '.join([*able, *sorted(VERIFIERS_OF)])}"
    )


def _scores_text(verifier: Any) -> bool:
    return not verifier.statistics and not verifier.top_logprobs


async def score_text(verifier: Verifier, problem: Problem, solution: str, engine: Engine, owner: str) -> Review:
    """A verifier's score of one solution that is there already, and what it has to say of it.

    Args:
        problem: its content is the whole prompt, as messages.

    Raises:
        UsageError: the verifier cannot score given text.
    """
    check_scores_text(verifier)
    prompt = _prompt(engine, problem)
    steps: tuple[Step, ...] = (Step(text=solution, tokens=engine.codec.encode(solution)),)
    if _reads_logprobs(verifier):
        (steps,) = await _recorded(engine, prompt, [steps], owner)
    path = Trajectory(
        problem=problem, prompt=prompt, steps=steps, finished=True, answer=extract_answer(solution), answer_class=0
    )
    review = getattr(verifier, "review", None)
    if review is not None:
        (said,) = await review([path], engine, owner)
        return Review(checked_scores(verifier, [said.score], 1)[0], said.feedback)
    return Review(checked_scores(verifier, await verifier.score([path], engine, owner), 1)[0])


def _reads_logprobs(verifier: Verifier) -> bool:
    """Whether it needs the text's log-probabilities; those that probe states compute what they read."""
    members = getattr(verifier, "members", (verifier,))
    return any(member.top_logprobs is not None and not hasattr(member, "probes") for member in members)


def _prompt(engine: Engine, problem: Problem) -> TokenPath:
    assert not isinstance(problem.content, str)
    return engine.codec.encode_chat(problem.content)


def _steps(engine: Engine, solution: GivenSolution, by_step: bool) -> tuple[Step, ...]:
    texts = solution.steps if by_step else ("".join(solution.steps),)
    return tuple(Step(text=text, tokens=engine.codec.encode(text)) for text in texts)


async def _recorded(
    engine: Engine, prompt: TokenPath, solutions: Sequence[tuple[Step, ...]], owner: str
) -> list[tuple[Step, ...]]:
    """The solutions' steps, with the log-probabilities that a generation of them would have recorded."""
    paths = [prompt + tuple(token for step in steps for token in step.tokens) for steps in solutions]
    scored = await engine.score(paths, len(prompt), owner=owner)
    recorded = []
    for steps, one in zip(solutions, scored, strict=True):
        values = iter([TokenLogprobs(value) for value in one.logprobs.tolist()])
        recorded.append(tuple(replace(s, logprobs=tuple(itertools.islice(values, len(s.tokens)))) for s in steps))
    return recorded


def _answer_classes(answers: Sequence[str | None], problem: Problem) -> list[int | None]:
    """Each answer's class of equivalent ones, numbered by first appearance; None abstains. Blocks."""
    answering = [(i, answer) for i, answer in enumerate(answers) if answer is not None]
    classes: list[int | None] = [None] * len(answers)
    for number, members in enumerate(group([answer for _, answer in answering], problem.equivalent)):
        for member in members:
            classes[answering[member][0]] = number
    return classes

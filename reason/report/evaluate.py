"""Runs a strategy over a task, many problems in one engine's batch, and survives whatever ends it early.

    summary = await evaluate(load_task("gsm8k", limit=100), solver, "best-of-n", out=Path("runs/a"), num_samples=16)

Each problem has its own journal, and a line in results.jsonl once it is graded. The same call on the same folder goes
on where the last one ended, whatever ended it, and comes to the same results.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.errors import UsageError
from reason.fields import describe
from reason.report.assignment import Assignment, Here, Place
from reason.report.results import ProblemResult, ResultsFolder
from reason.report.resumable import Resumable, environment
from reason.report.sitting import OnProgress
from reason.report.solving import Solving
from reason.report.summary import Summary
from reason.search.driver import check_budget
from reason.search.measuring import find_verifiers
from reason.search.strategies import for_budget, make_strategy
from reason.search.strategies.decoding import layers
from reason.tasks.code import check_sandbox
from reason.types import Budget, Embedder, Verifier
from reason.verifiers.probes import fingerprint

if TYPE_CHECKING:
    from reason.api import Solver
    from reason.search.tree import Strategy
    from reason.tasks.task import Task

__all__ = ["Evaluation", "default_concurrency", "evaluate"]

_SAMPLES_IN_FLIGHT = 64


async def evaluate(
    task: Task,
    solver: Solver,
    strategy: str | Strategy = "best-of-n",
    *,
    out: Path,
    budget: Budget | None = None,
    seed: int = 0,
    concurrency: int | None = None,
    verifiers: Mapping[str, Verifier | Embedder] | None = None,
    max_thinking_tokens: int | None = None,
    log_samples: bool = False,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
    **strategy_fields: Any,
) -> Summary:
    """One whole evaluation; see ``Evaluation`` for the arguments."""
    evaluation = Evaluation(
        task,
        strategy,
        strategy_fields,
        out=out,
        budget=budget,
        seed=seed,
        concurrency=concurrency,
        verifiers=verifiers,
        max_thinking_tokens=max_thinking_tokens,
        log_samples=log_samples,
        overwrite=overwrite,
        on_progress=on_progress,
    )
    return await evaluation.run(solver)


class Evaluation(Resumable[ProblemResult, Summary]):
    """A strategy over a task. Making one refuses what is cheap to refuse; nothing is written before ``run``.

    Args:
        strategy: a name, with its fields, or an object.
        out: the folder of its results; one that an interrupted evaluation with the same settings left is gone on with.
        budget: each problem's.
        seed: decides all sampling noise, together with the problems' ids.
        concurrency: problems under way at once; by default so many that about 64 samples are.
        verifiers, max_thinking_tokens: see ``Solver.start``.
        log_samples: also write every candidate's text, to samples.jsonl.
        overwrite: start anew where ``out`` holds an evaluation.
        model_options: what else decides results and the solver does not tell (dtype, device); recorded and compared.
        draft: what drafts tokens. Recorded and not compared, as ``concurrency`` is: they decide how fast results come,
            not which.
        on_progress: called in the event loop at the start and whenever a problem is done.

    Raises:
        UsageError: a name or value that is not allowed, or two problems with one file name.
        SandboxUnavailable: answers are programs, and they cannot be isolated here.
    """

    def __init__(
        self,
        task: Task,
        strategy: str | Strategy = "best-of-n",
        strategy_fields: Mapping[str, Any] | None = None,
        *,
        out: Path,
        budget: Budget | None = None,
        seed: int = 0,
        concurrency: int | None = None,
        verifiers: Mapping[str, Verifier | Embedder] | None = None,
        max_thinking_tokens: int | None = None,
        log_samples: bool = False,
        overwrite: bool = False,
        model_options: Mapping[str, Any] | None = None,
        draft: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        self.strategy = strategy
        self.strategy_fields = for_budget(strategy, strategy_fields or {}, budget)
        self._made = make_strategy(strategy, **self.strategy_fields)
        find_verifiers(self._made, verifiers)
        self.budget = budget or Budget()
        check_budget(self.budget)
        if task.runs_programs:
            check_sandbox()
        if max_thinking_tokens is not None and max_thinking_tokens < 1:
            raise UsageError(f"max_thinking_tokens must be at least 1, got {max_thinking_tokens}")
        super().__init__(
            task,
            ResultsFolder(out),
            concurrency=default_concurrency(self._made) if concurrency is None else concurrency,
            overwrite=overwrite,
            on_progress=on_progress,
        )
        self.seed = seed
        self.verifiers = dict(verifiers or {})
        self.max_thinking_tokens = max_thinking_tokens
        self.log_samples = log_samples
        self._model_options = dict(model_options or {})
        self._draft = draft

    @property
    def assignment(self) -> Assignment:
        """What is asked of each problem, wherever it is solved."""
        return Assignment(
            task=self.task,
            strategy=self.strategy,
            strategy_fields=self.strategy_fields,
            budget=self.budget,
            seed=self.seed,
            verifiers=self.verifiers,
            max_thinking_tokens=self.max_thinking_tokens,
            log_samples=self.log_samples,
        )

    def sitting(self, solver: Solver, config: dict[str, Any]) -> Solving:
        return Solving(self, Here(self.assignment, solver), config)

    async def run_at(self, place: Place) -> Summary:
        """``run`` where problems are solved elsewhere: the same folder, and the same results."""
        return await self.run_as(place.model, lambda config: Solving(self, place, config), place.environment)

    def config(self, *, model: str | None) -> dict[str, Any]:
        name = self.strategy if isinstance(self.strategy, str) else type(self.strategy).__name__
        measures = find_verifiers(self._made, self.verifiers, model=model)
        heads = {key: found for key, each in measures.items() if (found := fingerprint(each, model))}
        return {
            "task": {**self.task.describe(), "problems_sha256": _digest(self.task)},
            "model": {"name": model, **self._model_options},
            "strategy": {"name": name, "fields": describe(self._made)},
            "verifiers": {name: describe(verifier) for name, verifier in self.verifiers.items()},
            **({"heads": heads} if heads else {}),
            "budget": asdict(self.budget),
            "max_thinking_tokens": self.max_thinking_tokens,
            "seed": self.seed,
            "environment": {**environment(), "draft": self._draft, "concurrency": self.concurrency},
        }


def default_concurrency(strategy: Strategy) -> int:
    """Problems under way at once, so that about 64 samples are."""
    at_once = next(filter(None, map(_samples_at_once, layers(strategy))), 1)
    return max(1, math.ceil(_SAMPLES_IN_FLIGHT / at_once))


def _samples_at_once(strategy: Any) -> int:
    """As far as a strategy says it itself; 0 where it does not."""
    if hasattr(strategy, "in_flight"):
        return int(strategy.in_flight)
    if hasattr(strategy, "parallel"):
        return int(strategy.parallel * strategy.num_children)
    return int(getattr(strategy, getattr(strategy, "breadth", ""), 0))


def _digest(task: Task) -> str:
    """Of what is asked and what is right."""
    digest = hashlib.sha256()
    for example in task.examples:
        digest.update(json.dumps([example.problem.id, example.problem.content, example.reference]).encode())
    return digest.hexdigest()

"""The problem's public tests as a verifier: runs the program in the sandbox.

    score = #{t in problem.tests : the program passes t} / #problem.tests

and feedback, as a model can use it: each failing test with its error, what the calls in it returned, and the end of the
traceback. A trajectory without a program, or with one that is no Python, scores 0. The program of an unfinished one is
what its text has of it so far. Nothing is asked of the model, so it costs no tokens.

Reflexion (https://arxiv.org/abs/2303.11366) and RethinkMCTS (https://arxiv.org/abs/2409.09584) feed failures back so.
"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from reason.errors import UsageError
from reason.tasks.code.running import TEST_SECONDS, start
from reason.types import Engine, Problem, Review, Trajectory

if TYPE_CHECKING:
    from reason.sandbox import Verdict

__all__ = ["PublicTests", "program_of"]


@dataclass(frozen=True, kw_only=True)
class PublicTests:
    """Args:
    seconds: of computing that each test may take.
    max_failures: failing tests that the feedback shows, at most.
    """

    name: ClassVar[str] = "public-tests"
    statistics: ClassVar[bool] = False
    top_logprobs: ClassVar[int | None] = None
    probability: ClassVar[bool] = True

    seconds: int = TEST_SECONDS
    max_failures: int = 3

    def __post_init__(self) -> None:
        for name in ("seconds", "max_failures"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [review.score for review in await self.review(trajectories, engine, owner)]

    async def review(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[Review]:
        """A program for which there is no test passes. Raises UsageError where the problem asks for no program,
        SandboxUnavailable where programs cannot be run."""
        return list(await asyncio.gather(*map(self._review, trajectories)))

    async def _review(self, trajectory: Trajectory) -> Review:
        problem = trajectory.problem
        if not problem.tests and problem.entry_point is None:
            raise UsageError(f"the problem {problem.id} has no public tests, which the verifier public-tests runs")
        program = program_of(trajectory)
        if program is None:
            return Review(0.0, "There is no program in the solution.")
        if (broken := _syntax_error(program)) is not None:
            return Review(0.0, f"The program is not valid Python.\n{broken}")
        if not problem.tests:  # a row of a code task without examples: there is nothing that it fails
            return Review(1.0)
        verdicts = await start(
            program, problem.tests, entry_point=problem.entry_point, setup=problem.setup, seconds=self.seconds
        )
        return Review(sum(verdict.passed for verdict in verdicts) / len(verdicts), self._feedback(problem, verdicts))

    def _feedback(self, problem: Problem, verdicts: Sequence[Verdict]) -> str:
        """Empty where all is well."""
        failed = [(test, verdict) for test, verdict in zip(problem.tests, verdicts, strict=True) if not verdict.passed]
        if not failed:
            return ""
        parts = [f"{len(verdicts) - len(failed)} of {len(verdicts)} tests passed."]
        parts += [_described(test, verdict) for test, verdict in failed[: self.max_failures]]
        return "\n\n".join(parts)


def program_of(trajectory: Trajectory) -> str | None:
    """The program that a trajectory amounts to; of an unfinished one, so far."""
    if trajectory.answer is not None or trajectory.problem.extract is None:
        return trajectory.answer
    return trajectory.problem.extract(trajectory.text)


def _syntax_error(program: str) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of model-written code
            compile(program, "<program>", "exec", dont_inherit=True)
    except SyntaxError as error:
        line = (error.text or "").strip()
        return f"Line {error.lineno}: {error.msg}" + (f"\n    {_cut(line, 200)}" if line else "")
    except (ValueError, MemoryError, RecursionError) as error:
        return str(error)
    return None


_ENDED = {
    "timeout": "It did not end in time.",
    "memory": "It used too much memory.",
    "output-limit": "It printed too much.",
    "killed": "It was killed.",
}
_CALLS = 3
_TRACEBACK_LINES = 6


def _described(test: str, verdict: Verdict) -> str:
    """A failing test: what it says, what went wrong, what the calls came to."""
    reason = _ENDED.get(verdict.status) or verdict.message.partition("\n")[0]
    lines = [f"Test: {_cut(test.strip(), 500)}", _cut(reason, 300)]
    if calls := verdict.calls[-_CALLS:]:
        lines.append("Calls: " + "; ".join(_cut(call, 250) for call in calls))
    if verdict.traceback:
        lines += [_cut(line, 200) for line in verdict.traceback.strip().splitlines()[-_TRACEBACK_LINES:]]
    return "\n".join(line for line in lines if line)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 4]} ..."

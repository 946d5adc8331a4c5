"""``Compressor`` and ``compress``: parts put together from names or objects."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from reason.api import Solver
from reason.compress.attention import AttentionScorer
from reason.compress.costs import EngineCosts, ThoughtPaths, Validator
from reason.compress.importance import (
    QUESTION_CUE,
    SOLUTION_CUE,
    Relevance,
    Scorer,
    bidirectional,
    check_alpha,
)
from reason.compress.job import Job, ScoredJob
from reason.compress.search import Ended, Move, SearchOptions, search
from reason.compress.steps import State, joined
from reason.errors import UnknownName, UsageError
from reason.sync import run_sync
from reason.types import Engine, Problem, Usage

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CompressOptions", "Compression", "Compressor", "acompress", "compress"]

ProblemLike: TypeAlias = str | Problem
ValidatorLike: TypeAlias = "Engine | Literal['model'] | None"

_owners = itertools.count()


@dataclass(frozen=True, kw_only=True)
class CompressOptions(SearchOptions):
    """Everything that decides a compression beside the models.

    Args:
        k_min, k_max, branching, beta: see ``SearchOptions``.
        alpha: weight of the solution beside the question in the importance of steps.
        validator_tokens: of a sample that validates, at most.
        seed: of these samples.
    """

    alpha: float = 0.5
    validator_tokens: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        SearchOptions.__post_init__(self)
        check_alpha(self.alpha)
        if self.validator_tokens < 1:
            raise UsageError(f"validator_tokens must be at least 1, got {self.validator_tokens}")

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Raises:
        UsageError: there is no such option, or its value is not allowed.
        """
        known = [option.name for option in fields(cls)]
        for name in given:
            if name not in known:
                raise UnknownName("option of compress", name, known)
        return cls(**given)


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """What ``compress`` returns.

    Args:
        text: the kept steps in the trace's order; the trace's whole thought where ``ended`` says so.
        kept: their indices in ``steps``.
        steps: of the trace's thought, between blank lines.
        importance: of every step.
        ended: see ``Ended``.
        answer: the reference answer that samples were compared with; None if nothing was to be checked.
        tokens_before, tokens_after: of all steps and of those kept, in the engine's tokens.
        record: every move of the search.
        usage: the ledger row; what the scorer read counts as verifier tokens.
        model, scorer: their names.
    """

    text: str
    kept: State
    steps: tuple[str, ...]
    importance: tuple[float, ...]
    ended: Ended
    answer: str | None
    tokens_before: int
    tokens_after: int
    record: tuple[Move, ...]
    usage: Usage
    model: str
    scorer: str
    problem: str = "problem"

    @property
    def accepted(self) -> bool:
        """Whether a part of the trace was taken for the whole."""
        return self.ended in ("validated", "unchecked")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"record": [move.as_dict() for move in self.record], "usage": self.usage.as_dict()}


class Compressor:
    """A warm engine and a scorer that compress traces.

        with Compressor("qwen2.5-coder-0.5b-instruct") as compressor:
            short = compressor.compress(problem, trace, solution)

    Args:
        model: a catalogue name, a folder, a GGUF file or a hub id, whose log-probabilities g and h are; None is the
            default model. Or an engine, which stays the caller's.
        scorer: of the importance: None is the model's own weights; a model's name; or a ``Scorer``. With an engine it
            must be given.
        validator: "model" samples from the model; an engine samples from another; None takes the first state at
            ``k_min`` unchecked.
        sink: of a scorer that is loaded here, see ``AttentionScorer``.
        device, dtype, kv_tokens, quantize, threads, draft: see ``reason.api.Solver``; the first two are the scorer's
            too.

    Raises:
        UsageError: something is not allowed; the message says what is.
        ReasonError: a model cannot be had or run.
    """

    def __init__(
        self,
        model: str | Engine | None = None,
        scorer: str | Scorer | None = None,
        *,
        validator: ValidatorLike = "model",
        sink: bool = False,
        device: str = "auto",
        dtype: str = "auto",
        kv_tokens: int | None = None,
        quantize: str | None = None,
        threads: int | None = None,
        draft: str = "auto",
    ) -> None:
        named = model is None or isinstance(model, str)
        if scorer is None and not named:
            raise UsageError("with an engine give a scorer: the name of a model, or a Scorer object")
        if isinstance(validator, str) and validator != "model":
            raise UsageError(f"validator must be 'model', an engine or None, got {validator!r}")
        if named:
            self._solver = Solver(
                model if isinstance(model, str) else None,
                device=device,
                dtype=dtype,
                kv_tokens=kv_tokens,
                quantize=quantize,
                threads=threads,
                draft=draft,
            )
        else:
            assert not isinstance(model, str) and model is not None
            self._solver = Solver(engine=model, draft=draft)
        self.engine = self._solver.engine
        self.validator: Engine | None = self.engine if isinstance(validator, str) else validator
        try:
            if scorer is None or isinstance(scorer, str):
                name = scorer if scorer is not None else model if isinstance(model, str) else None
                scorer = AttentionScorer.load(name, device=device, dtype=dtype, sink=sink)
        except BaseException:
            self._solver.close()
            raise
        self.scorer: Scorer = scorer

    async def acompress(
        self, problem: ProblemLike, trace: str, solution: str | None = None, **options: Any
    ) -> Compression:
        """See ``compress``."""
        chosen = CompressOptions.of(options)
        return await self.search(await self.score(Job.of(problem, trace, solution), chosen), chosen)

    def compress(self, problem: ProblemLike, trace: str, solution: str | None = None, **options: Any) -> Compression:
        """``acompress`` for synchronous callers; works inside a running event loop (Jupyter) too."""
        return run_sync(self.acompress(problem, trace, solution, **options))

    async def score(
        self, job: Job, options: CompressOptions, on_step: Callable[[int], None] | None = None
    ) -> ScoredJob:
        """The importance of every step. Cancelling ends it after the forward under way.

        Args:
            on_step: told how many steps were read, of twice as many as there are.
        """
        began = time.perf_counter()
        read: list[list[Relevance]] = []
        forwards = 0
        for text, cue in ((job.question, QUESTION_CUE), (job.solution, SOLUTION_CUE)):
            found: dict[int, Relevance] = {}
            batches = self.scorer.relevance(job.steps, text, cue)
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                found.update(batch)
                forwards += 1
                if on_step is not None:
                    on_step(len(read) * len(job.steps) + len(found))
            read.append([found[index] for index in range(len(job.steps))])
        return ScoredJob(
            job=job,
            importance=bidirectional(read[0], read[1], options.alpha),
            num_tokens=sum(relevance.num_tokens for one in read for relevance in one),
            num_forwards=forwards,
            seconds=time.perf_counter() - began,
        )

    async def search(self, scored: ScoredJob, options: CompressOptions) -> Compression:
        """The search over which steps to keep. Several may be under way at once: they share the engine's batches."""
        began = time.perf_counter()
        job, owner = scored.job, f"{scored.job.problem.id}#compress-{next(_owners)}"
        paths = ThoughtPaths(self.engine.codec, job.problem, job.steps)
        validator = self._make_validator(job, paths, options, owner)
        costs = EngineCosts(self.engine, paths, job.solution, validator=validator, owner=owner)
        try:
            found = await search(scored.importance, costs, options)
            usage = self._usage(owner)
        finally:
            self.engine.forget(owner)
            if self.validator is not None and self.validator is not self.engine:
                self.validator.forget(owner)
        usage.prompt_tokens = len(paths.prompt)
        usage.verifier_tokens += scored.num_tokens
        usage.forwards += scored.num_forwards
        usage.seconds = scored.seconds + time.perf_counter() - began
        whole = len(found.kept) == len(job.steps)
        return Compression(
            text=job.thought if whole else joined(job.steps, found.kept, job.problem.step_delimiter),
            kept=found.kept,
            steps=job.steps,
            importance=scored.importance,
            ended=found.ended,
            answer=job.answer if validator is not None else None,
            tokens_before=paths.num_tokens(tuple(range(len(job.steps)))),
            tokens_after=paths.num_tokens(found.kept),
            record=found.record,
            usage=usage,
            model=self.engine.name,
            scorer=self.scorer.name,
            problem=job.problem.id,
        )

    def close(self) -> None:
        """Frees the model, if it was loaded here. Idempotent."""
        self._solver.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _make_validator(self, job: Job, paths: ThoughtPaths, options: CompressOptions, owner: str) -> Validator | None:
        """None where there is nothing to check with, or no answer to compare with."""
        reference = job.answer
        if self.validator is None or reference is None:
            return None
        if self.validator is not self.engine:
            paths = ThoughtPaths(self.validator.codec, job.problem, job.steps)
        return Validator(
            self.validator,
            paths,
            reference,
            extract=job.problem.extract,
            same=job.problem.equivalent,
            max_tokens=options.validator_tokens,
            seed=_seed(options.seed, job.problem.id),
            owner=owner,
        )

    def _usage(self, owner: str) -> Usage:
        usage = self.engine.usage(owner)
        if self.validator is None or self.validator is self.engine:
            return usage
        return usage.plus(self.validator.usage(owner))


async def acompress(
    problem: ProblemLike,
    trace: str,
    solution: str | None = None,
    model: str | Engine | None = None,
    scorer: str | Scorer | None = None,
    *,
    validator: ValidatorLike = "model",
    **options: Any,
) -> Compression:
    """See ``compress``."""
    CompressOptions.of(options)
    Job.of(problem, trace, solution)  # what is cheap to refuse comes before a model is loaded
    compressor = await asyncio.to_thread(Compressor, model, scorer, validator=validator)
    try:
        return await compressor.acompress(problem, trace, solution, **options)
    finally:
        await asyncio.to_thread(compressor.close)


def compress(
    problem: ProblemLike,
    trace: str,
    solution: str | None = None,
    model: str | Engine | None = None,
    scorer: str | Scorer | None = None,
    *,
    validator: ValidatorLike = "model",
    **options: Any,
) -> Compression:
    """Leaves out of a long reasoning trace the steps that its solution does not need. Models that are named are loaded
    for this call; a ``Compressor`` keeps them.

    Args:
        problem: its text, or a ``Problem``.
        trace: what a reasoning model wrote. Its thinking is compressed: what stands before ``</think>`` or its
            like, or all of it.
        solution: the reference solution, with its answer in ``\\boxed{}``; without a box nothing is validated. None
            is what the trace says after its thinking.
        model, scorer, validator: see ``Compressor``.
        options: fields of ``CompressOptions``; the paper's values by default.

    Raises:
        UsageError: there are no steps, no solution, or something is not allowed.
        ModelError: weights cannot be had.
        EngineError: a forward failed.
    """
    return run_sync(acompress(problem, trace, solution, model, scorer, validator=validator, **options))


def _seed(seed: int, problem: str) -> int:
    """Problems do not share sampling noise."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{problem}".encode(), digest_size=7).digest(), "big")

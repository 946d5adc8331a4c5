"""What a search does to the world: generates, measures, and writes both down as they arrive, or takes them from what an
earlier sitting wrote down."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from reason.errors import UsageError
from reason.search.generation import CountingEngine, Generated, generate
from reason.search.journal import Journal
from reason.search.measuring import checked_scores, packed, trajectories
from reason.search.tree import ROOT, Expand, Measure, Node, Tree
from reason.types import Embedder, Engine, Request, Review, Usage, Verifier
from reason.verifiers.recording import recording_for

if TYPE_CHECKING:
    import torch

__all__ = ["Effects", "Measured", "Work"]

T = TypeVar("T")


class Measured(NamedTuple):
    """What a measurement came to, for each node an embedding or scores; what was generated for it; and what is said of
    each node, if the verifier says anything."""

    values: Sequence[tuple[float, ...] | bytes]
    num_generated: int = 0
    num_calls: int = 0
    feedback: Sequence[str] = ()


@dataclass(slots=True)
class Work:
    """Something under way: an expansion (then ``node`` is set) or a measurement."""

    task: asyncio.Task[Any]
    node: Node | None = None
    expand: Expand | None = None
    measure: Measure | None = None
    replayed: bool = False  # its result comes from the journal


class Effects:
    """The effects of one run.

    Args:
        verifiers: what the strategy may measure with, by name. What they need is recorded while steps are generated.
        owner: the run's ledger row.
        seed: of the engine's sampling noise; a node's id is the key.
        tokens_limited: what is generated counts against a budget, kept or not.
    """

    def __init__(
        self,
        engine: Engine,
        tree: Tree,
        *,
        verifiers: Mapping[str, Verifier | Embedder],
        owner: str,
        seed: int,
        max_thinking_tokens: int | None,
        tokens_limited: bool = False,
    ) -> None:
        self.journal: Journal | None = None
        self.earlier = Usage()  # of the sittings before this one
        self._engine = engine
        self._tree = tree
        self._verifiers = verifiers
        self._owner = owner
        self._seed = seed
        self._max_thinking_tokens = max_thinking_tokens
        self._tokens_limited = tokens_limited
        self._began = time.perf_counter()
        self._thinking_seconds = 0.0
        self._recording = recording_for(verifiers.values(), engine)
        self._states: dict[int, Mapping[int, torch.Tensor]] = {}  # by node, until it was measured
        self._hidden: dict[int, torch.Tensor] = {}  # by node

    @property
    def probes(self) -> list[str]:
        """What reads hidden states while steps are generated, by name."""
        return [probe.name for probe in self._recording.probes]

    @property
    def seconds(self) -> float:
        """Since the run began, earlier sittings included."""
        return self.earlier.seconds + time.perf_counter() - self._began

    def begin(self, file: FilePath | None, header: Mapping[str, Any]) -> None:
        """The clock starts; the journal, if there is to be one, is opened.

        Raises:
            ReasonError: it cannot be used, or is another run's.
        """
        self._began = time.perf_counter()
        if file is None:
            return
        self.journal = Journal(file)
        self.journal.begin(header)
        usage = (self.journal.end or {}).get("usage") or self.journal.usage
        if usage is not None:
            self.earlier = Usage(**usage)

    def ended_in_time(self, told: int) -> bool:
        """Whether an earlier sitting ran out of time when so many things had been told in order."""
        end = None if self.journal is None else self.journal.end
        return (
            self.journal is not None
            and end is not None
            and end["stopped_by"] == "seconds"
            and told >= self.journal.told
        )

    def forget(self) -> None:
        """The run's ledger row is not asked for again."""
        for holder in (*self._verifiers.values(), self._engine):  # a verifier may have work under way in the engine
            if (forget := getattr(holder, "forget", None)) is not None:
                forget(self._owner)

    def close(self) -> None:
        """Idempotent."""
        if self.journal is not None:
            self.journal.close()

    def usage(self) -> Usage:
        """The run's ledger row, earlier sittings included."""
        usage = self._engine.usage(self._owner)
        for verifier in self._verifiers.values():  # a reward model of its own counts what it reads
            if (own := getattr(verifier, "usage", None)) is not None:
                usage.verifier_tokens += own(self._owner).verifier_tokens
        usage.prompt_tokens = usage.prompt_tokens or len(self._tree[ROOT].context)  # a server may have counted
        usage.seconds = time.perf_counter() - self._began
        usage.solver_seconds = self._thinking_seconds
        return self.earlier.plus(usage)

    @contextmanager
    def thinking(self) -> Iterator[None]:
        """Counts the time inside as the strategy's own."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._thinking_seconds += time.perf_counter() - began

    def expand(self, node: Node, expand: Expand, tokens: int, *, closing: bool = False) -> Work:
        """Begins to generate a node, for which at most ``tokens`` may be generated."""
        recorded = None if self.journal is None else self._recorded(self.journal, node, expand)
        if recorded is not None:
            return Work(asyncio.ensure_future(_value(recorded)), node=node, expand=expand, replayed=True)
        most = min(tokens, expand.max_tokens)
        delimiter = (self._tree.problem.step_delimiter,) if expand.until == "step" else ()
        request = Request(
            prefix=node.context,
            seed=self._seed,
            key=node.id,
            sampling=expand.sampling,
            max_tokens=min(most, expand.until) if isinstance(expand.until, int) else most,
            max_generated=tokens if self._tokens_limited else None,
            stop=expand.stop + delimiter,
            owner=self._owner,
        )
        request = self._recording.of(request)
        thinking = None if closing else self._max_thinking_tokens
        return Work(asyncio.ensure_future(self._generate(node, request, expand, thinking)), node=node, expand=expand)

    def _recorded(self, journal: Journal, node: Node, expand: Expand) -> Generated | None:
        """What an earlier sitting recorded for a node."""
        completion = journal.completion(node.id, expand.node)
        if completion is not None:
            return Generated(completion, *journal.counts(node.id))
        failed = journal.failure(node.id)
        return None if failed is None else Generated(failed, *journal.counts(node.id))

    def measure(self, measure: Measure) -> Work:
        """Begins to measure."""
        if measure.name not in self._verifiers:
            raise UsageError(f"the strategy asked for {measure.name!r}, which is not among its measures")
        recorded = None if self.journal is None else self.journal.measured(measure.name, measure.nodes)
        work = self._measure(measure) if recorded is None else _value(Measured(**recorded))
        return Work(asyncio.ensure_future(work), measure=measure, replayed=recorded is not None)

    async def _generate(self, node: Node, request: Request, expand: Expand, thinking: int | None) -> Generated:
        done = await generate(self._engine, request, max_thinking_tokens=thinking, turns_before=node.turns_before)
        if done.completion.hidden is not None:
            self._hidden[node.id] = done.completion.hidden
        if done.completion.states:
            self._states[node.id] = done.completion.states
        if self.journal is not None:
            assert node.parent is not None
            counts = (done.num_generated, done.num_calls)
            given = expand.prompt if isinstance(expand.prompt, str) else ""
            said = {"begins": node.begins, "aside": node.aside, "prompt": given}
            self.journal.add_completion(
                node.id,
                node.parent,
                done.completion,
                counts,
                self.usage().as_dict(),
                marks={key: value for key, value in said.items() if value},
            )
        return done

    async def _measure(self, measure: Measure) -> Measured:
        """For each node an embedding, or scores: one, or one for each of its steps."""
        codec = self._engine.codec
        pieces = [
            trajectories(
                self._tree,
                codec,
                node,
                by_step=measure.by_step,
                hidden=self._hidden.get(node),
                states=self._states.pop(node, None),
            )
            for node in measure.nodes
        ]
        verifier = self._verifiers[measure.name]
        given = [piece for steps in pieces for piece in steps]
        engine = CountingEngine(self._engine)
        values: Sequence[tuple[float, ...] | bytes]
        feedback: Sequence[str] = ()
        if isinstance(verifier, Embedder):
            values = packed(verifier, await verifier.embed(given, engine, self._owner), len(given))
        else:
            said: Sequence[Review] = []
            if (review := getattr(verifier, "review", None)) is not None:
                said = await review(given, engine, self._owner)
                found = [each.score for each in said]
            else:
                found = await verifier.score(given, engine, self._owner)
            scores = iter(checked_scores(verifier, found, len(given)))
            values = [tuple(next(scores) for _ in steps) for steps in pieces]
            if any(each.feedback for each in said):
                ends = itertools.accumulate(map(len, pieces))
                feedback = [said[end - 1].feedback for end in ends]
        measured = Measured(values, engine.num_generated, engine.num_calls, feedback)
        if self.journal is not None:
            self.journal.add_measure(measure.name, measure.nodes, usage=self.usage().as_dict(), **measured._asdict())
        return measured


async def _value(value: T) -> T:
    return value

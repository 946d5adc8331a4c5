"""The driver: the one place where a search has effects.

    ask -> admit -> generate, measure -> journal -> tell -> ask ...

It asks the strategy while there is room, sends what fits the budget to the engine and the verifiers, journals each
result as it arrives, and tells the strategy one result at a time, in the order asked: so the tree does not depend on
timing, and a run that was killed is replayed from its journal to where it was. What a strategy sees of a node changes
only then.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path as FilePath
from typing import Any, Protocol, TypeVar, cast

from reason.errors import EngineError, UsageError
from reason.fields import describe
from reason.search.admission import Admission, check_budget
from reason.search.effects import Effects, Work
from reason.search.generation import Generated, is_thinking, open_ended, prompted, step_text, thinking_end
from reason.search.journal import failed_sample
from reason.search.measuring import same_distances
from reason.search.tree import ROOT, Cancel, Expand, Measure, Node, NodeEnd, Room, Strategy, Tree
from reason.search.voting import best_unfinished
from reason.tasks.answers import extract_answer
from reason.tasks.equivalence import equivalent
from reason.tasks.prompts import math_messages
from reason.types import (
    Budget,
    Candidate,
    Embedder,
    Engine,
    Problem,
    Sampling,
    Solution,
    StoppedBy,
    Verifier,
)

__all__ = ["MAX_IN_FLIGHT", "AnyRun", "Run", "check_budget"]

T = TypeVar("T")

MAX_IN_FLIGHT = 64
"""Samples of one problem that are in flight at once."""

_ALSO_ASKED = ("question", "passages", "entry_point")  # of a problem, where it has them


class AnyRun(Protocol):
    """What solves one problem and may be watched: a ``Run``, or several of which one is under way."""

    @property
    def tree(self) -> Tree: ...

    @property
    def engine(self) -> Engine: ...

    @property
    def owner(self) -> str: ...

    def interrupt(self) -> None: ...

    def progress(self) -> dict[int, str]: ...

    async def solve(self) -> Solution: ...


class Run:
    """One problem under one strategy. ``tree`` may be looked at while it runs.

    Args:
        verifiers: what the strategy may measure with, by name: verifiers and embedders.
        owner: the ledger row of this run; unique to it.
        seed: decides all sampling noise, together with the problem's id and the nodes'.
        journal: a file; if it holds an earlier, interrupted sitting of the same run, that is where this one goes on.
        max_thinking_tokens: limit of a thinking model's thinking; at it, the end of thinking is put into its mouth.
        on_change: called after every change of the tree, in the event loop.
    """

    def __init__(
        self,
        engine: Engine,
        problem: Problem,
        strategy: Strategy,
        *,
        strategy_name: str,
        budget: Budget,
        seed: int,
        owner: str,
        verifiers: Mapping[str, Verifier | Embedder] | None = None,
        journal: FilePath | None = None,
        max_thinking_tokens: int | None = None,
        max_in_flight: int = MAX_IN_FLIGHT,
        on_change: Callable[[Run], None] | None = None,
    ) -> None:
        if max_thinking_tokens is not None and max_thinking_tokens < 1:
            raise UsageError(f"max_thinking_tokens must be at least 1, got {max_thinking_tokens}")
        if max_in_flight < 1:
            raise UsageError(f"max_in_flight must be at least 1, got {max_in_flight}")
        self.engine = engine
        run_seed = int.from_bytes(hashlib.blake2b(f"{seed}:{problem.id}".encode(), digest_size=7).digest(), "big")
        given = verifiers or {}
        if missing := [name for name in strategy.measures if name not in given]:
            raise UsageError(f"the strategy measures with {', '.join(missing)}, which the run was not given")
        self._verifiers = {name: given[name] for name in strategy.measures}
        self.tree = Tree(
            problem, seed=run_seed, thinking=engine.codec.thinking, same_distance=same_distances(self._verifiers)
        )
        self.owner = owner
        self.strategy = strategy
        self._strategy_name = strategy_name
        self._budget = budget
        forced = () if max_thinking_tokens is None else thinking_end(engine.codec)
        self._admission = Admission(budget, self.tree, calls_each=2 if forced else 1, tokens_between=len(forced))
        self._seed = seed
        self._effects = Effects(
            engine,
            self.tree,
            verifiers=self._verifiers,
            owner=owner,
            seed=run_seed,
            max_thinking_tokens=max_thinking_tokens,
            tokens_limited=budget.policy_tokens is not None,
        )
        self._journal_file = journal
        self._max_thinking_tokens = max_thinking_tokens
        self._max_in_flight = max_in_flight
        self._on_change = on_change
        self._equivalent = problem.equivalent or equivalent
        self._representatives: list[str] = []  # by answer class
        self._work: deque[Work] = deque()  # in the order asked, which is the order told
        self._cancelled: list[asyncio.Task[Any]] = []
        self._told = 0
        self._failure: Exception | None = None  # the first of an expansion
        self._stopped_by: StoppedBy = "done"
        self._begun = ""  # by a solution that was cancelled
        self._stop = asyncio.Event()

    def interrupt(self) -> None:
        """Ends the run as soon as possible; ``solve`` then returns the best answer so far."""
        self._stop.set()

    def progress(self) -> dict[int, str]:
        """What pending nodes have generated so far, by node id: for live views."""
        texts = dict(self.engine.progress(self.owner))
        for work in self._work:
            if work.node is not None and work.task.done() and not work.task.cancelled() and not work.task.exception():
                texts[work.node.id] = work.task.result().completion.text
        return texts

    async def solve(self) -> Solution:
        """Runs to the end, a limit, or an interrupt. Cancelling this task cancels the work and raises."""
        prompt = self._prompt()
        if not prompt:
            raise UsageError("the problem is empty")
        root = Node(id=ROOT, parent=None, context=prompt, prompt_tokens=len(prompt), finish_reason="step")
        root.thinking = is_thinking(self.engine.codec, prompt)
        self.tree.add(root)
        try:
            self._effects.begin(self._journal_file, self._header(prompt))
            try:
                await self._search()
                await self._close()
            finally:
                await self._cancel_all()
            self._raise_if_all_failed()
            return self._solution()
        finally:
            self._effects.close()
            self._effects.forget()

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _search(self) -> None:
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            while True:
                while self._admit():
                    pass
                if not self._work:
                    return
                if self._effects.ended_in_time(self._told):
                    self._stopped_by = "seconds"
                    await self._tell_arrived(replayed=True)
                    return
                head = self._work[0]
                left = None if head.replayed else self._left()
                await asyncio.wait({head.task, stopping}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done() or (not head.replayed and self._left() == 0.0):
                    self._stopped_by = "interrupt" if stopping.done() else "seconds"
                    await self._tell_arrived()
                    return
                if head.task.done():
                    self._work.popleft()
                    await self._tell(head)
        finally:
            stopping.cancel()

    def _left(self) -> float | None:
        """Seconds of the budget that are left, earlier sittings' spent; None without a limit."""
        limit = self._budget.seconds
        return None if limit is None else max(0.0, limit - self._effects.seconds)

    async def _tell_arrived(self, *, replayed: bool = False) -> None:
        """Tells of everything that is there when a run ends in the middle, or of what was there when it did. That
        depends on timing, so the journal does not say so: who resumes the run is told in order. What is not there is
        cancelled first, so that no more is recorded than is told.

        Args:
            replayed: only of what an earlier sitting recorded.
        """
        await asyncio.gather(*(work.task for work in self._work if work.replayed))
        said = self.progress()
        pending = [work.node for work in self._work if work.node is not None and not work.node.aside]
        self._begun = max((self.tree.text(node.id) + said.get(node.id, "") for node in pending), key=len, default="")
        arrived: list[Work] = []
        late: list[asyncio.Task[Any]] = []
        for work in self._work:
            if work.task.done() and work.task.exception() is None and work.replayed >= replayed:
                arrived.append(work)
            else:
                work.task.cancel()
                late.append(work.task)
        await asyncio.gather(*late, return_exceptions=True)
        for work in arrived:
            self._work.remove(work)
            await self._tell(work, journal=False)

    def _admit(self) -> bool:
        """Starts what the strategy asks for, as far as room and budget allow. Once a limit binds there is no room, and
        only what is there is still measured. True: the strategy is to be asked again, for less is under way or less may
        be started than it was told."""
        before = (self._stopped_by, len(self._cancelled))
        room = self._max_in_flight - self._admission.in_flight if self._stopped_by == "done" else 0
        refused: StoppedBy | None = None
        with self._effects.thinking():
            actions = self.strategy.ask(self.tree, Room(room))
        for action in actions:
            if isinstance(action, Cancel):
                self._drop(action.nodes)
            elif isinstance(action, Measure):
                self.tree.measuring.update((node, action.name) for node in action.nodes)
                self._work.append(self._effects.measure(action))
            elif refused is None:  # what is small must not overtake what has to wait
                for _ in range(min(room, action.num_samples)):
                    refused = self._start(action)
                    if refused is not None:
                        break
                    room -= 1
        if refused is not None and not self._work:  # else what is in flight may give room back
            self._stopped_by = refused
        return before != (self._stopped_by, len(self._cancelled))

    def _start(self, expand: Expand, *, closing: bool = False) -> StoppedBy | None:
        """Starts one sample, or says which limit forbids it."""
        parent = self.tree[expand.node]
        base, given = prompted(self.engine.codec, parent.context, expand)
        wanted = expand.max_tokens * getattr(self.engine, "generated_per_token", 1)
        tokens = self._admission.grant(parent.id, wanted, len(given), closing=closing)
        if not isinstance(tokens, int):
            return tokens
        begins = not isinstance(expand.prompt, str)
        node = Node(
            id=len(self.tree),
            parent=parent.id,
            context=base + given,
            path_tokens=0 if begins else parent.path_tokens,
            prompt_tokens=len(base) + len(given) if begins else parent.prompt_tokens,
            turns_before=len(base) if begins else parent.turns_before,
            begins=begins,
            aside=expand.aside,
            open_ended=expand.open_ended,
        )
        self.tree.add(node)
        self._admission.start(node, tokens, len(given))
        self._work.append(self._effects.expand(node, expand, tokens, closing=closing))
        return None

    # -- telling -----------------------------------------------------------------------------------------------------

    async def _tell(self, work: Work, *, journal: bool = True) -> None:
        """Lets the strategy see a result."""
        result = work.task.result()
        if work.measure is not None:
            done = list(work.measure.nodes)
            self._admission.spend(result.num_generated, result.num_calls)
            for node, found in zip(work.measure.nodes, result.values, strict=True):
                into = self.tree[node].embeddings if isinstance(found, bytes) else self.tree[node].scores
                into[work.measure.name] = found
                self.tree.measuring.discard((node, work.measure.name))
            for node, said in zip(work.measure.nodes, result.feedback, strict=False):
                self.tree[node].feedback[work.measure.name] = said
            event: dict[str, Any] = {"measured": work.measure.name, "nodes": done}
        else:
            assert work.node is not None and work.expand is not None
            await self._fill(work.node, work.expand, result)
            done = [work.node.id]
            event = {"node": work.node.id, "end": work.node.finish_reason}
            if work.node.error is not None:
                counts = (result.num_generated, result.num_calls)
                event |= failed_sample(work.expand.node, result.completion, counts)
            if work.node.answer is not None:
                event |= {"answer": work.node.answer, "answer_class": work.node.answer_class}
        with self._effects.thinking():
            self.strategy.tell(self.tree, done)
        if self._effects.journal is not None and journal:
            changes = self.tree.take_changes()
            self._effects.journal.add_tell(self._told, event | ({"notes": changes} if changes else {}))
        self._told += 1
        if self._on_change is not None:
            self._on_change(self)

    async def _fill(self, node: Node, expand: Expand, result: Generated) -> None:
        completion, delimiter = result.completion, self.tree.problem.step_delimiter
        if expand.open_ended and not (expand.until == "step" and completion.stopped_on == delimiter):
            completion = open_ended(self.engine.codec, completion)
        parent = self.tree[expand.node]
        given = () if node.begins else node.context[len(parent.context) :]
        own = len(node.context) - (len(parent.context) if _goes_on(node, parent) else 0) + len(completion.token_ids)
        node.context += completion.token_ids
        node.num_tokens = result.num_generated
        node.path_tokens += result.num_generated
        node.logprobs = completion.logprobs
        node.error = None if completion.error is None else str(completion.error)
        self._failure = self._failure or completion.error
        node.stopped_on = completion.stopped_on
        reason = _node_end(completion.finish_reason, completion.stopped_on, expand, delimiter)
        before = () if node.begins else parent.context[parent.prompt_tokens :]
        shown = "" if node.begins else self.tree.text(parent.id)
        node.text = step_text(self.engine.codec, before, shown, given, completion, open_end=reason == "step")
        self._admission.settle(node, result.num_spent, result.num_calls, own)
        node.thinking = is_thinking(self.engine.codec, node.context[node.turns_before :])
        node.finish_reason = reason
        if node.finished and not node.aside:
            await self._read_answer(node)

    async def _read_answer(self, node: Node) -> None:
        text = self.tree.text(node.id)
        extract = self.tree.problem.extract
        if extract is not None:
            node.answer = extract(text)
        else:  # what was cut off has said its answer only if it said so
            node.answer = extract_answer(text, explicit_only=node.finish_reason == "length")
        if node.answer is not None:
            self._admission.answered = True
            node.answer_class = await self._class_of(node)

    async def _class_of(self, node: Node) -> int:
        """The class of a node's answer: what an earlier sitting said, for a comparison may hang on a busy machine."""
        assert node.answer is not None
        journal = self._effects.journal
        known = None if journal is None else journal.answer_class(node.id)
        if known is None or known > len(self._representatives):
            known = await asyncio.to_thread(self._compare, node.answer)
        if known == len(self._representatives):
            self._representatives.append(node.answer)
        return known

    def _compare(self, answer: str) -> int:
        same = (
            i for i, other in enumerate(self._representatives) if other == answer or self._equivalent(other, answer)
        )
        return next(same, len(self._representatives))

    def _drop(self, nodes: Sequence[int]) -> None:
        """Cancels pending expansions."""
        dropped = set(nodes)
        for work in [work for work in self._work if work.node is not None and work.node.id in dropped]:
            assert work.node is not None
            work.task.cancel()
            self._work.remove(work)
            self._cancelled.append(work.task)
            self._admission.drop(work.node)
            work.node.finish_reason = "cancelled"
        if self._effects.journal is not None and dropped:
            self._effects.journal.add_tell(self._told, {"cancelled": sorted(dropped)})
            self._told += 1
        if self._on_change is not None and dropped:
            self._on_change(self)

    async def _cancel_all(self) -> None:
        tasks = [work.task for work in self._work] + self._cancelled
        self._work.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- ending ------------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        """When a limit ends the search and no solution has an answer, has an unfinished one give it, if the reserve
        allows."""
        closing = self.tree.problem.closing
        if not closing or self._stopped_by in ("done", "interrupt", "seconds"):
            return
        if any(node.answer is not None for node in self.tree.nodes):
            return
        leaf = best_unfinished(self.tree)
        if leaf is None:
            return
        thinking = self.engine.codec.thinking
        if thinking is not None and leaf.thinking:
            closing = "\n" + thinking.end + closing
        sampling = Sampling(temperature=0.0)
        tokens = self._admission.closing_tokens
        expand = Expand(node=leaf.id, max_tokens=tokens, prompt=closing, stop=("\n",), sampling=sampling)
        if tokens and self._start(expand, closing=True) is None:
            await asyncio.wait({self._work[0].task})
            await self._tell(self._work.popleft())

    def _raise_if_all_failed(self) -> None:
        errors = [node.error for node in self.tree.nodes[1:] if node.finish_reason == "error"]
        if errors and len(errors) == len(self.tree) - 1:
            raise EngineError(f"every expansion failed; the first: {errors[0]}") from self._failure

    def _solution(self) -> Solution:
        with self._effects.thinking():
            answer = self.strategy.answer(self.tree)
        usage = self._effects.usage()
        finished = self.tree.finished()
        solution = Solution(
            answer=answer.answer,
            text=answer.text or self._begun,
            confidence=answer.confidence,
            strategy=self._strategy_name,
            model=self.engine.name,
            stopped_by=self._stopped_by,
            usage=usage,
            problem=self.tree.problem.id,
            candidates=tuple(self._candidate(node) for node in finished),
            chosen=getattr(self.strategy, "chosen", None),
        )
        journal = self._effects.journal
        if journal is not None and self._stopped_by != "interrupt" and journal.end is None:
            ended = {"answer": answer.answer, "confidence": answer.confidence, "stopped_by": self._stopped_by}
            journal.finish(ended | {"usage": usage.as_dict()})
        return solution

    def _candidate(self, node: Node) -> Candidate:
        assert node.finish_reason is not None and node.finish_reason != "step"
        return Candidate(
            answer=node.answer,
            text=self.tree.text(node.id),
            num_tokens=node.path_tokens,
            finish_reason=node.finish_reason,
            score=node.notes.get("score"),
            answer_class=node.answer_class,
        )

    # -- beginning ---------------------------------------------------------------------------------------------------

    def _prompt(self) -> tuple[int, ...]:
        content = self.tree.problem.content
        if not content or (isinstance(content, str) and not content.strip()):
            return ()
        messages = math_messages(content) if isinstance(content, str) else content
        return self.engine.codec.encode_chat(messages)

    def _header(self, prompt: tuple[int, ...]) -> dict[str, Any]:
        """What decides the tree: a journal with another one is another run's."""
        problem = self.tree.problem
        return {
            "problem": problem.id,
            "content": problem.content,
            "strategy": self._strategy_name,
            "fields": describe(self.strategy),
            "seed": self._seed,
            "budget": asdict(self._budget),
            "model": self.engine.name,
            "max_thinking_tokens": self._max_thinking_tokens,
            "max_in_flight": self._max_in_flight,
            "step_delimiter": problem.step_delimiter,
            "closing": problem.closing,
            **{name: value for name in _ALSO_ASKED if (value := getattr(problem, name))},
            **({"tests": problem.tests, "setup": problem.setup} if problem.tests else {}),
            "verifiers": {name: _described(name, verifier) for name, verifier in self._verifiers.items()},
            **({"probes": probes} if (probes := self._effects.probes) else {}),
            "prompt": prompt,
        }


def _described(name: str, measure: Verifier | Embedder) -> dict[str, Any]:
    """Its fields, and its own name where the strategy has another for it: what was chosen for "auto"."""
    return {**({"name": measure.name} if measure.name != name else {}), **describe(measure)}


def _goes_on(node: Node, parent: Node) -> bool:
    """Whether a node's context is its parent's and more."""
    return node.context[: len(parent.context)] == parent.context


def _node_end(reason: str, stopped_on: str | int | None, expand: Expand, delimiter: str) -> NodeEnd:
    """What a completion's end means for a node: one that ran into its step's end may be extended."""
    if reason == "stop" and expand.until == "step" and stopped_on == delimiter:
        return "step"
    if reason == "stop" and expand.open_ended and isinstance(stopped_on, str):
        return "step"
    if reason == "length" and expand.until != "end":
        return "step"
    return cast(NodeEnd, reason)

"""The driver: the one place where a search has effects.

It asks the strategy, sends expansions to the engine, adds nodes, extracts answers, keeps the budget and ends the run.
Expansions are admitted only if their token limit fits what is left of the budget, so limits are never overshot.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from reason.errors import EngineClosed, EngineError, UsageError
from reason.search.tree import ROOT, Expand, Node, Strategy, Tree
from reason.tasks.answers import extract_answer
from reason.tasks.equivalence import equivalent
from reason.tasks.prompts import math_messages
from reason.types import Budget, Completion, Engine, Problem, Request, Solution, StoppedBy

__all__ = ["MIN_TOKENS", "Run", "check_budget"]

MIN_TOKENS = 16
"""An expansion that could not have at least so many tokens is not started."""


class Run:
    """One problem under one strategy. ``tree`` may be looked at while it runs.

    Args:
        owner: the ledger row of this run; unique to it.
        seed: decides all sampling noise together with node ids.
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
        on_change: Callable[[Run], None] | None = None,
    ) -> None:
        check_budget(budget)
        self.engine = engine
        self.tree = Tree(problem)
        self.owner = owner
        self._strategy = strategy
        self._strategy_name = strategy_name
        self._budget = budget
        self._seed = seed
        self._on_change = on_change
        self._extract = problem.extract or extract_answer
        self._equivalent = problem.equivalent or equivalent
        self._representatives: list[str] = []  # by answer class
        self._spent = 0  # policy tokens of finished expansions
        self._reserved: dict[int, int] = {}  # node -> tokens it may still use
        self._calls = 0
        self._stopped_by: StoppedBy = "done"
        self._stop = asyncio.Event()
        self._classing = asyncio.Lock()

    def interrupt(self) -> None:
        """Ends the run as soon as possible; ``solve`` then returns the best answer so far."""
        self._stop.set()

    async def solve(self) -> Solution:
        """Runs to the end, a limit, or an interrupt. Cancelling this task cancels the work and raises."""
        began = time.perf_counter()
        prompt = self._prompt()
        if not prompt:
            raise UsageError("the problem is empty")
        self.tree.nodes.append(Node(id=ROOT, parent=None, context=prompt, finish_reason="stop"))
        work: set[asyncio.Task[None]] = set()
        stopping = asyncio.ensure_future(self._stop.wait())
        limit = self._budget.seconds
        try:
            while True:
                if self._stopped_by == "done":
                    work |= {asyncio.ensure_future(self._expand(*started)) for started in self._admit()}
                if not work:
                    break
                left = None if limit is None else max(0.0, limit - (time.perf_counter() - began))
                done, _ = await asyncio.wait({*work, stopping}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if stopping in done or not done:
                    self._stopped_by = "interrupt" if stopping in done else "seconds"
                    break
                for task in done:
                    work.discard(task)
                    task.result()
        finally:
            stopping.cancel()
            await _cancel(work)
        self._raise_if_all_failed()
        return await self._solution(time.perf_counter() - began)

    # -- expanding -------------------------------------------------------------------------------------------------

    def _prompt(self) -> tuple[int, ...]:
        content = self.tree.problem.content
        if not content or (isinstance(content, str) and not content.strip()):
            return ()
        messages = math_messages(content) if isinstance(content, str) else content
        return self.engine.codec.encode_chat(messages)

    def _admit(self) -> list[tuple[Node, Request]]:
        """Turns what the strategy asks for into pending nodes and requests, as far as the budget allows."""
        admitted: list[tuple[Node, Request]] = []
        for expand in self._strategy.ask(self.tree):
            for _ in range(expand.num_samples):
                request = self._reserve(expand)
                if request is None:
                    break
                node = Node(id=len(self.tree), parent=expand.node, context=request.prefix)
                self.tree.nodes.append(node)
                self._reserved[node.id] = request.max_tokens
                self._calls += 1
                admitted.append((node, replace(request, key=node.id)))
        return admitted

    def _reserve(self, expand: Expand) -> Request | None:
        """A request within what is left of the budget, or None (and a note why, if nothing is left in flight)."""
        budget, tokens = self._budget, expand.max_tokens
        pending = sum(self._reserved.values())
        if budget.calls is not None and self._calls >= budget.calls:
            self._stopped_by = "calls"
            return None
        if budget.policy_tokens is not None:
            tokens = min(tokens, budget.policy_tokens - self._spent - pending)
            if tokens < min(MIN_TOKENS, expand.max_tokens):
                self._exhausted("policy_tokens")
                return None
        if budget.kv_tokens is not None:
            root = len(self.tree[ROOT].context)  # every other path is counted as if it shared no more than this
            held = root + pending + sum(len(self.tree[node].context) - root for node in self._reserved)
            tokens = min(tokens, budget.kv_tokens - held - (len(self.tree[expand.node].context) - root))
            if tokens < min(MIN_TOKENS, expand.max_tokens):
                self._exhausted("kv_tokens")
                return None
        return Request(
            prefix=self.tree[expand.node].context,
            seed=self._seed,
            sampling=expand.sampling,
            max_tokens=tokens,
            stop=expand.stop,
            owner=self.owner,
        )

    def _exhausted(self, limit: StoppedBy) -> None:
        """A limit binds now. What is in flight may give room back; if nothing is, the run is over."""
        if not self._reserved:
            self._stopped_by = limit

    async def _expand(self, node: Node, request: Request) -> None:
        """Runs one expansion to its end; siblings meet again in the engine's batch and KV."""
        stream = self.engine.generate([request])
        try:
            async for completion in stream:
                if completion.finish_reason == "cancelled":  # not by us: then the stream would be closed
                    raise EngineClosed("the engine was closed before it was done")
                await self._arrived(node, request, completion)
        finally:
            close: Any = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    async def _arrived(self, node: Node, request: Request, completion: Completion) -> None:
        node.text = completion.text
        node.num_tokens = len(completion.token_ids)
        node.context = request.prefix + completion.token_ids
        node.logprobs = completion.logprobs
        node.error = None if completion.error is None else str(completion.error)
        self._reserved.pop(node.id, None)
        self._spent += node.num_tokens
        if completion.finish_reason in ("eos", "stop", "length"):  # what failed has no say
            node.answer = self._extract(completion.text)
        if node.answer is not None:
            async with self._classing:
                node.answer_class = await asyncio.to_thread(self._class_of, node.answer)
        node.finish_reason = completion.finish_reason
        if self._on_change is not None:
            self._on_change(self)

    def _class_of(self, answer: str) -> int:
        for number, representative in enumerate(self._representatives):
            if self._equivalent(representative, answer):
                return number
        self._representatives.append(answer)
        return len(self._representatives) - 1

    # -- ending ----------------------------------------------------------------------------------------------------

    def _raise_if_all_failed(self) -> None:
        errors = [node.error for node in self.tree.nodes[1:] if node.finish_reason == "error"]
        if errors and len(errors) == len(self.tree) - 1:
            raise EngineError(f"every expansion failed; the first: {errors[0]}")

    async def _solution(self, seconds: float) -> Solution:
        answer = self._strategy.answer(self.tree)
        usage = await asyncio.to_thread(self.engine.usage, self.owner)
        usage.prompt_tokens = len(self.tree[ROOT].context)
        usage.seconds = seconds
        self.engine.forget(self.owner)
        leaves = [node for node in self.tree.leaves() if not node.pending]
        return Solution(
            answer=answer.answer,
            text=answer.text,
            confidence=answer.confidence,
            strategy=self._strategy_name,
            model=self.engine.name,
            stopped_by=self._stopped_by,
            usage=usage,
            problem=self.tree.problem.id,
            candidates=tuple((node.answer, node.text) for node in leaves),
        )


def check_budget(budget: Budget) -> None:
    """Raises UsageError if a limit is not more than 0."""
    for name in ("policy_tokens", "seconds", "kv_tokens", "calls"):
        value = getattr(budget, name)
        if value is not None and not value > 0:
            raise UsageError(f"budget {name} must be more than 0, got {value}")


async def _cancel(tasks: Sequence[asyncio.Task[None]] | set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)

"""Runs calls, each once: what was asked before, or ahead of time, is remembered."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

from reason.tasks.bm25 import BM25
from reason.tasks.syntax import parse
from reason.verifiers.tools.calculator import calculation
from reason.verifiers.tools.calls import Call

if TYPE_CHECKING:
    from concurrent.futures import Future

    from reason.sandbox import Execution
    from reason.types import Problem

__all__ = ["Toolbox"]

_WALL = 3  # times as long by the clock, for other programs compute too
_KEPT = 4096


class Toolbox:
    """The tools read, and change nothing: programs and calculations run in the sandbox, without network or files. So a
    call may be made ahead of time, and its answer dropped.

    Args:
        seconds: of computing that a program may take.
        num_passages: that a search finds.
        max_characters: of an answer; what is longer is cut in the middle.
    """

    def __init__(self, *, seconds: int = 5, num_passages: int = 3, max_characters: int = 1200) -> None:
        self._seconds = seconds
        self._num_passages = num_passages
        self._max_characters = max_characters
        self._answers: OrderedDict[tuple[Call, tuple[str, ...]], asyncio.Future[str]] = OrderedDict()
        self.made: Counter[str] = Counter()
        """Calls that were made, by tool: not those that were answered from memory."""
        self.ahead: int = 0
        """Of them, those that were made ahead of time."""
        self.spared: int = 0
        """Calls that found their answer there, or on its way."""

    async def answer(self, call: Call, problem: Problem) -> str:
        """What a call comes to; errors are answers too.

        Raises:
            SandboxUnavailable: programs cannot be isolated here.
        """
        key = call, problem.passages
        known = self._answers.get(key)
        if known is not None and not (known.done() and (known.cancelled() or known.exception() is not None)):
            self.spared += 1
        else:
            known = self._begin(key)
        return await asyncio.shield(known)

    def begin(self, call: Call, problem: Problem) -> None:
        """Makes a call ahead of time, if it was not made yet."""
        if (call, problem.passages) not in self._answers:
            self.ahead += 1
            self._begin((call, problem.passages))

    def _begin(self, key: tuple[Call, tuple[str, ...]]) -> asyncio.Future[str]:
        call, passages = key
        self.made[call.tool] += 1
        future = asyncio.ensure_future(self._make(call, passages))
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may ask for it any more
        self._answers[key] = future
        while len(self._answers) > _KEPT:
            self._answers.popitem(last=False)
        return future

    async def _make(self, call: Call, passages: tuple[str, ...]) -> str:
        if call.tool == "search":
            return self._cut(self._search(call.argument, passages))
        calculated = call.tool == "calc"
        program = calculation(call.argument) if calculated else _printing(call.argument)
        ran = await asyncio.wrap_future(await asyncio.to_thread(self._start, program))
        said = ran.stdout.strip()
        if ran.status == "ok":
            return self._cut(said) or "(nothing was printed)"
        of_limits = {"timeout": "it took too long", "memory": "it used too much memory"}
        why = ran.error or of_limits.get(ran.status) or ran.stderr.strip().rpartition("\n")[2] or ran.status
        return self._cut(f"{'' if calculated else said}\nerror: {why}".strip())

    def _start(self, program: str) -> Future[Execution]:
        from reason.sandbox import Limits, shared_sandbox

        limits = Limits(cpu_seconds=self._seconds, wall_seconds=float(_WALL * self._seconds))
        return shared_sandbox().start_run(program, limits=limits)

    def _search(self, query: str, passages: tuple[str, ...]) -> str:
        if not passages:
            return "error: there is nothing to search"
        best = BM25(passages).best(query, self._num_passages)
        return "\n\n".join(f"[{place + 1}] {passages[place]}" for place in best)

    def _cut(self, text: str) -> str:
        if len(text) <= self._max_characters:
            return text
        half = self._max_characters // 2
        return f"{text[:half]}\n…\n{text[-half:]}"


def _printing(program: str) -> str:
    """The program, with its last expression printed, as in a notebook."""
    try:
        tree = parse(program)
        if not tree.body or not isinstance(last := tree.body[-1], ast.Expr):
            return program
        if isinstance(last.value, ast.Call) and isinstance(last.value.func, ast.Name) and last.value.func.id == "print":
            return program
        parts = [ast.unparse(statement) for statement in tree.body[:-1]] + [f"_shown = {ast.unparse(last.value)}"]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return program
    return "\n".join([*parts, "print(_shown) if _shown is not None else None"])

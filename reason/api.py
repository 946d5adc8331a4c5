"""``solve`` and ``Solver``: parts put together from names or objects."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reason.errors import UsageError
from reason.fields import describe
from reason.loading import check_draft, check_route, check_servers
from reason.loading import load_engine as _load
from reason.search.driver import AnyRun, Run, check_budget
from reason.search.measuring import find_verifiers
from reason.search.strategies import for_budget, make_strategy
from reason.search.tree import Strategy
from reason.sync import run_sync
from reason.types import Budget, Embedder, Engine, Message, Problem, Solution, Verifier, capabilities_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from reason.plan import SpecEyes
    from reason.route import Router

__all__ = ["Solver", "asolve", "solve"]

ProblemLike = str | Problem | Sequence[Message]

_owners = itertools.count()


class Solver:
    """A warm engine that solves problems, many at once if asked to.

        with Solver("qwen2.5-coder-1.5b-instruct") as solver:
            solutions = solver.solve_all(problems, strategy="best-of-n", num_samples=16)

    Args:
        model: a catalogue name, a folder, a GGUF file or a hub id; None is the default model. Or ``engine``. With a
            ``base_url`` the name that the server has for it; None if it has only one.
        engine: an engine made by the caller, who keeps it: closing the solver does not close it.
        device, dtype, kv_tokens, quantize, threads: see ``LocalEngine.load``.
        draft: what drafts tokens: "auto", "none", a source ("stand") or several ("goose+stand"). It changes how fast
            tokens come, not which.
        route: decides which steps of a small model the model writes again: a router by name, with its settings
            ("reward:threshold=0.6"), or an object; see ``reason.route``. None has the model write everything.
        plan: has a small model answer first, and a gate decide whether the search runs at all: "speceyes", with its
            settings ("speceyes:threshold=0.95"), or an object; see ``reason.plan``.
        small_model: the one that writes steps or answers first; by default the catalogue's smaller one with the same
            tokens.
        unsafe_exec: where programs that the model writes cannot be isolated, run them all the same. It holds for the
            whole process.
        base_url: an OpenAI-compatible server that runs the model ("http://localhost:8000/v1"); see docs/remote.md.
        api_key_env, tokenizer, server: of that server, see ``reason.engine.remote.Address``.
        small_base_url: the server that runs the small model, with the same key and kind; without it the small model
            runs here.

    Raises:
        UsageError: no such draft source or router, or one for an engine that is made already.
        ReasonError: the model cannot be had or run; the message says what to do.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        engine: Engine | None = None,
        device: str = "auto",
        dtype: str = "auto",
        kv_tokens: int | None = None,
        quantize: str | None = None,
        threads: int | None = None,
        draft: str = "auto",
        route: str | Router | None = None,
        plan: str | SpecEyes | None = None,
        small_model: str | None = None,
        unsafe_exec: bool = False,
        base_url: str | None = None,
        api_key_env: str | None = None,
        tokenizer: str | None = None,
        server: str | None = None,
        small_base_url: str | None = None,
    ) -> None:
        if engine is not None and (model is not None or base_url is not None):
            raise UsageError("give a model or an engine, not both")
        machine = {"device": device, "dtype": dtype, "kv_tokens": kv_tokens, "quantize": quantize, "threads": threads}
        servers = {"base_url": base_url, "api_key_env": api_key_env, "tokenizer": tokenizer, "server": server}
        remote = check_servers({**servers, "small_base_url": small_base_url}, draft, small_model, machine)
        check_draft(draft, engine)
        self.plan: SpecEyes | None = None
        if plan is not None:
            from reason.plan import make_plan

            self.plan = make_plan(plan)
        named = remote is None or remote.small is None
        routing = check_route(route, model, small_model, engine, plan=self.plan, named=named)
        given = {"route": route, "plan": plan, "small_model": small_model}
        recorded = {} if remote is None else remote.recorded()
        self.pair = {name: _told(value) for name, value in {**given, **recorded}.items() if value is not None}
        """The route, the plan, the small model and the servers as they were given, for who writes down how answers came
        to be."""
        if unsafe_exec:
            _allow_unsafe()
        self._owns_engine = engine is None
        options: dict[str, Any] = {**machine, "draft": draft}
        if routing is not None:
            options["routing"] = routing
        if remote is not None:
            options["remote"] = remote
        self.engine: Engine = engine or _load(model, **options)

    @property
    def recorded(self) -> dict[str, str]:
        """What evaluations record of the model: its "name", and ``pair``."""
        return {"name": self.engine.name, **self.pair}

    def start(
        self,
        problem: ProblemLike,
        strategy: str | Strategy = "best-of-n",
        *,
        budget: Budget | None = None,
        seed: int = 0,
        verifiers: Mapping[str, Verifier | Embedder] | None = None,
        journal: FilePath | None = None,
        max_thinking_tokens: int | None = None,
        on_change: Callable[[Run], None] | None = None,
        **strategy_fields: Any,
    ) -> AnyRun:
        """A run that has not begun: ``await run.solve()``. For callers that watch, interrupt or resume it.

        Args:
            verifiers: verifiers of your own that the strategy names; registered ones are found by name.
            journal: the file of the run's trace. If an earlier sitting of the same run was interrupted, this one goes
            on
                where that ended.
            max_thinking_tokens: limit of a thinking model's thinking.
            on_change: called after every change of the tree.
        """
        made = make_strategy(strategy, **for_budget(strategy, strategy_fields, budget))
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        given = as_problem(problem)

        def run(
            engine: Engine,
            made: Strategy,
            name: str,
            journal: FilePath | None,
            asked: Problem = given,
            ahead: Engine | None = None,
        ) -> Run:
            measures = find_verifiers(made, verifiers, model=engine.name, can=capabilities_of(engine))
            if ahead is not None:
                engine = _guessing_calls(engine, ahead, measures, asked)
            return Run(
                engine,
                asked,
                made,
                strategy_name=name,
                budget=budget or Budget(),
                seed=seed,
                owner=f"{asked.id}#{next(_owners)}",
                verifiers=measures,
                journal=journal,
                max_thinking_tokens=max_thinking_tokens,
                on_change=on_change,
            )

        if self.plan is None:
            return run(self.engine, made, name, journal)
        from reason.plan import PlannedRun
        from reason.route import RoutedEngine

        assert isinstance(self.engine, RoutedEngine)
        full = run(self.engine, made, name, journal, ahead=self.engine.draft if self.plan.ahead else None)
        quick = make_strategy("best-of-n", **self.plan.fields)
        beside = screen = None
        if journal is not None:
            beside, screen = (journal.with_suffix(f".{name}{journal.suffix}") for name in ("plan", "screen"))
        small = run(self.engine.draft, quick, "speceyes", beside, self.plan.asked(given))
        return PlannedRun(self.plan, small, full, screen)

    async def asolve(
        self,
        problem: ProblemLike,
        strategy: str | Strategy = "best-of-n",
        *,
        budget: Budget | None = None,
        seed: int = 0,
        verifiers: Mapping[str, Verifier | Embedder] | None = None,
        **strategy_fields: Any,
    ) -> Solution:
        """Solves one problem; call it many times at once and they share the engine's batches and KV."""
        run = self.start(problem, strategy, budget=budget, seed=seed, verifiers=verifiers, **strategy_fields)
        return await run.solve()

    def solve(
        self,
        problem: ProblemLike,
        strategy: str | Strategy = "best-of-n",
        *,
        budget: Budget | None = None,
        seed: int = 0,
        verifiers: Mapping[str, Verifier | Embedder] | None = None,
        **strategy_fields: Any,
    ) -> Solution:
        """``asolve`` for synchronous callers; works inside a running event loop (Jupyter) too."""
        return run_sync(
            self.asolve(problem, strategy, budget=budget, seed=seed, verifiers=verifiers, **strategy_fields)
        )

    def solve_all(
        self,
        problems: Sequence[ProblemLike],
        strategy: str | Strategy = "best-of-n",
        *,
        budget: Budget | None = None,
        seed: int = 0,
        verifiers: Mapping[str, Verifier | Embedder] | None = None,
        **strategy_fields: Any,
    ) -> list[Solution]:
        """Solves many problems in one batch; ``budget`` is each problem's. Solutions come in the problems' order. Texts
        get ids by their place, so that they do not share sampling noise."""

        async def together() -> list[Solution]:
            asked = [
                p if isinstance(p, Problem) else replace(as_problem(p), id=f"problem-{i}")
                for i, p in enumerate(problems)
            ]
            options: dict[str, Any] = {"budget": budget, "seed": seed, "verifiers": verifiers, **strategy_fields}
            runs = [self.start(problem, strategy, **options) for problem in asked]
            return list(await asyncio.gather(*(run.solve() for run in runs)))

        return run_sync(together())

    def close(self) -> None:
        """Frees the model. Idempotent."""
        if self._owns_engine:
            self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(eq=False, slots=True)
class _Loaded:
    """A solver that module-level calls share, with what it was loaded with and how many of them it has."""

    solver: Solver
    model: str | None
    options: dict[str, Any]
    calls: int = 0


class _Warm:
    """The last model that a module-level call asked for. It stays loaded until another is asked for, or other drafts or
    another route for it, and its calls are over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held for moments
        self._loading = ThreadPoolExecutor(1, "reason-load")  # one model after the other
        self._last: _Loaded | None = None

    @contextlib.asynccontextmanager
    async def solver(self, model: str | None, **options: Any) -> AsyncIterator[Solver]:
        """Models are loaded and closed in other threads."""
        taking = self._loading.submit(self._take, model, options)
        try:
            loaded = await asyncio.wrap_future(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._given_up)
            raise
        try:
            yield loaded.solver
        finally:
            if self._leave(loaded):
                await asyncio.to_thread(loaded.solver.close)

    def close(self) -> None:
        with self._lock:
            last, self._last = self._last, None
        if last is not None:
            last.solver.close()

    def _take(self, model: str | None, options: dict[str, Any]) -> _Loaded:
        with self._lock:
            last = self._last
            if last is not None and (last.model, last.options) == (model, options):
                last.calls += 1
                return last
            self._last = None
            idle = last is not None and not last.calls
        if last is not None and idle:
            last.solver.close()
        loaded = _Loaded(Solver(model, **options), model, options, calls=1)
        with self._lock:
            self._last = loaded
        return loaded

    def _given_up(self, taking: Future[_Loaded]) -> None:
        """Nobody waits any more for what was being loaded."""
        if not taking.cancelled() and taking.exception() is None and self._leave(taking.result()):
            taking.result().solver.close()

    def _leave(self, loaded: _Loaded) -> bool:
        """Whether it is to be closed."""
        with self._lock:
            loaded.calls -= 1
            return not loaded.calls and loaded is not self._last


_warm = _Warm()
atexit.register(_warm.close)


async def asolve(
    problem: ProblemLike,
    strategy: str | Strategy = "best-of-n",
    model: str | Engine | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    verifiers: Mapping[str, Verifier | Embedder] | None = None,
    *,
    draft: str = "auto",
    route: str | Router | None = None,
    plan: str | SpecEyes | None = None,
    small_model: str | None = None,
    unsafe_exec: bool = False,
    base_url: str | None = None,
    api_key_env: str | None = None,
    tokenizer: str | None = None,
    server: str | None = None,
    small_base_url: str | None = None,
    **strategy_fields: Any,
) -> Solution:
    """See ``solve``."""
    if unsafe_exec:
        _allow_unsafe()
    as_problem(problem)  # what is cheap to refuse comes before a model is loaded
    find_verifiers(make_strategy(strategy, **for_budget(strategy, strategy_fields, budget)), verifiers)
    check_budget(budget or Budget())
    if model is None or isinstance(model, str):
        servers = {"base_url": base_url, "api_key_env": api_key_env, "tokenizer": tokenizer, "server": server}
        servers["small_base_url"] = small_base_url
        remote = check_servers(servers, draft, small_model)
        check_draft(draft)
        check_route(route, model, small_model, plan=plan, named=remote is None or remote.small is None)
        options = {"draft": draft, "route": route, "plan": plan, "small_model": small_model}
        options |= {name: value for name, value in servers.items() if value is not None}
        async with _warm.solver(model, **options) as solver:
            return await solver.asolve(
                problem, strategy, budget=budget, seed=seed, verifiers=verifiers, **strategy_fields
            )
    if base_url is not None:
        raise UsageError("give a base_url with the name of a model, not with an engine")
    solver = Solver(engine=model, draft=draft, route=route, plan=plan, small_model=small_model)
    return await solver.asolve(problem, strategy, budget=budget, seed=seed, verifiers=verifiers, **strategy_fields)


def solve(
    problem: ProblemLike,
    strategy: str | Strategy = "best-of-n",
    model: str | Engine | None = None,
    budget: Budget | None = None,
    seed: int = 0,
    verifiers: Mapping[str, Verifier | Embedder] | None = None,
    *,
    draft: str = "auto",
    route: str | Router | None = None,
    plan: str | SpecEyes | None = None,
    small_model: str | None = None,
    unsafe_exec: bool = False,
    base_url: str | None = None,
    api_key_env: str | None = None,
    tokenizer: str | None = None,
    server: str | None = None,
    small_base_url: str | None = None,
    **strategy_fields: Any,
) -> Solution:
    """Solves one problem with one search.

    Args:
        problem: its text, a message list, or a ``Problem``.
        strategy: a registered name ("best-of-n") or a strategy object.
        model: a catalogue name, folder, GGUF file or hub id; None is the default model; or an engine. The last
            model named stays loaded; use ``Solver`` to decide that yourself.
        budget: limits; the best answer so far is returned when one binds, and ``Solution.stopped_by`` names it.
        seed: equal seeds give equal tokens (float32; bf16 up to rounding).
        verifiers: verifiers of your own, by the name that the strategy's ``verifier`` field gives.
        draft: what drafts tokens, see ``Solver``; a model that is loaded with other drafts is loaded again. An engine
            has its own.
        route, plan, small_model: see ``Solver``.
        unsafe_exec: see ``Solver``.
        base_url, api_key_env, tokenizer, server, small_base_url: a server that runs the model, see ``Solver``.
        strategy_fields: the strategy's hyper-parameters (``num_samples=8``).

    Raises:
        UsageError: a name or value that is not allowed; the message says what is.
        ModelError: the weights cannot be had.
        EngineError: generation failed.
    """
    options: dict[str, Any] = {"draft": draft, "route": route, "plan": plan, "small_model": small_model}
    options |= {"base_url": base_url, "api_key_env": api_key_env, "tokenizer": tokenizer, "server": server}
    options |= {"small_base_url": small_base_url, "unsafe_exec": unsafe_exec, **strategy_fields}
    return run_sync(asolve(problem, strategy, model, budget, seed, verifiers, **options))


def as_problem(problem: ProblemLike) -> Problem:
    """Text or messages as a ``Problem``.

    Raises:
        UsageError: it is empty, or no text and no message list.
    """
    if isinstance(problem, Problem):
        return problem
    if isinstance(problem, str):
        if not problem.strip():
            raise UsageError("the problem is empty")
        return Problem(content=problem)
    given: Any = problem
    messages = tuple(given) if isinstance(given, Sequence) else ()
    if not messages or not all(isinstance(m, dict) and {"role", "content"} <= m.keys() for m in messages):
        raise UsageError("a problem is text or a list of {'role': ..., 'content': ...} messages")
    return Problem(content=messages)


def _guessing_calls(
    engine: Engine, small: Engine, measures: Mapping[str, Verifier | Embedder], problem: Problem
) -> Engine:
    """An engine beside which the small one guesses tool calls, if the run makes any."""
    from reason.plan import ToolsAhead
    from reason.verifiers.tools import Tools

    tools = next((each for each in measures.values() if isinstance(each, Tools)), None)
    return engine if tools is None else ToolsAhead(engine, small, tools.toolbox, problem)


def _told(value: Any) -> str:
    return value if isinstance(value, str) else f"{type(value).__name__} {describe(value)}"


def _allow_unsafe() -> None:
    from reason.sandbox import allow_unsafe

    allow_unsafe()

"""solve, asolve and Solver, over scripted engines."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from reason import Budget, Problem, Solution, Solver, api, asolve, solve
from reason.engine.scripted import ScriptedEngine
from reason.errors import ModelNotFound, UnknownName, UsageError
from reason.search.driver import Run
from reason.search.strategies.best_of_n import BestOfN
from reason.types import Message

Load = Callable[..., ScriptedEngine]


def box(answer: object) -> str:
    return f"so \\boxed{{{answer}}}"


def repeat(prefix: str) -> list[str]:
    """Answers every problem with its own number: "problem 7" gives 7."""
    return [box(prefix.partition("problem ")[2].split()[0])]


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine([box(4), box(4), box(5)])


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str | None, dict[str, Any], ScriptedEngine]]]:
    """What was loaded by name: nothing is, really."""
    calls: list[tuple[str | None, dict[str, Any], ScriptedEngine]] = []

    def load(model: str | None, **options: Any) -> ScriptedEngine:
        if model == "missing":
            raise ModelNotFound("missing is not here")
        calls.append((model, options, ScriptedEngine([box(len(calls) + 1)])))
        return calls[-1][2]

    monkeypatch.setattr(api, "_load", load)
    warm = api._Warm()
    monkeypatch.setattr(api, "_warm", warm)
    yield calls
    warm.close()


def is_closed(engine: ScriptedEngine) -> bool:
    return engine._closed


# -- problems ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "problem",
    [
        "What is 2 + 2?",
        Problem(content="What is 2 + 2?"),
        [Message(role="user", content="What is 2 + 2?")],
        (Message(role="system", content="Be brief."), Message(role="user", content="2 + 2?")),
        Problem(content=(Message(role="user", content="What is 2 + 2?"),), id="mine"),
    ],
)
def test_problems_of_every_kind(engine: ScriptedEngine, problem: Any) -> None:
    solution = solve(problem, model=engine, num_samples=3)
    assert (solution.answer, solution.stopped_by) == ("4", "done")
    assert solution.confidence == pytest.approx(2 / 3)
    assert (solution.strategy, solution.model) == ("best-of-n", "scripted")
    assert solution.problem == (problem.id if isinstance(problem, Problem) else "problem")


@pytest.mark.parametrize(
    "problem",
    [
        "",
        "  \n",
        Problem(content=""),
        [],
        (),
        [{"role": "user"}],
        ["text"],
        [None],
        None,
        17,
        b"bytes",
        {"role": "user"},
    ],
)
def test_what_is_no_problem(engine: ScriptedEngine, problem: Any) -> None:
    with pytest.raises(UsageError, match="problem") as raised:
        solve(problem, model=engine)
    assert raised.value.__context__ is None  # no "during handling of the above" in the traceback
    assert engine.usage("problem#0").calls == 0


def test_mistakes_are_found_before_a_model_is_loaded(loaded: list[Any]) -> None:
    with pytest.raises(UnknownName, match="unknown strategy 'beem'"):
        solve("problem 1", strategy="beem")
    with pytest.raises(UnknownName, match=r"unknown field of best-of-n 'width'. Known: .*num_samples"):
        solve("problem 1", width=3)
    with pytest.raises(UsageError, match="num_samples must be at least 1"):
        solve("problem 1", num_samples=0)
    with pytest.raises(UsageError, match="give fields with a strategy's name"):
        solve("problem 1", strategy=BestOfN(), num_samples=2)
    with pytest.raises(UsageError, match="the problem is empty"):
        solve(" ")
    with pytest.raises(UsageError, match="budget calls must be more than 0"):
        solve("problem 1", budget=Budget(calls=0))
    with pytest.raises(UnknownName, match=r"unknown draft source 'stamd'\. Did you mean 'stand'\?"):
        solve("problem 1", draft="goose+stamd")
    with pytest.raises(UnknownName, match="unknown draft source 'draft-modle:tiny'"):
        Solver("mine", draft="draft-modle:tiny")
    with pytest.raises(UsageError, match="named twice"):
        Solver("mine", draft="stand+stand")
    with pytest.raises(UnknownName, match="unknown router 'juge'"):
        solve("problem 1", route="juge")
    with pytest.raises(UsageError, match=r"no smaller model is known that shares its tokens with mine: name it"):
        Solver("mine", route="judge")
    with pytest.raises(UsageError, match="give one, too"):
        solve("problem 1", small_model="mine")
    with pytest.raises(UsageError, match="routes and plans are for models that are loaded by name"):
        Solver(engine=ScriptedEngine([]), route="judge")
    assert loaded == []


# -- solve and asolve ----------------------------------------------------------------------------------------------


def test_strategies_by_name_and_as_objects(engine: ScriptedEngine) -> None:
    assert solve("problem 1", strategy="best-of-n", model=engine, num_samples=1).strategy == "best-of-n"
    solution = solve("problem 1", strategy=BestOfN(num_samples=5), model=engine)
    assert (solution.strategy, solution.usage.calls) == ("BestOfN", 5)


def test_budgets(engine: ScriptedEngine) -> None:
    solution = solve("problem 1", model=engine, budget=Budget(calls=2), num_samples=8)
    assert (solution.stopped_by, solution.usage.calls) == ("calls", 2)


async def test_solve_inside_a_running_event_loop(engine: ScriptedEngine) -> None:
    assert solve("problem 1", model=engine, num_samples=3).answer == "4"
    with pytest.raises(UsageError):
        solve("", model=engine)
    assert (await asolve("problem 1", model=engine, num_samples=3)).answer == "4"


async def test_many_at_once() -> None:
    engine = ScriptedEngine(repeat, delay=0.001)
    solutions = await asyncio.gather(*(asolve(f"problem {i} ?", model=engine, num_samples=3) for i in range(10)))
    assert [s.answer for s in solutions] == [str(i) for i in range(10)]
    assert [s.usage.calls for s in solutions] == [3] * 10


async def test_cancelling_asolve() -> None:
    engine = ScriptedEngine(["x" * 1000], delay=0.01)
    work = asyncio.ensure_future(asolve("problem 1", model=engine))
    await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.all_tasks() == {asyncio.current_task()}


def test_an_engine_of_the_callers_stays_open(engine: ScriptedEngine) -> None:
    solve("problem 1", model=engine)
    assert not is_closed(engine)
    with Solver(engine=engine) as solver:
        solver.solve("problem 1")
    assert not is_closed(engine)


def test_a_route_loads_two_models(loaded: list[Any]) -> None:
    solve("problem 1", route="judge:threshold=5")
    solve("problem 2", route="judge:threshold=5")
    solve("problem 1", model="large", route="judge", small_model="small")
    assert [(model, type(options["routing"].router).__name__) for model, options, _ in loaded] == [
        (None, "JudgeRouter"),
        ("large", "JudgeRouter"),
    ]
    assert [options["routing"].router.threshold for _, options, _ in loaded] == [5, 7]
    assert [options["routing"].small_model for _, options, _ in loaded] == ["qwen2.5-coder-0.5b-instruct", "small"]


async def test_a_model_in_use_is_closed_after_its_last_call(loaded: list[Any]) -> None:
    async with api._warm.solver("a") as first:
        assert (await asolve("problem 1", model="b")).answer == "2"
        assert [is_closed(engine) for _, _, engine in loaded] == [False, False]
        assert (await first.asolve("problem 1")).answer == "1"
    assert [is_closed(engine) for _, _, engine in loaded] == [True, False]


async def test_who_gives_up_while_a_model_is_loaded_does_not_hold_it(
    loaded: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    load, go_on = vars(api)["_load"], threading.Event()

    def slowly(model: str | None, **options: Any) -> ScriptedEngine:
        assert go_on.wait(30)
        engine: ScriptedEngine = load(model, **options)
        return engine

    monkeypatch.setattr(api, "_load", slowly)
    asking = asyncio.ensure_future(asolve("problem 1", model="a"))
    await asyncio.sleep(0.05)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    go_on.set()
    assert (await asolve("problem 1", model="b")).answer == "2"
    assert [is_closed(engine) for _, _, engine in loaded] == [True, False]


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
async def test_an_interrupt_within_a_running_loop_ends_the_search() -> None:
    """Ctrl-C in a notebook."""
    engine = ScriptedEngine([box(4) * 200], delay=0.02)
    interrupting = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            Solver(engine=engine).solve("2 + 2?", num_samples=2)
    finally:
        interrupting.join()
        signal.signal(signal.SIGINT, handler)
    assert not engine._usage  # the run is over, and was forgotten
    await asyncio.sleep(0.1)
    assert not engine._usage


def test_the_last_model_stays_loaded(loaded: list[Any]) -> None:
    assert solve("problem 1").answer == "1"
    assert solve("problem 2", num_samples=2).answer == "1"
    assert [model for model, _, _ in loaded] == [None]
    assert solve("problem 1", model="other").answer == "2"
    assert [model for model, _, _ in loaded] == [None, "other"]
    assert [is_closed(engine) for _, _, engine in loaded] == [True, False]
    with pytest.raises(ModelNotFound):
        solve("problem 1", model="missing")
    assert solve("problem 1", model="other").answer in ("2", "3")
    api._warm.close()
    api._warm.close()
    assert all(is_closed(engine) for _, _, engine in loaded)


def test_other_drafts_load_the_model_again(loaded: list[Any]) -> None:
    for draft in ("auto", "auto", "none", "none", "goose+stand", "draft-model:tiny"):
        assert solve("problem 1", draft=draft).answer
    assert [options["draft"] for _, options, _ in loaded] == ["auto", "none", "goose+stand", "draft-model:tiny"]
    assert [is_closed(engine) for _, _, engine in loaded] == [True, True, True, False]


async def test_an_engine_drafts_as_it_was_made_to(engine: ScriptedEngine) -> None:
    for draft in ("none", "stand", "draft-model:tiny"):
        with pytest.raises(UsageError, match=f"draft='{draft}' is for models .* scripted is an engine already"):
            await asolve("problem 1", model=engine, draft=draft)
        with pytest.raises(UsageError, match="is an engine already"):
            Solver(engine=engine, draft=draft)
    assert (await asolve("problem 1", model=engine, draft="auto", num_samples=3)).answer == "4"


def test_threads_load_one_model_once(loaded: list[Any]) -> None:
    answers: list[Solution] = []
    threads = [threading.Thread(target=lambda: answers.append(solve("problem 1", num_samples=2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [s.answer for s in answers] == ["1"] * 4
    assert len(loaded) == 1


# -- Solver --------------------------------------------------------------------------------------------------------


def test_a_solver_owns_what_it_loads(loaded: list[Any]) -> None:
    with Solver(
        "mine", device="cpu", dtype="float32", kv_tokens=99, quantize="int8", threads=1, draft="stand"
    ) as solver:
        assert solver.solve("problem 1").answer == "1"
    ((model, options, engine),) = loaded
    assert model == "mine"
    machine = {"device": "cpu", "dtype": "float32", "kv_tokens": 99, "quantize": "int8", "threads": 1}
    assert options == {**machine, "draft": "stand"}
    assert is_closed(engine)
    solver.close()


def test_a_model_or_an_engine(engine: ScriptedEngine) -> None:
    with pytest.raises(UsageError, match="give a model or an engine, not both"):
        Solver("mine", engine=engine)


def test_solve_all() -> None:
    with Solver(engine=ScriptedEngine(repeat)) as solver:
        problems: list[api.ProblemLike] = ["problem 3 ?", Problem(content="problem 1 ?", id="b")]
        problems.append([Message(role="user", content="problem 2 ?")])
        solutions = solver.solve_all(problems, num_samples=4, budget=Budget(calls=3))
        assert [s.answer for s in solutions] == ["3", "1", "2"]
        assert [s.usage.calls for s in solutions] == [3, 3, 3]  # the budget is each problem's
        assert [s.problem for s in solutions] == ["problem-0", "b", "problem-2"]
        assert solver.solve_all([]) == []
        with pytest.raises(UsageError):
            solver.solve_all(["problem 1", ""])


async def test_solve_all_inside_a_running_event_loop() -> None:
    with Solver(engine=ScriptedEngine(repeat)) as solver:
        assert [s.answer for s in solver.solve_all(["problem 1 ?", "problem 2 ?"])] == ["1", "2"]


async def test_a_run_can_be_watched_and_interrupted() -> None:
    seen: list[int] = []

    def stop_at_once(run: Run) -> None:
        seen.append(len(run.tree))
        run.interrupt()

    solver = Solver(engine=ScriptedEngine(["x" * 500, box(1)], delay=0.002))
    run = solver.start("problem 1", num_samples=2, on_change=stop_at_once)
    assert len(run.tree) == 0
    solution = await asyncio.wait_for(run.solve(), 20)
    assert (solution.answer, solution.stopped_by) == ("1", "interrupt")
    assert seen == [3]


def test_every_run_has_a_ledger_row_of_its_own(engine: ScriptedEngine) -> None:
    solver = Solver(engine=engine)
    first, second = (solver.solve("problem 1", num_samples=2) for _ in range(2))
    assert first.usage.calls == second.usage.calls == 2

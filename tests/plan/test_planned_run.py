"""A small model answers, a gate decides: who answers in the end, and what the ledger says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import pytest

from reason.api import Solver
from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, OutOfKV, ServerError, UnknownName, UsageError
from reason.plan import PlannedRun, SpecEyes, make_plan
from reason.plan.speceyes import AT_ONCE
from reason.report.view import find_runs
from reason.route import RoutedEngine, make_router
from reason.types import Budget, Completion, Problem, Request, Solution


def box(answer: str) -> str:
    return f"So it is \\boxed{{{answer}}}."


def pair(small: list[str], large: list[str], *, sure: float = -0.05, **options: Any) -> RoutedEngine:
    """Engines whose rows have one likely token each; ``sure`` is its log-probability."""
    return RoutedEngine(ScriptedEngine(small, logprob=sure), ScriptedEngine(large, **options), make_router("always"))


def solve(engine: RoutedEngine, plan: str | SpecEyes, **fields: Any) -> Solution:
    with Solver(engine=engine, plan=plan) as solver:
        return solver.solve("What is 1 + 1?", "best-of-n", **{"num_samples": 2, **fields})


def test_an_answer_that_passes_spares_the_search() -> None:
    engine = pair([box("2")], [box("3")])
    solution = solve(engine, "speceyes:gate=logprob,threshold=0.9")
    assert (solution.answer, solution.strategy, solution.usage.short_cuts) == ("2", "speceyes", 1)
    assert solution.usage.policy_tokens == len(box("2"))


def test_an_answer_that_does_not_is_searched_for() -> None:
    engine = pair([box("2")], [box("3")], sure=-0.5)
    solution = solve(engine, "speceyes:gate=logprob,threshold=0.9")
    assert (solution.answer, solution.strategy, solution.usage.short_cuts) == ("3", "best-of-n", 0)
    assert solution.usage.policy_tokens == 3 * len(box("3")), "both models' work"
    assert solution.usage.calls == 3


def test_no_answer_never_passes() -> None:
    engine = pair(["I do not know."], [box("3")])
    assert solve(engine, "speceyes:gate=logprob,threshold=0").answer == "3"


def test_agreement_is_among_samples() -> None:
    small = [box("2"), box("2"), box("5"), box("2")]
    for threshold, answer in ((0.75, "2"), (0.8, "3")):
        engine = pair(small, [box("3")])
        solution = solve(engine, SpecEyes(gate="agreement", samples=4, threshold=threshold))
        assert solution.answer == answer


def test_the_small_model_answers_at_once() -> None:
    """It gets the bare question and is told so; the large model gets what the task says."""
    heard: dict[str, str] = {}

    def engine(name: str, answer: str) -> ScriptedEngine:
        def script(prefix: str) -> list[str]:
            heard[name] = prefix
            return [box(answer)]

        return ScriptedEngine(script, logprob=-0.5)

    routed = RoutedEngine(engine("small", "2"), engine("large", "3"), make_router("always"))
    problem = Problem(content="Think hard: what is 1 + 1?", question="What is 1 + 1?")
    with Solver(engine=routed, plan="speceyes:gate=logprob,threshold=0.9,direct=true") as solver:
        assert solver.solve(problem, "best-of-n", num_samples=1).answer == "3"
    assert f"What is 1 + 1?\n\n{AT_ONCE}" in heard["small"]
    assert "Think hard" not in heard["small"]
    assert "Think hard" in heard["large"]
    assert AT_ONCE not in heard["large"]


def test_several_samples_and_a_gate() -> None:
    engine = pair([box("2"), box("5"), box("2")], [box("3")])
    assert solve(engine, "speceyes:gate=logprob,samples=3,threshold=0.9").answer == "2"


@pytest.mark.parametrize(("sure_of", "answer", "small_tokens"), [("Yes", "3", 0), ("No", "2", len(box("2")))])
def test_the_screen_spares_the_small_model(sure_of: str, answer: str, small_tokens: int) -> None:
    """The large model is asked whether the problem needs more."""

    def logprob(before: str, token: str) -> float:
        return -0.01 if token in sure_of else -5.0

    engine = pair([box("2")], [box("3")], logprob=logprob)
    solution = solve(engine, "speceyes:gate=logprob,threshold=0.5,screen=0.5")
    assert solution.answer == answer
    assert engine.draft.usage("").policy_tokens == 0
    assert solution.usage.verifier_tokens > 0
    assert solution.usage.policy_tokens == (small_tokens or 2 * len(box("3")))


def failing(error: Exception) -> ScriptedEngine:
    class Failing(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncGenerator[Completion, None]:
            for index, _ in enumerate(requests):
                yield Completion(index=index, token_ids=(), text="", finish_reason="error", error=error)

    return Failing([""])


def test_a_small_model_that_cannot_answer_is_no_reason_to_fail() -> None:
    small = failing(OutOfKV("the prompt has 9000 tokens; this engine holds 4096"))
    engine = RoutedEngine(small, ScriptedEngine([box("3")]), make_router("always"))
    assert solve(engine, "speceyes:gate=logprob,threshold=0.9").answer == "3"


def test_a_small_models_server_that_is_dead_is_seen() -> None:
    engine = RoutedEngine(failing(ServerError("gone")), ScriptedEngine([box("3")]), make_router("always"))
    with pytest.raises(EngineError, match="gone"):
        solve(engine, "speceyes:gate=logprob,threshold=0.9")


def test_an_interrupt_returns_what_there_is() -> None:
    engine = RoutedEngine(
        ScriptedEngine([box("2")], logprob=-3.0), ScriptedEngine([box("3")], delay=1.0), make_router("always")
    )

    async def interrupted() -> Solution:
        with Solver(engine=engine, plan="speceyes:gate=logprob,threshold=0.9") as solver:
            run = solver.start("?", "best-of-n", num_samples=2)
            assert isinstance(run, PlannedRun)
            solving = asyncio.ensure_future(run.solve())
            await asyncio.sleep(0.3)
            assert run.engine is engine
            run.interrupt()
            return await solving

    solution = asyncio.run(asyncio.wait_for(interrupted(), 20))
    assert solution.stopped_by == "interrupt"


def test_both_runs_go_on_from_their_journals(tmp_path: Path) -> None:
    journal = tmp_path / "problem.jsonl"

    def once(engine: RoutedEngine) -> Solution:
        with Solver(engine=engine, plan="speceyes:gate=logprob,threshold=0.9") as solver:
            return asyncio.run(solver.start("?", "best-of-n", num_samples=2, journal=journal).solve())

    first = once(pair([box("2")], [box("3")], sure=-0.5))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["problem.jsonl", "problem.plan.jsonl"]
    silent = pair([], [])  # neither has to write anything again
    again = once(silent)
    assert (again.answer, again.usage.policy_tokens) == (first.answer, first.usage.policy_tokens)


def test_the_screen_is_not_asked_again(tmp_path: Path) -> None:
    journal = tmp_path / "problem.jsonl"
    asked: list[str] = []

    def sure(before: str, token: str) -> float:
        asked.append(token)
        return -0.01 if token in "Yes" else -5.0

    def run(engine: RoutedEngine, screen: float) -> Solution:
        with Solver(engine=engine, plan=f"speceyes:gate=logprob,threshold=0.5,screen={screen}") as solver:
            return asyncio.run(solver.start("?", "best-of-n", num_samples=2, journal=journal).solve())

    first = run(pair([box("2")], [box("3")], logprob=sure), 0.5)
    assert asked
    names = ["problem.jsonl", "problem.screen.jsonl"]
    assert sorted(file.name for file in tmp_path.iterdir()) == names
    asked.clear()
    again = run(pair([], [], logprob=sure), 0.5)
    assert not asked
    assert (again.answer, again.usage.verifier_tokens) == (first.answer, first.usage.verifier_tokens)
    assert again.usage.verifier_tokens > 0
    assert run(pair([box("2")], [], logprob=sure), 1.0).answer == "2", "the limit is not part of the verdict"
    assert not asked
    (view,) = find_runs(tmp_path, ["problem"])
    assert view.file == journal
    assert "problem.screen" not in {each.id for each in find_runs(tmp_path)}


def test_budgets_hold_for_each_run() -> None:
    engine = pair([box("2")], [box("3")], sure=-0.5)
    with Solver(engine=engine, plan="speceyes:gate=logprob,threshold=0.9") as solver:
        solution = solver.solve("?", "best-of-n", num_samples=4, max_tokens=40, budget=Budget(calls=2))
    assert solution.stopped_by == "calls"
    assert solution.usage.calls == 3


def test_names_and_fields() -> None:
    assert make_plan("speceyes").limit == 0.98
    plan = make_plan("speceyes:gate=separability:variant=mean;top_k=32,threshold=0.5")
    assert plan.verifier == "separability:variant=mean,top_k=32"
    with pytest.raises(UnknownName, match="unknown plan 'spec-eyes'"):
        make_plan("spec-eyes")
    with pytest.raises(UnknownName, match="unknown verifier 'sep'"):
        make_plan("speceyes:gate=sep")
    for wrong, message in (
        ("samples=0", "at least 1"),
        ("gate=agreement", "set samples"),
        ("screen=2", "screen must be"),
    ):
        with pytest.raises(UsageError, match=message):
            make_plan(f"speceyes:{wrong}")
    with pytest.raises(UsageError, match="for models that are loaded by name"):
        Solver(engine=ScriptedEngine([]), plan="speceyes")

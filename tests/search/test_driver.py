"""The driver: admits what fits the budget, adds what comes, ends on time, and hands out what there is."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineClosed, EngineError, UsageError
from reason.search.admission import CLOSING_TOKENS, MIN_TOKENS
from reason.search.driver import Run
from reason.search.strategies.best_of_n import BestOfN
from reason.search.tree import ROOT, Expand, Node, Room, Tree
from reason.types import Answer, Budget, Completion, Message, Problem, Request, Solution

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun, Solve, WatchedEngine


def box(answer: object, words: str = "so") -> str:
    return f"{words} \\boxed{{{answer}}}"


LINES = Problem(content="What?", equivalent=lambda a, b: a == b, step_delimiter="\n", closing="")
SLOW = [box(1), box(2, "x" * 200), box(1, "a little more"), box(2, "y" * 200), box(2, "z" * 300)]


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Extends the newest node line by line, ``width`` samples of each, waiting for all of them."""

    depth: int
    width: int = 1
    max_tokens: int = 40
    seen: list[tuple[int, ...]] = field(default_factory=list, compare=False)

    @property
    def measures(self) -> tuple[str, ...]:
        return ()

    def ask(self, tree: Tree, room: Room) -> list[Expand]:
        self.seen.append(tuple(node.id for node in tree.nodes if node.pending))
        if any(node.pending for node in tree.nodes) or len(tree) > self.depth * self.width:
            return []
        return [Expand(node=len(tree) - 1, num_samples=self.width, max_tokens=self.max_tokens, until="step")]

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        pass

    def answer(self, tree: Tree) -> Answer:
        done = [node for node in tree.nodes[1:] if not node.pending]
        return Answer(answer=str(len(done)), text=" / ".join(node.text for node in done), confidence=1.0)


# -- the tree ------------------------------------------------------------------------------------------------------


def test_steps_extend_the_tokens_of_their_parents(make_run: MakeRun) -> None:
    def script(prefix: str) -> list[str]:
        return [f"step {prefix.rpartition('<assistant>')[2].count('step')}\nmore"]

    async def whole() -> None:
        run = make_run(ScriptedEngine(script), Chain(depth=3), problem=LINES)
        solution = await run.solve()
        tree, codec = run.tree, run.engine.codec
        assert [node.parent for node in tree.nodes] == [None, 0, 1, 2]
        prompt = codec.decode(tree[ROOT].context)
        assert prompt.startswith("<user>What?")
        texts = [codec.decode(node.context).removeprefix(prompt) for node in tree.nodes]
        assert texts == ["", "step 0\n", "step 0\nstep 1\n", "step 0\nstep 1\nstep 2\n"]
        assert [node.text for node in tree.nodes[1:]] == ["step 0\n", "step 1\n", "step 2\n"]
        assert tree.text(3) == texts[3]
        assert [node.path_tokens for node in tree.nodes] == [0, 7, 14, 21]
        assert [node.depth for node in tree.nodes] == [0, 1, 2, 3]
        assert all(node.open for node in tree.nodes)
        assert [node.num_tokens for node in tree.nodes[1:]] == [7, 7, 7]
        assert [leaf.id for leaf in tree.leaves()] == [3]
        assert [child.id for child in tree.children(1)] == [2]
        assert solution.candidates == ()  # no solution was finished
        assert (solution.answer, solution.strategy, solution.model) == ("3", "test", "scripted")

    asyncio.run(whole())


def test_nodes_are_numbered_as_asked_and_pending_until_they_come(make_run: MakeRun) -> None:
    strategy = Chain(depth=2, width=3)
    seen: list[tuple[int, ...]] = []

    def watch(run: Run) -> None:
        seen.append(tuple(node.id for node in run.tree.nodes if not node.pending))

    async def whole() -> None:
        engine = ScriptedEngine(["a", "bbbbbbbb", "cccc"], delay=0.001)
        run = make_run(engine, strategy, on_change=watch)
        await run.solve()
        assert [node.parent for node in run.tree.nodes] == [None, 0, 0, 0, 3, 3, 3]
        assert [node.text for node in run.tree.nodes[1:4]] == ["bbbbbbbb", "cccc", "a"]

    asyncio.run(whole())
    assert seen[:3] == [(0, 1), (0, 1, 2), (0, 1, 2, 3)]  # in the order asked, not that of arrival
    assert len(seen) == 6
    assert strategy.seen[0] == ()


def test_equal_seeds_give_equal_trees(make_run: MakeRun) -> None:
    async def nodes(delay: float) -> list[Node]:
        run = make_run(ScriptedEngine(SLOW, delay=delay), BestOfN(num_samples=9), seed=5)
        await run.solve()
        return run.tree.nodes

    first, second = asyncio.run(nodes(0.0)), asyncio.run(nodes(0.0001))
    assert [(n.id, n.context, n.answer) for n in first] == [(n.id, n.context, n.answer) for n in second]


def test_strategies_are_shown_no_reference_answer(solve: Solve) -> None:
    """What strategies see is the tree, its problem and its nodes; none of them has a place for a reference answer."""

    def names(kind: type[Any]) -> set[str]:
        return {f.name for f in dataclasses.fields(kind)}

    told = {"content", "question", "passages", "tests", "entry_point", "setup"}  # tests are those that are public
    assert names(Problem) == told | {"id", "extract", "equivalent", "step_delimiter", "closing"}
    own = {"problem", "seed", "thinking", "same_distance", "nodes", "measuring", "_children", "_changed"}
    assert set(Tree.__slots__) == own
    assert names(Node) == {
        *(
            "id",
            "parent",
            "depth",
            "context",
            "text",
            "num_tokens",
            "path_tokens",
            "prompt_tokens",
            "stopped_on",
            "turns_before",
            "begins",
            "aside",
            "open_ended",
            "thinking",
            "scores",
            "feedback",
            "embeddings",
            "notes",
            "finish_reason",
            "logprobs",
            "answer",
            "answer_class",
            "error",
        )
    }
    shown: list[object] = []

    class Spy(Chain):
        def ask(self, tree: Tree, room: Room) -> list[Expand]:
            shown.append(tree)
            return super().ask(tree, room)

        def answer(self, tree: Tree) -> Answer:
            shown.append(tree)
            return super().answer(tree)

    solve(ScriptedEngine([box(42)]), Spy(depth=2))
    assert {type(thing) for thing in shown} == {Tree}
    assert not any(hasattr(thing, "__dict__") for thing in shown)  # slots: nothing can be smuggled in
    assert not hasattr(Node(id=0, parent=None, context=()), "__dict__")


def test_a_problem_brings_its_own_extraction_and_equivalence(solve: Solve, watched: type[WatchedEngine]) -> None:
    asked: list[tuple[str, str]] = []

    def same_parity(a: str, b: str) -> bool:
        asked.append((a, b))
        return int(a) % 2 == int(b) % 2

    problem = Problem(
        content="?", extract=lambda text: text.split("=")[1] if "=" in text else None, equivalent=same_parity
    )
    solution = solve(watched(["x=2", "x=3", "x=4", "7", "x=6"]), BestOfN(num_samples=5), problem=problem)
    assert solution.answer == "2"
    assert solution.confidence == pytest.approx(3 / 5)
    assert ("2", "3") in asked
    assert all(a in ("2", "3") for a, _ in asked)  # only with the first of a class


@pytest.mark.parametrize("where", ["extract", "equivalent"])
def test_an_error_of_the_callers_function_is_the_callers(solve: Solve, where: str) -> None:
    def broken(*texts: str) -> Any:
        raise ZeroDivisionError("on purpose")

    functions: dict[str, Any] = {"equivalent": lambda a, b: a == b, where: broken}
    problem = Problem(content="?", **functions)
    with pytest.raises(ZeroDivisionError):
        solve(ScriptedEngine([box(1), box(2)]), BestOfN(num_samples=4), problem=problem)


def test_messages_go_to_the_template_as_they_are(solve: Solve, watched: type[WatchedEngine]) -> None:
    engine = watched([box(1)])
    messages = (Message(role="system", content="Be brief."), Message(role="user", content="1?"))
    solve(engine, BestOfN(num_samples=1), problem=Problem(content=messages))
    assert engine.requests[0].prefix == engine.codec.encode("<system>Be brief.<user>1?<assistant>")


@pytest.mark.parametrize("content", ["", " \n\t", ()])
def test_an_empty_problem(solve: Solve, content: Any) -> None:
    with pytest.raises(UsageError, match="the problem is empty"):
        solve(ScriptedEngine(["x"]), BestOfN(), problem=Problem(content=content))


def test_a_strategy_that_asks_for_nothing(solve: Solve) -> None:
    solution = solve(ScriptedEngine(["x"]), Chain(depth=0))
    assert (solution.answer, solution.stopped_by, solution.candidates) == ("0", "done", ())
    assert solution.usage.calls == 0


# -- budgets -------------------------------------------------------------------------------------------------------


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    num_samples=st.integers(1, 9),
    max_tokens=st.integers(1, 70),
    policy_tokens=st.none() | st.integers(1, 250),
    calls=st.none() | st.integers(1, 10),
    kv_tokens=st.none() | st.integers(1, 300),
)
def test_budgets_are_never_overshot(
    solve: Solve,
    watched: type[WatchedEngine],
    lengths: list[int],
    num_samples: int,
    max_tokens: int,
    policy_tokens: int | None,
    calls: int | None,
    kv_tokens: int | None,
) -> None:
    engine = watched(["7" * length for length in lengths])
    budget = Budget(policy_tokens=policy_tokens, calls=calls, kv_tokens=kv_tokens)
    solution = solve(engine, BestOfN(num_samples=num_samples, max_tokens=max_tokens), budget=budget)
    usage = solution.usage
    assert usage.policy_tokens <= (policy_tokens or usage.policy_tokens)
    assert usage.calls == len(engine.requests) <= (calls or num_samples + 1)
    closing = [request for request in engine.requests if request.stop == ("\n",)]
    samples = [request for request in engine.requests if request.stop == ()]
    assert len(closing) + len(samples) == usage.calls
    assert len(closing) <= (solution.stopped_by != "done")
    if samples:
        assert engine.most_kv <= (kv_tokens or engine.most_kv)
        assert all(1 <= request.max_tokens <= max_tokens for request in samples)
        assert all(request.max_tokens >= min(MIN_TOKENS, max_tokens) for request in samples)
    else:
        assert solution.answer is None
    assert (solution.stopped_by == "done") == (len(samples) == num_samples)
    if solution.stopped_by == "calls":
        assert calls is not None
        assert len(samples) in (calls, max(1, calls - 1))  # one is kept for a closing answer
    least = min(MIN_TOKENS, max_tokens)
    if solution.stopped_by == "policy_tokens":
        assert policy_tokens is not None
        reserve = min(CLOSING_TOKENS, policy_tokens // 8)
        assert policy_tokens - usage.policy_tokens < least + reserve
    if solution.stopped_by == "kv_tokens":
        assert kv_tokens is not None
        assert kv_tokens - usage.prompt_tokens < least
    if policy_tokens is calls is kv_tokens is None:
        assert solution.stopped_by == "done"


@pytest.mark.parametrize(
    ("budget", "limit"),
    [(Budget(policy_tokens=80), "policy_tokens"), (Budget(calls=2), "calls"), (Budget(calls=1), "calls")],
)
def test_a_closing_reserve_lets_an_unfinished_solution_answer(
    solve: Solve, watched: type[WatchedEngine], budget: Budget, limit: str
) -> None:
    engine = watched(["thinking " * 30, "42} because"])
    solution = solve(engine, BestOfN(num_samples=4, max_tokens=70), budget=budget)
    assert solution.stopped_by == limit
    if budget.calls == 1:  # nothing is kept where there is only one
        assert solution.answer is None
        return
    assert solution.answer == "42"
    assert solution.usage.policy_tokens <= (budget.policy_tokens or 1000)
    (closed,) = solution.candidates
    assert "thinking" in closed.text
    assert "The final answer is \\boxed{42}" in closed.text
    assert engine.requests[-1].sampling.temperature == 0.0


def test_what_a_sample_leaves_over_goes_to_the_next(solve: Solve, watched: type[WatchedEngine]) -> None:
    """No sample is cut short to what is left while another holds tokens that it may not need."""
    engine = watched([box(i % 2) for i in range(8)])  # 12 tokens each
    solution = solve(engine, BestOfN(num_samples=8, max_tokens=60), budget=Budget(policy_tokens=100))
    assert solution.stopped_by == "done"
    assert solution.usage.policy_tokens == 96
    assert [request.max_tokens for request in engine.requests] == [60, 60, 60, 60, 52, 40, 28, 16]


def test_kv_counts_what_deeper_nodes_hold(solve: Solve, watched: type[WatchedEngine]) -> None:
    engine = watched(["1234567\n"])
    solution = solve(engine, Chain(depth=9, width=2, max_tokens=20), budget=Budget(kv_tokens=150), problem=LINES)
    assert solution.stopped_by == "kv_tokens"
    assert solution.usage.calls >= 4
    assert engine.most_kv <= 150


def test_the_call_limit_waits_for_what_is_in_flight(solve: Solve, watched: type[WatchedEngine]) -> None:
    engine = watched([box(3)], delay=0.001)
    solution = solve(engine, BestOfN(num_samples=8), budget=Budget(calls=3))
    assert (solution.answer, solution.stopped_by, solution.usage.calls) == ("3", "calls", 3)
    assert len(solution.candidates) == 3


def test_a_time_limit_gives_the_answer_so_far(solve: Solve, watched: type[WatchedEngine]) -> None:
    began = time.perf_counter()
    solution = solve(watched(SLOW, delay=0.004), BestOfN(num_samples=5), budget=Budget(seconds=0.3))
    assert time.perf_counter() - began < 3
    assert (solution.answer, solution.stopped_by) == ("1", "seconds")
    assert 0.3 <= solution.usage.seconds < 3
    assert [candidate.text for candidate in solution.candidates] == [SLOW[0], SLOW[2]]  # only what is finished
    assert solution.usage.policy_tokens > len(SLOW[0]) + len(SLOW[2])  # but all that was drawn is paid for


def test_a_time_limit_before_anything_came(solve: Solve) -> None:
    solution = solve(ScriptedEngine(SLOW, delay=0.1), BestOfN(num_samples=5), budget=Budget(seconds=0.01))
    assert (solution.answer, solution.text, solution.stopped_by) == (None, "", "seconds")
    assert solution.candidates == ()


@pytest.mark.parametrize("name", ["policy_tokens", "seconds", "kv_tokens", "calls"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_that_are_not_allowed(make_run: MakeRun, name: str, value: float) -> None:
    limits: dict[str, Any] = {name: value}
    with pytest.raises(UsageError, match=f"budget {name} must be more than 0, got {value}"):
        make_run(ScriptedEngine(["x"]), BestOfN(), budget=Budget(**limits))


# -- interrupts, cancellation, failures ----------------------------------------------------------------------------


async def test_an_interrupt_gives_the_answer_so_far(make_run: MakeRun, watched: type[WatchedEngine]) -> None:
    engine = watched(SLOW, delay=0.004)

    def stop_after_two(run: Run) -> None:
        if sum(not node.pending for node in run.tree.nodes) == 2:
            run.interrupt()

    run = make_run(engine, BestOfN(num_samples=5), on_change=stop_after_two)
    solution = await asyncio.wait_for(run.solve(), 10)
    assert (solution.answer, solution.stopped_by) == ("1", "interrupt")
    assert solution.confidence == 1.0
    assert engine.progress("run") == {}
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_an_interrupt_before_the_start(make_run: MakeRun) -> None:
    run = make_run(ScriptedEngine(SLOW, delay=0.01), BestOfN())
    run.interrupt()
    solution = await asyncio.wait_for(run.solve(), 10)
    assert (solution.answer, solution.stopped_by) == (None, "interrupt")


async def test_an_interrupt_after_the_end_changes_nothing(make_run: MakeRun) -> None:
    run = make_run(ScriptedEngine([box(5)]), BestOfN(num_samples=2))
    solution = await run.solve()
    run.interrupt()
    assert solution.stopped_by == "done"


async def test_cancelling_the_task_cancels_the_work(make_run: MakeRun, watched: type[WatchedEngine]) -> None:
    engine = watched(SLOW, delay=0.01)
    work = asyncio.ensure_future(make_run(engine, BestOfN(num_samples=5)).solve())
    await asyncio.sleep(0.05)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert engine.progress("run") == {}


def test_every_sample_fails(solve: Solve, watched: type[WatchedEngine]) -> None:
    engine = watched([box(1)], failing=range(1, 5))
    with pytest.raises(EngineError, match="every expansion failed; the first: sample 1 failed"):
        solve(engine, BestOfN(num_samples=4))


def test_some_samples_fail(solve: Solve, watched: type[WatchedEngine]) -> None:
    engine = watched([box(8), box(6), box(8), box(6), box(6)], failing=(2, 4))
    solution = solve(engine, BestOfN(num_samples=5))
    assert solution.answer == "8"
    assert solution.stopped_by == "done"


def test_an_engine_that_is_closed(solve: Solve) -> None:
    engine = ScriptedEngine([box(1)])
    engine.close()
    with pytest.raises(EngineClosed):
        solve(engine, BestOfN())


def test_an_engine_that_is_closed_meanwhile(solve: Solve) -> None:
    class Closing(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
            for index in range(len(requests)):
                yield Completion(index=index, token_ids=(), text="", finish_reason="cancelled")

    with pytest.raises(EngineClosed):
        solve(Closing([box(1)]), BestOfN())


def test_an_engine_with_a_bug(solve: Solve) -> None:
    class Broken(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
            async for completion in super().generate(requests):
                if requests[0].key == 2:
                    raise ZeroDivisionError("a bug")
                yield completion

    with pytest.raises(ZeroDivisionError):
        solve(Broken([box(1), box(2)], delay=0.001), BestOfN(num_samples=6))


# -- the solution --------------------------------------------------------------------------------------------------


def test_the_solution_as_a_dict(solve: Solve, watched: type[WatchedEngine]) -> None:
    solution: Solution = solve(watched([box(1), "?"]), BestOfN(num_samples=2), problem=Problem(content="?", id="p7"))
    assert solution.problem == "p7"
    table = solution.as_dict()
    assert table["answer"] == "1"
    ended = {"finish_reason": "eos", "score": None}
    assert table["candidates"] == [
        {"answer": "1", "text": box(1), "num_tokens": len(box(1)), **ended, "answer_class": 0},
        {"answer": None, "text": "?", "num_tokens": 1, **ended, "answer_class": None},
    ]
    assert table["usage"]["policy_tokens"] == solution.usage.policy_tokens == len(box(1)) + 1
    assert table["usage"]["prompt_tokens"] > 0
    assert table["usage"]["calls"] == 2
    assert set(table) == {
        *("answer", "text", "confidence", "strategy", "chosen", "model", "stopped_by", "usage", "candidates"),
    }

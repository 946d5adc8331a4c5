"""Runs that ended, were interrupted or killed, and go on: the same tree, the same answer, a trace without gaps."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, UsageError
from reason.search.driver import Run
from reason.search.journal import JournalMismatch, read_journal
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_of_n import BestOfN
from reason.search.strategies.early_stopping import UnanimousWindow
from reason.search.tree import Strategy, Tree
from reason.types import Budget, Completion, Engine, Problem, Request, Review, Solution, Thinking, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun, Solve, WatchedEngine

VERIFIER = "auto"


def box(answer: object, words: str = "so") -> str:
    return f"{words} \\boxed{{{answer}}}"


def same(a: str, b: str) -> bool:
    return a == b


@dataclass(frozen=True)
class Length:
    """Longer is better. It asks the engine too, so that it costs something."""

    scale: float = 1.0
    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = False

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        await engine.score([trajectory.path for trajectory in trajectories], len(trajectories[0].prompt), owner=owner)
        return [self.scale * len(trajectory.text) for trajectory in trajectories]


def shape(tree: Tree) -> list[tuple[object, ...]]:
    return [(n.id, n.parent, n.text, n.finish_reason, n.answer, n.answer_class, n.scores, n.notes) for n in tree.nodes]


def told(file: Path) -> list[dict[str, Any]]:
    return [event for event in read_journal(file) if event["type"] == "tell"]


Sit = Callable[..., tuple[Solution, Run]]


@pytest.fixture
def sit(make_run: MakeRun) -> Sit:
    """One sitting of a run."""

    def whole(engine: Engine, strategy: Strategy, **options: Any) -> tuple[Solution, Run]:
        options.setdefault("verifiers", {VERIFIER: Length()})
        run = make_run(engine, strategy, **options)
        return asyncio.run(asyncio.wait_for(run.solve(), 20)), run

    return whole


# -- time ran out --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("select", ["majority", "weighted"])
def test_a_run_that_time_ended_comes_back_the_same_twice(
    sit: Sit, watched: type[WatchedEngine], tmp_path: Path, select: Any
) -> None:
    """Of five samples the first and the third came in time; a resumed run has no time left to write the others."""
    texts = [box(1), box(2, "x" * 400), box(1, "a little more"), box(2, "y" * 400), box(2, "z" * 400)]
    strategy = BestOfN(num_samples=5, select=select)
    options: dict[str, Any] = {"budget": Budget(seconds=0.15), "journal": tmp_path / "a.jsonl"}
    first, run = sit(watched(texts, delay=0.002), strategy, **options)
    assert (first.answer, first.stopped_by, len(first.candidates)) == ("1", "seconds", 2)
    lines = options["journal"].read_bytes()
    for _ in range(2):
        again, other = sit(watched(texts, delay=0.002), strategy, **options)
        assert shape(other.tree) == shape(run.tree)
        assert (again.answer, again.text, again.confidence) == (first.answer, first.text, first.confidence)
        assert (again.candidates, again.stopped_by) == (first.candidates, "seconds")
        assert again.usage.seconds >= first.usage.seconds
        assert options["journal"].read_bytes() == lines
    assert [event["type"] for event in read_journal(options["journal"])] == ["run", "node", "tell", "node", "end"]


def test_a_replay_takes_none_of_the_time(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    """A run that was done comes back whole, though its time is nearly over and its strategy is asked again."""
    texts = ["first\n\n", "second\n\n"]
    problem = Problem(content="?", equivalent=same)
    strategy = Beam(width=2, beam_width=2, max_steps=6)
    file = tmp_path / "a.jsonl"
    first, run = sit(watched(texts), strategy, budget=Budget(seconds=5), journal=file, problem=problem)
    assert first.stopped_by == "done"
    events = [json.loads(line) for line in file.read_bytes().splitlines()]
    events[-1]["usage"]["seconds"] = 5.0
    file.write_text("".join(json.dumps(event) + "\n" for event in events), encoding="utf-8")
    again, other = sit(
        ScriptedEngine(lambda prefix: []), strategy, budget=Budget(seconds=5), journal=file, problem=problem
    )
    assert again.stopped_by == "done"
    assert shape(other.tree) == shape(run.tree)


def test_a_failure_behind_the_head_does_not_replace_the_best_answer(solve: Solve, watched: type[WatchedEngine]) -> None:
    """The second sample never comes, a bug ends the third's task, and then time runs out."""

    class Broken(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
            if requests[0].key == 2:
                await asyncio.sleep(30)
            if requests[0].key == 3:
                raise ZeroDivisionError("a bug")
            async for completion in super().generate(requests):
                yield completion

    solution = solve(Broken([box(4), box(1), "?", "?"]), BestOfN(num_samples=4), budget=Budget(seconds=0.05))
    assert (solution.answer, solution.stopped_by) == ("1", "seconds")
    assert [candidate.answer for candidate in solution.candidates] == ["1", "4"]


# -- another run's trace -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"verifiers": {VERIFIER: Length(scale=2.0)}}, r"verifiers\.auto\.scale: 1\.0 there, 2\.0 here"),
        (
            {"problem": Problem(content="What?", equivalent=same, step_delimiter="\n")},
            r'step_delimiter: "\\n\\n" there, "\\n" here',
        ),
        ({"problem": Problem(content="What?", equivalent=same, closing="")}, r'closing: ".*boxed\{" there, "" here'),
        ({"max_thinking_tokens": 9}, "max_thinking_tokens: null there, 9 here"),
        ({"max_in_flight": 2}, "max_in_flight: 64 there, 2 here"),
    ],
)
def test_what_decides_the_tree_may_not_change(
    sit: Sit, tmp_path: Path, changed: dict[str, Any], difference: str
) -> None:
    strategy, file = BestOfN(num_samples=2, select="weighted"), tmp_path / "a.jsonl"
    sit(ScriptedEngine([box(1)]), strategy, journal=file)
    before = file.read_bytes()
    with pytest.raises(JournalMismatch, match=f"another run .*{difference}.*delete it or choose another"):
        sit(ScriptedEngine([box(1)]), strategy, journal=file, **changed)
    assert file.read_bytes() == before
    sit(ScriptedEngine([box(1)]), strategy, journal=file)


def test_verifiers_that_the_strategy_does_not_ask_may_change(sit: Sit, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    for scale in (1.0, 2.0):
        sit(ScriptedEngine([box(1)]), BestOfN(num_samples=2), journal=file, verifiers={VERIFIER: Length(scale=scale)})


# -- killed and interrupted ----------------------------------------------------------------------------------------


def test_what_a_verifier_used_survives_a_kill(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    texts, strategy = [box(1), box(2, "longer"), box(1)], BestOfN(num_samples=3, select="weighted")
    whole = tmp_path / "whole.jsonl"
    solution, _ = sit(watched(texts), strategy, journal=whole)
    spent = sum(map(len, texts))
    assert (solution.usage.policy_tokens, solution.usage.verifier_tokens) == (spent, spent)
    lines = whole.read_bytes().splitlines(keepends=True)
    measured = next(i for i, line in enumerate(lines) if json.loads(line)["type"] == "measure")
    for kept in (measured + 1, measured):  # killed right behind it, right before it
        torn = tmp_path / f"{kept}.jsonl"
        torn.write_bytes(b"".join(lines[:kept]))
        engine = watched(texts)
        resumed, _ = sit(engine, strategy, journal=torn)
        assert (resumed.usage.policy_tokens, resumed.usage.verifier_tokens, resumed.usage.calls) == (spent, spent, 3)
        assert engine.requests == []


def test_a_failure_that_the_search_went_on_from_stays_one(
    sit: Sit, watched: type[WatchedEngine], tmp_path: Path
) -> None:
    """The first of two steps fails; the second is gone on with. What a server that is back would say in its stead
    belongs to no place in this trace."""
    texts = ["much longer\n\n", "short\n\n", box(1), box(2)]
    strategy, whole = Beam(width=2, beam_width=2), tmp_path / "whole.jsonl"
    _, run = sit(watched(texts, failing=[1]), strategy, journal=whole)
    assert [node.finish_reason for node in run.tree.nodes[1:]] == ["error", "step", "eos", "eos"]
    lines = whole.read_bytes().splitlines(keepends=True)
    assert {"node": 1, "end": "error", "error": "sample 1 failed"}.items() <= json.loads(lines[2]).items()
    for kept in range(1, len(lines)):
        torn = tmp_path / f"{kept}.jsonl"
        torn.write_bytes(b"".join(lines[:kept]))
        went_on = any(json.loads(line)["type"] != "tell" for line in lines[3:kept])
        _, resumed = sit(watched(texts, failing=() if went_on else [1]), strategy, journal=torn)
        assert shape(resumed.tree)[2:] == shape(run.tree)[2:]
        assert (resumed.tree[1].finish_reason, resumed.tree[1].error) == ("error", "sample 1 failed")


def test_what_failed_at_the_end_is_tried_again(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    file, strategy = tmp_path / "a.jsonl", BestOfN(num_samples=2)
    with pytest.raises(EngineError, match="every expansion failed"):
        sit(watched([box(1)], failing=[1, 2]), strategy, journal=file)
    solution, _ = sit(watched([box(1)]), strategy, journal=file)
    assert [candidate.answer for candidate in solution.candidates] == ["1", "1"]


def test_what_a_failed_sample_cost_counts_after_a_resume_too(
    sit: Sit, watched: type[WatchedEngine], tmp_path: Path
) -> None:
    """Two of the first samples fail after all of their text: the budget has room for six in all."""
    texts, strategy = [box(i, "x" * 91) for i in range(8)], BestOfN(num_samples=8, max_tokens=120)
    options: dict[str, Any] = {"budget": Budget(policy_tokens=600), "max_in_flight": 1}
    whole = tmp_path / "whole.jsonl"
    solution, run = sit(watched(texts, failing=(1, 2)), strategy, journal=whole, **options)
    assert (len(run.tree), solution.stopped_by) == (1 + 6, "policy_tokens")
    lines = whole.read_bytes().splitlines(keepends=True)
    for kept in range(5, len(lines)):
        torn = tmp_path / f"{kept}.jsonl"
        torn.write_bytes(b"".join(lines[:kept]))
        again, resumed = sit(watched(texts), strategy, journal=torn, **options)
        assert shape(resumed.tree) == shape(run.tree)
        assert again.stopped_by == "policy_tokens"


def test_a_run_that_is_done_is_done_also_where_its_last_sample_failed(
    sit: Sit, watched: type[WatchedEngine], tmp_path: Path
) -> None:
    texts, file = [box(1), box(2), box(2)], tmp_path / "a.jsonl"
    first, _ = sit(watched(texts, failing=[3]), BestOfN(num_samples=3), journal=file)
    engine = watched(texts)
    again, run = sit(engine, BestOfN(num_samples=3), journal=file)
    assert (again.answer, again.candidates, engine.requests) == (first.answer, first.candidates, [])
    assert run.tree[3].error == "sample 3 failed"


@pytest.mark.parametrize("name", ["question", "passages", "entry_point"])
def test_a_journal_of_another_question_is_another_runs(sit: Sit, tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"journal": tmp_path / "a.jsonl"}
    sit(ScriptedEngine([box(1)]), BestOfN(num_samples=1), problem=Problem(content="?", equivalent=same), **options)
    asked: dict[str, Any] = {name: ("x",) if name == "passages" else "x"}
    other = Problem(content="?", equivalent=same, **asked)
    with pytest.raises(JournalMismatch, match=name):
        sit(ScriptedEngine([box(1)]), BestOfN(num_samples=1), problem=other, **options)


@pytest.mark.parametrize("moment", [1, 2, 3, 5])
def test_an_interrupted_runs_trace_has_no_gap(
    sit: Sit, watched: type[WatchedEngine], tmp_path: Path, moment: int
) -> None:
    """Samples of many lengths, so that an interrupt finds some that have arrived behind others that have not."""
    texts = [box(i % 3, "x" * (37 * i % 50)) for i in range(8)]
    strategy = BestOfN(num_samples=8, select="weighted")
    whole, file = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    solution, run = sit(watched(texts), strategy, journal=whole)
    seen = 0

    def watch(run: Run) -> None:
        nonlocal seen
        seen += 1
        if seen == moment:
            run.interrupt()

    stopped, _ = sit(watched(texts, delay=0.0005), strategy, journal=file, on_change=watch)
    assert stopped.stopped_by == "interrupt"
    assert told(file) == told(whole)[: len(told(file))]  # of what came out of order nothing is said yet
    assert "end" not in {event["type"] for event in read_journal(file)}
    resumed, other = sit(watched(texts), strategy, journal=file)
    assert told(file) == told(whole)
    assert [event["node"] for event in told(file)[:-1]] == list(range(1, 9))
    assert shape(other.tree) == shape(run.tree)
    assert (resumed.answer, resumed.candidates) == (solution.answer, solution.candidates)
    assert resumed.stopped_by == "done"


def test_a_run_that_is_interrupted_again_and_again(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    texts = [box(i % 2, "x" * (29 * i % 40)) for i in range(6)]
    file, strategy = tmp_path / "a.jsonl", BestOfN(num_samples=6)
    for _ in range(4):
        sit(watched(texts, delay=0.0002), strategy, journal=file, on_change=Run.interrupt)
    solution, _ = sit(watched(texts), strategy, journal=file)
    assert solution.stopped_by == "done"
    assert [event["node"] for event in told(file)] == [1, 2, 3, 4, 5, 6]


def test_a_cancelled_node_leaves_a_line(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    texts = [box(1)] * 2 + [box(2, "x" * 200)] * 4
    file, strategy = tmp_path / "a.jsonl", UnanimousWindow(inner=BestOfN(num_samples=6), window=2, in_flight=4)
    solution, run = sit(watched(texts, delay=0.0005), strategy, journal=file)
    cancelled = [node.id for node in run.tree.nodes if node.finish_reason == "cancelled"]
    assert cancelled[:2] == [3, 4]
    assert [event.get("node", event.get("cancelled")) for event in told(file)] == [1, 2, cancelled]
    before = file.read_bytes()
    again, other = sit(ScriptedEngine([box(9)], delay=0.01), strategy, journal=file)
    assert shape(other.tree) == shape(run.tree)
    assert (again.answer, again.stopped_by) == (solution.answer, "done") == ("1", "done")
    assert file.read_bytes() == before
    lines = before.splitlines(keepends=True)
    for kept in range(1, len(lines)):
        torn = tmp_path / f"{kept}.jsonl"
        torn.write_bytes(b"".join(lines[:kept]))
        sit(watched(texts, delay=0.0001), strategy, journal=torn)
        assert told(torn) == told(file)


# -- what verifiers give -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Gives:
    """Gives what it is told to."""

    values: tuple[Any, ...]
    name: str = "my-verifier"
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = False

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return list(self.values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((1.0,), "the verifier my-verifier gave 1 scores for 2 trajectories"),
        ((1.0, 2.0, 3.0), "the verifier my-verifier gave 3 scores for 2 trajectories"),
        ((), "the verifier my-verifier gave 0 scores for 2 trajectories"),
        ((1.0, float("nan")), "the verifier my-verifier gave the score nan; scores must be finite"),
        ((float("-inf"), 0.0), "the verifier my-verifier gave the score -inf; scores must be finite"),
        ((np.float32("inf"), 0.0), "the verifier my-verifier gave the score inf"),
    ],
)
def test_scores_that_are_none(sit: Sit, tmp_path: Path, values: tuple[Any, ...], message: str) -> None:
    file = tmp_path / "a.jsonl"
    strategy = BestOfN(num_samples=2, select="best")
    with pytest.raises(UsageError, match=message):
        sit(ScriptedEngine([box(1)]), strategy, journal=file, verifiers={VERIFIER: Gives(values)})
    assert "measure" not in {event["type"] for event in read_journal(file)}


def test_numpy_scores_are_written_down(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    file, strategy = tmp_path / "a.jsonl", BestOfN(num_samples=3, select="best")
    given = Gives((np.float32(0.5), np.float64(0.25), np.int64(2)))
    options: dict[str, Any] = {"journal": file, "verifiers": {VERIFIER: given}}
    solution, run = sit(watched([box(1), box(2), box(3)]), strategy, **options)
    assert solution.answer == "3"
    (measured,) = (event for event in read_journal(file) if event["type"] == "measure")
    assert measured["values"] == [[0.5], [0.25], [2.0]]
    assert [type(candidate.score) for candidate in solution.candidates] == [float] * 3
    assert shape(sit(ScriptedEngine(["?"]), strategy, **options)[1].tree) == shape(run.tree)


@dataclass(frozen=True)
class Says(Gives):
    """Gives them with a word to each."""

    async def review(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[Review]:
        return [
            Review(score, f"{score:.0f} for {t.answer}") for score, t in zip(self.values, trajectories, strict=True)
        ]


def test_what_a_verifier_says_is_on_the_node_and_comes_back(
    sit: Sit, watched: type[WatchedEngine], tmp_path: Path
) -> None:
    strategy = BestOfN(num_samples=2, select="best")
    options: dict[str, Any] = {"journal": tmp_path / "a.jsonl", "verifiers": {VERIFIER: Says((1.0, 2.0))}}
    first, run = sit(watched([box(7), box(8)]), strategy, **options)
    assert first.answer == "8"
    assert [node.feedback for node in run.tree.nodes] == [{}, {VERIFIER: "1 for 7"}, {VERIFIER: "2 for 8"}]
    again = sit(ScriptedEngine(["?"]), strategy, **options)[1]
    assert [node.feedback for node in again.tree.nodes] == [node.feedback for node in run.tree.nodes]


# -- the closing answer --------------------------------------------------------------------------------------------

END = 1
MARKS = Thinking(start="<think>", end=chr(END), end_token=END)


@pytest.mark.parametrize("journal", [False, True])
def test_closing_inside_thinking_ends_the_thinking_first(sit: Sit, tmp_path: Path, journal: bool) -> None:
    prefixes: list[str] = []

    def script(prefix: str) -> list[str]:
        prefixes.append(prefix)
        return ["42} I think"] if prefix.endswith("boxed{") else ["<think>" + "hm " * 100]

    options: dict[str, Any] = {"budget": Budget(policy_tokens=120)}
    if journal:
        options["journal"] = tmp_path / "a.jsonl"
    strategy = BestOfN(num_samples=2, max_tokens=100)
    solution, run = sit(ScriptedEngine(script, thinking=MARKS), strategy, **options)
    assert prefixes[-1].endswith(f" hm \n{chr(END)}\n\nThe final answer is \\boxed{{")
    assert (solution.answer, solution.stopped_by) == ("42", "policy_tokens")
    assert solution.usage.policy_tokens <= 120
    (closed,) = solution.candidates
    assert closed.text.startswith("<think>hm ")
    assert closed.text.count(chr(END)) == 1
    if journal:
        asked = len(prefixes)
        again, other = sit(ScriptedEngine(script, thinking=MARKS), strategy, **options)
        assert len(prefixes) == asked
        assert shape(other.tree) == shape(run.tree)
        assert (again.answer, again.candidates) == (solution.answer, solution.candidates)


@pytest.mark.parametrize("said", ["no thinking at all ", f"<think>hm{chr(END)}but then "])
def test_closing_outside_thinking_is_plain(sit: Sit, said: str) -> None:
    prefixes: list[str] = []

    def script(prefix: str) -> list[str]:
        prefixes.append(prefix)
        return ["42}"] if prefix.endswith("boxed{") else [said + "hm " * 100]

    engine = ScriptedEngine(script, thinking=MARKS)
    solution, _ = sit(engine, BestOfN(num_samples=2, max_tokens=100), budget=Budget(policy_tokens=120))
    assert solution.answer == "42"
    assert prefixes[-1].count(chr(END)) == said.count(chr(END))
    assert not prefixes[-1].removesuffix("\n\nThe final answer is \\boxed{").endswith("\n")


# -- a run that time ended, between two results --------------------------------------------------------------------


def slowly_same(a: str, b: str) -> bool:
    time.sleep(0.06)
    return a == b


SLOW = Problem(content="?", equivalent=slowly_same)


def test_what_was_told_out_of_order_is_so_again(sit: Sit, watched: type[WatchedEngine], tmp_path: Path) -> None:
    """Time runs out as the second answer is compared. The third and fourth are there by then, and are told, but the
    window that they make cancels nothing: nor does it when the run is resumed."""
    strategy = UnanimousWindow(inner=BestOfN(num_samples=7), window=2, in_flight=4)
    options: dict[str, Any] = {"budget": Budget(seconds=0.04), "journal": tmp_path / "a.jsonl", "problem": SLOW}
    texts = [box(answer) for answer in (1, 2, 3, 3, 1, 1, 2)]
    first, run = sit(watched(texts), strategy, **options)
    assert first.stopped_by == "seconds"
    lines = options["journal"].read_bytes()
    for _ in range(2):
        again, other = sit(watched(texts), strategy, **options)
        assert shape(other.tree) == shape(run.tree)
        assert (again.answer, again.candidates, again.stopped_by) == (first.answer, first.candidates, "seconds")
        assert options["journal"].read_bytes() == lines


def test_what_comes_too_late_is_not_recorded(sit: Sit, tmp_path: Path) -> None:
    """Time runs out; as what has arrived is told, the third answer being compared for long, two more would arrive."""

    class Late(ScriptedEngine):
        async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
            await asyncio.sleep({1: 30.0, 4: 0.1, 5: 0.1}.get(requests[0].key, 0.0))
            async for completion in super().generate(requests):
                yield completion

    options: dict[str, Any] = {"budget": Budget(seconds=0.08), "journal": tmp_path / "a.jsonl", "problem": SLOW}
    texts = [box(3), "?", box(1), box(2), box(3)]
    first, run = sit(Late(texts), BestOfN(num_samples=5), **options)
    assert (first.answer, len(first.candidates), first.stopped_by) == ("1", 2, "seconds")
    assert [event["id"] for event in read_journal(options["journal"]) if event["type"] == "node"] == [2, 3]
    again, other = sit(Late(texts), BestOfN(num_samples=5), **options)
    assert shape(other.tree) == shape(run.tree)
    assert again.candidates == first.candidates

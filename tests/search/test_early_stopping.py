"""Early stopping: the sample at which a vote is decided, by hand, and what becomes of those under way.

1 - I_0.5(a + 1, b + 1) is the chance that a fair coin thrown a + b + 1 times shows at most a heads.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_of_n import BestOfN
from reason.search.strategies.dvts import DVTS
from reason.search.strategies.early_stopping import AdaptiveConsistency, EarlyStopping, UnanimousWindow
from reason.search.tree import Node, Strategy
from reason.types import Budget, Engine, Problem, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun, Solve, WatchedEngine

VERIFIER = "auto"


@dataclass(frozen=True)
class Length:
    """Longer is better."""

    name: str = VERIFIER
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = False

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [float(len(trajectory.text)) for trajectory in trajectories]


def said(*answers: str | None) -> list[Node]:
    """Solutions with these answers, in order."""
    classes: dict[str, int] = {}
    return [
        Node(
            id=i + 1,
            parent=0,
            finish_reason="eos",
            answer=answer,
            answer_class=None if answer is None else classes.setdefault(answer, len(classes)),
        )
        for i, answer in enumerate(answers)
    ]


def votes(word: str) -> list[Node]:
    """One letter a solution; "-" is one without an answer."""
    return said(*(None if letter == "-" else letter for letter in word))


def first_decided(strategy: EarlyStopping, word: str) -> int | None:
    """After how many of these solutions the vote is decided."""
    return next((i for i in range(len(word) + 1) if strategy.decided(votes(word[:i]))), None)


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return found and found[1]


BOXED = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)


def samples(word: str) -> list[str]:
    """All of one length, so that they come in the order asked."""
    return ["no idea.." if letter == "-" else f"\\boxed{{{letter}}}." for letter in word]


# -- adaptive consistency ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "confidence", "count"),
    [
        ("aaaaaaaa", 0.95, 4),  # 1 - 2^-5 = .96875, after three .9375
        ("aaaaaaaa", 0.9375, 3),  # reaching it is enough
        ("aaaaaaaa", 0.93750001, 4),
        ("aaaaaaaa", 0.96875, 4),
        ("aaaaaaaa", 0.97, 5),
        ("baaaaaaaa", 0.95, 7),  # (6, 1): 1 - 9/256 = .9648; (5, 1): 1 - 8/128 = .9375
        ("abaaaaaa", 0.9375, 6),
        ("babaaaaaaaaaa", 0.95, 10),  # (8, 2): 1 - 67/2048 = .9673; (7, 2): 1 - 56/1024 = .9453
        ("abababab", 0.55, 1),  # .75 at once
        ("abcdefgh", 0.76, None),  # (1, 1): 1/2
        ("bcaaaaaaa", 0.95, 8),  # only the first two count: (6, 1), though three differ
        ("-a-a-a-a", 0.95, 8),  # who says nothing counts for nobody
        ("--------", 0.51, None),
    ],
)
def test_adaptive_consistency_stops_exactly_there(word: str, confidence: float, count: int | None) -> None:
    assert first_decided(AdaptiveConsistency(confidence=confidence), word) == count


def test_adaptive_consistency_by_the_coin() -> None:
    """Against the binomial sum, for every vote of up to twelve."""
    from math import comb

    for leading in range(1, 13):
        for second in range(leading + 1):
            throws = leading + second + 1
            chance = sum(comb(throws, heads) for heads in range(leading + 1)) / 2**throws
            vote = votes("a" * leading + "b" * second)
            if chance - 1e-9 > 0.5 and chance + 1e-9 < 1:
                assert AdaptiveConsistency(confidence=chance - 1e-9).decided(vote)
                assert not AdaptiveConsistency(confidence=chance + 1e-9).decided(vote)


@pytest.mark.parametrize("confidence", [0.5, 1.0, 0.0, float("nan")])
def test_confidences_that_are_not_allowed(confidence: float) -> None:
    with pytest.raises(UsageError, match=r"confidence must be in \(0.5, 1\)"):
        AdaptiveConsistency(confidence=confidence)


# -- unanimous windows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "window", "count"),
    [
        ("aaaa", 4, 4),
        ("abbbbbbbb", 4, 8),  # b b b | b straddles two windows
        ("abbbba", 3, None),  # abb bba
        ("abcccc", 3, 6),
        ("ababbb", 2, 6),
        ("abbabaab", 2, None),
        ("aaa-aaaa", 4, 8),
        ("----", 2, None),  # to say nothing is not to agree
        ("-a--aa", 2, 6),
        ("aaa", 4, None),
        ("aabb", 2, 2),
    ],
)
def test_it_stops_at_the_first_unanimous_window(word: str, window: int, count: int | None) -> None:
    assert first_decided(UnanimousWindow(window=window), word) == count


def test_windows_that_are_not_allowed() -> None:
    with pytest.raises(UsageError, match="window must be at least 2, got 1"):
        UnanimousWindow(window=1)
    with pytest.raises(UsageError, match="in_flight must be at least 1, got 0"):
        AdaptiveConsistency(in_flight=0)


# -- in a run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "word", "count"),
    [
        (AdaptiveConsistency(in_flight=1), "aaaab", 4),
        (AdaptiveConsistency(in_flight=1), "baaaaaab", 7),
        (UnanimousWindow(in_flight=1), "abbbbbbbba", 8),
        (UnanimousWindow(in_flight=1, window=2), "-abcdda", 6),
        (UnanimousWindow(in_flight=1), "abababababababab", 16),  # all of the inner strategy's
    ],
)
def test_no_sample_is_drawn_after_it(
    solve: Solve, watched: type[WatchedEngine], strategy: EarlyStopping, word: str, count: int
) -> None:
    engine = watched(samples(word))
    solution = solve(engine, strategy, problem=BOXED)
    assert len(engine.requests) == solution.usage.calls == len(solution.candidates) == count
    assert solution.stopped_by == "done"


def test_what_is_in_flight_is_cancelled_and_does_not_vote(make_run: MakeRun, watched: type[WatchedEngine]) -> None:
    """Four are decided while the fifth and the sixth are still being written."""
    texts = [*samples("aaaa"), "b" * 300 + " \\boxed{b}", "c" * 300 + " \\boxed{c}"]
    engine = watched(texts, delay=0.0005)
    run = make_run(engine, AdaptiveConsistency(in_flight=6), problem=BOXED)
    solution = asyncio.run(asyncio.wait_for(run.solve(), 10))
    tree = run.tree
    assert [node.finish_reason for node in tree.nodes[1:7]] == ["eos"] * 4 + ["cancelled"] * 2
    assert {node.finish_reason for node in tree.nodes[7:]} <= {"cancelled"}
    assert (solution.answer, solution.confidence, len(solution.candidates)) == ("a", 1.0, 4)
    assert [node.answer for node in tree.nodes[5:]] == [None] * (len(tree) - 5)
    assert solution.usage.policy_tokens < 4 * 9 + 2 * 300  # the engine was told
    assert engine.progress("run") == {}
    assert solution.stopped_by == "done"


def test_one_that_arrived_before_the_decision_but_was_asked_after_it_does_not_vote(
    solve: Solve, watched: type[WatchedEngine]
) -> None:
    texts = ["a" * 60 + "\\boxed{a}", *samples("aaabb")]
    solution = solve(watched(texts, delay=0.001), UnanimousWindow(in_flight=6), problem=BOXED)
    assert (solution.answer, solution.confidence, len(solution.candidates)) == ("a", 1.0, 4)


@pytest.mark.parametrize("in_flight", [1, 2, 3, 7])
@pytest.mark.parametrize("inner", [BestOfN(num_samples=12), Beam(width=8, beam_width=2), DVTS(width=8, beam_width=2)])
def test_no_more_than_in_flight_are_in_flight(make_run: MakeRun, inner: Strategy, in_flight: int) -> None:
    most = 0

    class Counting(ScriptedEngine):
        flying = 0

        async def generate(self, requests: Any) -> Any:
            nonlocal most
            self.flying += len(requests)
            most = max(most, self.flying)
            async for completion in super().generate(requests):
                self.flying -= 1
                yield completion

    texts = ["step\n\n", "stop \\boxed{1}", "other\n\n", "stop \\boxed{2}", "\\boxed{3}"]
    engine = Counting(lambda prefix: texts, delay=1e-5)
    strategy = UnanimousWindow(inner=inner, in_flight=in_flight, window=8)
    run = make_run(engine, strategy, verifiers={VERIFIER: Length()}, problem=BOXED)
    asyncio.run(asyncio.wait_for(run.solve(), 10))
    assert most == in_flight
    assert len(run.tree) > 8


def test_weighted_votes_are_measured_after_stopping(make_run: MakeRun, watched: type[WatchedEngine]) -> None:
    texts = ["\\boxed{b}" + "!" * 50, *samples("aaaaaa")]
    inner = BestOfN(num_samples=16, select="weighted", verifier=VERIFIER)
    run = make_run(
        watched(texts),
        AdaptiveConsistency(inner=inner, in_flight=2, confidence=0.9),
        verifiers={VERIFIER: Length()},
        problem=BOXED,
    )
    solution = asyncio.run(asyncio.wait_for(run.solve(), 10))
    # (a, b): (5, 1) is .9375, (4, 1) is .8906: six solutions; by weight b has 59 and a 5 times 10
    assert [candidate.score for candidate in solution.candidates] == [59.0, 10.0, 10.0, 10.0, 10.0, 10.0]
    assert (solution.answer, solution.stopped_by) == ("b", "done")
    assert solution.confidence == pytest.approx(59 / 109)


@pytest.mark.parametrize("inner", [Beam(width=8, beam_width=2), DVTS(width=8, beam_width=2)])
def test_it_wraps_step_searches(make_run: MakeRun, inner: Strategy) -> None:
    """Every first step goes on to the same answer: a window of two solutions ends what would be eight."""

    def script(prefix: str) -> list[str]:
        return ["so \\boxed{4}"] if prefix.endswith("\n\n") else [f"step {i}\n\n" for i in range(8)]

    async def solve(strategy: Strategy) -> tuple[int, str | None, str, set[object]]:
        run = make_run(ScriptedEngine(script), strategy, verifiers={VERIFIER: Length()}, problem=BOXED)
        solution = await run.solve()
        assert run.tree.measuring == set()
        assert all(candidate.score is not None for candidate in solution.candidates)
        ends: set[object] = {node.finish_reason for node in run.tree.nodes}
        return len(solution.candidates), solution.answer, solution.stopped_by, ends

    assert asyncio.run(solve(inner)) == (8, "4", "done", {"step", "eos"})
    wrapped = UnanimousWindow(inner=inner, window=2, in_flight=4)
    assert asyncio.run(solve(wrapped)) == (2, "4", "done", {"step", "eos", "cancelled"})


@pytest.mark.parametrize(("budget", "limit"), [(Budget(policy_tokens=60), "policy_tokens"), (Budget(calls=5), "calls")])
@pytest.mark.parametrize("select", ["majority", "weighted"])
def test_a_budget_that_ends_it_still_gives_an_answer(
    make_run: MakeRun, watched: type[WatchedEngine], budget: Budget, limit: str, select: Any
) -> None:
    inner = BestOfN(num_samples=16, max_tokens=20, select=select, verifier=VERIFIER)
    run = make_run(
        watched(samples("abacadaeaf")),
        UnanimousWindow(inner=inner),
        verifiers={VERIFIER: Length()},
        budget=budget,
        problem=BOXED,
    )
    solution = asyncio.run(asyncio.wait_for(run.solve(), 10))
    assert (solution.answer, solution.stopped_by) == ("a", limit)
    assert solution.usage.calls == len(solution.candidates) == 5
    assert all((candidate.score is not None) == (select == "weighted") for candidate in solution.candidates)


def test_a_failed_sample_is_no_part_of_a_window(solve: Solve, watched: type[WatchedEngine]) -> None:
    engine = watched(samples("abaab"), failing=(2,))
    solution = solve(engine, UnanimousWindow(window=3, in_flight=1), problem=BOXED)
    assert (solution.answer, solution.confidence, solution.usage.calls) == ("a", 1.0, 4)

"""What may be started: KV of shared ancestors, the closing reserve, calls, and samples that wait."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reason.engine.scripted import ScriptedEngine
from reason.search.admission import CLOSING_TOKENS, MIN_TOKENS, Admission
from reason.search.strategies.beam import Beam
from reason.search.strategies.best_of_n import BestOfN
from reason.search.tree import ROOT, Action, Cancel, Expand, Node, Room, Tree
from reason.types import Answer, Budget, Engine, Problem, Request, StoppedBy, Thinking, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun


class Desk:
    """An admission over a tree whose prompt is 10 tokens long."""

    def __init__(self, *, calls_each: int = 1, **limits: int) -> None:
        root = Node(id=ROOT, parent=None, context=(0,) * 10, finish_reason="step")
        self.tree = Tree(Problem(content="?"), [root])
        self.admission = Admission(Budget(**limits), self.tree, calls_each=calls_each)

    def grant(self, wanted: int, parent: int = ROOT, *, given: int = 0, closing: bool = False) -> int | StoppedBy:
        return self.admission.grant(parent, wanted, given, closing=closing)

    def start(self, wanted: int, parent: int = ROOT, *, given: int = 0) -> Node:
        granted = self.grant(wanted, parent, given=given)
        assert isinstance(granted, int), granted
        node = Node(id=len(self.tree), parent=parent, context=self.tree[parent].context + (1,) * given)
        self.tree.add(node)
        self.admission.start(node, granted, given)
        return node

    def end(self, node: Node, generated: int, *, calls: int = 1) -> None:
        assert node.parent is not None
        node.context += (2,) * generated
        node.finish_reason = "step"
        self.admission.settle(node, generated, calls, len(node.context) - len(self.tree[node.parent].context))


# -- tokens held ---------------------------------------------------------------------------------------------------


def test_kv_counts_a_shared_ancestor_once() -> None:
    desk = Desk(kv_tokens=100)
    stem = desk.start(30)
    assert desk.grant(60) == 60  # 10 + 30 + 60 = 100
    assert desk.grant(61) == "kv_tokens"
    desk.end(stem, 20)
    first = desk.start(30, stem.id)  # 10 + 20 + 30
    assert desk.grant(40, stem.id) == 40  # 60 + 40, the stem is there already
    assert desk.grant(41, stem.id) == "kv_tokens"
    second = desk.start(25, stem.id)  # 85
    assert desk.grant(15, stem.id) == 15
    desk.end(first, 5)  # evictable: 10 + 20 + 25 = 55
    assert desk.grant(45, stem.id) == 45
    assert desk.grant(40, first.id) == 40  # what it wrote is needed again
    assert desk.grant(41, first.id) == "kv_tokens"
    desk.end(second, 25)
    assert desk.grant(90) == 90  # nobody holds anything but the prompt
    assert desk.grant(70, stem.id) == 70
    assert desk.grant(200, second.id) == 45  # 10 + 20 + 25 before it, and nothing to wait for


def test_kv_of_a_path_below_a_locked_one() -> None:
    desk = Desk(kv_tokens=100)
    stem = desk.start(20)
    desk.end(stem, 20)
    left, right = desk.start(10, stem.id), desk.start(10, stem.id)
    desk.end(left, 10)
    desk.end(right, 10)
    deep = desk.start(20, left.id)  # 10 + 20 + 10 + 20 = 60
    assert desk.grant(30, right.id) == 30  # + right's own 10 + 30
    assert desk.grant(31, right.id) == "kv_tokens"
    desk.end(deep, 20)
    assert desk.grant(60, right.id) == 60


def test_kv_counts_what_is_given() -> None:
    desk = Desk(kv_tokens=100)
    assert desk.grant(200, given=15) == 75
    node = desk.start(50, given=15)  # 10 + 15 + 50
    assert desk.grant(25) == 25
    assert desk.grant(21, given=5) == "kv_tokens"
    desk.end(node, 50)
    assert desk.grant(200, node.id) == 25


# -- cut short only when alone -------------------------------------------------------------------------------------


def test_a_sample_is_cut_only_when_nothing_is_in_flight() -> None:
    desk = Desk(policy_tokens=100)
    desk.admission.answered = True
    first = desk.start(60)
    assert desk.grant(60) == "policy_tokens"  # it may yet have all of them
    assert desk.grant(40) == 40
    desk.end(first, 30)
    second = desk.start(60)
    assert desk.grant(60) == "policy_tokens"
    desk.end(second, 50)
    assert desk.grant(60) == 20
    assert desk.grant(20) == 20


def test_less_than_a_useful_number_of_tokens_is_not_started() -> None:
    desk = Desk(policy_tokens=MIN_TOKENS + 40)
    desk.admission.answered = True
    first = desk.start(41)
    desk.end(first, 41)
    assert desk.grant(MIN_TOKENS) == "policy_tokens"
    assert desk.grant(MIN_TOKENS - 1) == MIN_TOKENS - 1  # as many as it wants


# -- the reserve ---------------------------------------------------------------------------------------------------


def test_the_reserve_is_kept_until_there_is_an_answer() -> None:
    desk = Desk(policy_tokens=1000)
    assert desk.admission.closing_tokens == CLOSING_TOKENS == 48
    assert desk.grant(2000) == 952
    assert desk.grant(2000, closing=True) == 1000
    desk.admission.answered = True
    assert desk.grant(2000) == 1000


def test_the_reserve_is_at_most_an_eighth() -> None:
    assert Desk(policy_tokens=200).admission.closing_tokens == 25
    assert Desk(policy_tokens=200).grant(500) == 175
    assert Desk(policy_tokens=7).admission.closing_tokens == 0
    assert Desk().admission.closing_tokens == CLOSING_TOKENS


def test_the_closing_answer_may_be_short() -> None:
    desk = Desk(policy_tokens=160)
    node = desk.start(500)
    desk.end(node, 140)
    assert desk.grant(48) == "policy_tokens"
    assert desk.grant(48, closing=True) == 20
    later = Desk(policy_tokens=160)
    later.end(later.start(500), 140)
    later.admission.answered = True
    assert later.grant(48) == 20


def test_a_call_is_kept_for_the_closing_answer() -> None:
    desk = Desk(calls=2)
    first = desk.start(10)
    assert desk.grant(10) == "calls"
    desk.end(first, 10)
    assert desk.grant(10) == "calls"
    assert desk.grant(10, closing=True) == 10
    desk.admission.answered = True
    assert desk.grant(10) == 10
    assert Desk(calls=1).grant(10) == 10  # where there is only one, it is for the first sample


# -- calls ---------------------------------------------------------------------------------------------------------


def test_a_sample_that_may_take_two_calls() -> None:
    desk = Desk(calls=5, calls_each=2)
    desk.admission.answered = True
    first = desk.start(10)
    second = desk.start(10)
    assert desk.grant(10) == "calls"  # 2 + 2 are reserved
    desk.end(first, 10, calls=1)
    assert desk.grant(10) == 10  # 1 + 2 + 2
    third = desk.start(10)
    assert desk.grant(10) == "calls"
    desk.end(second, 10, calls=2)
    desk.end(third, 10, calls=2)
    assert desk.grant(10) == "calls"
    assert Desk(calls=1, calls_each=2).grant(10) == "calls"
    assert Desk(calls=2, calls_each=2).grant(10) == 2 * 5


def test_a_dropped_sample_costs_all_it_might_have() -> None:
    desk = Desk(policy_tokens=100, calls=4, kv_tokens=200, calls_each=2)
    desk.admission.answered = True
    dropped = desk.start(60)
    assert desk.admission.in_flight == 1
    desk.admission.drop(dropped)
    assert desk.admission.in_flight == 0
    assert desk.grant(100) == 40
    node = desk.start(100)
    desk.end(node, 1, calls=1)
    assert desk.grant(10) == "calls"  # 2 + 1 + 2
    held = Desk(kv_tokens=100)
    held.admission.drop(held.start(60, given=20))
    assert held.grant(90) == 90  # but it holds nothing


# -- in a run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Once:
    """Asks for the same actions until a sample is there for each."""

    actions: tuple[Expand, ...]
    cancel: tuple[int, ...] = ()

    @property
    def measures(self) -> tuple[str, ...]:
        return ()

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if any(tree[node].pending for node in self.cancel if node < len(tree)):
            return [Cancel(nodes=self.cancel)]
        return self.actions if len(tree) == 1 else []

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        pass

    def answer(self, tree: Tree) -> Answer:
        return Answer(answer=None, text="")


def test_what_comes_after_a_refused_expansion_does_not_overtake_it(make_run: MakeRun) -> None:
    async def whole() -> list[int]:
        engine = ScriptedEngine(["x" * 200])
        wanted = (30, 25, 60, 25, 15)  # of 100: the third does not fit beside the first two
        strategy = Once(tuple(Expand(node=ROOT, max_tokens=tokens) for tokens in wanted))
        problem = Problem(content="?", closing="")
        run = make_run(engine, strategy, budget=Budget(kv_tokens=100 + 23), problem=problem)
        prompt = len(run._prompt())
        run = make_run(engine, strategy, budget=Budget(kv_tokens=100 + prompt), problem=problem)
        solution = await run.solve()
        assert solution.stopped_by == "done"
        return [node.num_tokens for node in run.tree.nodes[1:]]

    assert asyncio.run(whole()) == [30, 25]


def test_a_refused_expansion_stops_its_own_further_samples(make_run: MakeRun) -> None:
    async def whole() -> list[int]:
        strategy = Once((Expand(node=ROOT, max_tokens=60, num_samples=3), Expand(node=ROOT, max_tokens=20)))
        run = make_run(ScriptedEngine(["x" * 200]), strategy, budget=Budget(policy_tokens=100))
        await run.solve()
        return [node.num_tokens for node in run.tree.nodes[1:]]

    assert asyncio.run(whole()) == [60]


@dataclass(frozen=True)
class Wordy:
    """A verifier that has the engine write 30 tokens about each trajectory."""

    name: str = "self-certainty"
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = False

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        asked = [Request(prefix=each.path, max_tokens=30, owner=owner) for each in trajectories]
        return [float(len(done.token_ids)) async for done in engine.generate(asked)]


def test_what_a_verifier_writes_is_spent(make_run: MakeRun, tmp_path: Path) -> None:
    async def whole(**limits: int) -> list[Any]:
        engine = ScriptedEngine(["x" * 39 + "\n\n"])
        options: dict[str, Any] = {"verifiers": {"auto": Wordy()}, "budget": Budget(**limits)}
        found = []
        for _ in range(2):  # the second time from the trace
            run = make_run(engine, Beam(width=2, beam_width=2), journal=tmp_path / f"{limits}.jsonl", **options)
            solution = await run.solve()
            found.append((solution.stopped_by, len(run.tree) - 1, solution.usage.policy_tokens, solution.usage.calls))
        assert found[0] == found[1]
        return found

    free = asyncio.run(whole(policy_tokens=10_000))[0]
    assert free[0] == "done"
    for limits in ({"policy_tokens": 400}, {"calls": 9}):
        stopped, nodes, tokens, calls = asyncio.run(whole(**limits))[0]
        assert stopped == next(iter(limits))
        assert nodes < free[1]
        spent = {"policy_tokens": tokens, "calls": calls}
        assert spent[stopped] <= limits[stopped] + 2 * 30 * (stopped == "policy_tokens")  # the last measurement's


def test_the_end_of_thinking_has_room() -> None:
    tree = Tree(Problem(content="?"), [Node(id=ROOT, parent=None, context=(1,) * 10, finish_reason="step")])
    for between, granted in ((0, 90), (4, 86)):
        admission = Admission(Budget(kv_tokens=100), tree, calls_each=2, tokens_between=between)
        assert admission.grant(ROOT, 1000, 0, closing=False) == granted
    child = Node(id=1, parent=ROOT)
    tree.add(child)
    admission.start(child, 40, 0)
    assert admission.grant(ROOT, 42, 0, closing=False) == 42  # 10 + 40 + 2 x 4 + 42
    assert admission.grant(ROOT, 43, 0, closing=False) == "kv_tokens"


def test_a_cancelled_sample_is_paid_for(make_run: MakeRun) -> None:
    async def whole() -> None:
        strategy = Once((Expand(node=ROOT, max_tokens=30, num_samples=2),), cancel=(2,))
        run = make_run(ScriptedEngine(["x" * 20], delay=0.001), strategy, budget=Budget(policy_tokens=200))
        await run.solve()
        assert [node.finish_reason for node in run.tree.nodes[1:]] == ["eos", "cancelled"]
        left = run._admission.grant(ROOT, 1000, 0, closing=True)
        assert left == 200 - 20 - 30

    asyncio.run(whole())


def test_thinking_with_a_limit_may_take_two_calls(make_run: MakeRun) -> None:
    marks = Thinking(start="<think>", end=chr(1), end_token=1)
    script = {"<assistant>": ["<think>" + "hm " * 50], f"{chr(1)}\n\n": ["so \\boxed{4}"]}

    async def whole(calls: int) -> tuple[int, int]:
        strategy = Once((Expand(node=ROOT, num_samples=4, max_tokens=100),))
        engine = ScriptedEngine(script, thinking=marks)
        run = make_run(engine, strategy, budget=Budget(calls=calls), max_thinking_tokens=20)
        solution = await run.solve()
        return len(run.tree) - 1, solution.usage.calls

    assert asyncio.run(whole(8)) == (3, 6)  # one call is kept for the closing answer until the first sample has one
    assert asyncio.run(whole(9)) == (4, 8)
    assert asyncio.run(whole(2)) == (1, 2)


def test_the_closing_answer_is_one_call_where_samples_may_take_two(make_run: MakeRun) -> None:
    marks = Thinking(start="<think>", end=chr(1), end_token=1)
    script = {"<assistant>": ["<think>" + "hm " * 50], f"{chr(1)}\n\n": ["hm " * 50], "boxed{": ["42}"]}

    async def whole() -> None:
        strategy = BestOfN(num_samples=4, max_tokens=60)
        engine = ScriptedEngine(script, thinking=marks)
        solution = await make_run(engine, strategy, budget=Budget(calls=3), max_thinking_tokens=20).solve()
        assert (solution.answer, solution.stopped_by, solution.usage.calls) == ("42", "calls", 3)

    asyncio.run(whole())
    desk = Desk(calls=3, calls_each=2)
    desk.end(desk.start(10), 10, calls=2)
    assert desk.grant(10) == "calls"
    assert desk.grant(10, closing=True) == 10

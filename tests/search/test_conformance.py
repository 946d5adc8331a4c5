"""What every registered strategy promises, in several settings, over an engine whose text depends on its path."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.search.driver import Run
from reason.search.journal import read_journal
from reason.search.strategies import STRATEGIES, make_strategy
from reason.search.tree import Cancel, Expand, Measure, Room, Strategy, Tree
from reason.types import (
    Answer,
    Budget,
    Completion,
    Embedder,
    Engine,
    FinishReason,
    Problem,
    Request,
    Solution,
    Trajectory,
    Usage,
    Verifier,
)
from reason.verifiers.embeddings import AUTO_EMBEDDING, is_embedding

SETTINGS: dict[str, list[dict[str, Any]]] = {
    "auto": [{"budget_tokens": 1500}],
    "best-of-n": [
        {"num_samples": 6},
        {"num_samples": 5, "select": "weighted"},
        {"num_samples": 5, "select": "best", "aggregation": "min"},
    ],
    "beam": [{"width": 8, "beam_width": 2}, {"width": 4, "beam_width": 4, "max_steps": 3, "select": "best"}],
    "dvts": [{"width": 8, "beam_width": 4}, {"width": 6, "beam_width": 2, "max_steps": 3, "select": "majority"}],
    "rebase": [
        {"width": 8, "max_step_tokens": 20},
        {"width": 5, "max_step_tokens": 20, "rounding": "round", "max_steps": 3, "select": "best", "scale": "even"},
    ],
    "ets": [
        {"width": 8, "max_step_tokens": 20, "distance": 0.3},
        {"width": 6, "max_step_tokens": 20, "distance": 0.6, "node_cost": "uniform", "kv_weight": 2.5},
        {"width": 6, "max_step_tokens": 20, "diversity_weight": 0.0, "kv_weight": 1.5, "rounding": "round"},
    ],
    "adaptive-consistency": [{"num_samples": 12}, {"num_samples": 12, "select": "weighted", "in_flight": 3}],
    "esc": [
        {"num_samples": 12, "window": 3},
        {"inner": "dvts", "width": 8, "beam_width": 2},
        {"inner": "merge", "width": 8, "beam_width": 2, "max_step_tokens": 20, "distance": 0.3, "window": 3},
    ],
    "deepconf": [{"num_samples": 8, "warmup": 3, "chunk": 10, "keep": 0.5}],
    "best-first": [
        {"num_children": 3, "iterations": 4, "max_step_tokens": 20},
        {"num_children": 2, "iterations": 6, "max_step_tokens": 20, "parallel": 3, "aggregation": "min"},
        {"num_children": 4, "iterations": 1, "max_step_tokens": 20, "select": "majority"},
    ],
    "merge": [
        {"width": 8, "beam_width": 2, "max_step_tokens": 20, "distance": 0.3},
        {"inner": "best-first", "num_children": 5, "iterations": 4, "max_step_tokens": 20, "distance": 0.3},
        {"inner": "dvts", "width": 8, "beam_width": 4, "max_step_tokens": 20, "distance": 0.6},
        {"inner": "mcts", "iterations": 8, "num_children": 3, "max_step_tokens": 20, "distance": 0.3},
    ],
    "astar": [
        {"weight": 1.5},
        {"num_children": 3, "parallel": 3, "cost": "sum", "select": "majority", "num_solutions": 5},
        {"num_children": 2, "weight": 0.0, "parallel": 1, "max_expansions": 3},
    ],
    "budget-forcing": [
        {"num_waits": 2},
        {"num_waits": 3, "select": "majority", "wait": "Hmm"},
        {"num_waits": 9, "min_tokens": 60, "max_thinking_tokens": 40},
    ],
    "particle": [
        {"num_particles": 6},
        {"num_particles": 5, "resampling": "systematic", "resample_when": "ess", "select": "weighted", "max_steps": 4},
        {"num_particles": 4, "resampling": "residual", "resample_inactive": False, "select": "majority"},
        {"num_particles": 4, "num_iterations": 3, "weighting": "standardised", "resample_when": "ess"},
    ],
    "tot": [
        {"steps": 3, "keep": 2, "num_proposals": 3, "num_values": 2},
        {"search": "dfs", "steps": 3, "keep": 2, "generate": "sample", "num_proposals": 2, "threshold": 0},
        {"steps": 3, "keep": 2, "generate": "sample", "num_proposals": 3, "verifier": "self-certainty"},
    ],
    "ats": [{"num_samples": 4}, {"search": "dfs", "num_samples": 3, "few_shot": 0, "select": "weighted"}],
    "mcts": [
        {"iterations": 8},
        {"iterations": 12, "simulate": "none", "widening": 0.5, "rule": "puct", "backup": "max", "discount": 0.9},
        {"iterations": 3, "simulate": "none", "num_children": 1, "scale": "min-max", "in_flight": 1},
    ],
    "rest-mcts": [{"iterations": 8}, {"iterations": 6, "num_rollouts": 2, "in_flight": 2}],
    "rstar-math": [{"iterations": 4, "num_children": 3}, {"iterations": 3, "num_children": 2, "in_flight": 1}],
    "mctsr": [{"iterations": 4}, {"iterations": 5, "in_flight": 1, "num_scores": 1, "dummy": True, "select": "best"}],
    "rethink-mcts": [
        {"rollouts": 5, "verifier": "self-certainty"},
        {"rollouts": 6, "verifier": "self-certainty", "in_flight": 3, "width": 2, "rule": "uct", "backup": "mean"},
        {"rollouts": 6, "verifier": "self-certainty", "max_think_times": 1, "width": 1, "stop_value": 0.95},
    ],
    "tool-agent": [{"num_samples": 3, "temperature": 0.8, "turn_tokens": 40}, {"max_calls": 1, "turn_tokens": 50}],
    "ab-mcts": [{"num_samples": 8}, {"num_samples": 7, "posterior": "beta", "in_flight": 3, "select": "best"}],
    "probtree": [{}, {"max_lists": 0, "temperature": 1.0}],
}
CASES = [pytest.param(name, fields, id=f"{name}-{i}") for name in STRATEGIES for i, fields in enumerate(SETTINGS[name])]
LIMITED = {"max_tokens": 120}


def test_every_strategy_is_held_to_it() -> None:
    assert set(SETTINGS) == set(STRATEGIES)


@dataclass(frozen=True)
class HashVerifier:
    """Scores a path by a hash of its text: as good as random, and the same every time."""

    name: str = "self-certainty"
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        await asyncio.sleep(0)
        return [_hash(trajectory.text) for trajectory in trajectories]


@dataclass(frozen=True)
class HashEmbedder:
    """Embeds a step as a direction in a quarter of the plane, by a hash of its text."""

    name: str = AUTO_EMBEDDING
    same_distance: float = 0.01

    async def embed(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        await asyncio.sleep(0)
        angles = [_hash(trajectory.steps[-1].text) * math.pi / 2 for trajectory in trajectories]
        return [(math.cos(angle), math.sin(angle)) for angle in angles]


class PathEngine(ScriptedEngine):
    """Writes steps that depend on the path and the key; finishes after a few. ``jitter`` shuffles arrival."""

    def __init__(self, *, jitter: int | None = None) -> None:
        super().__init__(lambda prefix: [""])
        self._jitter = None if jitter is None else random.Random(jitter)
        self.generated: list[Request] = []
        self.live = 0

    async def generate(self, requests: Sequence[Request]) -> AsyncIterator[Completion]:
        self.generated += requests
        for index, request in enumerate(requests):
            self.live += 1
            try:
                if self._jitter is not None:
                    for _ in range(self._jitter.randrange(8)):
                        await asyncio.sleep(0)
                yield self._write(index, request)
            finally:
                self.live -= 1

    def _write(self, index: int, request: Request) -> Completion:
        row = self._row(request.owner)
        row.calls += 1
        text = ""
        while True:
            draw = _hash(f"{self.codec.decode(request.prefix)}{text}|{request.key}|{request.seed}")
            if draw < 0.35:
                text += f"so \\boxed{{{int(draw * 10)}}}"
                break
            text += f"step {int(draw * 100)}\n\n"
        place = text.find("\n\n") if "\n\n" in request.stop else -1
        reason: FinishReason = "eos"
        stopped_on, shown = None, text
        if place >= 0:
            reason, stopped_on, shown, text = "stop", "\n\n", text[:place], text[: place + 2]
        tokens = self.codec.encode(text)
        if len(tokens) > request.max_tokens:
            tokens = tokens[: request.max_tokens]
            reason, stopped_on, shown = "length", None, self.codec.decode(tokens)
        row.policy_tokens += len(tokens)
        return Completion(
            index=index,
            token_ids=tokens,
            text=shown,
            finish_reason=reason,
            stopped_on=stopped_on,
        )


class Checked:
    """A strategy that is held to be pure: asking twice gives the same and changes nothing; so does being told twice; it
    asks only for what it says."""

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.measures = strategy.measures

    def ask(self, tree: Tree, room: Room) -> Sequence[Expand | Measure | Cancel]:
        before = repr(shape(tree))
        actions = self.strategy.ask(tree, room)
        assert self.strategy.ask(tree, room) == actions
        assert repr(shape(tree)) == before
        assert all(action.name in self.measures for action in actions if isinstance(action, Measure))
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        self.strategy.tell(tree, done)
        after = repr(shape(tree))
        self.strategy.tell(tree, done)
        assert repr(shape(tree)) == after

    def answer(self, tree: Tree) -> Answer:
        assert self.strategy.answer(tree) == self.strategy.answer(tree)
        return self.strategy.answer(tree)


def _hash(text: str) -> float:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def same_text(a: str, b: str) -> bool:
    return a == b


PROBLEM = Problem(content="What?", equivalent=same_text)


def start(engine: Engine, strategy: Strategy, **options: Any) -> Run:
    settings: dict[str, Any] = {"strategy_name": "test", "budget": Budget(), "seed": 3, "owner": "run", **options}
    problem = settings.pop("problem", PROBLEM)
    verifiers: dict[str, Verifier | Embedder] = {
        name: HashEmbedder(name=name) if is_embedding(name) else HashVerifier(name=name) for name in strategy.measures
    }
    return Run(engine, problem, strategy, verifiers=verifiers, **settings)


def solve(engine: PathEngine, strategy: Strategy, **options: Any) -> tuple[Solution, Run]:
    async def whole() -> tuple[Solution, Run]:
        run = start(engine, strategy, **options)
        solution = await asyncio.wait_for(run.solve(), 30)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "work left over"
        return solution, run

    result = asyncio.run(whole())
    assert engine.live == 0, "a stream was left open"
    return result


def shape(tree: Tree) -> list[tuple[object, ...]]:
    return [
        (n.id, n.parent, n.context, n.text, n.finish_reason, n.answer, n.answer_class, n.scores, n.embeddings, n.notes)
        for n in tree.nodes
    ]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_finds_an_answer(name: str, fields: dict[str, Any]) -> None:
    solution, run = solve(PathEngine(), make_strategy(name, **fields, **LIMITED))
    assert solution.stopped_by == "done"
    assert solution.answer is not None
    assert solution.answer in {candidate.answer for candidate in solution.candidates}
    assert solution.text in {candidate.text for candidate in solution.candidates}
    assert 0 < solution.confidence <= 1
    assert not any(node.pending for node in run.tree.nodes)
    assert run.tree.measuring == set()
    for node in run.tree.nodes[1:]:
        if node.finish_reason != "cancelled":
            assert node.path_tokens <= LIMITED["max_tokens"]
            codec = run.engine.codec
            assert codec.decode(node.context[node.prompt_tokens :]) == run.tree.text(node.id)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_the_same_seed_gives_the_same_tree_in_any_order_of_arrival(name: str, fields: dict[str, Any]) -> None:
    strategy = make_strategy(name, **fields, **LIMITED)
    first, run = solve(PathEngine(), strategy)
    for jitter in range(8):
        again, other = solve(PathEngine(jitter=jitter), strategy)
        assert shape(other.tree) == shape(run.tree)
        assert (again.answer, again.text, again.confidence) == (first.answer, first.text, first.confidence)
    _, different = solve(PathEngine(), strategy, seed=4)
    assert shape(different.tree) != shape(run.tree)


@pytest.mark.parametrize(("name", "fields"), CASES)
@pytest.mark.parametrize("limit", ["policy_tokens", "calls", "kv_tokens"])
def test_budgets_are_kept(name: str, fields: dict[str, Any], limit: str) -> None:
    strategy = make_strategy(name, **fields, **LIMITED)
    for amount in (1, 2, 5, 17, 30, 61, 128, 250, 400):
        engine = PathEngine(jitter=amount)
        solution, run = solve(engine, strategy, budget=Budget(**{limit: amount}))
        usage = solution.usage
        if limit == "policy_tokens":
            assert usage.policy_tokens <= amount
        elif limit == "calls":
            assert usage.calls == len(engine.generated) <= amount
        else:
            assert all(len(request.prefix) + request.max_tokens <= amount for request in engine.generated)
        assert solution.stopped_by in ("done", limit)
        assert not any(node.pending for node in run.tree.nodes)


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_resumes_after_a_kill_at_any_event(name: str, fields: dict[str, Any], tmp_path: Path) -> None:
    strategy = make_strategy(name, **fields, **LIMITED)
    whole = tmp_path / "whole.jsonl"
    solution, run = solve(PathEngine(jitter=1), strategy, journal=whole)
    lines = whole.read_bytes().splitlines(keepends=True)
    kinds = [event["type"] for event in read_journal(whole)]
    assert kinds[0] == "run"
    assert kinds[-1] == "end"
    for count in range(len(lines) + 1):
        torn = tmp_path / f"torn-{count}.jsonl"
        half = lines[count][: len(lines[count]) // 2] if count < len(lines) else b""
        torn.write_bytes(b"".join(lines[:count]) + half)
        engine = PathEngine(jitter=count)
        resumed, other = solve(engine, strategy, journal=torn)
        assert shape(other.tree) == shape(run.tree)
        assert (resumed.answer, resumed.text, resumed.candidates) == (
            solution.answer,
            solution.text,
            solution.candidates,
        )
        recorded = {json.loads(line)["id"] for line in lines[:count] if json.loads(line)["type"] == "node"}
        assert not recorded & {request.key for request in engine.generated}, "what was recorded is not generated again"
        told = [event for event in read_journal(torn) if event["type"] == "tell"]
        assert told == [event for event in read_journal(whole) if event["type"] == "tell"]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_is_interrupted_at_any_moment(name: str, fields: dict[str, Any]) -> None:
    strategy = make_strategy(name, **fields, **LIMITED)
    for moment in (1, 2, 5, 9):
        seen = 0

        def watch(run: Run, moment: int = moment) -> None:
            nonlocal seen
            seen += 1
            if seen == moment:
                run.interrupt()

        solution, run = solve(PathEngine(jitter=moment), strategy, on_change=watch)
        assert solution.stopped_by == ("interrupt" if seen >= moment and solution.stopped_by != "done" else "done")
        assert solution.usage.calls <= len(run.tree) - 1
        assert run.tree.finished() == [node for node in run.tree.nodes[1:] if node.finished and not node.aside]


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_it_is_pure(name: str, fields: dict[str, Any]) -> None:
    solve(PathEngine(jitter=2), Checked(make_strategy(name, **fields, **LIMITED)))


@pytest.mark.parametrize(("name", "fields"), CASES)
def test_a_narrow_room_gives_the_whole_search(name: str, fields: dict[str, Any]) -> None:
    strategy = make_strategy(name, **fields, **LIMITED)
    for room in (1, 3):
        solution, run = solve(PathEngine(jitter=room), strategy, max_in_flight=room)
        assert solution.answer is not None
        assert not any(node.pending for node in run.tree.nodes)
        if name == "beam":  # every level is as wide as the beam
            sizes = Counter(node.depth for node in run.tree.nodes[1:])
            assert set(sizes.values()) == {fields["width"]}


def test_usage_adds_up_over_sittings() -> None:
    one = Usage(policy_tokens=5, forwards=2, unique_kv_tokens_mean=10.0, unique_kv_tokens_peak=12, prompt_tokens=4)
    two = Usage(policy_tokens=7, forwards=6, unique_kv_tokens_mean=30.0, unique_kv_tokens_peak=11, prompt_tokens=4)
    both = one.plus(two)
    assert (both.policy_tokens, both.forwards, both.unique_kv_tokens_mean) == (12, 8, 25.0)
    assert (both.unique_kv_tokens_peak, both.prompt_tokens) == (12, 4)

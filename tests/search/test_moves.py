"""Moves that do not extend a text: rewriting, asides, turns; and embeddings and coins, from the driver's side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.driver import Run
from reason.search.journal import read_journal
from reason.search.measuring import packed, trajectories, vectors
from reason.search.tree import Action, Expand, Measure, Node, Room, Tree
from reason.search.voting import best_unfinished, vote
from reason.types import Answer, Budget, Engine, Message, Problem, Trajectory

MakeRun = Callable[..., Run]
Solve = Callable[..., Any]


@dataclass(frozen=True)
class Letters:
    """Embeds a step by its counts of a and b."""

    name: str = "letters"

    async def embed(self, given: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
        return [[1.0 + each.steps[-1].text.count("a"), 1.0 * each.steps[-1].text.count("b")] for each in given]


def say(text: str) -> tuple[Message, ...]:
    return (Message(role="user", content=text),)


@dataclass(frozen=True)
class Script:
    """Makes one expansion after another, each below the last."""

    moves: tuple[Expand, ...]
    measures: tuple[str, ...] = ()

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if any(node.pending for node in tree.nodes):
            return []
        if len(tree) <= len(self.moves):
            move = self.moves[len(tree) - 1]
            return [move] if room.expansions else []
        due = tuple(n.id for n in tree.nodes[1:] if not n.embeddings and (n.id, "letters") not in tree.measuring)
        return [Measure(nodes=due, name="letters")] if due and self.measures else []

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        tree.note(done[0], coin=tree.coins("tell", done[0]).random())

    def answer(self, tree: Tree) -> Answer:
        return vote(tree)


MOVES = (
    Expand(node=0, max_tokens=64),
    Expand(node=1, max_tokens=64, prompt=say("Is it right?"), keep=True, aside=True),
    Expand(node=2, max_tokens=64, prompt=say("Then write it anew."), keep=True),
    Expand(node=3, max_tokens=64, prompt=say("Something else."), sampling=Expand(node=0).sampling),
    Expand(node=4, max_tokens=64, prompt=" Wait,"),
)
TEXTS = {
    "Is it right?<assistant>": [r"No: \boxed{9}."],
    "anew.<assistant>": [r"so \boxed{2}"],
    "else.<assistant>": [r"aab \boxed{3}"],
    " Wait,": [r" no, \boxed{4}"],
    "<assistant>": [r"so \boxed{1}"],
}


def engine() -> ScriptedEngine:
    return ScriptedEngine(TEXTS)


def test_a_text_begins_where_a_move_speaks_anew(make_run: MakeRun, solve: Solve) -> None:
    watched: list[Tree] = []
    solution = solve(engine(), Script(MOVES), on_change=lambda run: watched.append(run.tree))
    tree, codec = watched[-1], engine().codec
    assert [tree.text(node.id) for node in tree.nodes[1:]] == [
        r"so \boxed{1}",
        r"No: \boxed{9}.",
        r"so \boxed{2}",
        r"aab \boxed{3}",
        r"aab \boxed{3} Wait, no, \boxed{4}",
    ]
    assert [node.begins for node in tree.nodes[1:]] == [False, True, True, True, False]
    for node in tree.nodes[1:]:
        assert codec.decode(node.context[node.prompt_tokens :]) == tree.text(node.id)
    for earlier, later in ((1, 2), (2, 3)):  # kept: the KV of what was said before is of use
        assert tree[later].context[: len(tree[earlier].context)] == tree[earlier].context
    assert "so" not in codec.decode(tree[4].context)
    assert tree[4].path_tokens == tree[4].num_tokens
    assert tree[5].path_tokens == tree[4].num_tokens + tree[5].num_tokens
    # an aside is no candidate, a text that was gone on with counts once
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "4"]
    assert tree[2].answer is None


def test_verifiers_see_the_text_and_its_own_prompt(make_run: MakeRun, solve: Solve) -> None:
    watched: list[Tree] = []
    solve(engine(), Script(MOVES), on_change=lambda run: watched.append(run.tree))
    tree, codec = watched[-1], engine().codec
    for node in tree.nodes[1:]:
        (found,) = trajectories(tree, codec, node.id, by_step=False)
        assert found.path == node.context
        assert found.text == tree.text(node.id)
    (last,) = trajectories(tree, codec, 5, by_step=False)
    assert [step.text for step in last.steps] == [r"aab \boxed{3}", r" Wait, no, \boxed{4}"]


@pytest.mark.parametrize("limit", ["policy_tokens", "kv_tokens"])
def test_budgets_count_what_a_context_really_holds(make_run: MakeRun, solve: Solve, limit: str) -> None:
    for amount in range(20, 400, 12):
        done = solve(engine(), Script(MOVES), budget=Budget(**{limit: amount}))
        used = done.usage.policy_tokens if limit == "policy_tokens" else done.usage.unique_kv_tokens_peak
        assert used <= amount


def test_asides_are_not_gone_on_with() -> None:
    tree = Tree(Problem(content="?"))
    tree.add(Node(id=0, parent=None, finish_reason="step"))
    tree.add(Node(id=1, parent=0, text="long critique", finish_reason="length", aside=True, begins=True, path_tokens=9))
    assert best_unfinished(tree) is None
    assert vote(tree).text == ""
    tree.add(Node(id=2, parent=0, text="half", finish_reason="length", path_tokens=2))
    best = best_unfinished(tree)
    assert best is not None
    assert best.id == 2
    assert vote(tree).text == "half"


def test_embeddings_are_recorded_and_replayed(make_run: MakeRun, solve: Solve, tmp_path: Path) -> None:
    strategy = Script(MOVES, measures=("letters",))
    whole = tmp_path / "whole.jsonl"
    watched: list[Tree] = []

    def run(file: Path, embedder: Any) -> Tree:
        solve(
            engine(),
            strategy,
            verifiers={"letters": embedder},
            journal=file,
            on_change=lambda run: watched.append(run.tree),
        )
        return watched[-1]

    first = run(whole, Letters())
    found = vectors(first, [1, 4], "letters")
    assert found.shape == (2, 2)
    assert np.allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)
    assert np.allclose(found[1], np.array([3.0, 2.0]) / np.sqrt(13.0), atol=1e-3)

    class Broken(Letters):
        async def embed(self, given: Sequence[Trajectory], engine: Engine, owner: str) -> Sequence[Sequence[float]]:
            raise AssertionError("what is recorded is not computed again")

    lines = whole.read_bytes().splitlines(keepends=True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(lines[:-2]))  # the end, and the strategy's being told
    again = run(cut, Broken())
    assert [node.embeddings for node in again.nodes] == [node.embeddings for node in first.nodes]
    assert [node.notes for node in again.nodes] == [node.notes for node in first.nodes]


def test_the_journal_says_what_a_text_is(solve: Solve, tmp_path: Path) -> None:
    solve(engine(), Script(MOVES), journal=tmp_path / "trace.jsonl")
    nodes = {event["id"]: event for event in read_journal(tmp_path / "trace.jsonl") if event["type"] == "node"}
    assert {number for number, event in nodes.items() if event.get("begins")} == {2, 3, 4}
    assert {number for number, event in nodes.items() if event.get("aside")} == {2}
    assert [event.get("prompt") for event in nodes.values()] == [None, None, None, None, " Wait,"]


def test_what_is_no_embedding_is_refused() -> None:
    for wrong in ([[1.0]], [[1.0], [float("nan")]], [1.0, 2.0]):
        with pytest.raises(UsageError, match="letters"):
            packed(Letters(), wrong, 2)  # type: ignore[arg-type]
    assert packed(Letters(), [[0.0, 0.0], [0.0, 5.0]], 2) == [b"\0\0\0\0", b"\0\0\0<"]


def test_coins_depend_on_seed_and_purpose_alone() -> None:
    def toss(seed: int, *event: int | str) -> float:
        return Tree(Problem(content="?"), seed=seed).coins(*event).random()

    assert toss(1, "a", 2) == toss(1, "a", 2)
    assert len({toss(1, "a", 2), toss(2, "a", 2), toss(1, "b", 2), toss(1, "a", 3), toss(1, "a2"), toss(12, "a")}) == 6


def test_the_run_knows_how_long_the_strategy_thought(make_run: MakeRun, solve: Solve) -> None:
    solution = solve(engine(), Script(MOVES))
    assert 0.0 < solution.usage.solver_seconds < solution.usage.seconds

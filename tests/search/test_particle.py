"""Particle filtering and particle Gibbs on hand-made trees, with coins that fall as the test says."""

from __future__ import annotations

import asyncio
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, UsageError
from reason.search.strategies.particle import ParticleFilter
from reason.search.tree import ROOT, Tree
from reason.types import Budget, Engine, Problem, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

Plan = Mapping[str, Sequence[str]]
Play = Callable[..., Any]


def written(step: str) -> str:
    """A plan's "a .5" is a step, its "=3 .5" a solution's end; the number is the score."""
    if not step.startswith("="):
        return f"{step}\n\n"
    answer, score = step[1:].split()
    return f"no idea {score}" if answer == "none" else f"\\boxed{{{answer}}} {score}"


def planned(plan: Plan) -> Callable[[str], list[str]]:
    """Plays a tree: the steps below a path (its steps' first letters) in the order in which they are asked for. A step
    that begins with "!" fails."""
    asked: Counter[str] = Counter()

    def script(prefix: str) -> list[str]:
        steps = prefix.rpartition("<assistant>")[2].split("\n\n")[:-1]
        path = "".join(step[0] for step in steps)
        asked[path] += 1
        step = plan[path][asked[path] - 1]
        if step.startswith("!"):
            raise RuntimeError("this one fails")
        return [written(step)]

    return script


@dataclass(frozen=True)
class LastNumber:
    """Scores a step by the number it ends with."""

    name: str = "self-certainty"
    statistics: bool = False
    top_logprobs: int | None = None
    probability: bool = True

    async def score(self, trajectories: Sequence[Trajectory], engine: Engine, owner: str) -> list[float]:
        return [float(trajectory.steps[-1].text.split()[-1]) for trajectory in trajectories]


class Given(random.Random):
    """Coins that all fall alike."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self._value = value

    def random(self) -> float:
        return self._value


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return found and found[1]


BOXED = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)
NO_LIMITS = Budget()


@pytest.fixture
def play(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> Play:
    """A run over a planned tree; ``coins`` by event, else a half each."""

    def whole(
        plan: Plan,
        *,
        coins: Mapping[tuple[str | int, ...], float] | None = None,
        max_in_flight: int = 64,
        budget: Budget = NO_LIMITS,
        **fields: Any,
    ) -> Any:
        thrown = coins or {}
        monkeypatch.setattr(Tree, "coins", lambda tree, *event: Given(thrown.get(event, 0.5)))
        strategy = ParticleFilter(**{"resampling": "systematic", **fields})
        verifiers = {strategy.verifier: LastNumber(name=strategy.verifier)}
        engine = ScriptedEngine(planned(plan))
        run = make_run(engine, strategy, verifiers=verifiers, max_in_flight=max_in_flight, problem=BOXED, budget=budget)
        return asyncio.run(asyncio.wait_for(run.solve(), 10)), run.tree

    return whole


def notes(tree: Tree, name: str) -> dict[str, Any]:
    """Which paths have a note, and its value."""
    named = {node.id: "".join(step.text[:1] for step in tree.path(node.id)) for node in tree.nodes}
    return {named[node.id]: node.notes[name] for node in tree.nodes if name in node.notes}


def level(tree: Tree, depth: int) -> list[str]:
    return [node.text.strip() for node in tree.nodes if node.depth == depth]


# -- one iteration -------------------------------------------------------------------------------------------------

# Odds 1/4, 4, 1, 1 of 6.25: shares .04 .64 .16 .16, which end at .04 .68 .84 1. Systematic draws at u = .5 are .125,
# .375, .625 and .875: b, b, b and d.
FIRST = ["a .2", "b .8", "c .5", "d .5"]


def test_copies_are_drawn_in_proportion_to_the_odds(play: Play) -> None:
    plan = {"": FIRST, "b": ["=1 .5", "=2 .75", "=1 .5"], "d": ["=3 .8"]}
    solution, tree = play(plan, num_particles=4)
    assert notes(tree, "kept") == {"b": 3, "d": 1}
    assert notes(tree, "pruned") == {"a": True, "c": True}
    assert notes(tree, "log_weight")["b"] == pytest.approx(math.log(4))
    assert notes(tree, "score")["b"] == pytest.approx(0.64)
    assert [tree[node.parent or 0].text[:1] for node in tree.nodes if node.depth == 2] == ["b", "b", "b", "d"]
    # all stopped: nothing more is drawn; odds 1, 3, 1, 4
    assert [candidate.score for candidate in solution.candidates] == pytest.approx([1 / 9, 3 / 9, 1 / 9, 4 / 9])
    assert (solution.answer, solution.stopped_by, len(tree)) == ("3", "done", 9)


@pytest.mark.parametrize(
    ("select", "answer", "confidence"),  # odds 1 + 1, 1.5 and 1.5; 2's share is .3 of the weight
    [("best", "2", 1 / 4), ("weighted", "1", 2 / 5), ("majority", "1", 1 / 2)],
)
def test_answers(play: Play, select: str, answer: str, confidence: float) -> None:
    plan = {"": ["=1 .5", "=2 .6", "=1 .5", "=3 .6"]}
    solution, _ = play(plan, num_particles=4, select=select)
    assert solution.answer == answer
    assert solution.confidence == pytest.approx(confidence)


# Odds 9 1 1 1 of 12: shares that end at .75 .8333 .9167 1.
SECOND = {"": ["=1 .9", "b .5", "c .5", "d .5"]}


def test_what_stopped_may_be_copied_and_its_copies_vote(play: Play) -> None:
    solution, tree = play({**SECOND, "c": ["=2 .5"]}, num_particles=4, select="majority")
    assert notes(tree, "kept") == {"\\": 3, "c": 1}  # of the draws at .125 .375 .625 .875
    assert (solution.answer, solution.confidence) == ("1", 3 / 4)


def test_what_stopped_takes_part_again_with_its_last_score(play: Play) -> None:
    plan = {**SECOND, "c": ["e .5"], "ce": ["=2 .5"]}
    # The second draw: odds 9 9 9 1 of 28. At u = .9 the draws are .225 .475 .725 .975, so e is kept.
    solution, tree = play(plan, num_particles=4, select="majority", coins={("resample", 1): 0.9})
    assert notes(tree, "kept") == {"\\": 3, "c": 1, "ce": 1}
    assert (solution.answer, solution.confidence) == ("1", 3 / 4)
    # At u = .1 it is lost: four copies of a solution, and nobody left to take a step.
    solution, tree = play(plan, num_particles=4, select="majority", coins={("resample", 1): 0.1})
    assert notes(tree, "kept") == {"\\": 4, "c": 1}
    assert notes(tree, "pruned") == {"b": True, "d": True, "ce": True}
    assert (solution.answer, solution.confidence) == ("1", 1.0)


def test_what_stopped_may_be_lost(play: Play) -> None:
    plan = {"": ["=1 .2", "b .8"], "b": ["=2 .6", "=2 .5"]}
    solution, tree = play(plan, num_particles=2, select="majority")  # shares 1/17 and 16/17
    assert notes(tree, "pruned") == {"\\": True}
    assert (solution.answer, solution.confidence) == ("2", 1.0)


def test_what_stopped_stands_aside_if_it_shall(play: Play) -> None:
    plan = {**SECOND, "b": ["e .5"], "c": ["f .5"], "d": ["=2 .6"], "be": ["=3 .4"], "cf": ["=3 .4"]}
    solution, tree = play(plan, num_particles=4, resample_inactive=False, select="best")
    assert notes(tree, "kept") == {"\\": 1, "b": 1, "c": 1, "d": 1, "be": 1, "cf": 1, "d\\": 1}
    assert "pruned" not in [note for node in tree.nodes for note in node.notes]
    assert notes(tree, "log_weight")["\\"] == pytest.approx(math.log(9))
    assert solution.answer == "1"


def test_weights_add_up_until_the_sample_size_is_small(play: Play) -> None:
    """Odds 1 and 3: 1.6 particles of 2; then 3 and 1, so that both weigh 3; then 2/3 and 4: 1.3 of 2."""
    plan = {"": ["a .5", "b .75"], "a": ["c .75"], "b": ["d .5"], "ac": ["e .4"], "bd": ["f .8"], "bdf": ["=1 .5"] * 2}
    solution, tree = play(plan, num_particles=2, resample_when="ess", ess_threshold=0.7)
    weights = {path: math.exp(value) for path, value in notes(tree, "log_weight").items()}
    assert weights == pytest.approx({"a": 1, "b": 3, "ac": 3, "bd": 3, "ace": 2, "bdf": 12, "bdf\\": 1}, rel=1e-6)
    assert notes(tree, "kept") == {"a": 1, "b": 1, "ac": 1, "bd": 1, "bdf": 2}
    assert solution.answer == "1"
    _, tree = play(
        {**plan, "ace": ["=1 .5"], "bdf": ["=1 .5"]}, num_particles=2, resample_when="ess", ess_threshold=0.6
    )
    assert notes(tree, "kept")["ace"] == 1  # 196 / 148 = 1.32 of 2 are enough for .6, not for .7


def test_a_stopped_particle_adds_its_last_weight_while_nothing_is_drawn(play: Play) -> None:
    plan = {"": ["=1 .6", "b .6"], "b": ["=2 .6"]}
    _, tree = play(plan, num_particles=2, resample_when="ess")
    assert notes(tree, "log_weight")["\\"] == pytest.approx(2 * math.log(1.5))
    assert notes(tree, "score") == pytest.approx({"\\": 0.5, "b": 0.5, "b\\": 0.5})


def test_scores_that_are_no_probabilities_are_standardised(play: Play) -> None:
    plan = {"": ["=1 10", "=2 12", "=3 14"]}
    solution, tree = play(plan, num_particles=3, weight_temperature=0.5)
    step = math.sqrt(1.5) / 0.5
    assert [node.notes["log_weight"] for node in tree.nodes[1:]] == pytest.approx([-step, 0.0, step])
    assert solution.answer == "3"
    with pytest.raises(UsageError, match="gave a score outside \\[0, 1\\]"):
        play(plan, num_particles=3, weighting="logit")
    _, tree = play({"": ["=1 .2", "=2 .4"]}, num_particles=2, weighting="standardised")
    assert [node.notes["log_weight"] for node in tree.nodes[1:]] == pytest.approx([-1.0, 1.0])


def test_the_temperature_of_weights_is_annealed() -> None:
    strategy = ParticleFilter(weight_temperature=4.0, anneal_temperature=1.0, anneal_steps=4)
    assert [strategy._temperature(step) for step in range(6)] == [4.0, 3.0, 2.0, 1.0, 1.0, 1.0]
    assert ParticleFilter(weight_temperature=4.0, anneal_steps=1)._temperature(0) == 1.0
    assert ParticleFilter(weight_temperature=4.0)._temperature(3) == 4.0


def test_the_first_step_has_the_first_temperature(play: Play) -> None:
    plan = {"": ["a .8", "b .8"], "a": ["=1 .8"], "b": ["=2 .8"]}
    _, tree = play(plan, num_particles=2, weight_temperature=4.0, anneal_temperature=2.0, anneal_steps=2)
    weights = notes(tree, "log_weight")
    assert (weights["a"], weights["a\\"]) == pytest.approx((math.log(4) / 4, math.log(4) / 2))


# -- failures, rooms, budgets, fields ------------------------------------------------------------------------------


def test_those_that_failed_or_gave_no_answer_are_replaced(play: Play) -> None:
    plan = {"": ["!", "b .5", "=none .99", "d .5"], "b": ["=1 .5"] * 2, "d": ["=2 .9"] * 2}
    solution, tree = play(plan, num_particles=4)
    assert notes(tree, "kept") == {"b": 2, "d": 2}
    assert "log_weight" not in tree[3].notes
    assert solution.answer == "2"


def test_when_all_fail_what_stopped_before_answers(play: Play) -> None:
    plan = {"": ["=1 .5", "b .5"], "b": ["!"]}
    solution, tree = play(plan, num_particles=2)
    assert (solution.answer, solution.stopped_by, len(tree)) == ("1", "done", 4)
    with pytest.raises(EngineError, match="every expansion failed"):
        play({"": ["!", "!"]}, num_particles=2)


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_room_smaller_than_the_particles(play: Play, room: int) -> None:
    plan = {"": FIRST, "b": ["e .5", "f .5", "=1 .5"], "d": ["g .5"]}
    plan |= {path: ["=1 .5"] for path in ("be", "bf", "dg")}
    _, tree = play(plan, num_particles=4, max_in_flight=room)
    assert [len(level(tree, depth)) for depth in (1, 2, 3)] == [4, 4, 3]
    assert notes(tree, "kept") == {"b": 3, "d": 1, "be": 1, "bf": 1, "b\\": 1, "dg": 1}


def test_one_particle_is_one_sample(play: Play) -> None:
    solution, tree = play({"": ["a .1"], "a": ["=1 .1"]}, num_particles=1)
    assert (solution.answer, solution.confidence, len(tree)) == ("1", 1.0, 3)


def test_what_a_budget_left_unweighed_is_weighed_for_the_answer(play: Play) -> None:
    plan = {"": ["=1 .2", "=2 .9", "c .5", "d .5"]}
    solution, _ = play(plan, num_particles=4, budget=Budget(calls=3))
    assert (solution.answer, solution.stopped_by) == ("2", "calls")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_particles": 0}, "num_particles must be at least 1, got 0"),
        ({"num_iterations": 0}, "num_iterations must be at least 1, got 0"),
        ({"num_particles": 1, "num_iterations": 2}, "num_particles must be at least 2"),
        ({"ess_threshold": 0.0}, r"ess_threshold must be in \(0, 1\], got 0.0"),
        ({"weight_temperature": 0.0}, "weight_temperature must be more than 0, got 0.0"),
        ({"anneal_temperature": -1.0}, "anneal_temperature must be more than 0, got -1.0"),
        ({"anneal_steps": -1}, "anneal_steps must be at least 0, got -1"),
        ({"resampling": "dice"}, "resampling must be one of multinomial, stratified, systematic, residual, got 'dice'"),
        ({"verifier": "agreement"}, "agreement compares finished solutions"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ParticleFilter(**fields)


# -- particle Gibbs ------------------------------------------------------------------------------------------------


def test_a_reference_survives_every_draw(play: Play) -> None:
    """Two particles. In the first iteration both copy b, whose solutions have odds 1 and 3. Its second is the reference
    and weighs what b does in the next iteration's first draw: odds 4 against 16 of the new c, which is copied."""
    plan = {
        "": ["a .2", "b .8", "c .941176470588"],
        "b": ["=1 .5", "=2 .75"],
        "c": ["=3 .6"],
    }
    solution, tree = play(plan, num_particles=2, num_iterations=2, coins={("reference", 1): 0.9})
    assert tree[ROOT].notes["reference"] == 4
    assert tree[4].answer == "2"
    assert notes(tree, "kept") == {"b": 2, "c": 1}
    # b weighs 4 of 20 as the reference's step; its answer, later, 3 of 4.5, the first iteration's other one counted too
    assert notes(tree, "log_weight")["b"] == pytest.approx(math.log(4))
    assert [node.answer for node in tree.finished()] == ["1", "2", "3"]
    scores = {node.answer: node.notes["score"] for node in tree.finished()}
    assert scores == pytest.approx({"1": 1 / 5.5, "2": 3 / 5.5, "3": 1.5 / 5.5})
    assert tree[ROOT].notes["samples"] == [[3, 1], [4, 1], [6, 1], [4, 1]]
    assert notes(tree, "pruned") == {"a": True}  # the reference's step was not drawn, and is not lost
    assert (solution.answer, solution.confidence) == ("2", 2 / 4)


def test_copies_of_the_reference_go_on_by_themselves(play: Play) -> None:
    plan = {"": ["a .2", "b .8", "c .2"], "b": ["=1 .5", "=2 .75", "=3 .5"]}
    _, tree = play(plan, num_particles=2, num_iterations=2, coins={("reference", 1): 0.9})
    assert notes(tree, "kept") == {"b": 1}  # in the second iteration: drawn from the reference, instead of c
    assert notes(tree, "pruned") == {"a": True, "c": True}
    assert [node.answer for node in tree.children(2)] == ["1", "2", "3"]
    assert tree[ROOT].notes["samples"] == [[3, 1], [4, 1], [6, 1], [4, 1]]


def test_an_iteration_ends_when_all_draws_are_of_what_stopped(play: Play) -> None:
    plan = {"": ["=1 .9", "b .5", "=2 .5"]}  # shares .9 and .1, of which the draws at .25 and .75 leave nothing to b
    solution, tree = play(plan, num_particles=2, num_iterations=2)
    assert tree[ROOT].notes["samples"] == [[1, 2], [3, 1], [1, 1]]
    assert tree[ROOT].notes["iteration"] == 2
    assert notes(tree, "kept") == {"\\": 2}
    assert (solution.answer, solution.confidence, solution.stopped_by) == ("1", 3 / 4, "done")


def test_a_reference_that_is_longer_than_all_others_stays_whole(play: Play) -> None:
    plan = {"": ["a .2", "b .8", "=3 .2"], "b": ["=1 .5", "=2 .75"]}
    _, tree = play(plan, num_particles=2, num_iterations=2, coins={("reference", 1): 0.9})
    assert tree[4].answer == "2"
    assert tree[ROOT].notes["samples"] == [[3, 1], [4, 1], [5, 1], [4, 1]]


def test_an_iteration_that_failed_leaves_no_reference(play: Play) -> None:
    plan = {"": ["!", "!", "=1 .5", "=2 .6"]}
    solution, tree = play(plan, num_particles=2, num_iterations=2)
    assert len(tree) == 5
    assert "reference" not in tree[ROOT].notes
    assert solution.answer == "2"

"""Tree of Thoughts on planned engines: what is asked, valued, kept and answered; and on recorded searches."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reason.engine.scripted import ByteCodec, ScriptedEngine
from reason.errors import UsageError
from reason.search.strategies.tot import TreeOfThoughts
from reason.search.tree import ROOT, Node, Tree
from reason.tasks.game24 import SameExpression, extract_expression
from reason.tasks.thoughts import VALUES, thought_prompts
from reason.types import Budget, Problem, Trajectory

if TYPE_CHECKING:
    from tests.search.conftest import MakeRun

Plan = Mapping[str, Sequence[str]]
Play = Callable[..., Any]  # a solution and its tree

NO_LIMITS = Budget()
ABC = {
    "": ["a", "b", "c"],  # proposals, by the thoughts before them
    "a?": ["likely", "likely"],  # verdicts
    "b?": ["sure", "impossible"],
    "c?": ["impossible", "impossible"],
    "b": ["d", "e"],
    "a": ["f"],
    "bd?": ["likely", "impossible"],
    "be?": ["Is it? sure", "It is not likely, it is\nsure."],
    "af?": ["sure", "likely"],
    "be!": ["1"],  # solutions
    "af!": ["2"],
    "1?": ["likely", "likely"],
    "2?": ["sure", "likely"],
}


def boxed(text: str) -> str | None:
    found = re.search(r"boxed\{(.*)\}", text)
    return (found and found[1]) or None


PROBLEM = Problem(content="What?", extract=boxed, equivalent=lambda a, b: a == b)


def planned(plan: Plan) -> Callable[[str], list[str]]:
    """Says what a plan has for the thoughts that the prompt shows, one after another; fails on "error"."""
    asked: Counter[str] = Counter()

    def script(prefix: str) -> list[str]:
        thoughts = "".join(re.findall(r"^\d\. (.+)$", prefix, re.MULTILINE))
        if solution := re.search(r"A solution:\n.*boxed\{(.*)\}", prefix):
            key = f"{solution[1]}?"
        elif "Can these steps" in prefix:
            key = f"{thoughts}?"
        else:
            key = thoughts if "different steps" in prefix or "the step that comes next" in prefix else f"{thoughts}!"
        asked[key] += 1
        lines = plan[key]
        if key[-1:] == "!" or key[-1:] == "?" or "different steps" not in prefix:
            lines = [lines[asked[key] - 1]]
        if "error" in lines:
            raise RuntimeError("planned")
        return [f"so \\boxed{{{lines[0]}}}" if key[-1:] == "!" else "\n".join(lines)]

    return script


@pytest.fixture
def play(make_run: MakeRun) -> Play:
    """A search with general prompts over a plan."""

    def whole(plan: Plan, *, budget: Budget = NO_LIMITS, max_in_flight: int = 64, **fields: Any) -> Any:
        verifiers = fields.pop("verifiers", {})
        strategy = TreeOfThoughts(**{"steps": 3, "keep": 2, "num_values": 2, "num_proposals": 3, **fields})
        run = make_run(
            ScriptedEngine(planned(plan)),
            strategy,
            problem=PROBLEM,
            budget=budget,
            max_in_flight=max_in_flight,
            verifiers=verifiers,
        )
        return asyncio.run(asyncio.wait_for(run.solve(), 10)), run.tree

    return whole


def proposals(tree: Tree) -> dict[str, dict[str, Any]]:
    """The notes of proposals by the thoughts before them, in tree order."""
    return {"".join(node.notes["thoughts"]): node.notes for node in tree.nodes if "proposals" in node.notes}


def test_the_best_thoughts_of_a_level_are_gone_on_from(play: Play) -> None:
    solution, tree = play(ABC)
    found = proposals(tree)
    assert list(found) == ["", "b", "a"]  # the better thought's first
    assert found[""]["values"] == [2.0, 20.001, 0.002]
    assert (found[""]["chosen"], found["b"]["chosen"], found["a"]["chosen"]) == ([1, 0], [1], [0])
    assert (found["b"]["values"], found["a"]["values"]) == ([1.001, 40.0], [21.0])
    assert [(c.answer, c.score) for c in solution.candidates] == [("1", 2.0), ("2", 21.0)]
    assert (solution.answer, solution.confidence) == ("2", 0.5)
    assert solution.usage.calls == 1 + 3 * 2 + 2 + 3 * 2 + 2 + 2 * 2 == len(tree) - 1


def test_the_tree_shows_what_was_written_for_what(play: Play) -> None:
    _, tree = play(ABC)
    root, *_ = tree.children(ROOT)
    below = tree.children(root.id)
    assert [node.notes.get("score") for node in below] == [1.0, 1.0, 20.0, 0.001, 0.001, 0.001, 40.0, 21.0]
    assert [node.notes.get("proposals") for node in below[6:]] == [["d", "e"], ["f"]]
    assert (root.notes["score"], root.notes["kept"]) == (20.001, 2)
    assert {node.aside for node in tree.nodes if node not in tree.finished()} == {True, False}  # False: the root
    assert all(len(tree.children(node.id)) == 2 for node in tree.finished())
    assert not any(node.notes.get("pruned") for node in tree.nodes)


def test_a_proposal_of_which_nothing_is_kept_is_pruned(play: Play) -> None:
    plan = {**ABC, "af?": ["impossible", "impossible"], "bd!": ["3"], "3?": ["impossible", "no idea"]}
    solution, tree = play(plan)
    assert proposals(tree)["a"]["pruned"] is True
    assert [(c.answer, c.score) for c in solution.candidates] == [("1", 2.0), ("3", 0.001)]


def test_ties_go_to_the_first(play: Play) -> None:
    plan = {"": ["a", "b", "c"], **{f"{x}?": ["likely"] for x in "abc"}, "a!": ["1"], "b!": ["2"]}
    plan |= {"1?": ["sure"], "2?": ["sure"]}
    solution, tree = play(plan, steps=2, num_values=1)
    assert proposals(tree)[""]["chosen"] == [0, 1]
    assert solution.answer == "1"


def test_a_repeated_thought_is_worth_nothing_and_not_asked_about(play: Play) -> None:
    plan = {"": ["a", "a", "b"], "a?": ["impossible"], "b?": ["nothing"], "a!": ["1"], "b!": ["2"]}
    plan |= {"1?": ["likely"], "2?": ["sure"]}
    solution, tree = play(plan, steps=2, num_values=1, keep=3)
    assert proposals(tree)[""]["values"] == [0.001, 0.0, 0.0]
    assert proposals(tree)[""]["chosen"] == [0, 2]
    assert (solution.answer, solution.usage.calls) == ("2", 1 + 2 + 2 + 2)


def test_depth_first_the_best_thought_goes_first(play: Play) -> None:
    solution, tree = play(ABC, search="dfs", keep=1)
    assert list(proposals(tree)) == ["", "b"]
    assert [candidate.answer for candidate in solution.candidates] == ["1"]
    solution, tree = play({**ABC, "bd!": ["3"], "3?": ["sure", "sure"]}, search="dfs", keep=3)
    assert list(proposals(tree)) == ["", "b", "a"]
    assert proposals(tree)[""]["chosen"] == [1, 0]  # c is below the threshold
    assert [(c.answer, c.score) for c in solution.candidates] == [("1", 2.0), ("3", 40.0), ("2", 21.0)]
    assert solution.answer == "3"


def test_depth_first_steps_back_where_nothing_is_good_enough(play: Play) -> None:
    solution, tree = play(ABC, search="dfs", keep=1, threshold=40.5)
    assert list(proposals(tree)) == [""]
    assert solution.answer is None
    solution, tree = play({**ABC, "be?": ["nothing", "nothing"], "bd?": ["no", "no"]}, search="dfs", keep=1)
    assert list(proposals(tree)) == ["", "b", "a"]
    assert proposals(tree)["b"]["pruned"] is True
    assert solution.answer == "2"


@pytest.mark.parametrize("said", ["error", ""])
def test_depth_first_solutions_without_an_answer_are_none(play: Play, said: str) -> None:
    solution, _ = play({**ABC, "be!": [said], "bd!": ["3"], "3?": ["sure", "sure"]}, search="dfs", keep=1)
    assert solution.answer == "3"


def test_thoughts_may_be_sampled_one_by_one(play: Play) -> None:
    plan = {**ABC, "b": ["d", "d", "e"], "a": ["f", "f", "f"], "be!": ["1"]}
    solution, tree = play(plan, generate="sample")
    assert [len(node.notes["proposals"]) for node in tree.nodes if "proposals" in node.notes] == [1] * 9
    values = {
        (*n.notes["thoughts"], *n.notes["proposals"]): n.notes["values"] for n in tree.nodes if "values" in n.notes
    }
    assert values[("b", "e")] == [40.0]
    assert values[("a", "f")] == [0.0]  # the last of three
    assert [(c.answer, c.score) for c in solution.candidates] == [("1", 2.0), ("2", 21.0)]
    assert solution.usage.calls == 3 + 3 * 2 + 6 + 3 * 2 + 2 + 2 * 2


class Alphabet:
    """Scores a text by its last letter or digit."""

    name = "alphabet"
    statistics = False
    top_logprobs = None
    probability = False

    async def score(self, trajectories: Sequence[Trajectory], engine: Any, owner: str) -> list[float]:
        return [float(ord(re.findall(r"\w", trajectory.text)[-1]) - ord("z")) for trajectory in trajectories]


def test_another_verifier_may_score_sampled_thoughts(play: Play) -> None:
    plan = {"": ["a", "c", "b"], "c": ["d", "e", "f"], "b": ["d", "d", "g"], "bg!": ["1"], "cf!": ["2"]}
    solution, tree = play(plan, generate="sample", verifier="alphabet", verifiers={"alphabet": Alphabet()})
    assert [(c.answer, c.score) for c in solution.candidates] == [("1", ord("1") - 122), ("2", ord("2") - 122)]
    assert solution.answer == "2"
    assert solution.usage.calls == 3 + 6 + 2 == len(tree) - 1


def test_where_nothing_is_proposed_the_solution_is_written(play: Play) -> None:
    solution, _ = play({"": [], "!": ["1"], "1?": ["sure", "sure"]})
    assert (solution.answer, solution.confidence) == ("1", 1.0)
    plan = {**ABC, "b": [], "a": ["error"], "b!": ["4"], "a!": ["5"], "4?": ["likely"] * 2, "5?": ["sure"] * 2}
    solution, _ = play(plan)
    assert [(c.answer, c.score) for c in solution.candidates] == [("4", 2.0), ("5", 40.0)]


def test_one_step_is_the_solution(play: Play) -> None:
    solution, tree = play({"!": ["1"], "1?": ["sure", "sure"]}, steps=1)
    assert (solution.answer, len(tree)) == ("1", 4)


def test_what_fails_counts_nothing(play: Play) -> None:
    plan = {**ABC, "b?": ["error", "error"], "c?": ["likely", "error"], "c": ["error"], "be!": ["error"]}
    solution, tree = play(plan)
    assert proposals(tree)[""]["values"] == [2.0, 0.0, 1.0]
    assert proposals(tree)[""]["chosen"] == [0, 2]
    assert [candidate.answer for candidate in solution.candidates] == ["2"]
    solution, _ = play({**ABC, "af!": ["error"]})
    assert (solution.answer, solution.candidates[0].score) == ("1", 2.0)


def test_half_a_thought_is_none(play: Play) -> None:
    _, tree = play({**ABC, "": ["a", "b", "cut off"]}, max_proposal_tokens=8)
    assert proposals(tree)[""]["proposals"] == ["a", "b"]


def test_everything_is_about_its_own_thought_whatever_a_budget_refuses(make_run: MakeRun) -> None:
    """Below one proposal longer and shorter prompts are asked, and a budget may have room for the shorter only."""
    thoughts = ["one " * 30 + "end", "two", "three " * 20 + "end", "four"]

    def script(prefix: str) -> list[str]:
        if "different steps" in prefix:
            return ["\n".join(thoughts) if "so far: none" in prefix else ""]
        return ["likely"] if "Can these steps" in prefix else [r"\boxed{1}"]

    def prompt(node: Node) -> str:
        return ByteCodec().decode(node.context[: node.prompt_tokens])

    refused = 0
    for kv in range(1000, 4000, 50):
        strategy = TreeOfThoughts(steps=3, keep=4, num_values=3, max_proposal_tokens=300, max_value_tokens=100)
        run = make_run(ScriptedEngine(script), strategy, problem=PROBLEM, budget=Budget(kv_tokens=kv))
        asyncio.run(asyncio.wait_for(run.solve(), 10))
        refused += len(run.tree) < 1 + 1 + 12 + 4 + 4 + 12
        for node in run.tree.nodes:
            assert all(f". {thought}\n" in prompt(node) for thought in node.notes.get("thoughts", ()))
        for place, answer in enumerate(run.tree.children(1)[:12] if len(run.tree) > 1 else ()):
            assert f"1. {run.tree[1].notes['proposals'][place // 3]}\n" in prompt(answer)
    assert 0 < refused < 60


@pytest.mark.parametrize("limit", ["calls", "policy_tokens"])
def test_a_limit_ends_it_with_what_there_is(play: Play, limit: str) -> None:
    for amount in (1, 3, 8, 12, 17, 20):
        solution, tree = play(ABC, budget=Budget(**{limit: amount}))
        assert solution.stopped_by == limit
        assert not any(node.pending for node in tree.nodes)
        assert solution.answer in ({candidate.answer for candidate in solution.candidates} or {None})
    solution, _ = play({**ABC, "1?": ["sure", "sure"]}, budget=Budget(calls=20), max_in_flight=1)
    assert [(c.answer, c.score) for c in solution.candidates] == [("1", 40.0), ("2", None)]
    assert (solution.answer, solution.confidence) == ("1", 1.0)


def test_a_narrow_room_changes_nothing_but_the_order(play: Play) -> None:
    wide, _ = play(ABC)
    for room in (1, 2, 5):
        narrow, tree = play(ABC, max_in_flight=room)
        assert narrow.candidates == wide.candidates
        assert proposals(tree)[""]["values"] == [2.0, 20.001, 0.002]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"num_values": 0}, "num_values must be at least 1"),
        ({"num_proposals": 0}, "num_proposals must be at least 1"),
        ({"max_proposal_tokens": 0}, "max_proposal_tokens must be at least 1"),
        ({"search": "a-star"}, "search must be one of bfs, dfs, got 'a-star'"),
        ({"prompts": "chess"}, "prompts must be one of auto, general, game24"),
        ({"verifier": "judge"}, "use generate=sample or value-prompt"),
        ({"verifier": "agreement", "generate": "sample"}, "agreement compares finished solutions"),
        ({"verifier": "value-prompt:num_values=5"}, "give value-prompt no settings here"),
    ],
)
def test_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TreeOfThoughts(**fields)


# --- the game of 24 -------------------------------------------------------------------------------------------------


def puzzle(*numbers: int) -> Problem:
    content = f"Make 24 from the numbers {', '.join(map(str, numbers))}."
    return Problem(content=content, extract=extract_expression, equivalent=SameExpression(numbers))


def last_turn(prefix: str) -> str:
    return prefix.rpartition("<user>")[2].removesuffix("<assistant>")


def test_equal_numbers_are_valued_once(make_run: MakeRun) -> None:
    asked: list[str] = []

    def script(prefix: str) -> list[str]:
        turn = last_turn(prefix)
        asked.append(turn.partition("Numbers: ")[2])
        if turn.startswith("Two of"):
            lines = ["2 * 6 = 12 (left: 3 4 12)", "6 * 2 = 12 (left: 3 4 12)", "2 + 6 = 8 (left: 8, 3, 4)", "4 - 3 = 1"]
            return ["\n".join(lines)]
        return ["likely" if "12" in asked[-1] else "sure"] if turn.startswith("Can 24") else [r"\boxed{2 * 6 + 3 * 4}"]

    run = make_run(ScriptedEngine(script), TreeOfThoughts(steps=2, keep=3), problem=puzzle(2, 3, 4, 6))
    asyncio.run(asyncio.wait_for(run.solve(), 10))
    proposal = run.tree[1]
    assert proposal.notes["values"] == [3.0, 3.0, 60.0]
    assert proposal.notes["valued_at"] == [[1, 0], [1, 0], [1, 1]]
    assert asked[:7] == ["2 3 4 6", *["3 4 12"] * 3, *["8 3 4"] * 3]


def recorded(data_dir: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(data_dir / "traces" / "game24_tot_bfs.jsonl.gz", "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def verdicts(value: float) -> list[str]:
    """Three answers that are worth so much."""
    said = []
    for word, worth in VALUES.items():
        count = int(value / worth + 1e-6)
        said += [word] * count
        value -= count * worth
    return said + ["none"] * (3 - len(said))


class Recorded:
    """Plays a recorded search: what was proposed for a state, and how its numbers were valued.

    ``kept`` are the paths that its levels kept. It ends before a level that kept what we never do (a repeated thought,
    or one without numbers to go on with), or in which the same prompt got two answers, so that it does not say which.
    """

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.problem = puzzle(*row["numbers"])
        self.prompts = thought_prompts("auto", self.problem)
        self.kept: list[list[tuple[str, ...]]] = []
        self.said: dict[str, list[str]] = {}
        clear = True
        for step in row["steps"][:3]:
            proposed: dict[str, list[str]] = {path: [] for path in step["ys"]}
            for path, value in zip(step["new_ys"], step["values"], strict=True):
                *before, line = path.splitlines(keepends=True)
                proposed["".join(before)].append(line.strip())
                if self.readable(line):
                    question = self.prompts.value(self.problem, path.splitlines())
                    self.said.setdefault(question[-1]["content"], verdicts(value))
            level: dict[str, str] = {}
            for path, lines in proposed.items():
                prompt = self.prompts.propose(self.problem, path.splitlines(), 5)[-1]["content"]
                clear &= level.setdefault(prompt, "\n".join(lines)) == "\n".join(lines)
            self.said |= {prompt: [text] for prompt, text in level.items()}
            kept = [tuple(path.splitlines()) for path in step["select_new_ys"]]
            clear &= len(set(kept)) == len(kept) and all(self.readable(path[-1]) for path in kept)
            if clear:
                self.kept.append(kept)

    def readable(self, line: str) -> bool:
        return bool(self.prompts.read_proposals(line, 5))

    def __call__(self, prefix: str) -> list[str]:
        said = self.said.get(last_turn(prefix), [r"\boxed{0 + 0}"])
        if len(said) > 1:  # verdicts, each of them said once
            said.append(said.pop(0))
        return said[-1:]


def gone_on_from(tree: Tree) -> list[list[tuple[str, ...]]]:
    """The paths that each level went on from, the best first."""
    below = {tuple(node.notes["thoughts"]): node.notes for node in tree.nodes if "chosen" in node.notes}
    levels: list[list[tuple[str, ...]]] = [[()]]
    while any(path in below for path in levels[-1]):
        found = [
            (below[path]["values"][line], (*path, below[path]["proposals"][line]))
            for path in levels[-1]
            for line in below[path]["chosen"]
        ]
        levels.append([path for _, path in sorted(found, key=lambda each: -each[0])])
    return levels[1:]


def test_recorded_searches_keep_what_they_kept(make_run: MakeRun, data_dir: Path) -> None:
    levels = 0
    for row in islice(recorded(data_dir), 40):
        trace = Recorded(row)
        strategy = TreeOfThoughts(max_proposal_tokens=4000, max_tokens=4000)
        run = make_run(ScriptedEngine(trace), strategy, problem=trace.problem)
        asyncio.run(asyncio.wait_for(run.solve(), 30))
        assert gone_on_from(run.tree)[: len(trace.kept)] == trace.kept, row["id"]
        levels += len(trace.kept)
    assert levels == 103  # of 120

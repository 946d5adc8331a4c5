"""ProbTree: what is asked when, scores worked out by hand, and the recorded trees of the paper's code."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from reason.engine.scripted import ScriptedEngine
from reason.errors import EngineError, UsageError
from reason.search.driver import Run
from reason.search.measuring import find_verifiers
from reason.search.strategies.probtree import ProbTree
from reason.search.tree import Action, Expand, Node, Room, Strategy, Tree
from reason.tasks.qa import extract_short_answer, normalized, same_short_answer
from reason.types import Answer, Budget, Problem, Solution
from reason.types import Path as Tokens

FILM = "Where was the director of Salt Road born?"
DIRECTOR, BORN = "Who directed Salt Road?", "Where was Lena Orlow born?"
LISTS = json.dumps({FILM: [DIRECTOR, "Where was #1 born?"]})
PASSAGES = ("Salt Road: A film by Lena Orlow.", "Lena Orlow: She was born in Brenn.", "Ola: The Ola is a river.")


@dataclass
class Said:
    """What a model says to one prompt, and how likely it finds each token of it."""

    text: str
    p: float = 0.5
    lists: tuple[float, ...] = ()  # how likely it finds each list of a decomposition


def answer(text: str, p: float = 0.5) -> Said:
    return Said(f"It is {text}. So the answer is: {text}.", p)


@dataclass
class Model(ScriptedEngine):
    """Says what a table has for the kind of a prompt and its question; ``asked`` is what it was asked for, in order."""

    table: Mapping[tuple[str, str], Said]
    failing: Sequence[tuple[str, str]] = ()
    asked: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__(self._say)

    def find(self, kind: str, question: str) -> Said:
        return self.table[kind, question]

    def _say(self, prefix: str) -> list[str]:
        if prefix.endswith(" So the answer is:"):
            question = prefix.rpartition("Question: ")[2].partition("\n")[0]
            self.asked.append(("ending", question))
            return [self.find("ending", question).text + "\nQuestion: what else?"]
        job = job_of(prefix)
        self.asked.append(job)
        if job in self.failing:
            raise EngineError("failed")
        return [self.find(*job).text]

    def _logprobs(self, path: Tokens, start: int) -> list[float]:
        prefix, text = self.codec.decode(path[:start]), bytes(path[start:])
        if prefix.endswith(" So the answer is:"):
            return [-9.0] * len(text)
        said = self.find(*job_of(prefix))
        values = [math.log(said.p)] * len(text)
        for p, found in zip(said.lists, re.finditer(rb"\[(.*?)\]", text), strict=True):
            values[found.start(1) : found.end(1)] = [math.log(p)] * len(found[1])
        explained = re.search(rb"So the answer is", text)
        if explained:  # what follows the explanation does not count
            values[explained.start() :] = [-9.0] * (len(values) - explained.start())
        return values


def job_of(prefix: str) -> tuple[str, str]:
    """The kind of a prompt, and its question."""
    turn = prefix.rpartition("<user>")[2]
    question = turn.rpartition("Question: ")[2].partition("\n")[0]
    if "JSON" in turn:
        return "decompose", question
    return "closed" if turn.startswith("Question: ") else "open" if turn.startswith("[1]") else "child", question


def run(model: ScriptedEngine, strategy: Strategy | None = None, **options: Any) -> tuple[Solution, Tree]:
    """The solution of the film's question, with passages unless others are given, and the tree."""
    strategy = strategy or ProbTree()
    settings = {"content": f"prompt {FILM}", "question": FILM, "passages": PASSAGES, **options.pop("problem", {})}
    problem = Problem(extract=extract_short_answer, equivalent=same_short_answer, **settings)
    defaults: dict[str, Any] = {"strategy_name": "probtree", "budget": Budget(), "seed": 0, "owner": "run", **options}

    async def whole() -> tuple[Solution, Tree]:
        run = Run(model, problem, strategy, verifiers=find_verifiers(strategy), **defaults)
        solution = await asyncio.wait_for(run.solve(), 60)
        return solution, run.tree

    return asyncio.run(whole())


def attempts(tree: Tree) -> dict[tuple[str, str], Node]:
    return {(node.notes["kind"], node.notes["question"]): node for node in tree.nodes if "kind" in node.notes}


TABLE = {
    ("decompose", FILM): Said(LISTS, 0.1, lists=(0.8,)),
    ("closed", FILM): answer("Oslo", 0.3),
    ("open", FILM): answer("Hest", 0.6),
    ("child", FILM): answer("Brenn", 0.9),
    ("closed", DIRECTOR): answer("Ivo Maran", 0.4),
    ("open", DIRECTOR): answer("Lena Orlow", 0.7),
    ("closed", BORN): answer("the Brenn", 0.65),
    ("open", BORN): answer("Brenn", 0.6),
}


def test_scores_by_hand() -> None:
    model = Model(TABLE)
    solution, tree = run(model)
    found = {job: node.notes.get("score") for job, node in attempts(tree).items()}
    child = (0.9 * 0.8 * 0.7 * 0.65) ** (1 / 4)  # explanation, list, director, birth place
    assert found == {
        ("closed", FILM): pytest.approx(0.3),
        ("open", FILM): pytest.approx(0.6),
        ("child", FILM): pytest.approx(child),
        ("closed", DIRECTOR): pytest.approx(0.4),
        ("open", DIRECTOR): pytest.approx(0.7),
        ("closed", BORN): pytest.approx(0.65),
        ("open", BORN): pytest.approx(0.6),
    }
    assert solution.answer == "Brenn"
    assert solution.text == "It is Brenn. So the answer is: Brenn."
    assert solution.confidence == pytest.approx(child) == 0.3276**0.25
    # attempts at the root are solutions, the others are not
    assert [candidate.answer for candidate in solution.candidates] == ["Oslo", "Brenn", "Hest"]
    assert [candidate.score for candidate in solution.candidates] == pytest.approx([0.3, child, 0.6])
    assert {node.notes["question"] for node in tree.nodes if "kind" in node.notes and node.aside} == {DIRECTOR, BORN}
    assert len(model.asked) == len(TABLE)


def test_what_waits_for_no_answer_is_asked_at_once() -> None:
    two = ["When did A come out?", "When did B come out?"]
    table = {
        ("decompose", FILM): Said(json.dumps({FILM: two}), lists=(0.5,)),
        **{(kind, question): answer("1974") for kind in ("closed", "open") for question in (*two, FILM)},
        ("child", FILM): answer("B"),
    }
    waves: list[set[tuple[str, str]]] = []

    @dataclass(frozen=True, kw_only=True)
    class Watched(ProbTree):
        def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
            actions = super().ask(tree, room)
            prompts = [action.prompt for action in actions if isinstance(action, Expand)]
            asked = {job_of("<user>" + prompt[-1]["content"]) for prompt in prompts if not isinstance(prompt, str)}
            waves.extend([asked] if asked else [])
            return actions

    run(Model(table), Watched())
    leaves = {(kind, question) for kind in ("closed", "open") for question in two}
    assert waves == [{("closed", FILM), ("decompose", FILM)}, leaves, {("child", FILM), ("open", FILM)}]
    waves.clear()
    run(Model(TABLE), Watched())
    assert waves[1:] == [
        {("closed", DIRECTOR), ("open", DIRECTOR)},
        {("closed", BORN), ("open", BORN)},  # with the director's name, so after it
        {("child", FILM), ("open", FILM)},
    ]


def test_a_part_may_have_parts() -> None:
    who = "Which film is Salt Road?"
    text = json.dumps({FILM: [DIRECTOR, "Where was #1 born?"], DIRECTOR: [who, "Who directed #1?"]})
    table = {
        **TABLE,
        ("decompose", FILM): Said(text, lists=(0.8, 0.25)),
        **{(kind, who): answer("that of 1969", 0.4) for kind in ("closed", "open")},
        **{(kind, "Who directed that of 1969?"): answer("Lena Orlow", 0.9) for kind in ("closed", "open")},
        ("child", DIRECTOR): answer("Lena Orlow", 0.5),
    }
    _, tree = run(Model(table))
    scores = {job: node.notes["score"] for job, node in attempts(tree).items()}
    director = (0.5 * 0.25 * 0.4 * 0.9) ** (1 / 4)  # 0.46: the open-book answer stays the surest
    assert scores["child", DIRECTOR] == pytest.approx(director)
    assert scores["child", FILM] == pytest.approx((0.9 * 0.8 * 0.7 * 0.65) ** (1 / 4))


def test_what_is_unknown_is_dropped() -> None:
    unknown = Said("The passages do not tell. So the answer is: Unknown.", 0.99)
    solution, tree = run(Model({**TABLE, ("open", DIRECTOR): unknown, ("closed", DIRECTOR): answer("Lena Orlow", 0.2)}))
    assert attempts(tree)["child", FILM].notes["score"] == pytest.approx((0.9 * 0.8 * 0.2 * 0.65) ** (1 / 4))
    model = Model({**TABLE, ("open", DIRECTOR): unknown, ("closed", DIRECTOR): unknown})
    solution, tree = run(model)
    assert solution.answer == "Hest"
    assert solution.confidence == pytest.approx(0.6)
    assert not {question for _, question in model.asked} - {FILM, DIRECTOR}  # nobody is asked where Unknown was born
    assert ("child", FILM) not in model.asked
    assert "score" not in attempts(tree)["open", DIRECTOR].notes
    solution, _ = run(Model({**TABLE, **{(kind, FILM): unknown for kind in ("closed", "open", "child")}}))
    assert solution.answer is None


def test_without_passages_there_is_no_open_book() -> None:
    table = {**TABLE, ("closed", DIRECTOR): answer("Lena Orlow", 0.4)}
    model = Model(table)
    solution, _ = run(model, problem={"passages": ()})
    assert "open" not in {kind for kind, _ in model.asked}
    assert solution.answer == "Brenn"
    assert solution.confidence == pytest.approx((0.9 * 0.8 * 0.4 * 0.65) ** (1 / 4))


@pytest.mark.parametrize("text", ["I cannot.", f'{{"{FILM}": []}}', f'{{"{FILM}": ["{FILM}"]}}'])
def test_a_simple_question_is_a_leaf(text: str) -> None:
    model = Model({**TABLE, ("decompose", FILM): Said(text, lists=(0.5,) * text.count("["))})
    solution, _ = run(model)
    assert model.asked == [("closed", FILM), ("decompose", FILM), ("open", FILM)]
    assert solution.answer == "Hest"


# --- explanations without an answer ---------------------------------------------------------------------------------


def test_an_explanation_without_an_answer_is_gone_on_with() -> None:
    bare = Said("Lena Orlow directed it, and she was born, as far as I know, in Brenn.", 0.95)
    table = {**TABLE, ("open", FILM): bare, ("ending", FILM): Said(" Brenn.")}
    solution, tree = run(Model(table))
    attempt = attempts(tree)["open", FILM]
    (ending,) = tree.children(attempt.id)
    assert (ending.answer, ending.aside, ending.begins) == ("Brenn", False, False)
    assert attempt.notes["score"] == pytest.approx(0.95)  # of the explanation alone
    assert solution.answer == solution.candidates[-1].answer == "Brenn"
    assert solution.confidence == solution.candidates[-1].score == pytest.approx(0.95)
    assert solution.text == f"{bare.text} So the answer is: Brenn."


def test_so_is_one_of_a_part_and_it_may_say_unknown() -> None:
    bare = Said("As far as anyone can tell from this, it was directed by Lena Orlow.", 0.75)
    table = {**TABLE, ("open", DIRECTOR): bare, ("ending", DIRECTOR): Said(" Lena Orlow")}
    _, tree = run(Model(table))
    assert attempts(tree)["open", DIRECTOR].notes["said"] == "Lena Orlow"
    assert attempts(tree)["child", FILM].notes["score"] == pytest.approx((0.9 * 0.8 * 0.75 * 0.65) ** (1 / 4))
    table = {**table, ("closed", DIRECTOR): bare, ("ending", DIRECTOR): Said(" Unknown")}
    solution, tree = run(Model(table))
    assert ("child", FILM) not in attempts(tree)
    assert solution.answer == "Hest"


def test_what_was_cut_off_is_dropped() -> None:
    long = Said("It was " + "really " * 60 + "Lena Orlow. So the answer is: Lena Orlow.", 0.9)
    model = Model({**TABLE, ("open", DIRECTOR): long, ("closed", DIRECTOR): answer("Lena Orlow", 0.2)})
    _, tree = run(model, ProbTree(max_tokens=200))
    assert attempts(tree)["open", DIRECTOR].finish_reason == "length"
    assert "score" not in attempts(tree)["open", DIRECTOR].notes
    assert attempts(tree)["child", FILM].notes["score"] == pytest.approx((0.9 * 0.8 * 0.2 * 0.65) ** (1 / 4))


# --- failures, budgets, purity --------------------------------------------------------------------------------------


def test_failures() -> None:
    def without(*failing: tuple[str, str]) -> tuple[Solution, Model]:
        model = Model({**TABLE, ("closed", DIRECTOR): answer("Lena Orlow", 0.4)}, failing=failing)
        return run(model)[0], model

    solution, model = without(("decompose", FILM))
    assert (solution.answer, len(model.asked)) == ("Hest", 3)
    solution, _ = without(("open", DIRECTOR))
    assert solution.confidence == pytest.approx((0.9 * 0.8 * 0.4 * 0.65) ** (1 / 4))
    solution, model = without(("open", DIRECTOR), ("closed", DIRECTOR))
    assert (solution.answer, ("child", FILM) in model.asked) == ("Hest", False)
    solution, _ = without(("child", FILM))
    assert solution.answer == "Hest"
    solution, _ = without(*((kind, FILM) for kind in ("closed", "open", "child")))
    assert solution.answer is None


@pytest.mark.parametrize("limit", ["kv_tokens", "policy_tokens", "calls"])
def test_a_limit_does_not_mix_up_who_was_asked_what(limit: str) -> None:
    ranges = {"kv_tokens": range(1500, 9000, 300), "policy_tokens": range(10, 700, 60), "calls": range(1, 9)}
    for amount in ranges[limit]:
        model = Model(TABLE)
        _, tree = run(model, ProbTree(max_tokens=160), budget=Budget(**{limit: amount}))
        for (kind, question), node in attempts(tree).items():
            assert job_of(model.codec.decode(node.context[: node.prompt_tokens])) == (kind, question)


class Checked:
    """Asks twice and tells twice."""

    def __init__(self, inner: ProbTree) -> None:
        self.inner = inner
        self.measures = inner.measures

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        before = repr([node.notes for node in tree.nodes])
        actions = self.inner.ask(tree, room)
        assert self.inner.ask(tree, room) == actions
        assert repr([node.notes for node in tree.nodes]) == before
        return actions

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        self.inner.tell(tree, done)
        before = repr([node.notes for node in tree.nodes])
        self.inner.tell(tree, done)
        assert repr([node.notes for node in tree.nodes]) == before

    def answer(self, tree: Tree) -> Answer:
        return self.inner.answer(tree)


ENDING = {
    **TABLE,
    ("open", DIRECTOR): Said("As far as anyone can tell from this, it was directed by Lena Orlow.", 0.75),
    ("ending", DIRECTOR): Said(" Lena Orlow"),
}


def test_it_is_pure() -> None:
    run(Model(ENDING), Checked(ProbTree()))


@pytest.mark.parametrize("room", [1, 2, 3])
def test_a_narrow_room_comes_to_the_same(room: int) -> None:
    whole, narrow = run(Model(ENDING))[0], run(Model(ENDING), max_in_flight=room)[0]
    assert (narrow.answer, narrow.confidence) == (whole.answer, whole.confidence)
    assert len(narrow.candidates) == len(whole.candidates)


def test_it_resumes_after_a_kill_at_any_event(tmp_path: Path) -> None:
    solution, tree = run(Model(ENDING), journal=tmp_path / "whole")
    lines = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    for count in range(0, len(lines), 3):
        (tmp_path / "torn").write_bytes(b"".join(lines[:count]))
        model = Model(ENDING)
        again, other = run(model, journal=tmp_path / "torn")
        assert [node.notes for node in other.nodes] == [node.notes for node in tree.nodes]
        assert (again.answer, again.candidates) == (solution.answer, solution.candidates)


# --- passages -------------------------------------------------------------------------------------------------------


def shown(tree: Tree, question: str) -> list[str]:
    """The passages that an open-book prompt had, by their titles."""
    node = attempts(tree)["open", question]
    turn = bytes(node.context[: node.prompt_tokens]).decode().rpartition("<user>")[2]
    return re.findall(r"^\[\d+\] (\w+)", turn, re.MULTILINE)


def test_passages_are_those_found_for_the_question_and_for_those_below() -> None:
    passages = (
        "Noise: Rivers and hills.",
        "Salt: Salt Road is a film that Ivo Maran directed.",
        "Orlow: Lena Orlow was born in Brenn.",
        "Peter: Peter was born.",
    )

    def titles(question: str, **fields: Any) -> list[str]:
        return shown(run(Model(TABLE), ProbTree(**fields), problem={"passages": passages})[1], question)

    assert titles(DIRECTOR, num_passages=1) == ["Salt"]
    assert titles(BORN, num_passages=2) == ["Orlow", "Peter"]
    assert titles(FILM, num_passages=1) == ["Salt", "Orlow"]  # the best for itself, and then for where she was born
    assert titles(FILM, num_passages=1, num_part_passages=0) == ["Salt"]
    assert titles(FILM, num_passages=4) == ["Salt", "Peter", "Orlow", "Noise"]
    room = sum(map(len, passages[1:3]))
    assert titles(FILM, num_passages=4, max_passage_characters=room) == ["Salt", "Orlow"]
    assert titles(DIRECTOR, max_passage_characters=10) == ["Salt"]


# --- the paper's code -----------------------------------------------------------------------------------------------


@dataclass
class Recorded(Model):
    """Says what a recorded tree has, each text at its recorded probability."""

    nodes: Sequence[Mapping[str, Any]] = ()

    def find(self, kind: str, question: str) -> Said:
        if kind == "ending":
            return Said(" Unknown")
        if kind == "decompose":
            inner = [node for node in self.nodes[::-1] if node["sons"]]
            lists = {n["question_text"]: [self.nodes[son]["question_text"] for son in n["sons"]] for n in inner}
            return Said(json.dumps(lists, ensure_ascii=False), lists=tuple(math.exp(n["qd_logprob"]) for n in inner))
        name = {"closed": "cb_answer", "open": "ob_answer", "child": "child_answer"}[kind]
        same = (node for node in self.nodes if normalized(node["question"]) == normalized(question))
        node = next(node for node in same if name in node)
        _, score, text = node[name]
        if kind == "child":
            below = sum(self.nodes[son]["answer"][1] for son in node["sons"])
            score = score * (len(node["sons"]) + 2) - node["qd_logprob"] - below
        return Said(text, min(1.0, math.exp(score)))


@pytest.mark.parametrize("name", ["musique", "2wiki"])
def test_it_chooses_as_the_papers_code_did(data_dir: Path, name: str) -> None:
    """On the first 12 trees in which every question has an answer; without, the code asks on and we do not."""
    with gzip.open(data_dir / "qa" / f"probtree_trees_{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
        trees = [json.loads(line)["nodes"] for line in lines]
    whole = [nodes for nodes in trees if all(node["answer"][1] > -100 for node in nodes)][:12]
    assert len(whole) == 12
    for nodes in whole:
        root = nodes[-1]
        question = root["question_text"]
        problem = {"question": question, "passages": ("Some: passage.",)}
        solution, _ = run(Recorded({}, nodes=nodes), ProbTree(max_tokens=5000), problem=problem)
        assert normalized(solution.answer or "") == normalized(root["answer"][0])
        assert solution.confidence == pytest.approx(math.exp(root["answer"][1]), rel=1e-6)


def test_mistakes() -> None:
    with pytest.raises(UsageError, match="num_passages must be at least 1, got 0"):
        ProbTree(num_passages=0)
    with pytest.raises(UsageError, match="max_lists must be at least 0, got -1"):
        ProbTree(max_lists=-1)
    with pytest.raises(UsageError, match="max_questions must be at least 1, got 0"):
        ProbTree(max_questions=0)

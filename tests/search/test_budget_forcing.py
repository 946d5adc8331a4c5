"""Budget forcing on scripted texts: what is put into the model's mouth, and when; and open-ended nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from reason.engine.scripted import ScriptedEngine
from reason.errors import UsageError
from reason.search.driver import Run
from reason.search.generation import open_ended
from reason.search.strategies.budget_forcing import BudgetForcing
from reason.search.tree import Action, Expand, Room, Tree
from reason.search.voting import vote
from reason.types import Answer, Budget, Completion, Problem, Solution, TextCodec, Thinking, TokenLogprobs

MakeRun = Callable[..., Run]
Solve = Callable[..., Solution]

END = 1  # the byte that stands for </think>
MARKS = Thinking(start="<think>", end=chr(END), end_token=END)
CLOSE = f"\n{chr(END)}\n\n"


@pytest.fixture
def play(solve: Solve) -> Callable[..., tuple[Solution, Tree]]:
    """A run over a script; thinking if it has marks."""

    def whole(
        script: Mapping[str, Sequence[str]] | Callable[[str], Sequence[str]],
        *,
        thinks: bool = True,
        budget: Budget | None = None,
        max_thinking: int | None = None,
        journal: Path | None = None,
        problem: Problem | None = None,
        **fields: Any,
    ) -> tuple[Solution, Tree]:
        seen: list[Tree] = []
        options = {} if problem is None else {"problem": problem}
        solution = solve(
            ScriptedEngine(script, thinking=MARKS if thinks else None),
            BudgetForcing(**fields),
            budget=budget or Budget(),
            max_thinking_tokens=max_thinking,
            journal=journal,
            on_change=lambda run: seen.append(run.tree),
            **options,
        )
        tree = seen[-1]
        codec = ScriptedEngine([""]).codec
        for node in tree.nodes[1:]:
            assert codec.decode(node.context[node.prompt_tokens :]) == tree.text(node.id)
        return solution, tree

    return whole


Play = Callable[..., "tuple[Solution, Tree]"]


def texts(tree: Tree) -> list[str]:
    return [node.text for node in tree.nodes[1:]]


def waits(tree: Tree) -> list[int]:
    return [node.notes["waits"] for node in tree.nodes[1:]]


# -- models that do not think --------------------------------------------------------------------------------------

PLAIN = {
    "<assistant>": [r"It is \boxed{1}."],
    r"\boxed{1}." + "\n\nWait": [r", no, \boxed{2}."],
    r"\boxed{2}." + "\n\nWait": [r", rather \boxed{1}. " + "\n"],
    "\nWait": [r", \boxed{3}"],
}


def test_a_solution_is_extended_where_it_ends(play: Play) -> None:
    solution, tree = play(PLAIN, thinks=False)
    assert texts(tree) == [r"It is \boxed{1}.", "\n\n" + r"Wait, no, \boxed{2}.", "\n\nWait, rather \\boxed{1}. \n"]
    assert waits(tree) == [0, 1, 2]
    assert [node.parent for node in tree.nodes[1:]] == [0, 1, 2]
    assert (solution.answer, solution.confidence, solution.stopped_by) == ("1", 1.0, "done")
    assert solution.text == "It is \\boxed{1}.\n\nWait, no, \\boxed{2}.\n\nWait, rather \\boxed{1}. \n"
    assert [candidate.answer for candidate in solution.candidates] == ["1", "2", "1"]


def test_after_white_space_no_paragraph_is_begun(play: Play) -> None:
    _, tree = play(PLAIN, thinks=False, num_waits=3)
    assert tree.nodes[-1].text == r"Wait, \boxed{3}"


@pytest.mark.parametrize(("select", "answer", "confidence"), [("last", "3", 1.0), ("majority", "1", 2 / 4)])
def test_the_last_answer_counts_or_all_vote(play: Play, select: str, answer: str, confidence: float) -> None:
    solution, _ = play(PLAIN, thinks=False, num_waits=3, select=select)
    assert (solution.answer, solution.confidence) == (answer, confidence)


def test_no_waits_is_one_sample(play: Play) -> None:
    solution, tree = play(PLAIN, thinks=False, num_waits=0)
    assert (solution.answer, texts(tree)) == ("1", [r"It is \boxed{1}."])


def test_an_extension_without_an_answer_of_its_own_keeps_the_one_before(play: Play) -> None:
    script = {"<assistant>": [r"\boxed{4}"], "Wait": [". Yes."]}
    solution, _ = play(script, thinks=False, num_waits=1)
    assert (solution.answer, solution.text) == ("4", "\\boxed{4}\n\nWait. Yes.")


def test_what_is_long_enough_is_not_extended(play: Play) -> None:
    """16 bytes, then as many again: "Wait" itself was not generated."""
    for least, expected in ((0, 3), (16, 1), (17, 2), (32, 2), (33, 3), (1000, 3)):
        _, tree = play(PLAIN, thinks=False, min_tokens=least)
        assert len(texts(tree)) == expected, least


def test_the_token_limit_is_the_whole_texts(play: Play) -> None:
    solution, tree = play(PLAIN, thinks=False, max_tokens=25)
    assert [node.path_tokens for node in tree.nodes[1:]] == [16, 25]
    assert tree.nodes[-1].finish_reason == "length"
    assert solution.answer == "1"  # the extension was cut before its own
    assert len(play(PLAIN, thinks=False, max_tokens=16)[1]) == 2
    assert len(play(PLAIN, thinks=False, max_tokens=10)[1]) == 2  # what was cut is not extended


def test_an_extension_that_failed_leaves_what_was_there(play: Play) -> None:
    script = {"<assistant>": [r"\boxed{4}"]}  # no continuation after "Wait"

    def failing(prefix: str) -> Sequence[str]:
        if prefix.endswith("Wait"):
            raise RuntimeError("this one fails")
        return script["<assistant>"]

    solution, tree = play(failing, thinks=False)
    assert (solution.answer, solution.stopped_by) == ("4", "done")
    assert [node.finish_reason for node in tree.nodes[1:]] == ["eos", "error"]


# -- models that think ---------------------------------------------------------------------------------------------

THOUGHT = f"<think>one{chr(END)}\n\nnot read"
THINKER = {
    "<assistant>": [THOUGHT],
    "one\n\nWait": [f" two\n{chr(END)}"],
    "two\nWait": [f" three{chr(END)}"],
    "one" + CLOSE: [r"\boxed{1}"],
    "two" + CLOSE: [r"\boxed{2}"],
    "three" + CLOSE: [r"\boxed{2}."],
}


def test_thinking_is_extended_in_place_of_its_end(play: Play) -> None:
    solution, tree = play(THINKER)
    assert solution.text == f"<think>one\n\nWait two\nWait three{CLOSE}\\boxed{{2}}."
    assert texts(tree) == ["<think>one", "\n\nWait two\n", "Wait three", f"{CLOSE}\\boxed{{2}}."]
    assert [node.finish_reason for node in tree.nodes[1:]] == ["step", "step", "step", "eos"]
    assert [node.thinking for node in tree.nodes] == [False, True, True, True, False]
    assert waits(tree) == [0, 1, 2, 2]
    assert (solution.answer, [candidate.answer for candidate in solution.candidates]) == ("2", ["2"])
    # The end of thinking is generated, and counted, each time; what was put in is not.
    assert solution.usage.policy_tokens == len("<think>one") + 1 + len(" two\n") + 1 + len(" three") + 1 + 10


def test_without_waits_the_answer_follows_the_thought(play: Play) -> None:
    solution, tree = play(THINKER, num_waits=0)
    assert texts(tree) == ["<think>one", f"{CLOSE}\\boxed{{1}}"]
    assert solution.answer == "1"


def test_each_thought_is_answered_for_a_vote(play: Play) -> None:
    solution, tree = play(THINKER, select="majority")
    assert [(node.parent, node.answer) for node in tree.nodes if node.finished] == [(1, "1"), (3, "2"), (5, "2")]
    assert (solution.answer, solution.confidence) == ("2", 2 / 3)


def test_thinking_is_cut(play: Play) -> None:
    long = "<think>" + "hm " * 50
    script = {"<assistant>": [long], CLOSE: [r"so \boxed{4}"]}
    solution, tree = play(script, max_thinking_tokens=20)
    assert texts(tree) == [long[:20], f"{CLOSE}so \\boxed{{4}}"]
    assert waits(tree) == [0, 0]  # what was cut is not extended
    assert (solution.answer, solution.usage.policy_tokens) == ("4", 20 + 12)


def test_waits_share_the_limit_on_thinking(play: Play) -> None:
    solution, tree = play(THINKER, max_thinking_tokens=14)
    assert texts(tree)[:2] == ["<think>one", "\n\nWait tw"]  # 10 and the end's one; then 3
    assert [node.path_tokens for node in tree.nodes[1:3]] == [11, 14]
    assert tree[3].text.startswith(CLOSE)
    assert solution.stopped_by == "done"


def test_without_a_limit_something_is_left_for_the_answer() -> None:
    def limit(**fields: int) -> int:
        return BudgetForcing(**fields)._thinking_limit  # type: ignore[arg-type]

    assert limit(max_tokens=1024) == 924
    assert limit(max_tokens=120) == 60
    assert limit(max_tokens=1) == 1
    assert limit(max_tokens=120, max_thinking_tokens=100) == 100


def test_a_template_that_opens_the_thinking(play: Play) -> None:
    """The scripted engine has no template, so the problem's text stands for it."""
    script = {"<assistant>": [f"one{chr(END)}"], "one\n\nWait": [f"; hm{chr(END)}"], "hm" + CLOSE: [r"\boxed{5}"]}
    problem = Problem(content="What? <think>", equivalent=lambda a, b: a == b)
    solution, tree = play(script, num_waits=1, problem=problem)
    assert [node.thinking for node in tree.nodes] == [True, True, True, False]
    assert texts(tree) == ["one", "\n\nWait; hm", f"{CLOSE}\\boxed{{5}}"]
    assert solution.answer == "5"


def test_a_model_that_does_not_think_this_time_is_extended_as_one_that_cannot(play: Play) -> None:
    solution, tree = play(PLAIN)
    assert [node.answer for node in tree.finished()] == ["1", "2", "1"]
    assert chr(END) not in solution.text
    long = {"<assistant>": ["a plain text that is long"], "a plain text": [r" goes on: \boxed{6}"], "Wait": ["!"]}
    solution, tree = play(long, max_thinking_tokens=12, num_waits=1)
    assert texts(tree) == ["a plain text", r" goes on: \boxed{6}", "\n\nWait!"]
    assert solution.answer == "6"


def test_a_turn_that_ends_in_a_thought(play: Play) -> None:
    script = {"<assistant>": ["<think>hm"], "hm\n\nWait": [f" so{chr(END)}"], "so" + CLOSE: [r"\boxed{7}"]}
    solution, _ = play(script, num_waits=1)
    assert (solution.answer, solution.text) == ("7", f"<think>hm\n\nWait so{CLOSE}\\boxed{{7}}")


def test_a_thought_whose_extension_failed_is_answered(play: Play) -> None:
    def script(prefix: str) -> Sequence[str]:
        if prefix.endswith("Wait"):
            raise RuntimeError("this one fails")
        return [r"\boxed{1}"] if prefix.endswith(CLOSE) else [THOUGHT]

    solution, tree = play(script)
    assert solution.answer == "1"
    assert [node.finish_reason for node in tree.nodes[1:]] == ["step", "error", "eos"]
    assert waits(tree) == [0, 1, 0]


def test_the_runs_own_limit_on_thinking_closes_it_too(play: Play) -> None:
    script = {"<assistant>": ["<think>" + "hm " * 50], CLOSE: [r"so \boxed{4}"], "Wait": [r" \boxed{9}"]}
    solution, tree = play(script, max_thinking=20)
    assert (solution.answer, len(tree)) == ("4", 2)  # thought and answer in one; an answer to a thought is not extended


def test_a_budget_that_ends_in_a_thought_lets_it_answer(play: Play) -> None:
    script = {"<assistant>": ["<think>" + "hm " * 50], "boxed{": ["8}"]}
    solution, tree = play(script, budget=Budget(policy_tokens=64))
    assert (solution.answer, solution.stopped_by) == ("8", "policy_tokens")
    assert tree.nodes[-1].text.startswith(CLOSE)


def test_a_thinking_run_is_resumed(play: Play, tmp_path: Path) -> None:
    solution, tree = play(THINKER, select="majority", journal=tmp_path / "whole.jsonl")
    lines = (tmp_path / "whole.jsonl").read_bytes().splitlines(keepends=True)
    for count in range(len(lines)):
        torn = tmp_path / f"{count}.jsonl"
        torn.write_bytes(b"".join(lines[:count]))
        again, other = play(THINKER, select="majority", journal=torn)
        assert [node.context for node in other.nodes] == [node.context for node in tree.nodes]
        assert (again.answer, again.candidates) == (solution.answer, solution.candidates)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_waits": -1}, "num_waits must be at least 0, got -1"),
        ({"min_tokens": -1}, "min_tokens must be at least 0, got -1"),
        ({"max_thinking_tokens": -1}, "max_thinking_tokens must be at least 0, got -1"),
        ({"max_thinking_tokens": 64, "max_tokens": 64}, "max_thinking_tokens must be less than max_tokens"),
        ({"wait": " "}, "wait must be some text, got ' '"),
        ({"select": "best"}, "select must be one of last, majority, got 'best'"),
    ],
)
def test_values_that_are_not_allowed(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        BudgetForcing(**fields)


# -- open-ended nodes ----------------------------------------------------------------------------------------------


def done(text: str, tokens: str, stopped_on: str | int | None) -> Completion:
    ids = tuple(tokens.encode()) + ((256,) if stopped_on == 256 else ())
    return Completion(index=0, token_ids=ids, text=text, finish_reason="stop", stopped_on=stopped_on)


def test_what_ended_a_text_is_taken_off_it() -> None:
    codec = ScriptedEngine([""]).codec
    for text, tokens, stopped_on in (
        ("one", "one", 256),  # the end of a turn
        ("one", "one", None),  # the token limit
        ("one", "one STOP", " STOP"),
        ("", "STOP", "STOP"),
        ("é", "éx", "x"),
    ):
        found = open_ended(codec, done(text, tokens, stopped_on))
        assert (found.text, found.token_ids) == (text, tuple(text.encode())), tokens


class Pieces:
    """A codec whose tokens are longer than a character."""

    vocab = ("print(1", ")</", "python", ">", ")", "!")

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self.vocab[token] for token in tokens)

    def encode(self, text: str) -> tuple[int, ...]:
        return tuple(map(self.vocab.index, text))


def test_a_stop_string_that_begins_within_a_token() -> None:
    """As ")</" of a program's last line and its "</python>": what is before it belongs to the text."""
    recorded = tuple(TokenLogprobs(-float(place)) for place in range(4))
    states = {3: torch.arange(4.0)[:, None]}
    whole = Completion(
        index=0,
        token_ids=(0, 1, 2, 3),
        text="print(1)",
        finish_reason="stop",
        stopped_on="</python>",
        logprobs=recorded,
        states=states,
        proposers=("", "suffix", "", ""),
    )
    found = open_ended(cast(TextCodec, Pieces()), whole)
    assert (found.text, found.token_ids) == ("print(1)", (0, 4))
    assert found.logprobs == recorded[:2], "as likely as the token that it was a part of"
    assert found.states[3].tolist() == [[0.0], [1.0]]
    assert found.proposers == ("", "")
    bare = open_ended(cast(TextCodec, Pieces()), replace(whole, logprobs=(), states={}, proposers=()))
    assert (bare.token_ids, bare.logprobs) == ((0, 4), ())


@dataclass(frozen=True)
class Twice:
    """One open-ended expansion, and one after it."""

    first: Expand
    measures: tuple[str, ...] = ()

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        if len(tree) == 1:
            return [self.first]
        return [Expand(node=1, prompt="+")] if len(tree) == 2 and not tree[1].pending else []

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        pass

    def answer(self, tree: Tree) -> Answer:
        return vote(tree)


@pytest.mark.parametrize(
    ("expand", "text", "reason", "candidates"),
    [
        (Expand(node=0, open_ended=True), "a\n\nb;c", "eos", 2),
        (Expand(node=0), "a\n\nb;c", "eos", 1),
        (Expand(node=0, open_ended=True, stop=(";",)), "a\n\nb", "step", 1),
        (Expand(node=0, open_ended=True, until="step", stop=(";",)), "a\n\n", "step", 1),  # its delimiter is its own
        (Expand(node=0, stop=(";",)), "a\n\nb;", "stop", 1),
    ],
)
def test_how_open_ended_nodes_end(solve: Solve, expand: Expand, text: str, reason: str, candidates: int) -> None:
    engine = ScriptedEngine({"<assistant>": ["a\n\nb;c"], "+": ["d"]})
    seen: list[Tree] = []
    solution = solve(engine, Twice(expand), on_change=lambda run: seen.append(run.tree))
    tree = seen[-1]
    decode = engine.codec.decode
    assert decode(tree[1].context[tree[1].prompt_tokens :]) == text
    assert tree[1].finish_reason == reason
    assert decode(tree[2].context[tree[2].prompt_tokens :]) == f"{text}+d"
    assert len(solution.candidates) == candidates

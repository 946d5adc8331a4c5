"""Autonomous tree search: the model is shown how a search is written down, and searches by itself in one text
(https://github.com/ZheyuAqaZhang/Autonomous-Tree-search; Zhang et al., https://arxiv.org/abs/2310.10686).

    bfs    every state of a level on a line, numbered along its path: 1, 2, then 1.1, 1.2, 2.1, ...
    dfs    one step a line; what misses the goal is stepped back from and revised

It is best-of-N with another prompt. A search that comes to no line that looks like a conclusion abstains. The
instruction stands in the user's turns, not in a system turn, which not every model has; wording and worked examples are
our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from reason.errors import UsageError
from reason.search.strategies.best_of_n import BestOfN
from reason.search.strategies.decoding import check_at_least
from reason.search.tree import Action, Expand, Room, Tree
from reason.search.voting import vote
from reason.tasks.prompts import Worked, math_messages
from reason.types import Answer, Message, Problem

__all__ = ["AutonomousTreeSearch"]

_END = (
    'When a state is the goal, stop the search and write one last line that begins with "The answer is" and gives the '
    "answer in the form that the problem asks for."
)
_INSTRUCTIONS = {
    "bfs": (
        "Solve the problem by a breadth-first search that you write down. Number every state along its path: 1, 2, ... "
        "after the first step, 1.1, 1.2, ... for what comes of state 1, and so on. Write all the states of one level, "
        "each on a line with the step that leads to it, before you go to the next level. Do not go on from dead ends. "
    )
    + _END,
    "dfs": (
        "Solve the problem by a depth-first search that you write down, one step on each line. Where a step does not "
        'lead to the goal, say "not the goal, step back, now it is ..." and write another one as "(revised)". Never '
        "try the same step twice from one state. "
    )
    + _END,
}
_MOVES = (
    "Start with 2. A move doubles the number or adds 3 to it. Which three moves lead to 13?\n"
    "Put the moves within \\boxed{}."
)
_NUMBERS = "Make 21 from the numbers 3, 4, 9, each used once, with +, - and *.\nPut the expression within \\boxed{}."
_WORKED = {
    "bfs": (
        Worked(
            _MOVES,
            "Level 1\n1: 2 * 2 = 4\n2: 2 + 3 = 5\n"
            "Level 2\n1.1: 4 * 2 = 8\n1.2: 4 + 3 = 7\n2.1: 5 * 2 = 10\n2.2: 5 + 3 = 8\n"
            "Level 3\n1.1.1: 8 * 2 = 16\n1.1.2: 8 + 3 = 11\n1.2.1: 7 * 2 = 14\n1.2.2: 7 + 3 = 10\n2.1.1: 10 * 2 = 20\n"
            "2.1.2: 10 + 3 = 13, the goal\nThe answer is \\boxed{+3, *2, +3}.",
        ),
        Worked(
            _NUMBERS,
            "Level 1\n1: 3 + 4 = 7, left 7 9\n2: 4 - 3 = 1, left 1 9\n3: 3 * 4 = 12, left 9 12\n"
            "4: 3 + 9 = 12, left 4 12\n5: 9 - 3 = 6, left 4 6\n6: 3 * 9 = 27, left 4 27\n"
            "Level 2\n1.1: 7 + 9 = 16\n1.2: 9 - 7 = 2\n1.3: 7 * 9 = 63\n2.1: 1 + 9 = 10\n2.2: 9 - 1 = 8\n"
            "2.3: 1 * 9 = 9\n3.1: 9 + 12 = 21, the goal\nThe answer is \\boxed{9 + 3 * 4}.",
        ),
    ),
    "dfs": (
        Worked(
            _MOVES,
            "Step 1: 2 * 2 = 4\nStep 2: 4 * 2 = 8\nStep 3: 8 * 2 = 16, not the goal, step back, now it is 8\n"
            "(revised) Step 3: 8 + 3 = 11, not the goal, step back, now it is 4\n(revised) Step 2: 4 + 3 = 7\n"
            "Step 3: 7 * 2 = 14, not the goal, step back, now it is 7\n"
            "(revised) Step 3: 7 + 3 = 10, not the goal, step back, now it is 2\n(revised) Step 1: 2 + 3 = 5\n"
            "Step 2: 5 * 2 = 10\nStep 3: 10 * 2 = 20, not the goal, step back, now it is 10\n"
            "(revised) Step 3: 10 + 3 = 13, the goal\nThe answer is \\boxed{+3, *2, +3}.",
        ),
        Worked(
            _NUMBERS,
            "Step 1: 3 + 4 = 7, left 7 9\nStep 2: 7 + 9 = 16, not the goal, step back, now it is 7 9\n"
            "(revised) Step 2: 9 - 7 = 2, not the goal, step back, now it is 7 9\n"
            "(revised) Step 2: 7 * 9 = 63, not the goal, step back, now it is 3 4 9\n"
            "(revised) Step 1: 3 * 4 = 12, left 9 12\nStep 2: 9 + 12 = 21, the goal\n"
            "The answer is \\boxed{9 + 3 * 4}.",
        ),
    ),
}
_CONCLUSION = re.compile(
    r"^\W*(?:(?:so|thus|hence|therefore|in conclusion),? )?(?:the |my )?(?:final )?(?:answers?|conclusion|solution)\b"
    r"|\\boxed\b",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True, kw_only=True)
class AutonomousTreeSearch(BestOfN):
    """See the module's docstring. The paper draws one sample at temperature 0.2, and several at 0.7.

    Args:
        search: which search the model is shown.
        few_shot: worked examples before the problem, at most 2.
    """

    search: Literal["bfs", "dfs"] = "bfs"
    few_shot: int = 1
    num_samples: int = 1
    max_tokens: int = 2048
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 0, "few_shot")
        if self.few_shot > len(_WORKED[self.search]):
            raise UsageError(f"few_shot must be at most {len(_WORKED[self.search])}, got {self.few_shot}")

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        prompt = self._prompt(tree.problem)
        return [
            replace(action, prompt=prompt) if isinstance(action, Expand) else action
            for action in super().ask(tree, room)
        ]

    def answer(self, tree: Tree) -> Answer:
        leaves = tree.finished()
        concluded = [leaf for leaf in leaves if _CONCLUSION.search(leaf.text)]
        answer = vote(tree, self.select, concluded)
        return replace(answer, confidence=answer.confidence * len(concluded) / max(1, len(leaves)))

    def _prompt(self, problem: Problem) -> tuple[Message, ...]:
        """The problem's own turns, with worked examples before the last of them; those that ask for a search end with
        the instruction."""
        content = problem.content
        *turns, last = math_messages(content) if isinstance(content, str) else content
        for example in _WORKED[self.search][: self.few_shot]:
            turns.append(self._turn(example.problem))
            turns.append(Message(role="assistant", content=example.solution))
        return (*turns, self._turn(last["content"]))

    def _turn(self, problem: str) -> Message:
        return Message(role="user", content=f"{problem}\n\n{_INSTRUCTIONS[self.search]}")

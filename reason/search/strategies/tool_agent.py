"""An agent with tools: it writes until it calls one, reads what the tool says, and goes on, until it answers.

    <python>print(17 * 23)</python>   ->   <output>391</output>

The tools are the verifier "tools": Python in the sandbox, a calculator, and a search of the problem's passages if it
has any. A call ends a node, what the tool says is the node's feedback, and the next node begins with it, in the same
turn, so that the path's KV stays. It is the loop of ReAct (Yao et al., https://arxiv.org/abs/2210.03629) and of PAL
(Gao et al., https://arxiv.org/abs/2211.10435), with one worked example instead of a few. Where the calls run out, or
the tokens, what is there is closed with the form in which the problem wants its answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from reason.errors import UsageError
from reason.search.strategies.decoding import Decoding, check_at_least
from reason.search.tree import ROOT, Action, Expand, Measure, Node, Room, Tree
from reason.search.voting import vote
from reason.tasks.prompts import math_messages
from reason.types import Answer, Message, Problem
from reason.verifiers.tools.calls import CLOSINGS, closing, find_call

__all__ = ["ToolAgent"]

TOOLS = "tools"

_INSTRUCTION = """Use tools: write a call and stop, and you are shown its output.
<python>a program that prints what you want to know</python>
<calc>an arithmetic expression</calc>{search}
Let a tool do every calculation and every check. Begin with a call. When you know the answer, say it in the form asked \
for."""
_EXAMPLE = "What is the sum of the squares of the whole numbers from 1 to 12?"
_WORKED = """<python>print(sum(n * n for n in range(1, 13)))</python>
<output>
650
</output>
The sum is \\boxed{650}."""
_SEARCH = "\n<search>a few words, to look something up in the passages</search>"
_CLOSING_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class ToolAgent(Decoding):
    """See the module's docstring.

    Args:
        num_samples: agents that work side by side; their answers vote.
        max_calls: calls of each; one more is not answered, and ends it.
        turn_tokens: limit of what is written between two calls.
        few_shot: worked examples before the problem, at most 1: without it small models seldom call anything.
    """

    breadth: ClassVar[str] = "num_samples"

    num_samples: int = 1
    max_calls: int = 6
    turn_tokens: int = 384
    few_shot: int = 1
    temperature: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "num_samples", "turn_tokens")
        check_at_least(self, 0, "max_calls", "few_shot")
        if self.few_shot > 1:
            raise UsageError(f"few_shot must be at most 1, got {self.few_shot}")

    @property
    def measures(self) -> tuple[str, ...]:
        return (TOOLS,)

    def ask(self, tree: Tree, room: Room) -> Sequence[Action]:
        begun = len(tree.children(ROOT))
        actions: list[Action] = []
        if begun < self.num_samples:
            actions.append(
                Expand(
                    node=ROOT,
                    num_samples=self.num_samples - begun,
                    until=self._room(0),
                    max_tokens=self._room(0),
                    prompt=_prompt(tree.problem, self.few_shot),
                    sampling=self.sampling,
                    stop=CLOSINGS,
                    open_ended=True,
                )
            )
        going_on = [leaf for leaf in tree.leaves() if leaf.open]
        calling = [leaf for leaf in going_on if self._calls(tree, leaf)]
        asked = tuple(
            leaf.id for leaf in calling if TOOLS not in leaf.scores and (leaf.id, TOOLS) not in tree.measuring
        )
        if asked:
            actions.append(Measure(nodes=asked, name=TOOLS))
        actions += [self._next(tree, leaf) for leaf in going_on if leaf not in calling or TOOLS in leaf.scores]
        return actions if room.expansions > 0 else [each for each in actions if isinstance(each, Measure)]

    def tell(self, tree: Tree, done: Sequence[int]) -> None:
        return None

    def answer(self, tree: Tree) -> Answer:
        return vote(tree, "majority")

    def _calls(self, tree: Tree, leaf: Node) -> bool:
        """Whether a tool is to answer: the writing stopped for it, not at the turn's limit, and calls are left."""
        return not _cut_off(leaf) and _num_calls(tree, leaf) < self.max_calls

    def _room(self, written: int) -> int:
        """Tokens of the next turn at most, after so many."""
        return min(self.turn_tokens, self.max_tokens - written)

    def _next(self, tree: Tree, leaf: Node) -> Expand:
        call = find_call(tree.text(leaf.id)) if TOOLS in leaf.scores else None
        told = leaf.feedback.get(TOOLS, "")
        output = "" if call is None else f"{closing(call.tool)}\n<output>\n{told}\n</output>\n"
        left = self._room(leaf.path_tokens)
        if left < 1 or (call is None and not _cut_off(leaf)):  # it called, and no call is left
            return Expand(
                node=leaf.id,
                max_tokens=_CLOSING_TOKENS,
                prompt=output + tree.problem.closing,
                stop=("\n",),
                sampling=self.sampling,
            )
        return Expand(
            node=leaf.id,
            until=left,
            max_tokens=left,
            prompt=output,
            sampling=self.sampling,
            stop=CLOSINGS,
            open_ended=True,
        )


def _cut_off(leaf: Node) -> bool:
    """Whether its writing ended at a limit, not with a call."""
    return not isinstance(leaf.stopped_on, str)


def _num_calls(tree: Tree, leaf: Node) -> int:
    """Calls that were answered on the way to a node."""
    count, at = 0, tree[leaf.parent or ROOT]
    while at.parent is not None:
        count += bool(at.scores.get(TOOLS, (0.0,))[0])
        at = tree[at.parent]
    return count


def _prompt(problem: Problem, few_shot: int) -> tuple[Message, ...]:
    """The problem's turns, the last with what there is to call."""
    content = problem.content
    *turns, last = math_messages(content) if isinstance(content, str) else content
    instruction = _INSTRUCTION.format(search=_SEARCH if problem.passages else "")
    asked = (f"{text}\n\n{instruction}" for text in (_EXAMPLE, str(last["content"])))
    example, problem_turn = (Message(role="user", content=text) for text in asked)
    shown = (example, Message(role="assistant", content=_WORKED)) if few_shot else ()
    return (*turns, *shown, problem_turn)
